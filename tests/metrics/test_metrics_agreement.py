"""Agreement of two rankings by hand, its chance, and how often its intervals hold what they should."""

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from gated_lpi.errors import OptionError
from gated_lpi.metrics import agreement, agreement_interval, overlap_chance

# Layer 0: units 0–3, layer 1: units 4–6. The second ranking swaps 0 and 1, and turns layer 1 round.
A = [1.0, 2.0, 3.0, 4.0, 10.0, 11.0, 12.0]
B = [2.0, 1.0, 3.0, 4.0, 12.0, 11.0, 10.0]
LAYER = [0, 0, 0, 0, 1, 1, 1]


def test_by_hand():
    found = agreement(A, B, LAYER, fraction=0.5)
    # Rank differences 1, 1, 0, 0, 2, 0, 2: 1 − 6·10 / (7·48). Pairs: 21, of which 1 + 3 are discordant.
    assert found.spearman == pytest.approx(1 - 60 / 336)
    assert found.kendall == pytest.approx((17 - 4) / 21)
    # Layer 0: 1 − 6·2 / (4·15) = 0.8; layer 1: −1. By units (4, 3) and by pairs (6, 3): τ is 4/6 and −1.
    assert found.spearman_within == pytest.approx((4 * 0.8 - 3) / 7)
    assert found.kendall_within == pytest.approx((6 * 4 / 6 - 3) / 9)
    # Top 4 of 7: {3, 4, 5, 6} both times. Within layers: 2 of 4 are {2, 3} both; 2 of 3 are {5, 6} and {4, 5}.
    assert found.overlap == 1.0
    assert found.overlap_within == pytest.approx(3 / 4)


def test_all_units_are_one_layer_unless_it_is_said_otherwise():
    found = agreement(A, B, fraction=0.5)
    assert found.spearman_within == pytest.approx(found.spearman)
    assert found.kendall_within == pytest.approx(found.kendall)
    assert found.overlap_within == found.overlap


def test_ties_and_order_of_units():
    random = np.random.default_rng(0)
    a, b, layer = random.integers(0, 6, (3, 60))
    found, order = agreement(a, b, layer, 0.1), random.permutation(60)
    assert found.spearman == pytest.approx(spearmanr(a, b).statistic)
    assert found.kendall == pytest.approx(kendalltau(a, b).statistic)
    shuffled = agreement(a[order], b[order], layer[order], 0.1)
    assert shuffled[:4] == pytest.approx(found[:4])  # ties at the edge of a top set go by unit order


def test_pooling_across_layers_flatters():
    random = np.random.default_rng(0)
    layer = np.repeat(np.arange(10), 100)
    a, b = (3 * layer + random.standard_normal(1000) for _ in range(2))
    found = agreement(a, b, layer, 0.1)
    assert found.spearman > 0.9
    assert abs(found.spearman_within) < 0.1


def test_what_ranks_nothing_has_no_say():
    found = agreement([1.0, 1.0, 1.0, 1.0], [4.0, 2.0, 3.0, 1.0], [0, 0, 1, 1], 0.5)
    assert all(np.isnan(value) for value in found[:4])
    half = agreement([1.0, 1.0, 2.0, 3.0], [4.0, 2.0, 3.0, 5.0], [0, 0, 1, 1], 0.5)
    assert half.kendall_within == 1.0
    assert agreement([1.0], [2.0], [0]).overlap == 1.0


def test_chance_of_an_overlap():
    # 2 of 4 units: k/n = 1/2, and both, one or none are shared. Within: 2 of 3 and 1 of 1.
    chance = overlap_chance([0, 0, 0, 1], 0.5)
    assert chance.mean == 0.5
    assert (chance.low, chance.high) == (0.0, 1.0)
    assert chance.mean_within == pytest.approx((4 / 3 + 1) / 3)
    random = np.random.default_rng(0)
    layer = np.repeat([0, 1], [30, 70])
    found = [agreement(*random.standard_normal((2, 100)), layer, 0.1) for _ in range(400)]
    expected = overlap_chance(layer, 0.1)
    assert np.mean([one.overlap for one in found]) == pytest.approx(expected.mean, abs=0.02)
    assert np.mean([one.overlap_within for one in found]) == pytest.approx(expected.mean_within, abs=0.02)
    assert np.mean([expected.low <= one.overlap <= expected.high for one in found]) >= 0.95


@pytest.mark.slow
def test_intervals_hold_the_agreement_of_means_without_noise():
    random, held, percentiles = np.random.default_rng(1), [], []
    layer = np.repeat([0, 1], 30)
    for seed in range(40):
        truth = layer + random.standard_normal((2, 60))
        truth[1] += truth[0]
        a, b = truth[:, None] + 2 * random.standard_normal((2, 30, 60))
        found = agreement_interval(a, b, layer, 0.1, draws=60, seed=seed)
        wanted, (estimate, low, high) = agreement(*truth, layer, 0.1), found
        held.append(low.spearman <= wanted.spearman <= high.spearman)
        mirrored = 2 * estimate.spearman - high.spearman, 2 * estimate.spearman - low.spearman
        percentiles.append(mirrored[0] <= wanted.spearman <= mirrored[1])
        assert all(0 <= low[i] <= high[i] <= 1 for i in (4, 5))
    assert np.mean(held) >= 0.7  # as the module says: the correction is of first order
    assert np.mean(percentiles) < np.mean(held) - 0.2


def test_prompts_that_agree_leave_no_width():
    found = agreement_interval([A] * 3, [B] * 3, LAYER, 0.5, draws=10)
    np.testing.assert_allclose(found.low, found.high)
    np.testing.assert_allclose(found.estimate, agreement(A, B, LAYER, 0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [1.0]), r"a has shape \(2,\) and b \(1,\)"),
        (([1.0, 2.0], [1.0, 2.0], [0]), "layer has shape"),
        (([1.0, float("nan")], [1.0, 2.0]), "a holds 1 values"),
        (([1.0, 2.0], [1.0, 2.0], None, 0.0), "fraction is 0.0"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, message):
    with pytest.raises(OptionError, match=message):
        agreement(*arguments)


def test_methods_on_other_prompts_are_refused():
    with pytest.raises(OptionError, match="expected scores of the same units"):
        agreement_interval(np.zeros((2, 3)), np.zeros((3, 3)))
