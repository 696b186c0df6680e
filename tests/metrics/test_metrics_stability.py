"""Top-set stability and its chance level, against counts done by hand and by enumeration."""

from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gated_lpi.errors import OptionError
from gated_lpi.metrics import jaccard, jaccard_chance, jaccard_chance_interval, top_set_stability

units = st.lists(st.integers(0, 20), max_size=12)


def test_jaccard_counts_units() -> None:
    assert jaccard([0, 1, 2], [1, 2, 3]) == 2 / 4  # shared 1, 2; united 0, 1, 2, 3
    assert jaccard([0, 1], [2, 3]) == 0.0
    assert jaccard([5, 4], [4, 5]) == 1.0
    assert jaccard([1, 1, 2], [2]) == 1 / 2  # a unit counts once
    assert jaccard([], []) == 1.0
    assert jaccard([], [3]) == 0.0


@given(units, units)
def test_jaccard_is_a_symmetric_share(a: list[int], b: list[int]) -> None:
    assert 0.0 <= jaccard(a, b) <= 1.0
    assert jaccard(a, b) == jaccard(b, a)
    assert jaccard(a, a) == 1.0


def test_stability_of_consecutive_checkpoints() -> None:
    scores = [
        [9.0, 8.0, 1.0, 0.0],  # top half {0, 1}
        [9.0, 1.0, 8.0, 0.0],  # {0, 2}: 1 shared of 3
        [8.0, 0.0, 9.0, 1.0],  # {0, 2}: 2 of 2
        [0.0, 8.0, 1.0, 9.0],  # {1, 3}: 0 of 4
    ]
    np.testing.assert_allclose(top_set_stability(scores, 0.5), [1 / 3, 1.0, 0.0])


def test_one_checkpoint_has_no_pairs() -> None:
    assert top_set_stability([[1.0, 2.0, 3.0]], 0.5).shape == (0,)


def test_stability_refuses_one_axis_and_nan() -> None:
    with pytest.raises(OptionError, match=r"scores has shape \(2,\); expected 2 axes"):
        top_set_stability([1.0, 2.0])
    with pytest.raises(OptionError, match="NaN"):
        top_set_stability([[1.0, float("nan")]])


@given(
    arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 12)), elements=st.floats(-5, 5), unique=True),
    st.randoms(use_true_random=False),
)
def test_stability_ignores_the_order_and_the_scale_of_units(scores: np.ndarray, random: Random) -> None:
    stability = top_set_stability(scores, 0.3)
    assert ((stability >= 0) & (stability <= 1)).all()
    order = np.array(random.sample(range(scores.shape[1]), scores.shape[1]))
    np.testing.assert_array_equal(top_set_stability(scores[:, order], 0.3), stability)
    np.testing.assert_array_equal(top_set_stability(scores * 8.0, 0.3), stability)


def test_chance_by_hand() -> None:
    # Two pairs out of 4 units: X = 0, 1, 2 with probability 1/6, 4/6, 1/6, so J = 0, 1/3, 1.
    # Mean = 4/6 * 1/3 + 1/6 * 1 = 4/18 + 3/18 = 7/18.
    assert jaccard_chance(4, 2) == pytest.approx(7 / 18, rel=1e-12)
    # One unit out of n: the same with probability 1/n.
    assert jaccard_chance(50, 1) == pytest.approx(1 / 50, rel=1e-12)
    assert jaccard_chance(6, 6) == 1.0


@pytest.mark.parametrize(("n", "k"), [(5, 3), (7, 2), (8, 5)])
def test_chance_by_enumeration(n: int, k: int) -> None:
    first = tuple(range(k))  # by symmetry one of the sets may be fixed
    values = [jaccard(first, other) for other in combinations(range(n), k)]
    assert jaccard_chance(n, k) == pytest.approx(np.mean(values), rel=1e-12)


def test_chance_of_a_million_units() -> None:
    # X is concentrated at k²/n = 100 here: J is near 100 / (2·10000 − 100) = 0.0050251.
    assert jaccard_chance(1_000_000, 10_000) == pytest.approx(100 / 19_900, rel=1e-3)
    low, high = jaccard_chance_interval(1_000_000, 10_000)
    # X is nearly normal, variance k·(k/n)·(1 − k/n)·(n − k)/(n − 1) = 98.01: 100 ± 1.96 · 9.9 = 80.6 to 119.4.
    assert 78 / (20_000 - 78) < low < 83 / (20_000 - 83)
    assert 117 / (20_000 - 117) < high < 122 / (20_000 - 122)


def test_chance_interval_by_hand() -> None:
    # J = 0, 1/3, 1 with cumulated probability 1/6, 5/6, 1. The middle 60% lies between 0.2 and 0.8: both in 1/3.
    assert jaccard_chance_interval(4, 2, level=0.6) == pytest.approx((1 / 3, 1 / 3))
    # The middle 95% runs from 0.025 (J = 0) to 0.975 (J = 1).
    assert jaccard_chance_interval(4, 2) == (0.0, 1.0)
    assert jaccard_chance_interval(3, 3) == (1.0, 1.0)


def test_chance_refuses_impossible_sets() -> None:
    for k in (0, 5):
        with pytest.raises(OptionError, match="expected a set of 1 to n units"):
            jaccard_chance(4, k)
    with pytest.raises(OptionError, match="level is 95"):
        jaccard_chance_interval(4, 2, level=95)
