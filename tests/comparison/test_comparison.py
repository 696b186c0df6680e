"""Comparing methods on tiny models: each number against the same, by hand or by the library's own verbs."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from gated_lpi import (
    LPI,
    Exact,
    GradientTimesActivation,
    IntegratedGradients,
    OptionError,
    Rollout,
    TrueEffect,
    ablate,
    attribute,
    compare,
)
from gated_lpi.comparison.asked import asked_facts, pinned, split
from gated_lpi.errors import FactsError
from gated_lpi.facts import FactSet, Relation, Sample
from gated_lpi.metrics import agreement, curve_area, faithfulness_areas
from tiny_text import CAPITALS, COLOURS, FACTS, speaking_model

SAMPLE, SHARES, SEED = 3, (0.05, 0.2, 0.5), 4
CHEAP = {"draws": 5, "control_draws": 2, "seed": SEED}
PLACES = FactSet(
    (
        CAPITALS,
        COLOURS,
        Relation("city", ("In {} the capital city is",), (Sample("Peru", "Lima"), Sample("Japan", "Tokyo"))),
    ),
    source="test",
)


@pytest.fixture(scope="module")
def model():
    return speaking_model("Qwen3-MoE")


@pytest.fixture(scope="module")
def found(model):
    steps = []
    result = compare(
        model,
        PLACES,
        foil="relation",
        units=("ffn", "attention"),
        sample=SAMPLE,
        shares=SHARES,
        progress=lambda done, total: steps.append((done, total)),
        **CHEAP,
    )
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1][0] == steps[-1][1]
    return result


@pytest.fixture(scope="module")
def scores(model):
    plain = {"lpi": LPI(), "grad_x_act": GradientTimesActivation()}
    units = {"units": ("ffn", "attention")}
    return {name: attribute(model, PLACES, method=method, **units)[name] for name, method in plain.items()}


def test_nothing_failed_and_both_targets_and_kinds_are_there(found):
    assert found.attrs["failed"] == []
    assert found["target"].values.tolist() == ["plain", "contrast"]
    assert found["kind"].values.tolist() == ["ffn", "attention"]
    assert json.loads(found.attrs["methods"])["grad_x_act"]["at"] == "all"
    assert set(found["scale"].values.tolist()) == {"logprob", "margin", "contrast"}


@pytest.mark.parametrize("kind", ["ffn", "attention"])
def test_the_agreement_of_a_pair_is_that_of_what_attribute_gives(found, scores, kind):
    lpi, gradient = scores["lpi"], scores["grad_x_act"]
    inside = lpi["block"].to_numpy() == kind
    means = [one.to_numpy().astype(float).mean(axis=0)[inside] for one in (lpi, gradient)]
    expected = agreement(*means, lpi["layer"].to_numpy()[inside], 0.01)
    got = found["agreement"].sel(target="plain", pair="lpi, grad_x_act", kind=kind, end="estimate")
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert float(found["overlap_chance"].sel(kind=kind, end="estimate")) == pytest.approx(
        int(np.ceil(0.01 * inside.sum())) / inside.sum()
    )


def test_plain_and_contrast_scores_are_held_against_each_other(model, found, scores):
    contrast = attribute(model, PLACES, method=GradientTimesActivation(foil="relation"), units=["ffn"])["grad_x_act"]
    inside = scores["grad_x_act"]["block"].to_numpy() == "ffn"
    plain = scores["grad_x_act"].to_numpy()[:, inside].mean(axis=0)
    expected = spearmanr(plain, contrast.to_numpy().mean(axis=0)).statistic
    got = found["target_agreement"].sel(by="grad_x_act", kind="ffn", figure="spearman", end="estimate")
    assert float(got) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("scale", "foil"), [("logprob", None), ("margin", "best"), ("contrast", "relation")])
def test_the_truth_is_the_true_effect_of_sampled_units(model, found, scale, foil):
    variable = "true_effect_margin" if scale == "margin" else "true_effect"
    truly = TrueEffect(sample=SAMPLE, sample_seed=SEED, foil="relation" if scale == "contrast" else None)
    effect = attribute(model, PLACES, method=truly, units=["ffn"])[variable].to_numpy().mean(axis=0)
    method = attribute(model, PLACES, method=LPI(foil=foil), units=["ffn"])["lpi"]
    there, layer = ~np.isnan(effect), method["layer"].to_numpy()
    mean = method.to_numpy().mean(axis=0)
    truth = found["truth"].sel(scale=scale, by="lpi", kind="ffn", figure="spearman", end="estimate")
    parts = {"overall": there, "layer 1": there & (layer == 1)}
    for part, rows in parts.items():
        assert int(found["truth_units"].sel(kind="ffn", part=part)) == rows.sum() > 1
        expected = spearmanr(mean[rows], effect[rows]).statistic
        assert float(truth.sel(part=part)) == pytest.approx(expected, abs=1e-6)


def test_gradients_are_nearer_to_the_truth_than_what_sees_the_direct_path_alone(found):
    truth = found["truth"].sel(scale="logprob", kind="ffn", part="overall", figure="spearman_within", end="estimate")
    assert float(truth.sel(by="grad_x_act")) > 0.9 > float(truth.sel(by="lpi"))
    null = found["truth_chance"].sel(scale="logprob", kind="ffn", part="overall", figure="spearman")
    assert (null.sel(end="low") < null.sel(end="estimate")).all()
    assert (null.sel(end="estimate") < null.sel(end="high")).all()
    assert (abs(null.sel(end="estimate")) < 0.8).all()


def test_a_curve_is_what_ablate_gives_for_the_half_that_was_not_ranked_on(model, found, scores):
    halves = split(PLACES, None, SEED)
    ranking = scores["grad_x_act"]
    rows = [fact in halves.ranked for fact in asked_facts(ranking)]
    given = {
        "scores": ranking[rows],
        "share": SHARES,
        "controls": ("random", "layer"),
        "draws": 2,
        "others": halves.others,
        "seed": SEED,
    }
    for mode, complement in (("silenced", False), ("kept", True)):
        expected = ablate(model, halves.tested, complement=complement, **given)
        curve = found.sel(target="plain", by="grad_x_act", kind="ffn", mode=mode)
        for name in ("hit_1", "hit_k", "logprob", "margin", "text_loss", "other_hit_k"):
            np.testing.assert_allclose(curve[name], expected[name], atol=1e-5, err_msg=name)
            np.testing.assert_allclose(found[f"{name}_intact"], expected[f"{name}_intact"], atol=1e-5)
            drawn = expected[f"{name}_control"].transpose("row", "control", "draw")
            np.testing.assert_allclose(
                curve[f"{name}_control"].transpose("share", "control", "draw"), drawn, atol=1e-5, err_msg=name
            )
        assert found.sizes["tested"] == len(halves.tested)


def test_areas_are_those_of_the_curves(model, found):
    halves = split(PLACES, None, SEED)
    one = found.sel(target="plain", by="lpi", kind="ffn")
    everything = np.flatnonzero(model.units.block == "ffn")
    empty = float(ablate(model, halves.tested, units=everything, controls=())["logprob"][0])
    whole = float(found["logprob_intact"])
    kept, silenced = (one["logprob"].sel(mode=mode).to_numpy() for mode in ("kept", "silenced"))
    cpr, cmd = faithfulness_areas(SHARES, kept, whole, empty)
    logs = np.log(SHARES)
    drop = curve_area((logs - logs[0]) / (logs[-1] - logs[0]), whole - silenced)
    got = one["area"].sel(curve_scale="logprob", end="estimate")
    np.testing.assert_allclose(got.sel(area_of=["cpr", "cmd", "drop"]), [cpr, cmd, drop], atol=1e-4)
    assert one["area_control"].sizes == {"area_of": 3, "curve_scale": 2, "control": 2, "draw": 2}


def test_a_method_that_fails_is_noted_and_the_rest_is_there():
    dense = speaking_model("Llama")
    methods = {"uniform": LPI(gate="uniform"), "gradient": GradientTimesActivation(), "exact": LPI(estimator=Exact())}
    found = compare(dense, FACTS, methods, sample=2, shares=(), **CHEAP)
    assert found["by"].values.tolist() == ["gradient", "exact"]
    assert len(found.attrs["failed"]) == 1
    assert found.attrs["failed"][0].startswith("uniform (plain): gate='uniform' was given")
    assert np.isfinite(found["truth"].sel(by="gradient", part="overall", figure="spearman")).all()
    with pytest.raises(OptionError, match="for routed experts"):
        compare(dense, FACTS, {"uniform": LPI(gate="uniform")}, sample=None, shares=())


def test_several_settings_of_one_method_go_by_names_of_ones_own(model):
    methods = {f"ig_{points}": IntegratedGradients(points=points) for points in (1, 16)}
    found = compare(model, FACTS, methods, sample=2, shares=(), at="last", **CHEAP)
    assert found["pair"].values.tolist() == ["ig_1, ig_16"]
    estimate = found["agreement"].sel(figure="spearman", end="estimate").item()
    assert 0.5 < estimate < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("lpi", "rollout")}, "'rollout' scores heads"),
        ({"methods": {"mine": Rollout()}}, "'mine' scores heads"),
        ({"methods": ("lpi", "true_effect")}, "held against"),
        ({"methods": ("lpi", "lrp")}, "'lrp' was given; expected one of 'lpi', 'grad_x_act'"),
        ({"methods": ("lpi", "lpi")}, "each once"),
        ({"methods": ()}, "one method or more"),
        ({"methods": {"top": LPI(target="top1")}}, "target='top1'"),
        ({"units": ("heads",)}, r"units=\['heads'\] was given; no method but rollout and lpi scores heads"),
        ({"units": ()}, "expected some of 'ffn', 'attention'"),
        ({"foil": "best"}, "the margin is always compared"),
        ({"shares": (0.1, 0.01)}, "ascend"),
        ({"shares": (0.0,)}, "above 0"),
        ({"draws": 0}, "draws=0"),
        ({"control_draws": 0}, "control_draws=0"),
    ],
)
def test_what_cannot_be_compared_is_refused(model, options, message):
    with pytest.raises(OptionError, match=message):
        compare(model, FACTS, **options)


def test_halves_are_of_every_relation_and_share_no_fact():
    halves = split(FACTS, None, 0)
    tested = {(r.name, s.subject, s.object) for r in halves.tested.relations for s in r.samples}
    assert not tested & halves.ranked
    assert {name for name, *_ in tested} == {name for name, *_ in halves.ranked} == {"capital", "colour"}
    assert len(tested) == len(halves.ranked) == 3
    assert halves.others is None  # of two relations none is set aside
    assert split(FACTS, None, 0) == halves
    assert any(split(FACTS, None, seed) != halves for seed in range(1, 9))


def test_a_third_of_three_relations_is_set_aside():
    halves = split(PLACES, None, 0)
    aside = {relation.name for relation in halves.others.relations}
    assert len(aside) == 1
    assert aside.isdisjoint({name for name, *_ in halves.ranked})
    assert split(PLACES, COLOURS_ALONE, 0).others is COLOURS_ALONE


COLOURS_ALONE = FactSet((COLOURS,), source="test")


def test_facts_one_to_a_relation_cannot_be_split(model):
    single = FactSet((Relation("colour", ("The {} is",), (Sample("sky", "blue"),)),), source="one.json")
    with pytest.raises(FactsError, match=r"one\.json: no relation has two facts"):
        compare(model, single, sample=None)


def test_held_out_templates_stay_with_their_facts_in_any_subset():
    fixed, templates = pinned(FACTS, "held_out")
    assert [p.text for p in fixed.prompts(templates)] == [p.text for p in FACTS.prompts("held_out")]
    alone = FactSet((Relation("capital", CAPITALS.prompt_templates, fixed.relations[0].samples[1:2]),), "test")
    assert alone.prompts(templates)[0].text == FACTS.prompts("held_out")[1].text


def test_known_facts_are_those_among_the_k_likeliest(model):
    ranks = attribute(model, FACTS, units=["blocks"])["target_rank"].to_numpy()
    k = int(np.sort(ranks)[3]) + 1
    found = compare(model, FACTS, sample=None, shares=(), known=True, k=k, **CHEAP)
    assert found.attrs["n_prompts"] == (ranks < k).sum()
    least = int(ranks.min())
    if least:
        with pytest.raises(FactsError, match="none of 6 prompts"):
            compare(model, FACTS, sample=None, shares=(), known=True, k=least)
