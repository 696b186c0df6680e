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


def rows(printed):
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]


def test_every_method_has_its_rows_with_interval_and_chance(shown):
    found = rows(shown())
    whose = [[row[0] for row in found[place : place + 3]] for place, row in enumerate(found) if row[1] == "J_stab"]
    assert whose == [
        ["moe", "by lpi", "ffn units"],
        ["moe", "by lpi", "attention units"],
        ["moe", "by grad_x_act", "ffn units"],
        ["moe", "by grad_x_act", "attention units"],
        ["dense", "by lpi", "ffn units"],
        ["dense", "by lpi", "attention units"],
    ]
    for number, method in ((0, "lpi"), (2, "grad_x_act")):
        summary = TWICE.summary("moe", method).sel(kind="ffn").isel(pair=-1)
        value, low, high, chance, least, most = (
            f"{float(summary[f'gain_top_set{end}']):.3f}"
            for end in ("", "_low", "_high", "_chance", "_chance_low", "_chance_high")
        )
        row = [row for row in found if row[1] == "R_t"][number]
        assert row[2:] == [value, f"[{low}, {high}]", f"{chance} [{least}, {most}]"]
    assert next(row[2:] for row in found if row[1] == "rho_avg")[1:] == ["", ""]  # it has neither


def test_what_chance_gives_has_no_interval_where_that_is_one_value(shown, monkeypatch):
    single = replace(TWICE, metrics=TWICE.metrics.model_copy(update={"fraction": 1e-6}))  # top sets of one unit
    monkeypatch.setattr("gated_lpi.results.open_run", lambda _: single)
    summary = single.summary("moe").sel(kind="ffn")
    assert summary["stability_chance_low"] == summary["stability_chance_high"] < summary["stability_chance"]
    row = next(row for row in rows(shown()) if row[1] == "J_stab")
    assert row[4] == f"{float(summary['stability_chance']):.3f}"
    share = next(row for row in rows(shown()) if row[1] == "top share")
    assert share[4].endswith("]")


def test_what_measures_say_is_said(shown):
    printed = shown()
    for title in {row[1] for row in rows(printed)} - {"measure"}:
        assert f"\n{title}: " in printed


def test_it_fits_eighty_columns_and_folds_names_on_a_narrower_screen(shown, monkeypatch):
    monkeypatch.setattr("gated_lpi.cli.console.out._width", 80)
    wide = shown()
    assert [row[0] for row in rows(wide)].count("by grad_x_act") == 2
    assert len(rows(wide)) == 6 * 5
    monkeypatch.setattr("gated_lpi.cli.console.out._width", 70)
    folded = "".join(row[0].replace(" ", "") for row in rows(shown()))
    assert folded.count("bygrad_x_act") == 2


def test_json_has_the_first_method_s_summary_and_the_others_under_it(shown):
    content = json.loads(shown("--json"))
    assert content["moe"]["attrs"]["method"] == "lpi"
    assert list(content["moe"]["by_method"]) == ["grad_x_act"]
    assert content["moe"]["by_method"]["grad_x_act"]["attrs"]["method"] == "grad_x_act"
    assert content["dense"]["by_method"] == {}
