"""Summaries of arms: computed once, kept beside the scores, and never those of other scores or options."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from gated_lpi.metrics import summarise
from gated_lpi.results import create_run, open_run
from gated_lpi.results import run as module
from gated_lpi.runs import run_experiment
from tiny_runs import tiny_experiment
from tiny_text import CAPITALS, save_checkpoint, save_facts

FREE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Refused())
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    for step in (1, 2, 3):
        save_checkpoint(folder / "source" / f"step-{step}", "OLMoE", seed=step)
    facts = save_facts(folder / "facts", [CAPITALS])
    experiment = tiny_experiment(facts, {"name": "a", "checkpoints": str(folder / "source")})
    return run_experiment(experiment, folder / "run")


@pytest.fixture
def counted(monkeypatch):
    made = []
    monkeypatch.setattr(module, "summarise", lambda scores, **options: made.append(1) or summarise(scores, **options))
    return made


@pytest.fixture
def run(finished):
    file = finished.path / "results" / "a.summary.json"
    file.unlink(missing_ok=True)
    return open_run(finished.path)


def test_it_is_computed_once_and_comes_back_bit_for_bit(run, counted):
    first = run.summary("a")
    again = open_run(run.path).summary("a")
    assert counted == [1]
    xr.testing.assert_identical(first, again)
    assert {name: v.dtype.kind for name, v in first.variables.items()} == {
        name: v.dtype.kind for name, v in again.variables.items()
    }
    xr.testing.assert_identical(again, summarise(run.scores("a"), **run.experiment.metrics.model_dump()))


def test_other_scores_or_options_are_summarised_anew(run, counted, tmp_path):
    run.summary("a")
    row = run.scores("a").isel(checkpoint=0).load()
    other = create_run(tmp_path / "other", run.experiment, "facts")
    for key, step in (("step-1", 1), ("step-2", 2)):
        scores = row.drop_vars([name for name in row.coords if row[name].dims == ()], errors="ignore")
        other.store("a").append(scores, {"key": key, "step": step})
        (tmp_path / "other" / "results" / "a.summary.json").write_bytes(
            (run.path / "results" / "a.summary.json").read_bytes()
        )
        assert other.summary("a").sizes["checkpoint"] == step
    assert counted == [1, 1, 1]
    run.experiment = run.experiment.model_copy(
        update={"metrics": run.experiment.metrics.model_copy(update={"fraction": 0.5})}
    )
    assert run.summary("a").attrs["fraction"] == 0.5


@pytest.mark.parametrize("damage", [b"", b"{", b"null", "flip", "sealed"])
def test_a_damaged_one_counts_as_none(run, counted, damage):
    first = run.summary("a")
    file = run.path / "results" / "a.summary.json"
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(content.replace(b'"stability"', b'"stabilitx"', 1))
    elif damage == "sealed":
        plain = json.loads(content)
        plain["variables"]["stability"]["data"] = "AAAA"
        del plain["sha256"], plain["format"]
        file.write_text(json.dumps(plain))
    else:
        file.write_bytes(damage)
    xr.testing.assert_identical(run.summary("a"), first)
    assert counted == [1, 1]
    assert file.read_bytes() == content


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_read_without(run):
    folder = run.path / "results"
    folder.chmod(0o500)
    try:
        assert run.summary("a").sizes["checkpoint"] == 3
    finally:
        folder.chmod(0o700)
    assert not (folder / "a.summary.json").exists()


def test_one_that_cannot_be_kept_is_given_all_the_same(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gated_lpi._common.folders.os.replace", full, raising=False)
    monkeypatch.setattr(Path, "replace", full)
    assert run.summary("a").sizes["checkpoint"] == 3


def test_reading_measuring_diagnosing_and_reporting_need_no_torch(finished, tmp_path):
    code = f"""{FREE}
import gated_lpi, gated_lpi.results, gated_lpi.experiments, gated_lpi.metrics, gated_lpi.report, gated_lpi.diagnosis
from gated_lpi.report import build
build.FORMATS = ("svg",)  # one of them is enough
run = gated_lpi.open_run({str(finished.path)!r})
assert run.scores("a")["lpi_mean"].load().sizes["checkpoint"] == 3
assert run.summary("a").sizes["pair"] == 2
gated_lpi.diagnosis.examine(run)
gated_lpi.build_report(run, {str(tmp_path / "report")!r})
gated_lpi.experiments.preset("demo")
assert not {{"torch", "transformers"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "report" / "report.html").exists()


def test_the_command_line_reads_runs_without_torch(finished):
    of = [[verb, str(finished.path)] for verb in ("metrics", "report", "verify")]
    code = f"""{FREE}
from gated_lpi.cli import main
from gated_lpi.report import build
build.FORMATS, build.matplotlib_figure = (), lambda _: None  # drawn above
for arguments in {[["--help"], ["run", "--help"], *of]!r}:
    sys.argv = ["gated-lpi", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (arguments, stop.code)
assert not {{"torch", "transformers"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
