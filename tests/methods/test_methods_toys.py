"""What all methods share: toy networks whose scores are known by hand, dtypes, what is kept, and options."""

import numpy as np
import pytest
import torch

import gated_lpi
from gated_lpi.errors import OptionError
from gated_lpi.facts import FactSet, Relation, Sample
from gated_lpi.interventions import record_routing, replayed
from gated_lpi.methods import block_problems
from gated_lpi.models import build_model
from gated_lpi.options import (
    LPI,
    DirectEffect,
    GradientTimesActivation,
    IntegratedGradients,
    TrueEffect,
)
from passes import questions, scores_of, values_of
from tiny_models import tiny_model, tiny_module
from tiny_text import FACTS, speaking_model, tiny_tokenizer

PASSES = {
    "grad_x_act": GradientTimesActivation(),
    "integrated_gradients": IntegratedGradients(points=2),
    "true_effect": TrueEffect(sample=2),
}
EVERY = {"lpi": LPI(), "direct_effect": DirectEffect(), **PASSES}


def linear(foil):
    """A model of one layer whose FFN is read through a final norm that hardly moves: scores are linear in it."""
    module = tiny_module("Llama", torch.float64, num_hidden_layers=1, mlp_bias=False)
    with torch.no_grad():
        layer = module.model.layers[0].mlp
        layer.down_proj.weight.mul_(1e-7)  # next to the residual stream, which alone makes σ
    return gated_lpi.loading.wrap_model(module), questions(2), {"foil": foil}


@pytest.mark.parametrize("foil", [None, "fact"])
def test_in_a_linear_model_every_method_gives_the_same_by_hand(foil):
    model, prompts, aims = linear(foil)
    units = np.flatnonzero(model.units.block == "ffn")
    found = {
        name: scores_of(model, method, prompts)[0][name][:, units]
        for name, method in {
            "lpi": LPI(norm="recomputed", estimator="exact", **aims),
            "direct_effect": DirectEffect(norm="recomputed", **aims),
            "grad_x_act": GradientTimesActivation(**aims),
            "integrated_gradients": IntegratedGradients(points=1, **aims),
            "true_effect": TrueEffect(sample=None, **aims),
        }.items()
    }
    # By hand: a unit's coefficient times what its value vector does to log p, from the weights and the residual stream.
    hand = np.zeros((len(prompts), len(units)))
    for rows, problem in block_problems(model, prompts, norm="recomputed", foil=foil):
        if problem.block.kind != "ffn":
            continue
        (slab,) = problem.slabs
        values = problem.block.writers[0].module.weight.detach().T
        for row, prompt in enumerate(rows):
            base = problem.base[row]
            scale = base.square().mean().add(problem.readout.eps).rsqrt()
            gamma, weight = problem.readout.gamma, problem.readout.weight
            p = torch.softmax(weight @ (gamma * base * scale), dim=-1)
            against = -p
            if foil is not None:
                against = torch.zeros_like(p)
                against[prompts[prompt].foil_id] = -1.0
            against[prompts[prompt].target_id] += 1.0
            back = gamma * (weight.T @ against)
            slope = scale * back - scale**3 / len(base) * (back @ base) * base
            hand[prompt] = (slab.coefficients[row] * (values @ slope)).numpy()
    assert np.abs(hand).max() > 1e-9
    for name, scores in found.items():
        exactness = 3e-2 if name in ("lpi", "true_effect") else 1e-3  # those are differences of rounded values
        assert np.abs(scores - hand).max() < exactness * np.abs(hand).max(), name


@pytest.mark.parametrize("name", EVERY)
def test_scores_have_the_dtype_of_the_weights(name):
    for dtype in (torch.float32, torch.float64):
        found = scores_of(tiny_model("Qwen2-MoE", dtype), EVERY[name], questions(2))[0][name]
        assert found.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EVERY)
def test_models_in_half_precision_that_nobody_has_checked_run_and_are_finite(name, dtype):
    model = build_model(tiny_module("Qwen2-MoE", dtype))
    found, results = scores_of(model, EVERY[name], questions(2))
    whole = scores_of(tiny_model("Qwen2-MoE"), EVERY[name], questions(2))[0][name]
    there = np.isfinite(whole)
    assert np.isfinite(found[name][there]).all()
    assert np.isfinite(results.target_logprob).all()
    assert np.corrcoef(found[name][there].astype(float), whole[there])[0, 1] > 0.7


@pytest.mark.parametrize("name", EVERY)
def test_what_is_kept_is_the_mean_of_what_there_is(name):
    model = speaking_model("OLMoE")
    whole = gated_lpi.attribute(model, FACTS, method=EVERY[name])
    seen = []
    for keep in ("relations", "mean"):
        found = gated_lpi.attribute(
            model, FACTS, method=EVERY[name], keep=keep, batch_size=2, progress=lambda *told: seen.append(told)
        )[name]
        of = whole["prompt_relation"].values
        scores = whole[name].values
        means = np.stack([scores[of == relation].mean(axis=0) for relation in ("capital", "colour")])
        np.testing.assert_allclose(found, means if keep == "relations" else scores.mean(axis=0), atol=2e-3)
    assert seen[-1] == (6, 6)
    assert [done for done, _ in seen[:3]] == [2, 4, 6]


@pytest.mark.parametrize("name", EVERY)
def test_facts_that_cannot_be_used_are_skipped_if_asked_and_whole_answers_are_checked(name):
    odd = Relation("odd", ("The {} is",), (Sample("sky", "blue nowhere"), Sample("sun", "yellow blue")))
    model = speaking_model("Llama")
    method = type(EVERY[name])(**{key: getattr(EVERY[name], key) for key in EVERY[name].model_fields_set}, answer="all")
    found = gated_lpi.attribute(model, FactSet((odd,), "test"), method=method, on_error="skip")
    assert found.sizes["prompt"] == 1
    assert "token 2 is '[UNK]'" in found.attrs["skipped"][0]
    first = gated_lpi.attribute(model, FactSet((odd,), "test"), method=EVERY[name])
    assert first.sizes["prompt"] == 2  # of which the first token alone is asked


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("case", ["OLMoE", "Qwen2-MoE", "DeepSeek-V3", "GPT-OSS"])
def test_routing_that_is_held_is_held_in_every_pass(case, name):
    model, other, prompts = tiny_model(case, torch.float64), tiny_model(case, torch.float64, seed=1), questions(3)
    free = scores_of(model, PASSES[name], prompts)[0][name]
    ids = [item.ids for item in prompts]
    with replayed(model, record_routing(model, ids)):  # its own: gates are constants, and gradients of routers gone
        own, results = scores_of(model, PASSES[name], prompts)
        assert np.abs(results.target_logprob - values_of(model, prompts).numpy()).max() < 5e-6
    with replayed(model, record_routing(other, ids)):
        foreign, results = scores_of(model, PASSES[name], prompts)
        assert np.abs(results.target_logprob - values_of(model, prompts).numpy()).max() < 5e-6
    for scores in (own[name], foreign[name]):
        there = np.isfinite(free)
        assert np.isfinite(scores[there]).all()
        assert np.abs(scores - free)[there].max() > 1e-4
    again = scores_of(model, PASSES[name], prompts)[0][name]
    np.testing.assert_array_equal(again, free)


@pytest.mark.parametrize(
    ("method", "given", "told"),
    [
        (LPI(), {"at": "last"}, r"method=gated_lpi\.GradientTimesActivation\(at='last'\) or method=gated_lpi\.Integr"),
        (LPI(), {"points": 4}, r"belongs to the method: method=gated_lpi\.IntegratedGradients\(points=4\)$"),
        (LPI(), {"sample": 4}, r"method=gated_lpi\.TrueEffect\(sample=4\)$"),
        (LPI(), {"foil": "best"}, r"the method: method=gated_lpi\.LPI\(foil='best'\)$"),
        (LPI(), {"tolerance": 1e-2}, r"method=gated_lpi\.LPI\(estimator=Certified\(tolerance=0\.01\)\)$"),
        (TrueEffect(), {"foil": "best"}, r"the method: method=gated_lpi\.TrueEffect\(foil='best'\)$"),
        (TrueEffect(), {"tolerance": 1e-2}, r"method=gated_lpi\.LPI\(estimator=Certified\(tolerance=0\.01\)\)$"),
        (LPI(), {"colour": "red"}, "attribute has no such option"),
    ],
)
def test_an_option_of_a_method_that_is_given_elsewhere_is_sent_home(method, given, told):
    model = gated_lpi.loading.wrap_model(tiny_module("Llama"), tiny_tokenizer())
    with pytest.raises(OptionError, match=told):
        gated_lpi.attribute(model, FACTS, method=method, **given)
