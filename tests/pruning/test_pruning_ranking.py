"""Rankings of experts, each against its formula written out."""

import numpy as np
import pytest
import torch
import xarray as xr

from gated_lpi import attribute
from gated_lpi.errors import OptionError
from gated_lpi.options import GradientTimesActivation
from gated_lpi.pruning import RANKINGS, expert_stability, rank_experts, rank_from_scores, watch_experts
from tiny_models import MOE_CASES, random_prompts, tiny_model
from tiny_text import FACTS, speaking_model


@pytest.fixture(scope="module")
def model():
    return speaking_model("Qwen2-MoE")


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_routed_tokens_are_what_the_experts_are_given_and_write(case):
    """Frequency and REAP from the experts' module itself, an expert and a token at a time."""
    model = tiny_model(case)
    sequences = random_prompts(4)
    seen = watch_experts(model, sequences)
    counts, written = np.zeros_like(seen.counts), np.zeros_like(seen.written)
    for layer, (_, writer) in enumerate(model.routed()):
        for ids in sequences:
            given = []
            hook = writer.module.register_forward_pre_hook(lambda _, args, given=given: given.append(args))
            model.module(input_ids=torch.tensor([ids]))
            hook.remove()
            hidden, experts, gates = given[0]
            for token in range(len(ids)):
                for expert, gate in zip(experts[token].tolist(), gates[token].tolist(), strict=True):
                    one = writer.module(hidden[token : token + 1], torch.tensor([[expert]]), torch.ones(1, 1))
                    counts[layer, expert] += 1
                    written[layer, expert] += gate * float(one.detach().norm())
    np.testing.assert_array_equal(seen.counts, counts)
    np.testing.assert_allclose(seen.written, written, rtol=1e-4)
    assert seen.n_tokens == sum(map(len, sequences))
    np.testing.assert_allclose(seen.frequency.sum(axis=1), model.experts_per_token)
    np.testing.assert_allclose(seen.reap[counts > 0], (written / counts.clip(1))[counts > 0], rtol=1e-4)


def test_rankings_by_scores_are_means_over_prompts(model):
    scores = attribute(model, FACTS, units=["ffn", "experts"])
    routed = scores["expert_unit_expert"].to_numpy() >= 0
    expected = scores["expert_lpi"].to_numpy()[:, routed].mean(axis=0)
    np.testing.assert_allclose(rank_experts(model, "lpi", facts=FACTS).scores, expected[None], atol=1e-6)
    gradients = attribute(model, FACTS, method=GradientTimesActivation(), units=["ffn"])["grad_x_act"]
    by_hand = [gradients.to_numpy()[:, gradients["expert"] == e].sum(axis=1).mean() for e in range(8)]
    np.testing.assert_allclose(rank_experts(model, "grad_x_act", facts=FACTS).scores, [by_hand], atol=1e-6)


def test_by_relation_counts_every_prompt_once(model):
    """As runs keep scores: means over relations of four and of two prompts."""
    kept = attribute(model, FACTS, units=["ffn", "experts"], keep="relations")
    whole = attribute(model, FACTS, units=["ffn", "experts"], keep="mean")
    np.testing.assert_allclose(rank_from_scores("lpi", kept).scores, rank_from_scores("lpi", whole).scores, atol=1e-6)


def profiles(*values):
    """Scores of a layer of two experts of two neurons at one checkpoint, an attention unit before them."""
    coords = {
        "layer": ("unit", [0] * 5),
        "expert": ("unit", [-1, 0, 0, 1, 1]),
        "expert_unit_layer": ("expert_unit", [0, 0, 0]),
        "expert_unit_expert": ("expert_unit", [0, 1, -1]),
    }
    lpi = ("unit", np.array([7.0, *values]))
    return xr.Dataset({"lpi_mean": lpi, "expert_lpi": ("expert_unit", [2.0, -4.0, 9.0])}, coords)


def test_stability_is_the_mean_cosine_of_consecutive_profiles():
    series = [profiles(1, 0, 0, 1), profiles(0, 2, 0, 3), profiles(1, 1, 0, -1), profiles(2, 2, 0, 0)]
    np.testing.assert_allclose(expert_stability(series), [[(0 + np.sqrt(0.5) + 1) / 3, (1 + 0 + 0) / 3]])
    np.testing.assert_allclose(expert_stability(series, pairs=1), [[1, 0]])
    found = rank_from_scores("lpi_stable", series[2], series[:2], pairs=2)
    np.testing.assert_allclose(found.scores, [[2 * np.sqrt(0.5) / 2, -4 * 0.5]])


def test_stability_is_that_of_the_model_itself_at_an_unchanged_checkpoint(model):
    past = [attribute(model, FACTS, units=["ffn"], keep="mean")]
    found = rank_experts(model, "lpi_stable", facts=FACTS, past=past).scores
    plain = rank_experts(model, "lpi", facts=FACTS).scores
    np.testing.assert_allclose(found[plain != 0], plain[plain != 0], rtol=1e-5)


def test_random_is_a_seeds_own(model):
    one, same, other = (rank_experts(model, "random", seed=seed).scores for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert one.shape == (1, 8)
    assert (one != other).any()


@pytest.mark.parametrize(
    ("by", "given", "message"),
    [
        ("loudness", {}, "by='loudness' was given; expected one of 'lpi_stable'"),
        ("lpi", {}, "by='lpi' was given without facts"),
        ("reap", {}, "by='reap' was given without anything to read"),
        ("lpi_stable", {"facts": FACTS}, "needs scores of checkpoints before this one"),
    ],
)
def test_what_a_ranking_needs_is_asked_for(model, by, given, message):
    with pytest.raises(OptionError, match=message):
        rank_experts(model, by, **given)


def test_a_past_of_another_model_is_refused(model):
    past = [attribute(speaking_model("OLMoE"), FACTS, units=["ffn"], keep="mean")]
    with pytest.raises(OptionError, match="expected the same model"):
        rank_experts(model, "lpi_stable", facts=FACTS, past=past)
    with pytest.raises(OptionError, match="pairs=0 was given"):
        expert_stability([profiles(1, 0, 0, 1)] * 2, pairs=0)


@pytest.mark.parametrize("by", RANKINGS)
def test_a_dense_model_is_refused(by):
    with pytest.raises(OptionError, match="has no routed experts"):
        rank_experts(speaking_model("Llama"), by, facts=FACTS)


def test_scores_without_experts_are_refused(model):
    with pytest.raises(OptionError, match="no expert_lpi"):
        rank_from_scores("lpi", attribute(model, FACTS, units=["ffn"], keep="mean"))
    with pytest.raises(OptionError, match="no grad_x_act"):
        rank_from_scores("grad_x_act", attribute(model, FACTS, units=["ffn"], keep="mean"))
    with pytest.raises(OptionError, match="scores rank experts by"):
        rank_from_scores("reap", xr.Dataset())
