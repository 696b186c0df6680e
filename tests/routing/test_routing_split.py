"""The split of a change into routing and neurons: parts that add up, and networks whose answer is known."""

import copy

import numpy as np
import pytest
import torch

from gated_lpi import LPI, Exact, attribute, split_change
from gated_lpi.errors import OptionError
from gated_lpi.facts import encode
from gated_lpi.interventions import record_routing, replayed
from gated_lpi.loading import wrap_model
from tiny_models import MOE_CASES, tiny_model
from tiny_text import FACTS, speaking_model, tiny_tokenizer

EXACT = LPI(estimator=Exact())
UNITS = ("ffn", "attention")


def plain(model, **options):
    return attribute(model, FACTS, method=EXACT, units=UNITS, keep="relations", **options)["lpi"].values


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_the_parts_add_up_to_the_change(case, dtype):
    before, after = speaking_model(case, dtype=dtype), speaking_model(case, dtype=dtype, seed=3)
    split = split_change(before, after, FACTS, method=EXACT, draws=5)
    change, routing, neurons = (split[name].values for name in ("change", "routing_part", "neurons_part"))
    assert split["change"].dims == ("relation", "unit")
    scale = max(np.abs(routing).max(), np.abs(neurons).max())
    assert np.abs(routing + neurons - change).max() <= (1e-12 if dtype == torch.float64 else 1e-6) * scale
    assert np.abs(change - (plain(after) - plain(before))).max() <= (1e-12 if dtype == torch.float64 else 1e-5) * scale
    assert min(np.abs(routing).max(), np.abs(neurons).max()) > 1e-3
    assert 0 < split["routing_share_low"] <= split["routing_share"] <= split["routing_share_high"] < 1


def test_the_parts_are_those_of_the_definition():
    before, after = speaking_model("OLMoE", dtype=torch.float64), speaking_model("OLMoE", dtype=torch.float64, seed=3)
    prompts = [item.ids for item in encode(before.tokenizer, FACTS.prompts("first"))]
    scores = {("before", "before"): plain(before), ("after", "after"): plain(after)}
    with replayed(before, record_routing(after, prompts)):
        scores["after", "before"] = plain(before)  # routing, neurons
    with replayed(after, record_routing(before, prompts)):
        scores["before", "after"] = plain(after)
    split = split_change(before, after, FACTS, method=EXACT, draws=5)
    first = scores["after", "before"] - scores["before", "before"]
    second = scores["after", "after"] - scores["before", "after"]
    np.testing.assert_allclose(split["routing_part"], (first + second) / 2, atol=1e-12)


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_routers_alone_changed(case):
    """Only the last layer's router is another one: its change is routing's, and neurons have no part in any unit."""
    before = speaking_model(case, dtype=torch.float64)
    module = copy.deepcopy(before.module)
    *_, (_, writer) = wrap_model(module).routed()
    with torch.no_grad():
        writer.router.weight.neg_()
    after = wrap_model(module, before.tokenizer)
    split = split_change(before, after, FACTS, method=EXACT, draws=5)
    assert np.abs(split["neurons_part"]).max() < 1e-6
    assert np.abs(split["routing_part"]).max() > 1e-3
    assert float(split["routing_share"]) > 0.999


@pytest.mark.parametrize("case", ["OLMoE", "DeepSeek-V3"])
def test_the_readout_alone_changed(case):
    """Nothing before the unembedding is another one, so the routing is the same and has no part."""
    before = speaking_model(case, dtype=torch.float64)
    module = copy.deepcopy(before.module)
    with torch.no_grad():
        module.lm_head.weight.mul_(-1)
    split = split_change(before, wrap_model(module, before.tokenizer), FACTS, method=EXACT, draws=5)
    assert np.abs(split["routing_part"]).max() < 1e-9
    assert float(split["routing_share"]) < 1e-6
    assert np.abs(split["neurons_part"]).max() > 1e-3


def test_nothing_changed():
    model = speaking_model("OLMoE", dtype=torch.float64)
    split = split_change(model, model, FACTS, method=EXACT, draws=5)
    assert np.abs(split["change"]).max() == 0
    assert np.abs(split["routing_part"]).max() < 1e-9


def test_prompts_relations_and_layers_say_the_same():
    before, after = (
        speaking_model("Qwen2-MoE", dtype=torch.float64),
        speaking_model("Qwen2-MoE", dtype=torch.float64, seed=3),
    )
    told = []
    by_relation = split_change(
        before, after, FACTS, method=EXACT, draws=20, progress=lambda done, total: told.append((done, total))
    )
    by_prompt = split_change(before, after, FACTS, method=EXACT, keep="prompts", draws=20)
    assert by_prompt["routing_part"].dims == ("prompt", "unit")
    for name in ("routing_share", "routing_share_low", "routing_share_high", "routing_by_layer", "neurons_by_layer"):
        np.testing.assert_allclose(by_prompt[name], by_relation[name], rtol=1e-9)
    names = by_prompt["prompt_relation"].values
    for i, relation in enumerate(by_relation["relation"].values):
        mean = by_prompt["neurons_part"].values[names == relation].mean(axis=0)
        np.testing.assert_allclose(by_relation["neurons_part"].values[i], mean, atol=1e-12)
    overall = np.average(by_relation["routing_part"].values, axis=0, weights=by_relation["n_prompts"].values)
    for layer, total in zip(by_relation["layer_index"].values, by_relation["routing_by_layer"].values, strict=True):
        assert total == pytest.approx(np.abs(overall[by_relation["layer"].values == layer]).sum())
    summed = {name: float(by_relation[f"{name}_by_layer"].sum()) for name in ("routing", "neurons")}
    assert float(by_relation["routing_share"]) == pytest.approx(summed["routing"] / sum(summed.values()))
    assert told[-1] == (24, 24)
    assert by_relation.attrs["before_family"] == by_relation.attrs["after_family"] == "Qwen2-MoE"


def test_one_kind_of_unit_alone():
    before, after = speaking_model("OLMoE"), speaking_model("OLMoE", seed=3)
    split = split_change(before, after, FACTS, units=["ffn"], draws=5)
    assert set(split["block"].values) == {"ffn"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": LPI(target="top1")}, "expected target='object'"),
        ({"keep": "mean"}, "expected one of prompts, relations"),
        ({"units": ["ffn", "heads"]}, "units that are split: ffn, attention"),
    ],
)
def test_options_that_cannot_be_split_are_refused(options, told):
    model = speaking_model("OLMoE")
    with pytest.raises(OptionError, match=told):
        split_change(model, model, FACTS, **options)


def test_models_that_are_no_two_checkpoints_of_one_mixture_are_refused():
    moe, dense = speaking_model("OLMoE"), speaking_model("Llama")
    for pair in ((moe, dense), (dense, moe)):
        with pytest.raises(OptionError, match="all of its change is the neurons'"):
            split_change(*pair, FACTS)
    with pytest.raises(OptionError, match="320 and 192 units"):
        split_change(moe, speaking_model("OLMoE", num_experts=4), FACTS)
    with pytest.raises(OptionError, match="2 of 8 experts"):
        split_change(moe, speaking_model("OLMoE", num_experts_per_tok=3), FACTS)
    other = tiny_tokenizer()
    other.add_tokens(["The capital"])
    with pytest.raises(OptionError, match="expected two checkpoints with one tokenizer"):
        split_change(moe, wrap_model(tiny_model("OLMoE").module, other), FACTS)
