"""Does routing answer when experts fall silent? By hand, on every mixture, and where nothing can answer."""

import numpy as np
import pytest

from gated_lpi import attribute
from gated_lpi.ablation import redundancy, routing_jaccard, silenced, target_scores
from gated_lpi.errors import OptionError
from gated_lpi.facts import encode
from gated_lpi.interventions import record_routing, replayed
from tiny_models import MOE_CASES
from tiny_text import FACTS, speaking_model

QUICK = {"draws": 2, "k": 3}


@pytest.fixture(scope="module")
def moe():
    return speaking_model("OLMoE")


def busiest(model, layer):
    """The expert of a layer that most tokens of the facts are routed to."""
    encoded = encode(model.tokenizer, FACTS.prompts("first"))
    recorded = record_routing(model, [item.ids for item in encoded])
    place = recorded.layers.index(layer)
    experts = np.concatenate([prompt[place].experts.cpu().numpy().ravel() for prompt in recorded.prompts.values()])
    return int(np.bincount(experts).argmax())


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_by_hand(case):
    model = speaking_model(case)
    layer = int(model.experts.layer.min())
    name = f"L{layer} E{busiest(model, layer)}"
    found = redundancy(model, FACTS, experts=[name], **QUICK)
    encoded = encode(model.tokenizer, FACTS.prompts("first"))
    prompts = [item.ids for item in encoded]
    recorded = record_routing(model, prompts)
    with silenced(model, model.units.find(name)):
        free, routing = target_scores(model, encoded), record_routing(model, prompts)
        with replayed(model, recorded):
            frozen = target_scores(model, encoded)
    np.testing.assert_allclose(found["recovered"][0], free.logprob - frozen.logprob, atol=1e-5)
    assert found["logprob"].sel(routing="free").values == pytest.approx(free.logprob.mean())
    assert found["margin"].sel(routing="frozen").values == pytest.approx(frozen.margin.mean())
    assert found["hit_k"].values[0].tolist() == [(free.rank < 3).mean(), (frozen.rank < 3).mean()]
    assert float(found["logprob_intact"]) == pytest.approx(target_scores(model, encoded).logprob.mean())
    by_hand = []
    for place in range(len(recorded.layers)):
        tokens = []
        for ids in map(tuple, prompts):
            for a, b in zip(recorded.prompts[ids][place].experts, routing.prompts[ids][place].experts, strict=True):
                a, b = set(a.tolist()), set(b.tolist())
                tokens.append((ids, len(a & b) / len(a | b)))
        by_hand.append(np.mean([value for _, value in tokens]))
    np.testing.assert_allclose(found["routing_jaccard"][0], by_hand)
    assert float(found["routing_jaccard"][0, 0]) == 1.0  # nothing comes before the first layer's router
    assert found["row"].values.tolist() == [name]


def test_experts_of_the_last_layer_leave_routing_no_answer(moe):
    found = redundancy(moe, FACTS, experts=[f"L1 E{busiest(moe, 1)}"], **QUICK)
    np.testing.assert_allclose(found["recovered"], 0, atol=1e-6)
    assert found["routing_jaccard"].values.tolist() == [[1.0, 1.0]]
    assert float(found["logprob"][0, 0]) != float(found["logprob_intact"])


def test_a_recording_agrees_with_itself_and_less_with_another(moe):
    prompts = [item.ids for item in encode(moe.tokenizer, FACTS.prompts("first"))]
    recorded = record_routing(moe, prompts)
    assert routing_jaccard(recorded, recorded).tolist() == [1.0, 1.0]
    other = record_routing(speaking_model("OLMoE", seed=1), prompts)
    assert (routing_jaccard(recorded, other) < 0.9).all()
    np.testing.assert_allclose(routing_jaccard(recorded, other), routing_jaccard(other, recorded))


def test_ranked_experts_and_random_ones_of_the_same_layers(moe):
    scores = attribute(moe, FACTS)
    found = redundancy(moe, FACTS, scores=scores, top=(1, 3, 16), **QUICK)
    summed = scores["expert_lpi"].mean("prompt")
    importance = {}
    values = scores["lpi"].mean("prompt")
    for expert in range(len(moe.experts)):
        layer, index = moe.experts.layer[expert], moe.experts.index[expert]
        inside = (scores["layer"] == layer) & (scores["expert"] == index)
        importance[f"L{layer} E{index}"] = float(values[inside].sum())
    best = sorted(importance, key=importance.get, reverse=True)
    assert [set(row.split(", ")) for row in found["row"].values] == [set(best[:1]), set(best[:3]), set(best)]
    assert found["n_experts"].values.tolist() == [1, 3, 16]
    assert summed.sizes["expert_unit"] == 16
    # All experts of all layers: the random sets are the same set.
    for name in ("logprob", "hit_k"):
        np.testing.assert_allclose(found[f"{name}_control"][2, :, 0], found[name][2], atol=1e-6)
    again = redundancy(moe, FACTS, scores=scores["lpi"], top=3, **QUICK)
    np.testing.assert_allclose(again["recovered_control"][0], found["recovered_control"][1], atol=1e-6)
    assert np.isfinite(found["routing_jaccard_control"]).all()


@pytest.mark.parametrize("how", ["mean", "resample"])
@pytest.mark.parametrize("at", ["all", "last"])
def test_other_ways_of_silencing(moe, how, at):
    told = []
    options = {"how": how, "at": at, **QUICK}
    found = redundancy(moe, FACTS, experts=[0, "L1 E2"], progress=lambda *step: told.append(step), **options)
    zero = redundancy(moe, FACTS, experts=[0, "L1 E2"], **QUICK)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert not np.allclose(found["logprob"], zero["logprob"])


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        ("Llama", {"experts": [0]}, "no routed experts"),
        ("OLMoE", {}, "none were given"),
        ("OLMoE", {"experts": [0], "scores": np.zeros(320)}, "both were given"),
        ("OLMoE", {"experts": []}, "no expert was given"),
        ("OLMoE", {"experts": [16]}, "expert 16 was given; this model's experts are 0 to 15"),
        ("OLMoE", {"experts": ["L1 E9"]}, "there is no such one"),
        ("Qwen2-MoE", {"experts": ["L1 shared"]}, "the shared expert of layer 1 was given; tokens are not routed"),
        ("OLMoE", {"scores": np.zeros(320), "top": 17}, "top=17 was given; expected 1 to 16"),
        ("OLMoE", {"scores": np.zeros(320), "top": ()}, "no number of experts was given"),
        ("OLMoE", {"experts": [0], "draws": 0}, "draws=0"),
    ],
)
def test_what_cannot_be_asked_is_refused(case, options, message):
    with pytest.raises(OptionError, match=message):
        redundancy(speaking_model(case), FACTS, **options)


def test_scores_of_heads_rank_no_experts(moe):
    with pytest.raises(OptionError, match="scores of heads were given"):
        redundancy(moe, FACTS, scores=attribute(moe, FACTS)["head_lpi"])
