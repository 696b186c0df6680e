"""The pruning study: advantages and verdicts by hand, and one from training to figures that goes on where it was."""

import json

import numpy as np
import pytest
from scipy import stats

from gated_lpi import load_model, open_run, run_experiment
from gated_lpi.errors import OptionError, RunError
from gated_lpi.pruning import RANKINGS, cost_of, past_scores, prune_experts, rank_experts
from gated_lpi.runs.progress import Silent
from gated_lpi.studies import prune, prune_cells
from gated_lpi.studies.prune import Options, _verdicts, advantage, analyse
from gated_lpi.studies.prune_cells import Bench, Cell, Conditions, Replicate, corpus_loss
from gated_lpi.studies.table import analysis_of
from tiny_runs import TRAINING, UNABLATED, tiny_experiment
from tiny_text import CAPITALS, save_facts

ASKED = {"rankings": ["lpi_stable", "lpi", "random"], "shares": [0.5], "times": [1.0]}
OPTIONS = Options(**ASKED, further_steps=2, corpus_examples=4, k=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    size = {**TRAINING["size"], "experts": 4, "layers": 2}
    experiment = tiny_experiment(
        save_facts(folder / "facts", [CAPITALS]),
        {"name": "moe", "train": "moe", "replicates": 2},
        training={**TRAINING, "size": size, "learning_rate": 0.01},
        ablation=UNABLATED,
    )
    run_experiment(experiment, folder / "run")
    return open_run(folder / "run")


@pytest.fixture(scope="module")
def analysis(run):
    return analyse(run, OPTIONS, Silent())


LATER = {"further_steps": 0, "outcome": "hit_k"}


def cells(*replicates):
    """Results of a stable ranking and its rival: for each replicate, pairs of outcomes over times."""
    found = {}
    for seed, pairs in enumerate(replicates):
        for time, (mine, other) in enumerate(pairs):
            cell = Cell("moe", f"moe-{seed}", seed, float(time), time, "lpi_stable", 0.5)
            found[cell] = {"hit_k": mine, "corpus_loss": mine}
            found[cell._replace(by="lpi")] = {"hit_k": other, "corpus_loss": other}
    return found


def test_an_advantage_is_paired_by_replicate():
    results = cells([(0.5, 0.4), (0.7, 0.6)], [(0.9, 0.6), (0.5, 0.2)], [(0.1, 0.0), (0.4, 0.1)])
    found = advantage(results, "moe", "lpi", "hit_k")
    expected = stats.ttest_1samp([10.0, 30.0, 20.0], 0.0)
    assert (found.difference, found.p_value) == (pytest.approx(20.0), pytest.approx(expected.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert advantage(results, "moe", "lpi", "corpus_loss").difference == pytest.approx(-0.2)  # less is better


@pytest.mark.parametrize(("gap", "word"), [(0.1, "supported"), (-0.1, "contradicted"), (0.001, "undecided")])
def test_a_side_is_taken_where_the_adjusted_p_is_small(gap, word):
    noise = (0.001, -0.002, 0.0015, 0.0005, -0.001)
    results = cells(*([(0.5 + gap + one, 0.5)] for one in noise))
    (verdict,) = _verdicts(results, OPTIONS.model_copy(update={"rankings": ("lpi_stable", "lpi"), **LATER}))
    assert verdict.verdict == word
    assert verdict.effect == pytest.approx(100 * gap)
    assert ("by Holm over 1 comparisons" in verdict.detail, verdict.would_decide == "") == (True, word != "undecided")


@pytest.mark.slow
def test_every_ranking_is_judged_at_both_moments(analysis):
    assert [verdict.claim.rpartition(" ")[2] for verdict in analysis.verdicts] == ["alone", "random"] * 2
    assert all("2 replicates" in verdict.detail for verdict in analysis.verdicts)
    recall, cost = analysis.tables
    assert [row[3:5] for row in recall.rows] == [["none", 2], ["lpi_stable", 2], ["lpi", 2], ["random", 2]]
    assert [row[1] for row in cost.rows] == [0.0, 0.5]
    assert cost.rows[0][2] > cost.rows[1][2]
    assert set(analysis.figures) == {"pruning-moe"}
    assert any(note.startswith("checkpoints: step 6 for 100%") for note in analysis.notes)


@pytest.mark.slow
@pytest.mark.usefixtures("analysis")
def test_a_cell_is_what_pruning_by_hand_gives(run):
    replicate, bench = Replicate(run, "moe-1", OPTIONS.conditions), Bench(run)
    cell = Cell("moe", "moe-1", 0, 1.0, 6, "lpi", 0.5)
    found = prune_cells.kept(cell, replicate, bench.corpus)
    model = load_model(str(run.training_folder("moe-1") / "step-6"))
    texts = bench.texts(model, replicate)
    pruned = prune_experts(model, prune_cells._ranking(cell, model, replicate, bench, texts), share=0.5).model
    expected = bench.measure(pruned, OPTIONS.conditions.k, texts)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["parameters"] == cost_of(pruned).parameters
    assert found["trained_corpus_loss"] != found["corpus_loss"]
    losses = []
    for example in bench.texts(pruned, replicate):
        ids, labels = (prune_cells.torch.tensor([example[name]]) for name in ("input_ids", "labels"))
        logits = pruned.module(input_ids=ids).logits[0, :-1].log_softmax(-1)
        losses += [-logits[i, label].item() for i, label in enumerate(labels[0, 1:].tolist()) if label >= 0]
    assert corpus_loss(pruned, bench.texts(pruned, replicate)) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("calibration", ["prompts", "corpus"])
def test_rankings_are_those_of_the_model_and_its_past(run, calibration):
    replicate = Replicate(run, "moe-1", Conditions(calibration=calibration, corpus_examples=4, pairs=1))
    bench = Bench(run)
    model = load_model(str(run.training_folder("moe-1") / "step-6"))
    texts = bench.texts(model, replicate)
    scores = {
        by: prune_cells._ranking(Cell("moe", "moe-1", 0, 1.0, 6, by, 0.5), model, replicate, bench, texts).scores
        for by in RANKINGS
    }
    facts = run.experiment.facts.load()
    for by in ("lpi", "grad_x_act"):
        np.testing.assert_allclose(scores[by], rank_experts(model, by, facts=facts).scores, atol=1e-5)
    past = past_scores(run, "moe-1", before=6, pairs=1)
    stable = rank_experts(model, "lpi_stable", facts=facts, past=past).scores
    np.testing.assert_allclose(scores["lpi_stable"], stable, atol=1e-5)
    texts = [example["input_ids"] for example in bench.texts(model, replicate)]
    read = texts if calibration == "corpus" else [item.ids for item in bench.asked(model)]
    for by in ("frequency", "reap"):
        np.testing.assert_allclose(scores[by], rank_experts(model, by, windows=read).scores)


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(run, analysis, monkeypatch):
    def never(*_):
        raise AssertionError("a cell was found anew")

    files = sorted((run.local / "pruning").glob("*.json"))
    assert len(files) == 2 * (1 + 3)
    monkeypatch.setattr(prune_cells, "_found", never)
    assert analyse(run, OPTIONS, Silent()).tables == analysis.tables
    one = OPTIONS.model_copy(update={"arms": ("moe-1",)})
    found = analyse(run, one, Silent())
    assert "not pruned: moe-2" in found.notes
    assert {verdict.verdict for verdict in found.verdicts} == {"undecided"}
    assert found.verdicts[0].low is None
    assert "no interval: one replicate" in found.verdicts[0].detail
    with monkeypatch.context() as patch:
        patch.setattr(prune, "with_scores", lambda _: ({"moe": ("moe-2",)}, []))
        assert "not pruned: moe-1" in analyse(run, OPTIONS, Silent()).notes
    files[0].write_text("{")
    with pytest.raises(AssertionError, match="found anew"):
        analyse(run, OPTIONS, Silent())
    with pytest.raises(AssertionError, match="found anew"):
        analyse(run, OPTIONS.model_copy(update={"k": 3}), Silent())


def test_another_corpus_and_other_arms_are_refused(run, monkeypatch):
    with pytest.raises(OptionError, match="arm 'mixture' was to be pruned; this run trained moe-1, moe-2"):
        analyse(run, OPTIONS.model_copy(update={"arms": ("mixture",)}), Silent())
    with monkeypatch.context() as patch:
        patch.setattr(Replicate, "routed", False)
        with pytest.raises(OptionError, match="no mixture of experts that it trained"):
            analyse(run, OPTIONS, Silent())
    record = run.training_folder("moe-1") / "step-6" / "checkpoint.json"
    before = record.read_text()
    record.write_text(json.dumps(json.loads(before) | {"corpus_sha256": "another"}))
    try:
        with pytest.raises(RunError, match="trained on a corpus other than"):
            analyse(run, OPTIONS.model_copy(update={"seed": 1}), Silent())
    finally:
        record.write_text(before)


def test_it_is_an_analysis_that_studies_can_name():
    assert analysis_of("prune").options is Options
