"""Every choice of what is scored goes from the experiment to the report; what is not scored is said to be missing."""

import html
import json
import shutil
import sys
from itertools import combinations

import numpy as np
import pytest

from gated_lpi import load_model
from gated_lpi.cli import main
from gated_lpi.errors import OptionError
from gated_lpi.experiments.experiment import AblationSpec
from gated_lpi.facts import encode
from gated_lpi.metrics import summarise
from gated_lpi.report import build_report
from gated_lpi.runs import run_experiment, top_units
from gated_lpi.runs.ablations import _unit_rows, percentage, unit_importance
from tiny_models import tiny_model
from tiny_runs import Notes, tiny_experiment
from tiny_text import CAPITALS, FACTS, save_checkpoint, save_facts, speaking_model

UNITS = ("ffn", "attention", "heads", "experts", "blocks")
SUBSETS = [subset for size in range(1, 6) for subset in combinations(UNITS, size)]
SCORES = {"heads": "head_lpi", "experts": "expert_lpi", "blocks": "block_lpi"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """One fact each of two relations, and two series of two checkpoints."""
    folder = tmp_path_factory.mktemp("source")
    save_facts(folder / "facts", [CAPITALS])
    for arm, case in (("moe", "OLMoE"), ("dense", "Qwen3")):
        for seed, step in enumerate((0, 10)):
            save_checkpoint(folder / arm / f"step-{step}", case, seed)
    return folder


def experiment(source, units, **changes):
    arms = ({"name": arm, "checkpoints": str(source / arm)} for arm in ("moe", "dense"))
    methods = ["lpi", "grad_x_act"] if len(units) in (1, 2, len(UNITS)) else ["lpi"]  # the rest is the same for both
    return tiny_experiment(source / "facts", *arms, attribution={"units": units, "methods": methods}, **changes)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The run that scores everything."""
    return run_experiment(experiment(source, UNITS), tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize(
    "units",
    [pytest.param(units, marks=[] if units in (("blocks",), UNITS) else [pytest.mark.slow]) for units in SUBSETS],
    ids="-".join,
)
def test_every_subset_of_units_goes_all_the_way(source, whole, tmp_path, monkeypatch, capsys, units):
    notes = Notes()
    run = run_experiment(experiment(source, units), tmp_path / "run", notes)
    kinds = [unit for unit in ("ffn", "attention") if unit in units]
    for arm in run.arms:
        scores, everything = run.scores(arm), whole.scores(arm)
        for unit, name in SCORES.items():
            wanted = unit in units and name in everything
            assert (name in scores) == wanted
            assert not wanted or np.array_equal(scores[name], everything[name])
        assert ("lpi_mean" in scores) == bool(kinds)
        summary = summarise(scores, draws=2)
        assert summary["kind"].values.tolist() == kinds
        assert summary["hit"].shape == (2, 3)
        table, record = run.record(arm).ablation, whole.record(arm)
        of_kind = {"head": "heads" in units, "unit": "ffn" in units}
        other = "grad_x_act" in run.experiment.attribution.methods
        summed = {"head": other and "attention" in units, "unit": other}  # by gradients a head is the sum of its units
        expected = [
            row for row in record.ablation.rows if of_kind[row.kind] and (row.method == "lpi" or summed[row.kind])
        ]
        assert list(table.rows) == expected
        assert run.record(arm).top_ffn == (record.top_ffn if "ffn" in units else ())
        assert run.record(arm).top_attention == (record.top_attention if "attention" in units else ())
        assert bool(table.skipped) == (not {"ffn", "attention", "heads"} <= set(units))
        assert [f"{arm}: {reason}" in notes.said for reason in table.skipped] == [True] * len(table.skipped)
    monkeypatch.setattr("gated_lpi.report.build.FORMATS", ())  # the figures are drawn, but not as files
    page = build_report(run).html.read_text()
    assert "moe (mixture of experts) and dense (dense)" in page
    assert all((reason in page) for arm in run.arms for reason in run.record(arm).ablation.skipped)
    assert ("FFN neurons were not scored" in page) == ("ffn" not in units)
    monkeypatch.setattr(sys, "argv", ["gated-lpi", "metrics", str(run.path)])
    shown = exit_of(main, capsys)
    assert ("no unit scores" in shown) == (not kinds)
    monkeypatch.setattr(sys, "argv", ["gated-lpi", "metrics", str(run.path), "--json"])
    assert set(json.loads(exit_of(main, capsys))) == {"moe", "dense"}


def exit_of(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command()
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(("fraction", "count"), [(0.07, 7), (0.29, 29), (1e-9, 1), (1.0, 100)])
def test_as_many_units_are_ablated_as_were_asked_for(fraction, count):
    model = tiny_model("Qwen3", intermediate_size=50)  # 100 FFN units; 0.07 · 100 is 7.000000000000001
    importance = np.linspace(0.0, 1.0, len(model.units))
    (row,) = _unit_rows(model, importance, "lpi", AblationSpec(units=[fraction]))
    assert (row.asked, len(row.chosen), len(row.pool)) == (count, count, 100)
    ffn = np.flatnonzero(model.units.block == "ffn")
    assert sorted(ffn[row.chosen]) == sorted(ffn[np.argsort(-importance[ffn])[:count]])


@pytest.mark.parametrize(
    ("share", "written"), [(0.01, "1"), (0.07, "7"), (0.1, "10"), (1.0, "100"), (0.010000000001, "1.0000000001")]
)
def test_shares_are_labelled_with_the_digits_that_were_given(share, written):
    assert percentage(share) == written


def test_importance_is_on_the_models_axis_whatever_was_kept(source, whole):
    model = load_model(str(source / "moe" / "step-10"))
    scores = whole.scores("moe").isel(checkpoint=1)
    everything = unit_importance(model, scores)
    assert np.array_equal(everything, scores["lpi_mean"])
    for kind in ("ffn", "attention"):
        here = model.units.block == kind
        kept = unit_importance(model, scores.isel(unit=np.flatnonzero(here)))
        assert np.array_equal(kept[here], everything[here])
        assert np.isnan(kept[~here]).all()


def test_top_units_of_both_kinds_take_one_pass_over_the_prompts(monkeypatch):
    model = speaking_model("OLMoE")
    encoded = encode(model.tokenizer, FACTS.prompts("all"))
    seen = []
    real = top_units.trace
    monkeypatch.setattr(top_units, "trace", lambda model, ids: seen.append(len(ids)) or real(model, ids))
    found = top_units.describe_top_units(model, encoded, np.arange(len(model.units), dtype=float), 3)
    assert sum(seen) == len(encoded)
    assert [len(found[kind]) for kind in ("ffn", "attention")] == [3, 3]
    assert {unit.block for unit in found["attention"]} == {"attention"}
    seen.clear()
    assert top_units.describe_top_units(model, encoded, np.full(len(model.units), np.nan), 3) == {
        "ffn": (),
        "attention": (),
        "mixer": (),
    }
    assert not seen


def test_a_run_may_ablate_nothing(source, tmp_path):
    nothing = {"heads": [], "units": [], "top_units": 0, "random_draws": 1}
    run = run_experiment(experiment(source, ["blocks"], ablation=nothing), tmp_path / "run")
    assert run.record("moe").ablation.rows == run.record("moe").ablation.skipped == ()
    assert "No head and no neuron was ablated" in build_report(run).html.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_an_arm_that_the_options_do_not_fit_is_left_out_and_the_others_are_shown(source, tmp_path, monkeypatch, capsys):
    shutil.copytree(source / "dense" / "step-0", tmp_path / "late" / "step-500")
    folders = {"late": tmp_path / "late", "dense": source / "dense"}
    arms = [{"name": name, "checkpoints": str(folder)} for name, folder in folders.items()]
    metrics = {"draws": 2, "windows": {"early": [0, 100]}}
    run = run_experiment(experiment(source, ["ffn"], arms=arms, metrics=metrics), tmp_path / "run")
    page = html.unescape(build_report(run).html.read_text())
    assert "Arm late is left out: window 'early' is (0, 100) and holds no checkpoint" in page
    monkeypatch.setattr(sys, "argv", ["gated-lpi", "metrics", str(run.path)])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert not stop.value.code
    assert "dense" in out
    assert "late: no results: window 'early'" in " ".join(err.split())
    alone = run_experiment(experiment(source, ["ffn"], arms=arms[:1], metrics=metrics), tmp_path / "alone")
    with pytest.raises(OptionError, match="holds no checkpoint"):
        build_report(alone)
