"""`gated-lpi metrics`: a row for every arm, method and kind of unit, and the same as JSON."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gated_lpi.cli import app
from synthetic_run import DENSE, MOE, SyntheticRun

TWICE = SyntheticRun(Path("unused"), {"moe": replace(MOE, other={"spread": 0.3}), "dense": DENSE})


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.setattr("gated_lpi.results.open_run", lambda _: TWICE)
    monkeypatch.setattr("gated_lpi.cli.console.out._width", 200)  # whatever the terminal's
    return lambda *options: CliRunner().invoke(app, ["metrics", "run", *options]).output


def test_every_method_has_its_rows(shown):
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown().splitlines() if line.startswith("│")]
    assert [row[:3] for row in rows] == [
        ["moe", "lpi", "ffn"],
        ["moe", "lpi", "attention"],
        ["moe", "grad_x_act", "ffn"],
        ["moe", "grad_x_act", "attention"],
        ["dense", "lpi", "ffn"],
        ["dense", "lpi", "attention"],
    ]
    for method, row in (("lpi", rows[0]), ("grad_x_act", rows[2])):
        assert row[4] == f"{float(TWICE.summary('moe', method)['gain_top_set'].sel(kind='ffn')[-1]):.3f}"


def test_methods_are_told_apart_on_a_narrow_screen(shown, monkeypatch):
    monkeypatch.setattr("gated_lpi.cli.console.out._width", 66)
    methods = "".join(line.split("│")[2].strip() for line in shown().splitlines() if line.startswith("│"))
    assert methods == "lpi" * 2 + "grad_x_act" * 2 + "lpi" * 2


def test_json_has_the_first_method_s_summary_and_the_others_under_it(shown):
    content = json.loads(shown("--json"))
    assert content["moe"]["attrs"]["method"] == "lpi"
    assert list(content["moe"]["by_method"]) == ["grad_x_act"]
    assert content["moe"]["by_method"]["grad_x_act"]["attrs"]["method"] == "grad_x_act"
    assert content["dense"]["by_method"] == {}
