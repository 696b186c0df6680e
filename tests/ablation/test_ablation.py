"""Silencing by hooks is what zeroing the column would do, on every family, and leaves no trace."""

import copy

import numpy as np
import pytest
import torch

from gated_lpi import attribute
from gated_lpi.ablation import compare_with_random, head_units, silenced, target_ranks
from gated_lpi.errors import OptionError
from gated_lpi.facts import encode
from gated_lpi.loading import wrap_model
from gated_lpi.models import find_family
from gated_lpi.trace import last_logits, trace
from tiny_models import CASES, random_prompts, tiny_model, tiny_module
from tiny_text import FACTS, speaking_model


def pick(model, n=9, seed=0):
    return np.random.default_rng(seed).choice(len(model.units), n, replace=False)


def zero_columns(model, units):
    """The same model with the units' value vectors set to zero, in the weights."""
    module = copy.deepcopy(model.module)
    changed = wrap_model(module)
    with torch.no_grad():
        for block, writer, expert, column in zip(*changed.locate(units), strict=True):
            changed.blocks[block].writers[writer].raw_values(expert)[column] = 0.0
    return changed


@pytest.mark.parametrize("case", CASES, ids=str)
def test_silencing_equals_zeroing_the_columns(case):
    model, prompts = tiny_model(case), random_prompts(6)
    units = pick(model, 40)
    intact = last_logits(model, prompts)
    with silenced(model, units):
        silent = last_logits(model, prompts)
    assert torch.allclose(silent, last_logits(zero_columns(model, units), prompts), atol=1e-5)
    assert (silent - intact).abs().max() > 1e-3
    assert torch.equal(last_logits(model, prompts), intact)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hooks_are_gone_after_an_error(case):
    model, prompts = tiny_model(case), random_prompts(3)
    intact = last_logits(model, prompts)
    with pytest.raises(KeyError), silenced(model, pick(model, 20)):
        raise KeyError
    assert torch.equal(last_logits(model, prompts), intact)


WITHOUT_POST_NORM = [case for case in CASES if find_family(tiny_module(case).config.model_type).ffn_post_norm is None]


@pytest.mark.parametrize("case", WITHOUT_POST_NORM, ids=str)
def test_contributions_are_what_silencing_takes_off_the_last_block(case):
    # Nothing comes after the last FFN, so silencing its units must lower the final residual by their contributions.
    # (A post-norm would be computed afresh from what is left, so there the two differ by design.)
    model, prompts = tiny_model(case, torch.float64), random_prompts(4)
    first = model.block_units(-1).start
    units = np.arange(first, first + 24)
    traced = trace(model, prompts)
    expected = torch.zeros_like(traced.final_residual)
    for slab in traced.blocks[-1].slabs(model.blocks[-1]):
        inside = torch.arange(slab.values.shape[0]) + slab.start < 24
        rows = slice(None) if slab.prompts is None else slab.prompts
        expected[rows] += (slab.coefficients * inside) @ slab.values
    with silenced(model, units):
        after = trace(model, prompts).final_residual
    assert torch.allclose(traced.final_residual - after, expected, atol=1e-12)


def test_a_head_is_its_units():
    model = tiny_model("Qwen3")
    units = head_units(model, 5)
    assert set(model.units.layer[units]) == {1}
    assert set(model.units.head[units]) == {1}
    assert len(units) == 16


def test_no_units_change_nothing():
    model, prompts = tiny_model("OLMoE"), random_prompts(3)
    with silenced(model, np.array([], dtype=np.int64)):
        assert torch.equal(last_logits(model, prompts), last_logits(model, prompts))


@pytest.mark.parametrize("unit", [-1, 320])
def test_a_unit_that_is_not_there_is_an_error(unit):
    with pytest.raises(OptionError, match="0 to 319"), silenced(tiny_model("OLMoE"), np.array([unit])):
        pass


def test_ranks_are_those_of_attribution():
    model = speaking_model("OLMoE")
    encoded = encode(model.tokenizer, FACTS.prompts("all"))
    found = target_ranks(model, encoded, batch_size=5)
    assert found.tolist() == attribute(model, FACTS, templates="all")["target_rank"].values.tolist()


def test_a_comparison_draws_sets_of_the_same_size_and_is_reproducible():
    model = speaking_model("Llama")
    encoded = encode(model.tokenizer, FACTS.prompts("first"))
    pool = [head_units(model, head) for head in range(8)]
    calls = []
    first = compare_with_random(
        model, encoded, pool, np.array([0, 3]), k=5, draws=4, seed=1, progress=lambda: calls.append(1)
    )
    again = compare_with_random(model, encoded, pool, np.array([0, 3]), k=5, draws=4, seed=1)
    assert first == again
    assert len(first.random_hits) == 4
    assert len(calls) == 5
    with silenced(model, np.concatenate([pool[0], pool[3]])):
        assert first.hit == pytest.approx((target_ranks(model, encoded) < 5).mean())


@pytest.mark.parametrize("chosen", [[], list(range(9))])
def test_a_comparison_needs_something_to_silence(chosen):
    model = speaking_model("Llama")
    pool = [head_units(model, head) for head in range(8)]
    with pytest.raises(OptionError, match="pool of 8"):
        compare_with_random(model, [], pool, np.array(chosen))


def test_shared_weights_are_never_edited():
    module = tiny_module("GPT-2")
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    model = wrap_model(module)
    with silenced(model, pick(model, 50)):
        last_logits(model, random_prompts())
    assert all(torch.equal(before[name], parameter) for name, parameter in module.named_parameters())
