"""Recording at any position of a prompt is recording the end of the prompt that stops there."""

import dataclasses

import pytest
import torch

from gated_lpi.errors import OptionError
from gated_lpi.trace import Limits, last_logits, trace
from tiny_models import CASES, random_prompts, tiny_model

# Longer than the sliding windows of the case table, and of two lengths, so that one is padded.
PROMPTS = [[11, 3, 52, 7, 33, 20, 41, 8, 5], [60, 2, 9, 14, 37, 21]]
POSITIONS = [(0, 3, -1), (-1, 3)]
PREFIXES = [PROMPTS[0][:1], PROMPTS[0][:4], PROMPTS[0], PROMPTS[1], PROMPTS[1][:4]]


def tensors(traced, name="trace"):
    """All tensors of a trace by where they are."""
    if isinstance(traced, torch.Tensor):
        yield name, traced
    elif isinstance(traced, tuple):
        for i, part in enumerate(traced):
            yield from tensors(part, f"{name}[{i}]")
    elif traced is not None:
        for field in dataclasses.fields(traced):
            yield from tensors(getattr(traced, field.name), f"{name}.{field.name}")


def assert_alike(one, other, tolerance):
    for (name, left), (_, right) in zip(tensors(one), tensors(other), strict=True):
        if name not in ("trace.of_prompt", "trace.at_position"):
            assert left.shape == right.shape, name
            assert torch.allclose(left.double(), right.double(), rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_positions_of_a_prompt_are_the_ends_of_its_prefixes(case, dtype, tolerance, by_position):
    model = tiny_model(case, dtype)
    found = trace(model, PROMPTS, POSITIONS, by_position=by_position)
    assert found.of_prompt.tolist() == [0, 0, 0, 1, 1]
    assert found.at_position.tolist() == [0, 3, 8, 5, 3]
    assert_alike(found, trace(model, PREFIXES, by_position=by_position), tolerance)
    assert torch.allclose(found.logits, last_logits(model, PROMPTS, POSITIONS), rtol=tolerance, atol=tolerance)
    in_parts = trace(model, PROMPTS, POSITIONS, by_position=by_position, limits=Limits(tokens=1, logits=2))
    assert_alike(found, in_parts, tolerance)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_units_at_any_position_add_up_to_what_their_block_wrote_there(case):
    model = tiny_model(case, torch.float64)
    found = trace(model, PROMPTS, POSITIONS)
    prefixes = trace(model, PREFIXES)
    for (units, slab), (same_units, same) in zip(found.slabs(model), prefixes.slabs(model), strict=True):
        assert units == same_units
        assert (slab.prompts is None) == (same.prompts is None)
        assert slab.prompts is None or torch.equal(slab.prompts, same.prompts)
        assert torch.allclose(slab.coefficients, same.coefficients, atol=1e-6)
    for block, seen in zip(model.blocks, found.blocks, strict=True):
        written = seen.bias(block)
        for slab in seen.slabs(block):
            items = torch.arange(len(written)) if slab.prompts is None else slab.prompts
            written = written.index_add(0, items, slab.coefficients @ slab.values)
        assert torch.allclose(written, seen.written, atol=1e-5), block.name


@pytest.mark.parametrize("case", ["OLMoE", "Mistral", "GPT-2"])
def test_the_last_position_is_the_default(case):
    model, prompts = tiny_model(case), random_prompts(9)
    usual, asked = trace(model, prompts), trace(model, prompts, [[len(ids) - 1] for ids in prompts])
    for (name, left), (_, right) in zip(tensors(usual), tensors(asked), strict=True):
        assert torch.equal(left, right), name
    assert usual.of_prompt.tolist() == list(range(9))
    assert usual.at_position.tolist() == [len(ids) - 1 for ids in prompts]


def test_items_keep_their_order_and_repeats():
    model = tiny_model("OLMoE")
    found = trace(model, PROMPTS, [[5, 0, 5], [2]])
    assert found.at_position.tolist() == [5, 0, 5, 2]
    assert torch.equal(found.logits[0], found.logits[2])
    assert not torch.equal(found.logits[0], found.logits[1])


@pytest.mark.parametrize("run", [trace, last_logits])
def test_a_position_that_is_not_there_is_refused_before_anything_runs(run, monkeypatch):
    model = tiny_model("OLMoE")
    monkeypatch.setattr(model.module.base_model, "forward", None)
    with pytest.raises(OptionError, match="position 6 was given for prompt 1"):
        run(model, PROMPTS, [[0], [6]])
