"""The top set: its exact size, its members, and what ties do."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gated_lpi.errors import OptionError
from gated_lpi.metrics import set_size, top_mask, top_set, top_set_ties, top_set_undecided

distinct_scores = st.lists(st.integers(-1000, 1000), min_size=1, max_size=60, unique=True).map(
    lambda values: np.array(values, dtype=np.float64)
)


@pytest.mark.parametrize(
    ("n", "fraction", "size"),
    [
        (100, 0.01, 1),  # 1 exactly
        (100, 0.07, 7),  # 0.07 * 100 is 7.000000000000001 in binary floats
        (1000, 0.029, 29),  # 0.029 * 1000 is 29.000000000000004
        (101, 0.01, 2),  # 1.01, up
        (3, 0.01, 1),  # 0.03, up
        (4, 0.5, 2),
        (7, 1.0, 7),
        (1_048_576, 0.01, 10_486),  # 10485.76, up
        (200_000, 1e-05, 2),  # a fraction that prints with an exponent
    ],
)
def test_the_size_is_the_ceiling_of_the_decimal_product(n: int, fraction: float, size: int) -> None:
    assert set_size(n, fraction) == size


def test_the_hazard_is_real_for_floats() -> None:
    assert math.ceil(0.07 * 100) == 8


def test_the_greatest_scores_in_unit_order() -> None:
    # Half of 6 units is 3: the scores 9, 7 and 4 lie at units 4, 1 and 2.
    members = top_set([1.0, 7.0, 4.0, -8.0, 9.0, 0.0], 0.5)
    assert members.tolist() == [1, 2, 4]
    assert members.dtype == np.int64


def test_the_lower_unit_wins_a_tie() -> None:
    scores = [2.0, 5.0, 2.0, 2.0, 1.0, 2.0]  # half is 3: unit 1, then two of the units 0, 2, 3, 5 that score 2
    assert top_set(scores, 0.5).tolist() == [0, 1, 2]
    assert top_set_ties(scores, 0.5) == 2  # units 3 and 5


def test_scores_that_are_all_zero_tie_with_each_other() -> None:
    assert top_set(np.zeros(10), 0.2).tolist() == [0, 1]
    assert top_set_ties(np.zeros(10), 0.2) == 8


def test_no_ties() -> None:
    assert top_set_ties([3.0, 2.0, 1.0], 0.5) == 0  # the set is {0, 1}
    assert top_set_ties([3.0, 3.0], 1.0) == 0  # nothing is outside


def test_the_mask_takes_leading_axes_one_by_one() -> None:
    scores = np.array([[[1.0, 2.0], [2.0, 1.0]], [[3.0, 3.0], [-1.0, -2.0]]])
    expected = [[[False, True], [True, False]], [[True, False], [True, False]]]
    assert top_mask(scores, 0.5).tolist() == expected


def test_a_mask_over_no_checkpoints_is_empty() -> None:
    assert top_mask(np.empty((0, 5)), 0.2).shape == (0, 5)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(OptionError, match=r"fraction is .* expected a share"):
        top_set([1.0, 2.0], fraction)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(OptionError, match="scores holds 1 values that are NaN or infinite"):
        top_set([1.0, bad])


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(OptionError, match=r"scores has shape \(1, 2\); expected 1 axes"):
        top_set([[1.0, 2.0]])
    with pytest.raises(OptionError, match="last axis is empty"):
        top_set([])
    with pytest.raises(OptionError, match="number of units is 0"):
        set_size(0)


@given(distinct_scores, st.floats(0.001, 1.0), st.randoms(use_true_random=False))
def test_permuting_units_permutes_the_set(scores: np.ndarray, fraction: float, random: Random) -> None:
    order = np.array(random.sample(range(scores.size), scores.size))
    permuted = top_set(scores[order], fraction)
    assert sorted(order[permuted].tolist()) == top_set(scores, fraction).tolist()


@given(arrays(np.float64, st.integers(1, 40), elements=st.integers(-3, 3)), st.floats(0.001, 1.0))
def test_agrees_with_a_stable_sort(scores: np.ndarray, fraction: float) -> None:
    members = top_set(scores, fraction)
    expected = np.argsort(-scores, kind="stable")[: set_size(scores.size, fraction)]
    assert members.tolist() == sorted(expected.tolist())
    outside = np.setdiff1d(np.arange(scores.size), members)
    assert top_set_ties(scores, fraction) == sum(scores[unit] == scores[members].min() for unit in outside)


def test_error_bounds_leave_units_open() -> None:
    scores = [5.0, 4.0, 3.5, 1.0, 0.0]
    assert top_set_undecided(scores, [0.0] * 5, 0.4) == 0
    assert top_set_undecided(scores, [0.2] * 5, 0.4) == 0
    assert top_set_undecided(scores, [0.25] * 5, 0.4) == 1  # 3.5 + 0.25 reaches 4 − 0.25
    assert top_set_undecided(scores, [0.0, 0.0, 0.0, 3.5, 0.0], 0.4) == 1  # only the bound of unit 3 is wide
    assert top_set_undecided(scores, [0.0, 4.0, 0.0, 0.0, 0.0], 0.4) == 3  # a member that may score 0


def test_without_errors_what_is_undecided_is_tied() -> None:
    scores = [1.0, 2.0, 2.0, 2.0, 0.0]
    assert top_set_undecided(scores, np.zeros(5), 0.4) == top_set_ties(scores, 0.4) == 1


def test_errors_of_another_shape_are_refused() -> None:
    with pytest.raises(OptionError, match="one bound"):
        top_set_undecided([1.0, 2.0], [0.1], 0.5)
    with pytest.raises(OptionError, match="one bound"):
        top_set_undecided([1.0, 2.0], [0.1, -0.1], 0.5)
