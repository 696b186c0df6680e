"""What routers did at every position: recorded on request, by prompt, in the same forward pass."""

import numpy as np
import pytest
import torch

from gated_lpi import attribute
from gated_lpi.errors import OptionError
from gated_lpi.facts import encode
from gated_lpi.interventions import record_routing
from gated_lpi.methods.memory import prompt_bytes, sizes_for, token_bytes
from gated_lpi.trace import Limits, trace
from tiny_models import MOE_CASES, random_prompts, tiny_model
from tiny_text import FACTS, speaking_model


def lengths(model):
    return [len(item.ids) for item in encode(model.tokenizer, FACTS.prompts("first"))]


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_every_position_is_what_the_routers_returned(case):
    model = speaking_model(case)
    scores = attribute(model, FACTS, units=["experts"], routing="all", keep="mean")
    asked = encode(model.tokenizer, FACTS.prompts("first"))
    recorded = record_routing(model, [item.ids for item in asked])
    assert scores["router_logits"].dims == scores["position_gate"].dims == ("prompt", "position", "expert_unit")
    assert scores.attrs["routing"] == "all"
    for prompt, item in enumerate(asked):
        for layer, seen in zip(recorded.layers, recorded.prompts[item.ids], strict=True):
            mine = np.flatnonzero((model.experts.layer == layer) & (model.experts.index >= 0))
            gates = torch.zeros_like(seen.logits).scatter_(1, seen.experts, seen.gates.to(seen.logits)).numpy()
            there = slice(len(item.ids))
            np.testing.assert_allclose(scores["router_logits"].values[prompt, there, mine].T, seen.logits, atol=1e-5)
            np.testing.assert_allclose(scores["position_gate"].values[prompt, there, mine].T, gates, atol=1e-5)
            assert ((gates > 0).sum(axis=1) == 2).all()


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_last_positions_are_the_gates_that_scores_have(case):
    model = speaking_model(case)
    scores = attribute(model, FACTS, units=["experts"], routing="all")
    rows = np.arange(scores.sizes["prompt"]), np.array(lengths(model)) - 1
    np.testing.assert_array_equal(scores["position_gate"].values[rows], scores["expert_gate"].values)


@pytest.mark.parametrize("case", ["OLMoE", "Qwen2-MoE", "DeepSeek-V2"])
def test_what_is_not_there_is_not_a_number(case):
    model = speaking_model(case)
    scores = attribute(model, FACTS, units=["blocks"], routing="all")
    logits, gates = scores["router_logits"].values, scores["position_gate"].values
    shared = scores["expert_unit_expert"].values == -1
    assert shared.any() == (case != "OLMoE")
    for prompt, length in enumerate(lengths(model)):
        assert np.isnan(gates[prompt, length:]).all()
        assert np.isnan(logits[prompt, length:]).all()
        assert np.isfinite(gates[prompt, :length]).all()
        assert np.isfinite(logits[prompt, :length][:, ~shared]).all()
        assert np.isnan(logits[prompt, :length][:, shared]).all()
    assert len(set(lengths(model))) > 1
    inside = gates[..., shared][~np.isnan(gates[..., shared])]
    assert ((inside == 1) if case == "DeepSeek-V2" else (inside > 0) & (inside < 1)).all()


def test_nothing_of_it_is_kept_unless_it_is_asked_for():
    scores = attribute(speaking_model("OLMoE"), FACTS)
    assert not {"router_logits", "position_gate"} & set(scores)
    assert scores.attrs["routing"] == "last"


@pytest.mark.parametrize("units", [["ffn"], ["experts", "heads"]])
def test_scores_stay_what_they_are_and_no_second_pass_is_made(units):
    model = speaking_model("OLMoE")
    passes = []
    with model.module.base_model.register_forward_hook(lambda *_: passes.append(1)):
        plain = attribute(model, FACTS, units=units)
        once = len(passes)
        full = attribute(model, FACTS, units=units, routing="all")
    assert len(passes) == 2 * once
    for name in plain:
        np.testing.assert_array_equal(full[name], plain[name])


def test_batches_change_nothing():
    model = tiny_model("Qwen2-MoE")
    prompts = random_prompts(6)
    together = trace(model, prompts, routing=True).routing
    alone = trace(model, prompts, routing=True, limits=Limits(tokens=1)).routing
    assert [len(one.gates) for one in together] == [len(ids) for ids in prompts]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one.gates, other.gates, atol=1e-5)
        assert torch.allclose(one.logits, other.logits, atol=1e-5, equal_nan=True)
    assert trace(model, prompts).routing == ()


def test_memory_is_set_aside_for_it():
    model = tiny_model("OLMoE")
    cap = 4 * 10**7
    plain, full = (sizes_for(model, 10**6, cap, 500, routing=routing) for routing in (False, True))
    assert full.prompts < plain.prompts
    assert full.prompts * (prompt_bytes(model) + 500 * 2 * 4 * len(model.experts)) < cap
    assert token_bytes(model, 500) > 0


def test_a_dense_model_has_nothing_to_record():
    with pytest.raises(OptionError, match=r"routing='all' was given, which is for routed experts.*or routing='last'"):
        attribute(speaking_model("Llama"), FACTS, routing="all")
