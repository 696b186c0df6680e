"""`gated-lpi report`: which forms it writes, where names lead, and what it says where it cannot."""

import pytest
from test_cli import run

from explored_runs import explored_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return explored_run(tmp_path_factory.mktemp("cli") / "run", (0, 10), ("moe",)).path


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    monkeypatch.setattr("gated_lpi.report.build.FORMATS", ())  # figures are drawn, but not as files


def test_forms_are_written_where_they_are_asked_for(monkeypatch, capsys, tmp_path, folder):
    explorer = ("--explorer", "http://127.0.0.1:9999")
    code, out, _ = run(monkeypatch, capsys, "report", folder, "--format", "md", "--out", tmp_path / "md", *explorer)
    assert code == 0
    assert out.replace("\n", "").endswith("report.md")
    assert not (tmp_path / "md" / "report.html").exists()
    assert "](http://127.0.0.1:9999/unit?run=" in (tmp_path / "md" / "report.md").read_text(encoding="utf-8")


def test_what_it_cannot_write_is_refused(monkeypatch, capsys, folder):
    assert run(monkeypatch, capsys, "report", folder, "--format", "docx")[0] == 2
    code, _, said = run(monkeypatch, capsys, "report", folder, "--explorer", "javascript:alert(1)")
    assert code != 0
    assert "expected one such as http://127.0.0.1:8765/" in " ".join(said.split())
