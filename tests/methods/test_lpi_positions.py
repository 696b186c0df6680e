"""Attention units by source position: what they add up to, and exact against the reference."""

import dataclasses

import numpy as np
import pytest
import torch

from flat import asked, attribute
from gated_lpi.methods import attribute_encoded, problem, problem_of
from gated_lpi.methods.lpi import exact, reference
from gated_lpi.methods.lpi.certified import prepared
from gated_lpi.trace import trace
from tiny_models import CASES, encoded, random_prompts, tiny_model
from tiny_text import FACTS, speaking_model


@pytest.mark.parametrize("case", CASES, ids=str)
def test_positions_add_up_to_the_whole(case):
    model, prompts = tiny_model(case, torch.float64), random_prompts(6)
    implementation = model.module.config._attn_implementation
    traced = trace(model, prompts, by_position=True)
    assert model.module.config._attn_implementation == implementation
    for seen in traced.blocks[::2]:
        (writer,) = seen.writers
        assert torch.allclose(writer.by_position.sum(dim=1), writer.coefficients, atol=1e-6)
        for prompt, ids in enumerate(prompts):
            assert (writer.by_position[prompt, len(ids) :] == 0).all()
    assert trace(model, prompts).blocks[0].writers[0].by_position is None


@pytest.mark.parametrize("norm", ["frozen", "recomputed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact_agrees_with_the_reference_at_every_position(case, norm):
    model, prompts = tiny_model(case, torch.float64), random_prompts(2)
    traced = trace(model, prompts, by_position=True)
    block, seen = model.blocks[2], traced.blocks[2]
    held = model.readout.inverse_scale(traced.final_residual) if norm == "frozen" else None
    whole = problem_of(model.readout, block, seen, torch.tensor([3, 4]), held)
    problem = whole.resolved()
    assert problem.n_units == 4 * block.n_units
    difference = exact.score_block(problem).scores - reference.score_block(problem).scores
    assert difference.abs().max() < 1e-8


def test_the_dataset_keeps_positions_and_their_sum():
    model = speaking_model("OLMoE")
    found = attribute(model, FACTS, positions="resolved", units=("attention", "ffn"), estimator="exact", batch_size=4)
    summed = attribute(model, FACTS, units=("attention", "ffn"), estimator="exact")
    attention = found["block"].values == "attention"
    by_position = found["position_lpi"]
    assert by_position.dims == ("prompt", "position", "attention_unit")
    assert by_position.sizes["attention_unit"] == attention.sum()
    assert np.allclose(by_position.sum("position"), found["lpi"].values[:, attention], atol=1e-5)
    lengths = np.isfinite(by_position.values).all(axis=2).sum(axis=1)
    assert lengths.tolist() == [len(model.tokenizer(p.text)["input_ids"]) for p in FACTS.prompts("first")]
    assert np.allclose(found["lpi"].values[:, ~attention], summed["lpi"].values[:, ~attention], atol=1e-5)
    # The score is not linear: positions scored one by one differ from their sum scored at once.
    assert not np.allclose(found["lpi"].values[:, attention], summed["lpi"].values[:, attention], atol=1e-6)


def test_bounds_of_positions_add_up_to_that_of_their_sum():
    model = speaking_model("OLMoE")
    options = {"positions": "resolved", "units": ("attention",), "keep": "prompts"}
    fast = attribute(model, FACTS, estimator="fast", **options)
    exact = attribute(model, FACTS, estimator="exact", **options)
    blocks = np.flatnonzero(fast["block_kind"].values == "attention")
    bound = fast["error_bound"].values[:, blocks]
    assert (bound > 0).all()
    wrong = np.abs(fast["lpi"].values - exact["lpi"].values).reshape(len(bound), len(blocks), -1).max(axis=2)
    assert (wrong <= bound + 1e-6).all()


def test_the_base_is_read_out_once_for_positions_and_groups(monkeypatch):
    counts = {}

    def count(module, name):
        call = getattr(module, name)

        def counted(*given):
            counts[name] = counts.get(name, 0) + 1
            return call(*given)

        monkeypatch.setattr(module, name, counted)

    count(problem, "base_logits")
    count(prepared, "distribution")
    model, prompts = tiny_model("Llama"), random_prompts(4)
    attribute_encoded(model, encoded(prompts), *asked(positions="resolved"))
    assert counts == {"base_logits": len(model.blocks), "distribution": len(model.blocks)}


def test_a_prompt_of_one_token_has_one_position():
    model = tiny_model("Llama", torch.float64)
    traced = trace(model, [[7]], by_position=True)
    block, seen = model.blocks[0], traced.blocks[0]
    held = model.readout.inverse_scale(traced.final_residual)
    whole = problem_of(model.readout, block, seen, torch.tensor([3]), held)
    whole = dataclasses.replace(whole, n_units=block.n_units)
    one, all_at_once = exact.score_block(whole.resolved()).scores, exact.score_block(whole).scores
    assert torch.allclose(one, all_at_once, atol=1e-12)


def test_means_do_not_keep_positions():
    found = attribute(speaking_model("Llama"), FACTS, positions="resolved", keep="mean")
    assert "position_lpi" not in found


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
@pytest.mark.parametrize("case", [case for case in CASES if case.name not in ("Gemma2", "Granite-MoE")], ids=str)
def test_the_bound_of_a_sum_over_positions_is_within_the_tolerance(case, tolerance):
    # Every source position is certified by itself: their errors add up, so each may take its part of the tolerance.
    model, prompts = tiny_model(case), encoded(random_prompts(5, seed=3))
    options = {"units": ("attention",), "positions": "resolved"}
    fast, found = attribute_encoded(model, prompts, *asked(tolerance=tolerance, **options))
    exact_in_float64, _ = attribute_encoded(
        tiny_model(case, torch.float64), prompts, *asked(estimator="exact", **options)
    )
    bound = found.blocks["error_bound"][:, ::2]
    assert bound.max() <= tolerance
    wrong = np.abs(fast.result("lpi") - exact_in_float64.result("lpi"))
    # The two models differ in the dtype of the forward pass too, which is not the estimator's doing.
    assert (wrong.reshape(len(prompts), bound.shape[1], -1).max(axis=2) <= bound + 5e-5).all()
