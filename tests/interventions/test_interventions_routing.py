"""Frozen routers: a model's own routing changes nothing, another's is what its routers put in by hand would do."""

import copy

import pytest
import torch

from gated_lpi.errors import ModelError, OptionError
from gated_lpi.interventions import record_routing, replayed, transplanted
from gated_lpi.loading import wrap_model
from gated_lpi.methods import attribute_encoded
from gated_lpi.trace import Limits, last_logits, trace
from tiny_models import MOE_CASES, encoded, random_prompts, tiny_model, tiny_module

PROMPTS = random_prompts(6)
ROUNDING = 1e-6  # families compute some parts in float32, where a batch is rounded otherwise than a prompt alone


def two(case, dtype=torch.float64):
    """Two checkpoints of a family."""
    return tiny_model(case, dtype), tiny_model(case, dtype, seed=3)


def hooks(model):
    return [
        (name, kind)
        for name, module in model.module.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
        if getattr(module, kind)
    ]


def given_to_experts(model, ids):
    """Experts and gates that the fused experts of each layer are called with."""
    seen = []
    handles = [
        writer.module.register_forward_pre_hook(lambda _, args: seen.append(args[1:])) for _, writer in model.routed()
    ]
    with torch.no_grad():
        model.module(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_what_is_recorded_is_what_the_experts_are_given(case):
    model = tiny_model(case)
    recorded = record_routing(model, PROMPTS, limits=Limits(tokens=12))
    assert recorded.prompts.keys() == {tuple(ids) for ids in PROMPTS}
    for ids in PROMPTS:
        seen = given_to_experts(model, ids)
        for (experts, gates), layer in zip(seen, recorded.prompts[tuple(ids)], strict=True):
            assert torch.equal(layer.experts, experts)
            assert torch.allclose(layer.gates, gates, atol=1e-6)
            assert layer.logits.shape == (len(ids), 8)
    assert recorded.layers == tuple(block.layer for block, _ in model.routed())
    assert hooks(model) == []


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_a_models_own_routing_changes_nothing(case):
    model = tiny_model(case, torch.float64)
    intact, recorded = last_logits(model, PROMPTS), record_routing(model, PROMPTS)
    with replayed(model, recorded):
        assert torch.allclose(last_logits(model, PROMPTS), intact, atol=ROUNDING)
        assert torch.allclose(last_logits(model, PROMPTS[:2], limits=Limits(tokens=1)), intact[:2], atol=ROUNDING)
    with transplanted(model, model):
        assert torch.equal(last_logits(model, PROMPTS), intact)
    assert torch.equal(last_logits(model, PROMPTS), intact)
    assert hooks(model) == []


def with_routers_of(model, other):
    """A copy of a model into which another's routers were put by hand."""
    changed = wrap_model(copy.deepcopy(model.module))
    for (_, mine), (_, theirs) in zip(changed.routed(), other.routed(), strict=True):
        mine.router.load_state_dict(theirs.router.state_dict())
    return changed


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_transplanted_routers_are_those_put_in_by_hand(case):
    model, other = two(case)
    expected, intact = last_logits(with_routers_of(model, other), PROMPTS), last_logits(model, PROMPTS)
    with transplanted(model, other):
        assert torch.equal(last_logits(model, PROMPTS), expected)
    assert (expected - intact).abs().max() > 1e-3


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_replayed_routing_is_that_of_routers_replaced_by_hand(case):
    model, other = two(case)
    recorded = record_routing(other, PROMPTS)
    with replayed(model, recorded):
        found = last_logits(model, PROMPTS)
    changed = wrap_model(copy.deepcopy(model.module))
    for row, ids in enumerate(PROMPTS):  # one at a time, so that a router knows which tokens it is given
        for (_, writer), layer in zip(changed.routed(), recorded.prompts[tuple(ids)], strict=True):
            writer.router.forward = lambda _, layer=layer: (layer.logits, layer.gates, layer.experts)
        assert torch.allclose(last_logits(changed, [ids])[0], found[row], atol=ROUNDING)
    assert (found - last_logits(model, PROMPTS)).abs().max() > 1e-3


def test_recorded_routing_of_transplanted_routers_replays_them():
    model, other = two("OLMoE")
    with transplanted(model, other):
        expected, recorded = last_logits(model, PROMPTS), record_routing(model, PROMPTS)
    with replayed(model, recorded):
        assert torch.allclose(last_logits(model, PROMPTS), expected, atol=ROUNDING)


def test_traces_and_scores_see_the_replayed_routing():
    model, other = two("Qwen2-MoE")
    recorded = record_routing(other, PROMPTS)
    with replayed(model, recorded):
        seen = trace(model, PROMPTS).blocks[3].writers[0]
        collector, _ = attribute_encoded(model, encoded(PROMPTS))
    for row, ids in enumerate(PROMPTS):
        assert seen.experts[row].tolist() == recorded.prompts[tuple(ids)][0].experts[-1].tolist()
        assert torch.allclose(seen.gates[row], recorded.prompts[tuple(ids)][0].gates[-1].to(seen.gates.dtype))
    scores = collector.result("lpi")
    of_layer = (model.units.layer == 1) & (model.units.expert >= 0)
    for row in range(len(PROMPTS)):
        used = of_layer & (scores[row] != 0)
        assert set(model.units.expert[used].tolist()) == set(seen.experts[row].tolist())


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_gradients_take_replayed_gates_for_constants(case):
    model, other = two(case)
    ids = PROMPTS[1]
    recorded = record_routing(other, [ids])
    for _, writer in model.routed():
        writer.router.requires_grad_(True)
        writer.module.requires_grad_(True)
    with replayed(model, recorded):
        model.module(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[5].backward()
    for _, writer in model.routed():
        gradient = writer.module.down_proj.grad
        assert gradient.abs().max() > 0
        assert writer.router.weight.grad is None or not writer.router.weight.grad.any()


def test_a_prompt_that_goes_on_with_padding_tokens_is_told_from_one_that_ends():
    model, other = two("OLMoE")
    longer = [*PROMPTS[0], 0, 0]  # 0 is what batches are padded with
    recorded = record_routing(other, [PROMPTS[0], longer])
    with replayed(model, recorded):
        together, alone = last_logits(model, [PROMPTS[0], longer]), last_logits(model, [longer])
    assert torch.allclose(together[1], alone[0], atol=ROUNDING)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("way", ["replayed", "transplanted"])
def test_hooks_are_gone_after_an_error(way):
    model, other = two("OLMoE")
    intact = last_logits(model, PROMPTS)
    held = replayed(model, record_routing(other, PROMPTS)) if way == "replayed" else transplanted(model, other)
    assert hooks(model) == []
    with pytest.raises(StoppedError), held:
        raise StoppedError
    assert hooks(model) == []
    assert torch.equal(last_logits(model, PROMPTS), intact)


def test_an_error_within_a_forward_pass_leaves_nothing_behind():
    model, other = two("OLMoE")
    recorded = record_routing(other, PROMPTS)
    with replayed(model, recorded):
        expected = last_logits(model, PROMPTS)
        with pytest.raises(OptionError, match=r"token ids \[9, 9, 9.*was not recorded"):
            last_logits(model, [*PROMPTS[:2], [9, 9, 9]])
        with pytest.raises(ModelError, match="run the whole model"):
            model.module.model.layers[0].mlp(torch.zeros(1, 2, 32, dtype=torch.float64))
        assert torch.equal(last_logits(model, PROMPTS), expected)
    assert hooks(model) == []


def test_other_prompts_are_refused_by_name():
    model = tiny_model("OLMoE")
    with replayed(model, record_routing(model, PROMPTS)):
        for ids in ([7], [*PROMPTS[0], 9], PROMPTS[2][:-1]):
            with pytest.raises(OptionError, match="was not recorded; recorded are 6 prompts"):
                last_logits(model, [ids])
        with pytest.raises(ModelError, match="give input_ids"):
            model.module(inputs_embeds=torch.zeros(1, 3, 32))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_experts": 4}, "2 of 4 experts in layers 0, 1, and this model 2 of 8"),
        ({"num_experts_per_tok": 3}, "3 of 8 experts"),
        ({"num_hidden_layers": 3}, "layers 0, 1, 2, and this model 2 of 8 experts in layers 0, 1;"),
    ],
)
def test_other_experts_are_refused(changes, told):
    model, other = tiny_model("OLMoE"), tiny_model("OLMoE", **changes)
    recorded = record_routing(other, PROMPTS)
    with pytest.raises(OptionError, match=told), replayed(model, recorded):
        pass
    with pytest.raises(OptionError, match=told), transplanted(model, other):
        pass
    assert hooks(model) == []


def test_dense_models_and_other_widths_are_refused():
    model, dense = tiny_model("OLMoE"), tiny_model("Llama")
    recorded = record_routing(model, PROMPTS)
    for refused in (
        lambda: record_routing(dense, PROMPTS),
        lambda: replayed(dense, recorded).__enter__(),
        lambda: transplanted(dense, model).__enter__(),
        lambda: transplanted(model, dense).__enter__(),
    ):
        with pytest.raises(OptionError, match="Llama model has no routed experts"):
            refused()
    wide = tiny_model("OLMoE", hidden_size=64)
    with pytest.raises(OptionError, match="has 64 numbers and this one's 32"), transplanted(model, wide):
        pass
    with pytest.raises(OptionError, match="0 prompts"):
        record_routing(model, [])


def test_the_weights_are_never_changed():
    module = tiny_module("DeepSeek-V3")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model, other = wrap_model(module), tiny_model("DeepSeek-V3", seed=3)
    with replayed(model, record_routing(other, PROMPTS)):
        last_logits(model, PROMPTS)
    with transplanted(model, other):
        last_logits(model, PROMPTS)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
