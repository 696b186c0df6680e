import dataclasses

import pytest
import torch

from gated_lpi.errors import OptionError
from gated_lpi.trace import last_logits, pad, record, trace
from tiny_models import CASES, random_prompts, tiny_model


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hooks_are_gone_after_success_and_after_an_error(case):
    model = tiny_model(case)
    trace(model, random_prompts())
    last_logits(model, random_prompts())
    assert hooks(model.module) == 0
    with record(model, pad(random_prompts()).last):
        assert hooks(model.module) > 0
    assert hooks(model.module) == 0
    with pytest.raises(IndexError):
        trace(model, [[10_000]])
    assert hooks(model.module) == 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_are_those_of_the_model(case):
    model, prompts = tiny_model(case), random_prompts()
    traced = trace(model, prompts)
    assert torch.equal(traced.logits, last_logits(model, prompts))
    with torch.no_grad():
        for i, ids in enumerate(prompts):
            alone = model.module(torch.tensor([ids])).logits[0, -1]
            assert torch.allclose(traced.logits[i], alone, atol=1e-5)


def test_bases_follow_one_another():
    traced = trace(tiny_model("GPT-2"), random_prompts())
    for before, after in zip(traced.blocks, traced.blocks[1:], strict=False):
        assert torch.allclose(before.base + before.written, after.base, atol=1e-6)


def test_routed_experts_are_those_of_the_router():
    model, prompts = tiny_model("OLMoE"), random_prompts(6)
    seen = trace(model, prompts).blocks[3].writers[0]
    assert seen.experts.shape == seen.gates.shape == (6, 2)
    assert seen.coefficients.shape == (6, 2, 16)
    # OLMoE does not renormalise: gates are probabilities of the whole softmax, so two of eight stay below 1
    assert (seen.gates.sum(-1) < 1).all()
    assert (seen.gates > 0).all()


@pytest.mark.parametrize("prompts", [[], [[1, 2], []]])
def test_nothing_to_run_is_an_error(prompts):
    with pytest.raises(OptionError, match="at least one prompt"):
        pad(prompts)


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("case", ["OLMoE", "GPT-2", "Qwen2-MoE"], ids=str)
def test_forward_passes_of_a_few_prompts_at_a_time_are_joined(case, by_position, monkeypatch):
    model, prompts = tiny_model(case, torch.float64), random_prompts(7)
    whole = trace(model, prompts, by_position=by_position)
    monkeypatch.setattr("gated_lpi.trace.AT_ONCE", 3)
    joined = trace(model, prompts, by_position=by_position)
    for one, other in zip(tensors(whole), tensors(joined), strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one.double(), other.double(), atol=1e-12)


def tensors(traced):
    """All tensors of a trace, in order; what padding left at positions that a prompt does not have is 0."""
    if isinstance(traced, torch.Tensor):
        yield traced
    elif isinstance(traced, tuple):
        for part in traced:
            yield from tensors(part)
    elif traced is not None:
        for field in dataclasses.fields(traced):
            yield from tensors(getattr(traced, field.name))
