"""`gated-lpi export`: tables, netCDF and a card of a run, streamed, and what cannot be exported."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from explored_runs import HOSTILE, STEPS, explored_run
from gated_lpi import open_scores
from gated_lpi.cli import app
from gated_lpi.errors import OptionError
from gated_lpi.export import write_tables
from gated_lpi.export.card import card, markdown
from gated_lpi.results import Run
from gated_lpi.results.frames import METRIC_COLUMNS, UNIT_COLUMNS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return explored_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def exported(run, tmp_path):
    def export(form, *options):
        done = CliRunner().invoke(
            app, ["export", str(run.path), "--format", form, "--out", str(tmp_path / form), "--json", *options]
        )
        assert done.exception is None, done.output
        return {file.rsplit("/", 1)[1]: file for file in json.loads(done.output)["files"]}

    return export


@pytest.mark.parametrize(("form", "read"), [("parquet", pd.read_parquet), ("csv", pd.read_csv)])
def test_tables_hold_every_score_and_metric(run, exported, form, read):
    files = exported(form)
    assert list(files) == [f"moe.units.{form}", f"dense.units.{form}", f"metrics.{form}"]
    scores = run.scores("moe").load()
    units = read(files[f"moe.units.{form}"])
    assert list(units.columns) == [*UNIT_COLUMNS, "lpi", "grad_x_act", "true_effect"]
    assert len(units) == scores.sizes["checkpoint"] * scores.sizes["unit"]
    for name in ("lpi", "grad_x_act"):
        assert np.allclose(units[name], scores[f"{name}_mean"].values.ravel(), rtol=1e-6)
    for place, step in enumerate(STEPS):
        here = units[units["step"] == step]
        assert here["neuron"].tolist() == scores["neuron"].values.tolist()
        assert set(here["checkpoint"]) == {scores["checkpoint_key"].values[place]}
    metrics = read(files[f"metrics.{form}"])
    assert list(metrics.columns) == list(METRIC_COLUMNS)
    row = metrics.query(
        f"arm == 'moe' and method == 'grad_x_act' and metric == 'stability' and kind == 'ffn' and step == {STEPS[1]}"
    )
    summary = run.summary("moe", "grad_x_act").sel(kind="ffn", pair_step=STEPS[1])
    for column, name in {"value": "stability", "low": "stability_low", "chance": "stability_chance"}.items():
        assert row[column].item() == pytest.approx(summary[name].item())
    assert row["next_step"].item() == STEPS[2]
    profile = metrics.query(
        "arm == 'dense' and metric == 'layer_profile' and method == 'lpi' and kind == 'ffn' and layer == 1"
    )
    assert np.allclose(profile["value"], run.summary("dense")["layer_profile"].sel(kind="ffn", layer=1))


def test_units_are_read_a_slice_at_a_time(run):
    frames = run.unit_frames("moe", rows=7)
    sizes = [len(frame) for frame in frames]
    units = run.scores("moe").sizes["unit"]
    assert sizes == [*[7] * (units // 7), *([units % 7] if units % 7 else [])] * len(STEPS)
    whole = pd.concat(run.unit_frames("moe", rows=7), ignore_index=True)
    assert whole.equals(pd.concat(run.unit_frames("moe"), ignore_index=True))


def test_units_have_every_score_that_the_run_has_of_them(run, exported):
    scores = run.scores("moe")
    of_units = {str(name) for name, one in scores.data_vars.items() if "unit" in one.dims and "relation" in one.dims}
    assert "true_effect" in of_units
    table = pd.read_csv(exported("csv", "--arm", "moe", "--steps", str(STEPS[1]))["moe.units.csv"])
    assert of_units <= set(table.columns)
    weights = scores["n_prompts"].to_numpy() / scores["n_prompts"].sum().item()
    for name in of_units:
        by_hand = weights @ scores[name].sel(step=STEPS[1]).to_numpy().astype(np.float64)
        assert np.allclose(table[name], by_hand, rtol=1e-5, equal_nan=True), name
    assert table["true_effect"].isna().any()
    assert table["true_effect"].notna().any()


def test_arms_and_steps_can_be_chosen(run, exported):
    files = exported("parquet", "--arm", "dense", "--steps", str(STEPS[1]))
    assert list(files) == ["dense.units.parquet", "metrics.parquet"]
    assert set(pd.read_parquet(files["dense.units.parquet"])["step"]) == {STEPS[1]}
    assert set(pd.read_parquet(files["metrics.parquet"])["arm"]) == {"dense"}
    last = pd.concat(run.unit_frames("dense", steps="last"))
    assert set(last["step"]) == {STEPS[-1]}


def test_netcdf_holds_what_the_store_holds(run, exported):
    files = exported("netcdf")
    for arm in run.arms:
        kept, back = run.scores(arm).load(), open_scores(files[f"{arm}.nc"])
        assert set(back.data_vars) == set(kept.data_vars)
        assert set(back.coords) == set(kept.coords)
        for name, variable in kept.variables.items():
            assert back[name].dims == variable.dims
            assert np.array_equal(back[name], variable, equal_nan=variable.dtype.kind == "f"), name
        assert back["lpi"].dtype == kept["lpi"].dtype
        assert back.attrs["checkpoints"] == kept.attrs["checkpoints"]


def test_a_card_says_what_was_found_and_markup_of_others_is_text(run, exported):
    files = exported("card")
    content = json.loads(Path(files["card.json"]).read_text(encoding="utf-8"))
    (row,) = [
        row
        for row in content["arms"][0]["metrics"]
        if (row["method"], row["kind"], row["metric"]) == ("lpi", "ffn", "gini")
    ]
    assert row["value"] == pytest.approx(float(run.summary("moe")["gini"].sel(kind="ffn")[-1]))
    stable = next(row for row in content["arms"][0]["metrics"] if row["metric"] == "stability")
    assert stable["chance"] == pytest.approx(float(run.summary("moe")["stability_chance"].sel(kind="ffn")))
    page = Path(files["card.md"]).read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert f"| {row['value']:.3f} |" in page
    assert content["facts"]["sha256"] == "ab" * 32


def test_steps_of_a_card_are_whole(run, monkeypatch):
    measured = Run.summary
    settled = {"consolidation_stability": ("kind", [0.0, 168.0]), "consolidation_profile": ("kind", [np.nan, 1200.0])}
    monkeypatch.setattr(Run, "summary", lambda *asked, **how: measured(*asked, **how).assign(settled))
    content = card(run)
    steps = [row for row in content["arms"][0]["metrics"] if row["metric"].startswith("consolidation")][:4]
    assert [row["value"] for row in steps] == [0, None, 168, 1200]
    cells = [line.split(" | ")[4] for line in markdown(content).splitlines() if "step from which" in line][:4]
    assert cells == ["0", "none", "168", "1,200"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--format", "excel"), r"excel was given; expected one of parquet, csv, netcdf, card"),
        (("--format", "card", "--arm", "moe"), "a card is of a whole run"),
        (("--format", "netcdf", "--steps", "last"), "belongs to parquet and csv"),
        (("--steps", "7"), r"step 7 was asked for; arm 'moe' has 0, 10, 20, 40"),
        (("--arm", "none"), r"arm 'none' was asked for; this run has moe, dense"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_measured(run, tmp_path, monkeypatch, options, said):
    monkeypatch.setattr(Run, "summary", lambda *_, **__: pytest.fail("metrics were computed"))
    done = CliRunner().invoke(app, ["export", str(run.path), "--out", str(tmp_path / "out"), *options])
    assert isinstance(done.exception, OptionError)
    assert re.search(said, str(done.exception))
    assert not any(tmp_path.glob("out/*"))


def test_nothing_is_overwritten(run, tmp_path):
    (tmp_path / "dense.units.csv").touch()
    with pytest.raises(OptionError, match=r"dense\.units\.csv exists already and is not overwritten"):
        write_tables(run, tmp_path, "csv", arms=["dense"])
