"""The routing null against every permutation of a case that is small enough to write them all down."""

from itertools import permutations

import numpy as np
import pytest

from gated_lpi.errors import OptionError
from gated_lpi.metrics import (
    expert_stability,
    gain_concentration,
    gain_routing_null,
    jaccard,
    routing_null,
    top_set,
)

# Experts 0 (three units) and 1 (two units); top 3 of 5: {0, 1, 3} before, {1, 2, 3} after.
BEFORE = np.array([5.0, 4.0, 0.0, 6.0, 1.0])
AFTER = np.array([1.0, 7.0, 8.0, 9.0, 0.5])
GROUP = np.array([0, 0, 0, 1, 1])


def every_permutation(values):
    for first in permutations(range(3)):
        for second in permutations((3, 4)):
            yield values[[*first, *second]]


def test_by_hand_and_by_every_permutation():
    found = routing_null(BEFORE, AFTER, GROUP, 0.6, draws=4000)
    # a = (2, 1), b = (2, 1), n = (3, 2): E[X] = 4/3 + 1/2. Shared are 1 and 3: J = 2 / 4. At most 3 can be.
    assert found.overlap == 2
    assert found.observed == 0.5
    assert found.expected_overlap == pytest.approx(4 / 3 + 1 / 2)
    assert found.given_counts == pytest.approx((2 - 11 / 6) / (3 - 11 / 6))
    overlaps = [np.intersect1d(top_set(moved, 0.6), top_set(AFTER, 0.6)).size for moved in every_permutation(BEFORE)]
    assert np.mean(overlaps) == pytest.approx(found.expected_overlap)
    index = [jaccard(top_set(moved, 0.6), top_set(AFTER, 0.6)) for moved in every_permutation(BEFORE)]
    assert found.mean == pytest.approx(np.mean(index), abs=0.01)
    assert (found.low, found.high) == (min(index), max(index))


def test_gain_by_every_permutation():
    gains = [np.maximum(AFTER - moved, 0) for moved in every_permutation(BEFORE)]
    expected = np.mean([gain[[1, 2, 3]].sum() for gain in gains]) / np.mean([gain.sum() for gain in gains])
    assert gain_routing_null(BEFORE, AFTER, GROUP, 0.6) == pytest.approx(expected)
    assert np.isnan(gain_routing_null([2.0, 2.0], [1.0, 0.0], [0, 0], 0.5))


def test_gain_is_near_the_mean_ratio_over_permutations():
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 50)
    before = random.standard_normal(2000) + random.standard_normal(40)[group]
    after = before + random.standard_normal(2000)
    ratios = []
    for _ in range(100):
        moved = before.reshape(40, 50)[np.arange(40)[:, None], random.permuted(np.tile(np.arange(50), (40, 1)), axis=1)]
        ratios.append(float(gain_concentration(moved.ravel(), after, 0.05).top_set))
    assert gain_routing_null(before, after, group, 0.05) == pytest.approx(np.mean(ratios), rel=0.01)


def test_experts_that_explain_everything_and_nothing():
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(50), 100)
    level = 10 * (group < 5)
    by_expert = [level + random.standard_normal(5000) for _ in range(2)]
    found = routing_null(*by_expert, group, 0.05, draws=200)
    assert found.low <= found.observed <= found.high
    assert abs(found.given_counts) < 0.1
    assert found.mean > 0.3
    same = routing_null(by_expert[0], by_expert[0], group, 0.05, draws=200)
    assert same.observed == 1.0
    assert same.given_counts == 1.0


def test_what_is_permuted_within_experts_lies_in_the_interval():
    random, inside, estimates = np.random.default_rng(2), [], []
    group = np.repeat(np.arange(8), 40)
    for seed in range(300):
        before = random.standard_normal(320) + 2 * random.standard_normal(8)[group]
        after = random.permuted(before.reshape(8, 40), axis=1).ravel()
        found = routing_null(before, after, group, 0.1, draws=200, seed=seed)
        inside.append(found.low <= found.observed <= found.high)
        estimates.append(found.overlap - found.expected_overlap)
    assert np.mean(inside) >= 0.93
    assert np.mean(estimates) == pytest.approx(0, abs=4 * np.std(estimates) / np.sqrt(300))


def test_counts_that_leave_no_choice():
    found = routing_null([3.0, 2.0, 0.0], [3.0, 2.0, 1.0], [0, 0, 1], 0.6, draws=10)
    assert found.observed == found.mean == 1.0
    assert np.isnan(found.given_counts)


def test_no_shared_expert_no_shared_unit():
    found = routing_null([1.0, 0.0], [0.0, 1.0], [0, 1], 0.5, draws=10)
    assert found[:6] == (0.0, 0.0, 0.0, 0.0, 0, 0.0)


def test_experts_by_summed_importance():
    # Experts 7 and 2, and a unit of none. Sums: 3 and 4, then 5 and 4, then 5 and 1.
    scores = [[1.0, 2.0, 4.0, 99.0], [2.0, 3.0, 4.0, 0.0], [5.0, 0.0, 1.0, 0.0]]
    assert expert_stability(scores, [7, 7, 2, -1], 0.5).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: routing_null([1.0, 2.0], [1.0], [0, 0]), "expected the same units in both"),
        (lambda: routing_null([1.0, 2.0], [1.0, 2.0], [0, -1]), "a number from 0 on"),
        (lambda: gain_routing_null([1.0, 2.0], [1.0, 2.0], [0.0, 1.0]), "a number from 0 on"),
        (lambda: routing_null([1.0, 2.0], [1.0, 2.0], [0, 0], draws=0), "draws is 0"),
        (lambda: expert_stability([[1.0, 2.0]], [-1, -1]), "0 units are of an expert"),
    ],
)
def test_what_has_no_null_is_refused(call, message):
    with pytest.raises(OptionError, match=message):
        call()
