"""Agreement on a sample of units, and of permuted units."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from gated_lpi.errors import OptionError
from gated_lpi.metrics import agreement, agreement_chance, agreement_interval, sampled_agreement_interval

LAYER = np.repeat([0, 1, 2], 8)
RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=24)
A = TRUE + 0.3 * RNG.normal(size=(12, 24))
B = TRUE + 0.3 * RNG.normal(size=(12, 24))


def test_the_estimate_is_that_of_the_means_and_lies_in_its_interval():
    found = sampled_agreement_interval(A, B, LAYER, 0.2, draws=100)
    assert found.estimate == agreement(A.mean(axis=0), B.mean(axis=0), LAYER, 0.2)
    assert found.low.spearman < found.estimate.spearman <= found.high.spearman <= 1
    assert sampled_agreement_interval(A, B, LAYER, 0.2, draws=100) == found


def test_units_that_were_sampled_make_it_wider_than_prompts_alone():
    other = B + np.random.default_rng(1).normal(size=24)  # a method that truly ranks otherwise
    both, prompts = (f(A, other, LAYER, 0.2, draws=200) for f in (sampled_agreement_interval, agreement_interval))
    assert both.high.spearman - both.low.spearman > 1.5 * (prompts.high.spearman - prompts.low.spearman)


def test_it_holds_the_correlation_of_all_units_nearly_as_often_as_it_says():
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=400)
        other = truth + rng.normal(size=400)
        rows = rng.choice(400, 40, replace=False)
        noise = rng.normal(scale=0.3, size=(2, 20, 40))
        found = sampled_agreement_interval(noise[0] + truth[rows], noise[1] + other[rows], draws=60, seed=seed)
        held += found.low.spearman <= spearmanr(truth, other).statistic <= found.high.spearman
    assert held >= 48


def test_permuted_units_agree_by_chance_alone():
    found = agreement_chance(TRUE, TRUE, LAYER, 0.25, draws=400)
    assert abs(found.estimate.spearman) < 0.05
    assert abs(found.estimate.spearman_within) < 0.05
    assert found.estimate.overlap == pytest.approx(0.25, abs=0.03)
    assert found.low.spearman < -0.25
    assert found.high.spearman > 0.25


def test_chance_within_layers_keeps_what_layers_have_in_common():
    late = LAYER + 0.01 * TRUE
    found = agreement_chance(late, late, LAYER, 0.25, draws=100)
    assert abs(found.estimate.spearman_within) < 0.1
    assert abs(found.estimate.spearman) < 0.1  # permuted among all layers


def test_shapes_that_differ_and_no_draws_are_refused():
    with pytest.raises(OptionError, match="same units"):
        sampled_agreement_interval(A, B[:, :3])
    with pytest.raises(OptionError, match="draws"):
        sampled_agreement_interval(A, B, draws=0)
    with pytest.raises(OptionError, match="draws"):
        agreement_chance(TRUE, TRUE, draws=0)
