"""`gated-lpi study`: what there is, what it would take, and a study that is interrupted and taken up again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_cli import run

from gated_lpi.studies import StudyResult, studies
from tiny_runs import two_arms
from tiny_studies import save_study

MARK = "GATED_LPI_TEST_MARK"


def study(monkeypatch, capsys, *arguments):
    return run(monkeypatch, capsys, "study", *arguments)


def test_studies_are_listed_with_what_they_ask(monkeypatch, capsys):
    code, out, _ = study(monkeypatch, capsys, "--list", "--json")
    assert code == 0
    assert [one["study"] for one in json.loads(out)] == list(studies())
    code, out, _ = study(monkeypatch, capsys, "--list")
    assert all(name in out for name in studies())


def test_a_plan_counts_what_is_trained_and_does_nothing(monkeypatch, capsys, tmp_path):
    code, out, _ = study(monkeypatch, capsys, save_study(tmp_path), "--plan", "--json")
    assert code == 0
    (plan,) = json.loads(out)
    assert (plan["arms"], plan["steps"], plan["checkpoints"]) == (4, 24, 12)
    assert plan["analyses"] == ["recall", "sweep", "ablation_curves"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.toml", "facts", "tiny.toml"]


def test_a_plan_needs_no_text_and_a_study_of_it_says_how_to_fetch_it(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = study(monkeypatch, capsys, "text", "--plan", "--json")
    assert code == 0
    assert json.loads(out)[0]["groups"] == {"moe": 3, "dense-active": 3}
    code, _, err = study(monkeypatch, capsys, "text", "--out", tmp_path / "out")
    assert code == 1
    assert "make text" in err
    assert not (tmp_path / "out").exists()


def test_all_studies_but_those_without_their_text_are_carried_out_and_then_it_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gated_lpi.studies.studies", lambda: ("text", str(save_study(tmp_path))))
    done = []

    def carried_out(study, *_, **__):
        done.append(study.name)
        return StudyResult.model_construct(study=study.name)

    monkeypatch.setattr("gated_lpi.cli.study._carry_out", carried_out)
    monkeypatch.setattr("gated_lpi.results.open_run", lambda _: SimpleNamespace(arms=()))
    code, _, err = study(monkeypatch, capsys, "--all", "--out", tmp_path / "out")
    assert done == ["tiny"]
    assert code == 1
    assert "which study 'text' reads" in err


OF_A_FOLDER = """
[study]
title = "Two arms"
question = ["Do they know?"]
design = "One of a folder, one that is trained."
limits = "All of them."
[[study.analyses]]
name = "recall"
"""


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["in words", "as JSON"])
@pytest.mark.slow
def test_checkpoints_in_quarantine_are_named_and_make_the_exit_code_3(monkeypatch, capsys, tmp_path, form):
    two_arms(tmp_path)
    file = tmp_path / "two.toml"
    quick = "metrics = { draws = 3 }\nablation = { random_draws = 1, top_units = 1, heads = [1], units = [0.1] }"
    asked = f'facts = {{ source = "{tmp_path / "facts"}", templates = "first" }}'
    arm = f'[[arms]]\nname = "folder"\nseries = "{tmp_path / "series"}"'
    file.write_text(f'name = "two"\n{quick}\n{asked}\n{arm}\n{OF_A_FOLDER}')
    code, out, err = study(monkeypatch, capsys, file, "--out", tmp_path / "out", "--workers", "1", *form)
    assert code == 3, err
    said = err if form else out
    assert "quarantined: folder step-10 (WeightsError)" in said
    assert "1 checkpoints are quarantined; --retry-quarantined" in said
    if form:
        assert json.loads(out)["study"] == "two"


def test_what_is_missing_is_said(monkeypatch, capsys, tmp_path):
    assert study(monkeypatch, capsys)[0] == 2
    assert "and not both" in study(monkeypatch, capsys, "twins", "--all")[2]
    assert "expected --out" in study(monkeypatch, capsys, "twins")[2]
    assert "no study has findings" in study(monkeypatch, capsys, "--publish", tmp_path)[2]
    assert "runs nothing" in study(monkeypatch, capsys, "twins", "--publish", tmp_path)[2]
    code, _, err = study(monkeypatch, capsys, "twinz", "--out", tmp_path)
    assert code == 2
    assert "one of data-shift" in err
    code, _, err = study(monkeypatch, capsys, "twins", "--workers", "0", "--out", tmp_path)
    assert code == 2
    assert "engine.workers" in err


def marked(mark):
    """The processes that have the mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_an_interrupted_study_leaves_no_process_and_goes_on(tmp_path):
    command = [sys.executable, "-m", "gated_lpi", "study", str(save_study(tmp_path)), "--out", str(tmp_path / "out")]
    command += ["--workers", "2", "--json"]
    paths = os.pathsep.join(path or "." for path in sys.path)
    environment = os.environ | {"PYTHONPATH": paths, MARK: str(tmp_path)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a job in the background would ignore it
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 180
    while len(marked(tmp_path)) < 3:  # the study and its workers
        assert first.poll() is None, first.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    while marked(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert marked(tmp_path) == []
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["study"] == "tiny"
    assert len(result["analyses"]) == 3
    assert (tmp_path / "out" / "tiny.findings" / "page.md").is_file()
