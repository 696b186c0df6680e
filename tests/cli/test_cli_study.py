"""`gated-lpi study`: what there is, what it would take, and a study that is interrupted and taken up again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gated_lpi.cli import main
from gated_lpi.studies import studies
from tiny_studies import save_study

MARK = "GATED_LPI_TEST_MARK"


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["gated-lpi", "study", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_studies_are_listed_with_what_they_ask(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--list", "--json")
    assert code == 0
    assert [one["study"] for one in json.loads(out)] == list(studies())
    code, out, _ = run(monkeypatch, capsys, "--list")
    assert all(name in out for name in studies())


def test_a_plan_counts_what_is_trained_and_does_nothing(monkeypatch, capsys, tmp_path):
    code, out, _ = run(monkeypatch, capsys, save_study(tmp_path), "--plan", "--json")
    assert code == 0
    (plan,) = json.loads(out)
    assert (plan["arms"], plan["steps"], plan["checkpoints"]) == (4, 24, 12)
    assert plan["analyses"] == ["recall", "sweep", "ablation_curves"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.toml", "facts", "tiny.toml"]


def test_what_is_missing_is_said(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, capsys)[0] == 2
    assert "and not both" in run(monkeypatch, capsys, "twins", "--all")[2]
    assert "expected --out" in run(monkeypatch, capsys, "twins")[2]
    assert "which it needs" in run(monkeypatch, capsys, "--publish", tmp_path)[2]
    code, _, err = run(monkeypatch, capsys, "twinz", "--out", tmp_path)
    assert code == 2
    assert "one of data-shift, density" in err
    code, _, err = run(monkeypatch, capsys, "twins", "--workers", "0", "--out", tmp_path)
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
