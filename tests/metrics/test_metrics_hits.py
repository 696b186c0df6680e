"""HIT@k, its interval, and drops beside random sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from gated_lpi.errors import OptionError
from gated_lpi.metrics import hit_at_k, hit_interval, random_control, relative_drop


def test_rank_zero_is_the_likeliest_token() -> None:
    ranks = [0, 0, 3, 4, 5, 9, 10, 700]
    assert hit_at_k(ranks, 1) == 2 / 8
    assert hit_at_k(ranks, 5) == 4 / 8  # ranks 0 to 4
    assert hit_at_k(ranks, 10) == 6 / 8
    assert hit_at_k([5], 5) == 0.0


def test_what_is_no_rank_is_refused() -> None:
    for bad in ([-1, 0], [0.5, 1.0], [float("nan"), 1.0]):
        with pytest.raises(OptionError, match="expected whole numbers"):
            hit_at_k(bad, 1)
    for bad_shape in ([], [[0, 1]]):
        with pytest.raises(OptionError, match="for each prompt"):
            hit_at_k(bad_shape, 1)
    with pytest.raises(OptionError, match="k is 0"):
        hit_at_k([0], 0)


def test_wilson_by_hand() -> None:
    # 10 of 20, z = 1.959964, z² = 3.841459: the centre is 1/2, half the width
    # 1.959964 · sqrt(0.25/20 + 3.841459/1600) / (1 + 3.841459/20) = 0.239252 / 1.192073 = 0.200702.
    assert hit_interval(10, 20) == pytest.approx((0.299298, 0.700702), abs=1e-6)


def test_wilson_at_the_ends() -> None:
    # 0 of n: high = z² / (n + z²) = 3.841459 / 13.841459 = 0.277533 for n = 10.
    assert hit_interval(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert hit_interval(10, 10) == pytest.approx((1 - 0.277533, 1.0), abs=1e-6)
    assert hit_interval(0, 10).low == 0.0
    assert hit_interval(10, 10).high == 1.0


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.99))
def test_wilson_agrees_with_scipy_and_holds_the_share(counts: tuple[int, int], level: float) -> None:
    hits, n = counts
    low, high = hit_interval(hits, n, level)
    expected = binomtest(hits, n).proportion_ci(level, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0.0 <= low <= hits / n <= high <= 1.0


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(OptionError, match="hits is 5 of 4 prompts"):
        hit_interval(5, 4)
    with pytest.raises(OptionError, match="n is 0"):
        hit_interval(0, 0)
    with pytest.raises(OptionError, match="level is 1"):
        hit_interval(1, 2, level=1.0)


def test_a_drop_is_relative_to_the_intact_model() -> None:
    assert relative_drop(0.8, 0.2) == pytest.approx(75.0)  # 100 · 0.6 / 0.8
    assert relative_drop(0.5, 0.6) == pytest.approx(-20.0)  # better without
    assert relative_drop(0.5, 0.5) == 0.0
    assert np.isnan(relative_drop(0.0, 0.0))
    with pytest.raises(OptionError, match="as shares between 0 and 1"):
        relative_drop(80.0, 20.0)


@given(st.floats(0.01, 1), st.floats(0, 1))
def test_a_drop_is_free_of_scale(intact: float, ablated: float) -> None:
    assert relative_drop(intact, ablated) <= 100.0
    assert relative_drop(intact / 2, ablated / 2) == pytest.approx(relative_drop(intact, ablated))


def test_random_control_by_hand() -> None:
    # Mean 3; sample variance (4 + 1 + 0 + 1 + 4) / 4 = 2.5. Two drops reach 4, so p = (1 + 2) / (1 + 5).
    # The middle 50% of 1..5 runs from 2 to 4.
    result = random_control(4.0, [1.0, 2.0, 3.0, 4.0, 5.0], level=0.5)
    assert result == pytest.approx((3.0, np.sqrt(2.5), 2.0, 4.0, 0.5))


def test_random_control_at_the_ends() -> None:
    assert random_control(90.0, np.zeros(99)).p_value == pytest.approx(0.01)  # 1 / 100, never 0
    assert random_control(-1.0, np.zeros(9)).p_value == 1.0
    single = random_control(2.0, [1.0])
    assert single.mean == single.low == single.high == 1.0
    assert np.isnan(single.std)
    assert single.p_value == 0.5


def test_random_control_without_a_defined_drop() -> None:
    assert np.isnan(random_control(float("nan"), [1.0, 2.0])).all()
    assert np.isnan(random_control(1.0, [1.0, float("nan")])).all()
    with pytest.raises(OptionError, match="drop of each random set"):
        random_control(1.0, [])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.floats(-100, 100))
def test_p_values_lie_between_one_draw_and_one(drops: list[float], drop: float) -> None:
    assert 1 / (1 + len(drops)) <= random_control(drop, drops).p_value <= 1.0
