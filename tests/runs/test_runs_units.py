"""Every choice of what is scored goes from the experiment to the report; what is not scored is said to be missing."""

import json
import sys
from itertools import combinations

import numpy as np
import pytest

from gated_lpi.cli import main
from gated_lpi.metrics import summarise
from gated_lpi.report import build_report
from gated_lpi.runs import Experiment, run_experiment
from tiny_runs import QUICK, Notes
from tiny_text import CAPITALS, save_checkpoint, save_facts

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
    content = {
        "name": "test",
        "facts": {"source": str(source / "facts"), "templates": "first"},
        "attribution": {"units": units},
        "arms": [{"name": arm, "checkpoints": str(source / arm)} for arm in ("moe", "dense")],
        **QUICK,
    }
    return Experiment.model_validate(content | changes)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The run that scores everything."""
    return run_experiment(experiment(source, UNITS), tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("units", SUBSETS, ids="-".join)
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
        expected = [row for row in record.ablation.rows if of_kind[row.kind]]
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
