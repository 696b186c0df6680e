"""Every analysis on one tiny run: two seeds of a mixture of experts and of a dense arm."""

import math

import pytest
import torch

from gated_lpi import load_model
from gated_lpi.errors import OptionError
from gated_lpi.experiments import Experiment
from gated_lpi.runs import run_experiment
from gated_lpi.runs.progress import Silent
from gated_lpi.studies import Analysis
from gated_lpi.studies._models import facts_of
from gated_lpi.studies.table import analysis_of
from tiny_runs import TRAINING, UNABLATED, tiny_experiment
from tiny_text import CAPITALS, COLOURS, save_facts

METHODS = ["lpi", "grad_x_act"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    facts = save_facts(tmp_path_factory.mktemp("facts") / "facts", [CAPITALS, COLOURS])
    size = TRAINING["size"] | {"experts": 4}
    arms = ({"train": "moe", "replicates": 2}, {"name": "dense", "train": "dense_total", "replicates": 2})
    return tiny_experiment(
        facts, *arms, training=TRAINING | {"size": size}, routing={"split": True}, ablation=UNABLATED
    )


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    return run_experiment(experiment, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def lengths(experiment, tmp_path_factory):
    """A run of a mixture of experts that is trained for four and for eight steps."""
    size = experiment.training.size.model_dump()
    training = TRAINING | {"size": size, "steps": 4, "checkpoints": 3}
    arms = ({"name": "short", "train": "moe"}, {"name": "long", "train": "moe", "training": {"steps": 8}})
    changes = {"attribution": {"methods": ["lpi"]}, "ablation": UNABLATED}
    asked = tiny_experiment(experiment.facts.source, *arms, training=training, **changes)
    return run_experiment(asked, tmp_path_factory.mktemp("lengths") / "run")


def analysed(run, name: str, **options) -> Analysis:
    """What an analysis finds, read back from its JSON."""
    row = analysis_of(name)
    found = row.analyse(run, row.options(**options), Silent())
    again = Analysis.model_validate_json(found.model_dump_json())
    assert again.verdicts == found.verdicts
    assert again.tables == found.tables
    return found


def rows_of(found: Analysis, name: str) -> list[dict]:
    table = next(table for table in found.tables if table.name == name)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_routing_is_judged_by_every_method_and_frozen(run):
    found = analysed(run, "routing", pairs=1, checkpoints=3, permutations=1)
    assert {one["group"]: one["what is left"] for one in rows_of(found, "routing-null")} == {
        "moe": "experts",
        "dense": "layers",
    }
    shares = {(one["method"], one["step"]): one for one in rows_of(found, "routing-split")}
    split = run.split("moe-1"), run.split("moe-2")
    kept = [100 * one["routing_share"].values[-1] for one in split]
    assert shares["lpi", str(int(split[0]["step"][-1]))]["value"] == pytest.approx(sum(kept) / 2)
    assert {one["method"] for one in shares.values()} == set(METHODS)
    frozen = {(one["grid"], one["routing"], one["step"]): one for one in rows_of(found, "frozen-router")}
    last = max(step for _, _, step in frozen)
    own = frozen["last routing", "own", last]
    for grid in ("last weights", "last routing"):  # the last weights with their own routing, by any way
        for way in ("replayed", "transplanted"):
            assert frozen[grid, way, last]["log p"] == pytest.approx(own["log p"], abs=1e-5)
    assert frozen["last weights", "replayed", 0]["log p"] != pytest.approx(own["log p"], abs=1e-6)
    asked = {verdict.claim for verdict in found.verdicts}
    assert len(asked) == 5
    assert {verdict.method for verdict in found.verdicts} == {*METHODS, ""}
    assert all(verdict.would_decide for verdict in found.verdicts)
    assert set(found.figures) == {"routing-split", "frozen-router"}


def test_methods_are_held_against_true_effects_each_other_and_their_conclusions(run):
    found = analysed(run, "methods", sample=2, prompts=2, at=[1.0], replicates=1, draws=2)
    conclusions = {(one["measure"], one["method"]): one for one in rows_of(found, "conclusions")}
    for method in METHODS:
        shares = {
            arm: 100 * float(run.summary(arm, method)["importance_share"].sel(kind="ffn")[-1]) for arm in run.arms
        }
        mean = (shares["moe-1"] - shares["dense-1"] + shares["moe-2"] - shares["dense-2"]) / 2
        assert conclusions["importance share", method]["value"] == pytest.approx(mean)
        assert conclusions["importance share", method]["of the MoE"] - mean == pytest.approx(
            conclusions["importance share", method]["of the dense"]
        )
    agreement = rows_of(found, "method-agreement")
    assert {one["group"] for one in agreement} == {"moe", "dense"}
    assert {one["step"] for one in agreement} == set(run.scores("moe-1")["step"].values.tolist())
    truth = {(one["group"], one["method"], one["layers"]): one for one in rows_of(found, "truth")}
    assert set(truth) == {
        (group, method, part)
        for group in ("moe", "dense")
        for method in METHODS
        for part in ("overall", "lower third", "middle third", "upper third")
    }
    for one in truth.values():
        assert one["replicates"] in (0, 1)
        assert one["value"] is None or -1 <= one["value"] <= 1
    questions = {verdict.question for verdict in found.verdicts}
    assert questions == {
        "MoE or dense?",
        "Is what is found the method's?",
        "Does a method rank units as silencing them does?",
    }


def test_tasks_are_ablated_by_rankings_over_all_and_over_each(run):
    found = analysed(run, "tasks", tasks={"colour": "two-hop"}, units=[0.1, 1.0], heads=[0.5], draws=1)
    rows = {
        (one["group"], one["method"], one["silenced"], one["share"], one["ranked over"], one["task"]): one
        for one in rows_of(found, "tasks")
    }
    assert len(rows) == 2 * 2 * 3 * 3 * 2  # groups, methods, what is silenced, rankings, tasks
    everything = [one for one in rows.values() if one["share"] == 1.0]
    for one in everything:  # a random set of all units is all units
        assert one["log p drop"] == pytest.approx(one["log p drop, random"])
    moe = {one["ranked over"]: one["log p drop"] for one in everything if one["group"] == "moe"}
    assert len(set(moe.values())) == 1
    asked = {(verdict.claim, verdict.method) for verdict in found.verdicts}
    assert len(asked) == len(found.verdicts) == 2 * 2 + 2 * 2 * 2  # tasks by methods; groups by tasks by methods


@pytest.mark.slow
def test_longer_training_is_compared_at_the_end_and_at_equal_tokens(lengths):
    found = analysed(lengths, "longer", share=0.1, experts=1, draws=1)
    rows = {(one["group"], one["at"], one["measure"]): one for one in rows_of(found, "longer")}
    assert {one["steps"] for one in rows.values()} == {4, 8}
    assert {one["family"] for one in rows.values()} == {"moe"}
    for group in ("short", "long"):
        summary = lengths.summary(group).sel(kind="ffn")
        tokens = summary["tokens"].values
        shortest = lengths.summary("short")["tokens"].values[-1]
        for at, row in (("end", -1), ("equal tokens", abs(tokens - shortest).argmin())):
            share = 100 * float(summary["importance_share"][row])
            assert rows[group, at, "share of importance, %"]["value"] == pytest.approx(share)
    end = {measure: one["value"] for (group, at, measure), one in rows.items() if (group, at) == ("short", "end")}
    same = {
        measure: one["value"] for (group, at, measure), one in rows.items() if (group, at) == ("short", "equal tokens")
    }
    assert end == same
    assert end["recovered by routers, nats"] is not None
    assert len(found.verdicts) == 5 * 2
    assert all(verdict.verdict == "undecided" for verdict in found.verdicts)  # of one replicate each


def test_loss_on_held_out_lines_is_that_of_each_line_by_itself(run, tmp_path):
    file = tmp_path / "held-out.txt"
    file.write_text("The capital of France is Paris.\n\nThe sky is blue.\nThe sun looks yellow.\n")
    found = analysed(run, "text", text=str(file), lines=3, checkpoints=2)
    rows = rows_of(found, "text-loss")
    losses = {(one["group"], one["step"]): one["value"] for one in rows}
    last = max(step for group, step in losses if group == "moe")
    expected = []
    for arm in ("moe-1", "moe-2"):
        model = load_model(run.training_folder(arm) / f"step-{last}")
        total = count = 0
        for line in ("The capital of France is Paris.", "The sky is blue.", "The sun looks yellow."):
            ids = torch.tensor([model.tokenizer(line)["input_ids"]])
            with torch.no_grad():
                logp = model.module(input_ids=ids).logits.double().log_softmax(-1)
            total -= float(logp[0, :-1].gather(-1, ids[0, 1:, None]).sum())
            count += ids.shape[1] - 1
        expected.append(total / count)
    assert losses["moe", last] == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert losses["guess", None] == pytest.approx(math.log(model.n_embeddings))
    assert 0 < losses["frequencies", None] < losses["guess", None]
    claims = {verdict.claim: verdict for verdict in found.verdicts}
    assert claims["moe predicts held-out text better than its tokens' frequencies do."].verdict == "contradicted"
    compared = claims["moe has a lower loss on held-out text than dense."]
    assert compared.effect == pytest.approx(losses["moe", last] - losses["dense", last])
    with pytest.raises(OptionError, match="is blank"):
        analysed(run, "text", text=str(write(tmp_path / "empty.txt", "\n")))


def write(file, content):
    file.write_text(content)
    return file


@pytest.mark.slow
def test_a_shift_is_found_in_the_scores_of_a_run_that_has_one(experiment, tmp_path):
    training = TRAINING | {"size": experiment.training.size.model_dump(), "spacing": "linear", "context": 128}
    shift = {"shift": {"at": 0.5, "share": 0.5}}
    asked = tiny_experiment(
        "people:n=8,relations=1,objects=4",
        {"name": "moe", "train": "moe", "training": shift},
        training=training,
        attribution={"methods": ["lpi"]},
    )
    shifted = run_experiment(asked, tmp_path / "run")
    found = analysed(shifted, "shift")
    (row,) = rows_of(found, "shift-replicates")
    scores = shifted.scores("moe").isel(checkpoint=-1)
    logprob = {
        part: scores["target_logprob"].values[[str(name).endswith(part) for name in scores["prompt_relation"].values]]
        for part in ("(before)", "(after)")
    }
    expected = logprob["(before)"].mean() - logprob["(after)"].mean()
    assert row["log p of old less new at the end, nats"] == pytest.approx(expected)
    assert facts_of(shifted).sha256 == shifted.info["facts_sha256"]
    assert all(verdict.verdict == "undecided" for verdict in found.verdicts)  # one replicate has no interval


def test_runs_without_what_an_analysis_compares_are_told_so(run):
    assert "nothing to compare" in analysed(run, "longer").notes[-1]
    assert "nothing to compare" in analysed(run, "stabilise").notes[-1]


def test_a_run_without_a_shift_is_told_so(run):
    found = analysed(run, "shift")
    assert found.verdicts == []
    assert "No arm has a shift" in found.notes[-1]
