"""Runs by several methods, against foils, with splits of changes; and runs of versions that knew LPI alone."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from gated_lpi import GradientTimesActivation, ablate, attribute, load_model, split_change, summarise
from gated_lpi.ablation import recall, redundancy
from gated_lpi.diagnosis import examine
from gated_lpi.errors import OptionError, RunExistsError
from gated_lpi.experiments import load_experiment
from gated_lpi.facts import Relation, Sample
from gated_lpi.options import LPI, TrueEffect
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.report import build_report
from gated_lpi.report.by_method import method_name
from gated_lpi.results import open_run
from gated_lpi.results.files import write_file
from gated_lpi.results.verify import verify_run
from gated_lpi.runs import run_experiment
from gated_lpi.runs.selectivity import LAYER_DRAWS
from tiny_runs import QUICK, Notes, as_toml, tiny_experiment
from tiny_text import CAPITALS, COLOURS, save_checkpoint, save_facts

METHODS = ("lpi", "lpi_contrast", "grad_x_act", "grad_x_act_contrast")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    save_facts(folder / "facts", [CAPITALS, COLOURS])
    for arm, case in (("moe", "Qwen2-MoE"), ("dense", "Qwen3")):
        for seed, step in enumerate((0, 10, 20)):
            save_checkpoint(folder / arm / f"step-{step}", case, seed)
    return folder


def experiment(source, names=("moe", "dense"), **attribution):
    arms = ({"name": arm, "checkpoints": str(source / arm)} for arm in names)
    return tiny_experiment(
        source / "facts",
        *arms,
        attribution=attribution,
        **({"routing": {"split": True}} if attribution.get("contrast") else {}),
    )


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    asked = experiment(source, methods=["lpi", "grad_x_act", "true_effect"], contrast="relation", sample=2)
    return run_experiment(asked, tmp_path_factory.mktemp("run") / "run")


@pytest.mark.parametrize("arm", ["moe", "dense"])
def test_every_method_is_kept_as_attribute_gives_it(run, source, arm):
    facts, scores = run.experiment.facts.load(), open_run(run.path).scores(arm)
    model, how = load_model(source / arm / "step-10"), {"templates": "first", "keep": "relations"}
    for name, method in {
        "lpi": LPI(),
        "lpi_contrast": LPI(foil="relation"),
        "grad_x_act": GradientTimesActivation(),
        "grad_x_act_contrast": GradientTimesActivation(foil="relation"),
        "true_effect": TrueEffect(sample=2),
        "true_effect_contrast": TrueEffect(sample=2, foil="relation"),
    }.items():
        alone = attribute(model, facts, method=method, **how)[name.removesuffix("_contrast")]
        np.testing.assert_array_equal(scores[name].values[1], alone.values)
    for name in METHODS:
        by_hand = np.average(scores[name].values, axis=1, weights=scores["n_prompts"].values)
        np.testing.assert_allclose(scores[f"{name}_mean"].values, by_hand, atol=1e-6)
    assert "true_effect_mean" not in scores


@pytest.mark.parametrize("arm", ["moe", "dense"])
def test_each_method_has_a_summary_of_its_own_that_is_kept(run, arm):
    assert run.methods(arm) == METHODS
    scores, options = run.scores(arm), run.experiment.metrics.model_dump()
    for name in METHODS:
        summary = run.summary(arm, name)
        assert summary.attrs["method"] == name
        assert summary.identical(open_run(run.path).summary(arm, name))
        np.testing.assert_array_equal(summary["stability"], summarise(scores, **options, method=name)["stability"])
    assert run.summary(arm).identical(run.summary(arm, "lpi"))
    kept = sorted(file.name for file in (run.path / "results").glob(f"{arm}.*summary.json"))
    assert kept == sorted([f"{arm}.summary.json", *(f"{arm}.{name}.summary.json" for name in METHODS[1:])])
    with pytest.raises(OptionError, match=r"'direct_effect' was asked for; arm .* has scores by lpi, lpi_contrast"):
        run.summary(arm, "direct_effect")
    with pytest.raises(OptionError, match="true_effect"):
        run.summary(arm, "true_effect")


def test_the_last_checkpoint_is_ablated_by_every_ranking(run):
    for arm in run.arms:
        rows = run.record(arm).ablation.rows
        assert list(dict.fromkeys(row.method for row in rows)) == list(METHODS)
        sums = run.scores(arm)["grad_x_act_mean"].values[-1]
        head = run.scores(arm)["head"].values
        layer = run.scores(arm)["layer"].values
        best = max(
            {(int(x), int(y)) for x, y in zip(layer, head, strict=True) if y >= 0},
            key=lambda one: sums[(layer == one[0]) & (head == one[1])].sum(),
        )
        (row,) = [row for row in rows if row.method == "grad_x_act" and row.name == "top-1 head"]
        assert row.chosen == (f"layer {best[0]} head {best[1]}",)


def test_every_ranking_is_held_against_relations_that_did_not_choose(run, source):
    spec = run.experiment.ablation
    for arm in run.arms:
        found = run.record(arm).selectivity
        assert (found.ranked, found.others) == (("capital",), ("colour",))
        assert [(row.method, row.share) for row in found.rows] == [(method, 0.1) for method in METHODS]
        model = load_model(source / arm / "step-20")
        scores = run.scores(arm).isel(checkpoint=-1)["grad_x_act"].sel(relation=["capital"])
        facts = run.experiment.facts.load()
        how = {"controls": ("layer",), "draws": LAYER_DRAWS, "k": spec.k, "text": spec.text}
        alone = ablate(model, facts, scores=scores, share=(0.1,), **how)
        assert alone.attrs["n_other"] == 2
        (row,) = [row for row in found.rows if row.method == "grad_x_act"]
        assert row.count == int(alone["n_units"][0])
        for name, value in row.silenced.items():
            assert value == pytest.approx(float(alone[name][0]), abs=1e-5), name
            assert found.intact[name] == pytest.approx(float(alone[f"{name}_intact"]), abs=1e-5), name
            drawn = alone[f"{name}_control"].sel(control="layer").isel(row=0)
            np.testing.assert_allclose(row.same_layers[name], drawn, atol=1e-5)


@pytest.mark.parametrize("asked", [{"ablation": {**QUICK["ablation"], "text": ""}}, {"one relation": True}], ids=str)
def test_without_a_text_or_other_relations_there_is_no_selectivity(source, tmp_path, asked):
    facts = save_facts(tmp_path / "facts", [CAPITALS] if asked.pop("one relation", False) else [CAPITALS, COLOURS])
    arm = {"name": "moe", "checkpoints": str(source / "moe")}
    run = run_experiment(
        tiny_experiment(facts, arm, attribution={"methods": ["grad_x_act"]}, **asked), tmp_path / "run"
    )
    assert run.record("moe").selectivity is None


@pytest.mark.usefixtures("undrawn")
def test_routing_s_answer_to_silenced_experts_is_kept_and_reported_on_request(source, tmp_path):
    arms = ({"name": arm, "checkpoints": str(source / arm)} for arm in ("moe", "dense"))
    asked = tiny_experiment(
        source / "facts", *arms, attribution={"methods": ["grad_x_act"]}, routing={"redundancy": True}
    )
    run = run_experiment(asked, tmp_path / "run")
    assert run.record("dense").redundancy == ()
    rows = run.record("moe").redundancy
    assert [len(row.experts) for row in rows] == [1, 4]
    model, last = load_model(source / "moe" / "step-20"), run.scores("moe").isel(checkpoint=-1)
    alone = redundancy(model, asked.facts.load(), scores=last["grad_x_act_mean"], top=(1, 4), draws=1)
    for row, name in zip(rows, alone["row"].values, strict=True):
        one = alone.sel(row=name)
        assert ", ".join(row.experts) == name
        assert row.logprob_free - row.logprob_frozen == pytest.approx(float(one["recovered"].mean()), abs=1e-6)
        assert row.random_recovered == pytest.approx(one["recovered_control"].values.tolist(), abs=1e-6)
        assert row.jaccard == pytest.approx(float(one["routing_jaccard"].mean()))
    table = json.loads(build_report(run).summary.read_text())["tables"]["redundancy"]["rows"]
    assert [cells[:2] for cells in table] == [["moe", ", ".join(row.experts)] for row in rows]
    assert table[1][5] == pytest.approx(rows[1].logprob_free - rows[1].logprob_frozen)


def test_changes_are_split_where_there_are_routers(run, source):
    assert run.split("dense") is None
    split = run.split("moe")
    assert split["checkpoint_key"].values.tolist() == ["step-10", "step-20"]
    parts = split["routing_part"] + split["neurons_part"]
    np.testing.assert_allclose(parts, split["change"], atol=1e-5)
    models = [load_model(source / "moe" / f"step-{step}") for step in (0, 10)]
    alone = split_change(*models, run.experiment.facts.load(), templates="first")
    np.testing.assert_array_equal(split["routing_part"].values[0], alone["routing_part"].values)
    assert float(split["routing_share_low"][0]) <= float(split["routing_share"][0]) <= 1
    assert split.attrs["checkpoints"][0]["before"] == "step-0"


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_it_is_resumed_verified_and_reported(run):
    before = run.split_store("moe").digest(), run.store("moe").digest()
    again = run_experiment(run.experiment, run.path)
    assert (again.split_store("moe").digest(), again.store("moe").digest()) == before
    assert verify_run(again) == []
    tables = json.loads(build_report(again).summary.read_text())["tables"]
    split = run.split("moe")
    rows = tables["splits"]["rows"]
    assert [row[:3] for row in rows] == [["moe", "step-0", "step-10"], ["moe", "step-10", "step-20"]]
    assert rows[0][3][0] == pytest.approx(float(split["routing_share"][0]))
    assert rows[0][5] == pytest.approx(float(split["routing_share_by_layer"][0].max()))
    trusted = [row for row in tables["trust"]["rows"] if row[:2] == ["moe", "FFN neurons"]]
    effects = [(name, effect) for name in METHODS for effect in ("log p", "margin")[: 1 if "contrast" in name else 2]]
    assert [row[2:5] for row in trusted] == [[method_name(name), 4, effect] for name, effect in effects]
    last = run.scores("moe").isel(checkpoint=-1)
    for on, variable in (("log p", "true_effect"), ("margin", "true_effect_margin")):
        effect = np.average(last[variable], axis=0, weights=last["n_prompts"])
        there = np.isfinite(effect) & (last["block"].values == "ffn")
        by_hand = spearmanr(last["grad_x_act_mean"].values[there], effect[there]).statistic
        (row,) = [row for row in trusted if row[2:5] == [method_name("grad_x_act"), 4, on]]
        value, low, high = row[5]
        assert value == pytest.approx(by_hand)
        assert -1 <= low <= high <= 1
    by_layer = [row for row in tables["trust_by_layer"]["rows"] if row[:2] == ["moe", "FFN neurons"]]
    assert [row[2:6] for row in by_layer] == [[method_name(m), on, layer, 2] for m, on in effects for layer in (0, 1)]
    record = run.record("dense").ablation
    (heads,) = [row for row in record.rows if row.method == "grad_x_act" and row.name == "top-1 head"]
    assert sum(heads.by_relation.values()) / 2 == pytest.approx(heads.hit, abs=0.35)
    cells = {tuple(row[:4]): row[4:] for row in tables["ablations_by_relation"]["rows"]}
    for relation, hit in heads.by_relation.items():
        found = cells[relation, "dense", "top-1 head", "gradient times activation"]
        assert found[:3] == [record.by_relation[relation], hit, heads.random_by_relation[relation]]
    files = (run.path / "results" / "moe.split.zarr" / "change").rglob("*")
    chunk = next(file for file in files if file.is_file() and file.name != "zarr.json")
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1])
    assert [finding.what for finding in verify_run(run)] == ["moe"]
    notes = Notes()
    run_experiment(run.experiment, run.path, notes)
    assert any(note.startswith("damaged, and made again: moe") for note in notes.said)
    assert verify_run(run) == []
    np.testing.assert_array_equal(run.split("moe")["checkpoint_key"].values, ["step-10", "step-20"])


def test_a_run_of_a_version_that_knew_lpi_alone_is_read_and_goes_on_so(source, tmp_path):
    asked = experiment(source, ["moe"], methods=["lpi"])
    asked = asked.model_copy(update={"ablation": asked.ablation.model_copy(update={"text": None})})
    run = run_experiment(asked, tmp_path / "run")
    description = json.loads((run.path / "run.json").read_text())
    for section, key in (("attribution", "methods"), ("attribution", "contrast"), ("ablation", "text")):
        del description["experiment"][section][key]
    del description["experiment"]["routing"]
    description = {
        key: value for key, value in description.items() if key in ("experiment", "facts_sha256", "gated_lpi")
    }
    write_file(run.path / "run.json", description)
    old = open_run(run.path)
    assert old.methods("moe") == ("lpi",)
    assert old.experiment == asked
    assert run_experiment(asked, run.path).methods("moe") == ("lpi",)
    with pytest.raises(RunExistsError, match=r"attribution\.methods"):
        run_experiment(experiment(source, ["moe"]), run.path)


def test_a_method_without_anything_to_score_is_left_out_and_said(source, tmp_path):
    notes = Notes()
    run = run_experiment(
        experiment(source, ["moe"], units=["heads"], methods=["lpi", "grad_x_act", "rollout"]), tmp_path / "run", notes
    )
    assert any("GradientTimesActivation is left out" in note for note in notes.said)
    assert "rollout" in run.scores("moe")
    assert run.methods("moe") == ()


@pytest.mark.parametrize(
    ("attribution", "message"),
    [
        ({"methods": ["nothing"]}, "lpi"),
        ({"methods": ["true_effect", "rollout"]}, "none of which scores every unit"),
        ({"contrast": "relation", "foil": "best"}, "leave foil out"),
        ({"contrast": "relation", "answer": "all"}, "leave one of them out"),
        ({"answer": "all", "target": "top1"}, "answer='all'"),
        ({"methods": ["lpi", "lpi"]}, "listed twice"),
    ],
)
def test_methods_that_mean_nothing_are_refused_with_the_key(source, attribution, message):
    with pytest.raises(Exception, match=message):
        experiment(source, **attribution)


def test_lpi_has_its_groups_and_routing_wherever_it_stands_among_the_methods(source, tmp_path):
    first, second = (
        run_experiment(experiment(source, ["moe"], methods=list(methods)), tmp_path / methods[0]).scores("moe")
        for methods in (("lpi", "grad_x_act"), ("grad_x_act", "lpi"))
    )
    assert set(first.data_vars) == set(second.data_vars)
    for name in first.data_vars:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.usefixtures("undrawn")
def test_gradients_alone_are_a_run_with_a_report_that_says_what_was_not_kept(source, tmp_path):
    run = run_experiment(experiment(source, methods=["grad_x_act"]), tmp_path / "run")
    assert run.methods("moe") == ("grad_x_act",)
    assert "expert_utilisation" not in run.scores("moe")
    page = build_report(run).html.read_text()
    assert "The base log-probability was not recorded." in page
    unjudged = [line for line in examine(run).unjudged if "what the routers did, which was not kept" in line]
    assert [line.split(":")[0] for line in unjudged] == ["moe"]
    assert unjudged[0] in page


def test_routing_is_kept_by_the_one_method_that_sees_it_wherever_it_stands(source, tmp_path):
    asked = experiment(source, ["moe"], methods=["grad_x_act", "direct_effect"], routing="all", positions="resolved")
    scores = run_experiment(asked, tmp_path / "run").scores("moe")
    assert {"expert_utilisation", "position_gate", "router_logits"} <= set(scores)


UNHEEDED = {"gate": "open", "norm": "recomputed", "routing": "all", "positions": "resolved", "tolerance": 1e-2}


def test_what_no_method_has_a_use_for_is_refused_in_a_file_and_said_elsewhere(source, tmp_path):
    asked = experiment(source, ["moe"], methods=["grad_x_act"], **UNHEEDED)
    file = tmp_path / "experiment.toml"
    file.write_text(as_toml(asked))
    with pytest.raises(
        OptionError, match=r"not an experiment: attribution: .*; leave it out, or add such a method"
    ) as no:
        load_experiment(file)
    for key in UNHEEDED:
        assert f"{key} = {UNHEEDED[key]!r} is for lpi" in str(no.value)
    notes = Notes()
    run_experiment(asked, tmp_path / "run", notes)
    assert any("left out: gate = 'open' is for lpi and direct_effect" in line for line in notes.said)
    for methods in (["grad_x_act", "lpi"], ["lpi"]):
        file.write_text(as_toml(experiment(source, methods=methods, **UNHEEDED)))
        assert load_experiment(file).attribution.gate == "open"


def test_whole_answers_are_asked_for_throughout(source, tmp_path):
    samples = (Sample("France", "Paris Lima"), Sample("Japan", "Tokyo"), Sample("Peru", "blue yellow sky"))
    save_facts(tmp_path / "facts", [Relation("two words", ("The capital of {} is",), samples)])
    arm = {"name": "moe", "checkpoints": str(source / "moe")}
    run = run_experiment(tiny_experiment(tmp_path / "facts", arm, attribution={"answer": "all"}), tmp_path / "run")
    model = load_model(source / "moe" / "step-20")
    asked = encode_facts(model, run.experiment.facts.load(), Prompting("first"), answer="all").prompts
    assert [len(item.answer_ids) for item in asked] == [2, 1, 3]
    known = recall(model, asked, "all")
    scores = run.scores("moe").isel(checkpoint=-1)
    np.testing.assert_array_equal(scores["target_rank"], known.ranks)
    np.testing.assert_allclose(scores["target_logprob"], known.log_probabilities, atol=1e-5)
    assert run.record("moe").ablation.hit == pytest.approx(np.mean(known.ranks < run.experiment.ablation.k))
