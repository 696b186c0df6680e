import dataclasses

import pytest
import torch

from gated_lpi.models import Readout
from gated_lpi.trace import Limits, last_logits, trace
from tiny_models import CASES, random_prompts, tiny_model


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


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("case", ["OLMoE", "GPT-2", "Qwen2-MoE"], ids=str)
def test_forward_passes_of_a_few_prompts_at_a_time_are_joined(case, by_position):
    model, prompts = tiny_model(case, torch.float64), random_prompts(7)
    whole = trace(model, prompts, by_position=by_position)
    joined = trace(model, prompts, by_position=by_position, limits=Limits(tokens=12, logits=2, frugal=True))
    for one, other in zip(tensors(whole), tensors(joined), strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one.double(), other.double(), atol=1e-12)


@pytest.mark.parametrize("positions", [None, [[0, -1]] * 150])
@pytest.mark.parametrize("run", [trace, last_logits])
def test_logits_of_a_few_items_at_a_time_are_computed(run, positions, monkeypatch):
    rows, real = [], Readout.logits
    monkeypatch.setattr(Readout, "logits", lambda readout, hidden: rows.append(len(hidden)) or real(readout, hidden))
    run(tiny_model("Llama"), random_prompts(150), positions)
    rows = rows[rows.index(64) :]  # the check at load comes before
    assert rows == ([64, 64, 22] if positions is None else [64] * 4 + [44])


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
