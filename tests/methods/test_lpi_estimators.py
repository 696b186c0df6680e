"""Every estimator against the float64 reference, on every family, norm, target and dtype."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flat import asked
from gated_lpi.loading import wrap_model
from gated_lpi.methods import BlockProblem, attribute_encoded, problem_of, unit_lpi
from gated_lpi.methods.lpi import exact, reference
from gated_lpi.models import Readout
from gated_lpi.trace import Slab, trace
from tiny_models import CASES, encoded, random_prompts, tiny_model, tiny_module

LIMITS = {torch.float32: 1e-4, torch.float64: 1e-8}
UNITS_ONLY = ("ffn", "attention")


def unit_scores(model, prompts, **options):
    collector, _ = attribute_encoded(
        model, encoded(prompts), *asked(units=UNITS_ONLY, **{"estimator": "exact"} | options)
    )
    return collector.result("lpi")


@pytest.mark.parametrize("norm", ["frozen", "recomputed"])
@pytest.mark.parametrize(
    ("dtype", "target"),
    [
        *((dtype, "object") for dtype in LIMITS),
        (torch.float64, "top1"),
        pytest.param(
            torch.float32, "top1", marks=pytest.mark.slow
        ),  # two things that have nothing to do with each other
    ],
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact_agrees_with_the_reference(case, dtype, norm, target):
    model, prompts = tiny_model(case, dtype), random_prompts(4)
    options = {"norm": norm, "target": target}
    found = unit_scores(model, prompts, estimator="exact", **options)
    true = unit_scores(model, prompts, estimator="reference", **options)
    assert found.dtype == {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    assert np.abs(true).max() > 0.1
    assert np.abs(found - true).max() < LIMITS[dtype]


def test_the_definition_by_hand():
    # d = V = 2, W = I, γ = 1, no eps. base (1, 1): logits (1, 1)/σ, p = ½ each.
    # Adding (1, 0) with σ held at 1: logits (2, 1), log p(0) = 2 − log(e² + e) = −log(1 + e⁻¹).
    eye = Readout(torch.eye(2), None, torch.ones(2), None, centred=False, eps=0.0)
    base, contribution = torch.ones(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    eye = eye.to(dtype=torch.float64)
    frozen = unit_lpi(base, contribution, 0, eye, torch.tensor(1.0, dtype=torch.float64))
    assert frozen == pytest.approx(-math.log(1 + math.exp(-1)) + math.log(2))
    # Recomputed: (2, 1) has σ = √(5/2), so the logits are (2, 1)/√2.5 and their difference 1/√2.5.
    recomputed = unit_lpi(base, contribution, 0, eye, None)
    assert recomputed == pytest.approx(-math.log(1 + math.exp(-1 / math.sqrt(2.5))) + math.log(2))


def one_block(base, values, coefficients, weight, targets, inverse_scale=None):
    readout = Readout(weight, None, torch.ones(weight.shape[1], dtype=weight.dtype), None, centred=False, eps=1e-6)
    return BlockProblem(
        readout=readout,
        base=base,
        inverse_scale=inverse_scale,
        targets=targets,
        slabs=(Slab(0, values, coefficients, None),),
        n_units=len(values),
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.sampled_from([2, 3, 50, 700]),
    magnitude=st.floats(-6, 6),
    sharpness=st.floats(-3, 3),
    frozen=st.booleans(),
)
def test_exact_holds_for_any_scale_of_coefficients(seed, vocabulary, magnitude, sharpness, frozen):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight, base, values = normal(vocabulary, 8), normal(3, 8) * 10**sharpness, normal(5, 8)
    coefficients = normal(3, 5) * 10**magnitude
    targets = torch.randint(vocabulary, (3,), generator=generator)
    scale = torch.rsqrt(base.square().mean(-1)) if frozen else None
    problem = one_block(base, values, coefficients, weight, targets, scale)
    found = exact.score_block(problem).scores
    for prompt in range(3):
        for unit in range(5):
            contribution = coefficients[prompt, unit] * values[unit]
            held = None if scale is None else scale[prompt]
            true = unit_lpi(base[prompt], contribution, int(targets[prompt]), problem.readout, held)
            # The reference subtracts logits of this size; what it rounds off there cannot be asked of anyone.
            size = float(weight.norm(dim=-1).max() * contribution.norm() * (1 if held is None else held))
            assert float(found[prompt, unit]) == pytest.approx(true, rel=1e-9, abs=1e-8 + 1e-15 * size)


def test_huge_coefficients_do_not_overflow_in_float32():
    model = tiny_model("Qwen3")
    traced = trace(model, random_prompts(2))
    block, seen = model.blocks[1], traced.blocks[1]
    slab = next(iter(seen.slabs(block)))
    huge = slab._replace(coefficients=slab.coefficients * 1e4)
    problem = BlockProblem(
        model.readout,
        seen.base,
        model.readout.inverse_scale(traced.final_residual),
        torch.tensor([3, 4]),
        (huge,),
        block.n_units,
        block,
        seen,
    )
    scores = exact.score_block(problem).scores
    assert torch.isfinite(scores).all()
    assert scores.abs().max() > 1e3


@pytest.mark.parametrize("n_prompts", [3, 40])
@pytest.mark.parametrize("norm", ["frozen", "recomputed"])
def test_what_contributes_nothing_scores_exactly_nothing(norm, n_prompts):
    module = tiny_module("Llama")
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight[:, 5] = 0.0
        module.model.layers[0].mlp.up_proj.weight[7] = 0.0
        module.model.layers[0].mlp.up_proj.bias[7] = 0.0
    model = wrap_model(module)
    scores = unit_scores(model, random_prompts(n_prompts), norm=norm)
    ffn = model.units.block == "ffn"
    silent = ffn & (
        ((model.units.layer == 1) & (model.units.neuron == 5)) | ((model.units.layer == 0) & (model.units.neuron == 7))
    )
    assert silent.sum() == 2
    assert np.abs(scores[:, silent]).max() <= (0 if norm == "frozen" else 1e-6)
    assert (scores[:, ~silent] != 0).mean() > 0.9


def test_tiles_change_nothing(monkeypatch):
    model, prompts = tiny_model("OLMoE"), random_prompts(7)
    whole = {norm: unit_scores(model, prompts, norm=norm) for norm in ("frozen", "recomputed")}
    monkeypatch.setattr(exact, "TILE_NUMBERS", 64 * 3)
    for norm, scores in whole.items():
        assert np.abs(unit_scores(model, prompts, norm=norm) - scores).max() < 1e-5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_batching_and_padding_change_no_score(case):
    model, prompts = tiny_model(case), random_prompts(6)
    together = unit_scores(model, prompts, batch_size=6)
    alone = unit_scores(model, prompts, batch_size=1)
    assert np.abs(together - alone).max() < 2e-5


@pytest.mark.parametrize("case", ["OLMoE", "Qwen3-MoE"])
def test_experts_that_are_not_routed_to_score_zero(case):
    model, prompts = tiny_model(case), random_prompts(3)
    scores = unit_scores(model, prompts)
    seen = trace(model, prompts).blocks[3].writers[0]
    of_layer = (model.units.layer == 1) & (model.units.block == "ffn")
    for prompt in range(3):
        idle = ~np.isin(model.units.expert, seen.experts[prompt].numpy()) & of_layer
        assert idle.sum() == 6 * 16
        assert (scores[prompt, idle] == 0).all()
        assert (scores[prompt, of_layer & ~idle] != 0).any()


def test_permuting_neurons_and_experts_permutes_scores():
    model, prompts = tiny_model("OLMoE"), random_prompts(4)
    before = unit_scores(model, prompts)
    neurons, experts = torch.randperm(16), torch.randperm(8)
    mlp = model.module.model.layers[1].mlp
    with torch.no_grad():
        gate_up = mlp.experts.gate_up_proj.view(8, 2, 16, 32)[experts][:, :, neurons]
        mlp.experts.gate_up_proj.copy_(gate_up.reshape(8, 32, 32))
        mlp.experts.down_proj.copy_(mlp.experts.down_proj[experts][:, :, neurons].clone())
        mlp.gate.weight.copy_(mlp.gate.weight[experts].clone())
    after = unit_scores(model, prompts)
    of_layer = (model.units.layer == 1) & (model.units.block == "ffn")
    moved = before[:, of_layer].reshape(4, 8, 16)[:, experts.numpy()][:, :, neurons.numpy()]
    assert np.abs(after[:, of_layer].reshape(4, 8, 16) - moved).max() < 1e-5
    assert np.abs(after[:, ~of_layer] - before[:, ~of_layer]).max() < 1e-5


def test_reference_scores_do_not_use_slabs():
    model = tiny_model("OLMoE")
    traced = trace(model, random_prompts(2))
    block, seen = model.blocks[1], traced.blocks[1]
    frozen = model.readout.inverse_scale(traced.final_residual)
    problem = problem_of(model.readout, block, seen, torch.tensor([3, 4]), frozen)
    assert (reference.score_block(problem).scores != 0).sum() == 2 * 2 * 16
