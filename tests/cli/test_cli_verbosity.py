"""How much the command line says, what it says first, what shells complete, and that each error ends with advice."""

import re

import pytest
import typer
from typer.testing import CliRunner

import command_line
from explored_runs import add, explored_run
from gated_lpi import errors
from gated_lpi.cli import app

COMMANDS = typer.main.get_command(app).commands
ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with an arm that has nothing yet, which is said on standard error."""
    made = explored_run(tmp_path_factory.mktemp("run") / "run", steps=())
    for step in (0, 10):
        add(made, "moe", step)
    return str(made.path)


@pytest.fixture
def said(monkeypatch, capsys):
    def call(*arguments):
        return command_line.run(monkeypatch, capsys, *arguments)

    return call


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_every_verb_can_be_quiet_or_verbose(verb):
    assert {"--quiet", "--verbose"} <= {name for one in COMMANDS[verb].params for name in one.opts}


def test_results_stay_and_all_else_is_more_or_less(run, said):
    code, table, usual = said("metrics", run)
    assert (code, usual.startswith("dense: no results: ")) == (0, True)
    assert said("metrics", run, "--quiet") == (0, table, "")
    code, out, verbose = said("metrics", run, "--verbose")
    assert (code, out) == (0, table)
    assert re.search(r"\d\d:\d\d:\d\d gated_lpi\.results\.store: .*moe\.zarr: opened with 2 checkpoints", verbose)
    assert "dense: no results: " in verbose
    assert said("metrics", run)[2] == usual  # nothing stays set


def test_both_at_once_are_refused(run, said):
    code, _, text = said("metrics", run, "--quiet", "--verbose")
    assert code == 2
    assert "leave one out" in text


def test_errors_are_said_in_any_case_and_with_their_trace_if_asked(tmp_path, said):
    code, out, text = said("metrics", str(tmp_path), "--quiet")
    assert (code, out) == (1, "")
    assert [line.split(":")[0] for line in text.splitlines()] == ["error", "next"]
    assert "Traceback" in said("metrics", str(tmp_path), "--verbose")[2]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_ends_with_what_to_do_next(kind, said, monkeypatch):
    def fail(*_, **__):
        raise kind("something is wrong")

    monkeypatch.setattr("gated_lpi.results.open_run", fail)
    code, _, text = said("metrics", "run")
    first, last = text.splitlines()
    assert code == (2 if issubclass(kind, errors.OptionError) else 1)
    assert first == "error: something is wrong"
    assert last == f"next: {kind.advice.format(help='gated-lpi metrics --help')}"
    assert "advice" in vars(kind), "an error of its own has advice of its own"
    for verb in re.findall(r"gated-lpi ([a-z]+)", kind.advice):
        assert verb in COMMANDS


@pytest.mark.parametrize(
    ("arguments", "problem", "advice"),
    [
        (["nosuch"], "No such command 'nosuch'.", "gated-lpi --help"),
        (["--nosuch"], "No such option: --nosuch", "gated-lpi --help"),
        (["report"], "Missing argument 'run'.", "gated-lpi report --help"),
        (["report", "x", "--outt"], "No such option: --outt", "gated-lpi report --help"),
        (
            ["report", "x", "--format", "docx"],
            "'--format': 'docx' is not one of 'html', 'md'",
            "gated-lpi report --help",
        ),
        (["explore", "x", "--port", "a"], "'--port': expected a whole number (given: 'a')", "gated-lpi explore --help"),
        (
            ["explore", "x", "--port", "99999"],
            "less than or equal to 65535 (given: '99999')",
            "gated-lpi explore --help",
        ),
        (
            ["run", "--preset", "demo", "--engine", "z"],
            "expected 'local' or 'ray' (given: 'z')",
            "gated-lpi run --help",
        ),
    ],
)
def test_a_wrong_command_is_an_error_like_any_other(said, arguments, problem, advice):
    code, out, text = said(*arguments)
    assert (code, out) == (2, "")
    error, what_next = text.splitlines()
    assert error.startswith("error: ")
    assert problem in error
    assert not re.search("Input should be|Value error", error)
    assert what_next == f"next: {advice} lists what may be given, with an example"


def test_a_place_within_a_run_leads_to_the_run(run, said, tmp_path):
    for place in ("run.json", "results", "results/moe.zarr"):
        code, _, text = said("metrics", f"{run}/{place}")
        assert code == 1
        assert f"it is within a run: give that run's folder, {run}\n" in text
        assert "--out" not in text
    assert f"gated-lpi demo --out {tmp_path / 'new'}" in said("metrics", str(tmp_path / "new"))[2]
    assert "--out" not in said("metrics", str(tmp_path))[2]  # a folder of something else


def test_alone_it_says_what_to_do_first(said):
    code, out, _ = said()
    assert code == 0
    commands = re.findall(r"^  gated-lpi ([a-z]+)", out, re.M)
    assert commands[0] == "demo"
    assert set(commands) <= set(COMMANDS)
    assert "--help" in out


def test_shells_complete_commands_and_options():
    def completed(words):
        asked = {"_GATED_LPI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return CliRunner().invoke(app, [], env=asked, prog_name="gated-lpi").output.split()

    assert completed("gated-lpi exp") == ["explore", "export"]
    assert "--format" in completed("gated-lpi export --")
    script = CliRunner().invoke(app, [], env={"_GATED_LPI_COMPLETE": "source_bash"}, prog_name="gated-lpi")
    assert "_GATED_LPI_COMPLETE=complete_bash" in script.output
    options = {name for one in typer.main.get_command(app).params for name in one.opts}
    assert {"--install-completion", "--show-completion"} <= options
