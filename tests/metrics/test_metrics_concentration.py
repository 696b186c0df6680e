"""Gain concentration, importance share and entropy on arrays whose answers can be added up by hand."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gated_lpi.errors import OptionError
from gated_lpi.metrics import entropy, gain_concentration, importance_share

score_rows = arrays(np.float64, st.integers(2, 30), elements=st.floats(-10, 10, width=32), unique=True)


def test_gain_of_the_top_set_and_of_the_greatest_gains() -> None:
    previous = [5.0, 1.0, 0.0, 2.0]
    current = [6.0, 4.0, 3.5, 1.0]
    # Gains 1, 3, 3.5 and −1: positive gain 7.5. Top half of `current` is {0, 1}: (1 + 3) / 7.5.
    # The two greatest gains are units 2 and 1: (3.5 + 3) / 7.5.
    result = gain_concentration(previous, current, 0.5)
    assert result.positive_gain == pytest.approx(7.5)
    assert result.top_set == pytest.approx(4 / 7.5)
    assert result.top_by_gain == pytest.approx(6.5 / 7.5)


def test_a_top_set_that_lost_importance_holds_no_gain() -> None:
    result = gain_concentration([9.0, 0.0], [8.0, 1.0], 0.5)  # top set {0} lost 1; unit 1 gained 1
    assert result.top_set == 0.0
    assert result.top_by_gain == 1.0


def test_no_positive_gain_is_undefined() -> None:
    result = gain_concentration([3.0, 2.0, 1.0], [3.0, 1.0, 0.0], 0.5)
    assert np.isnan(result.top_set)
    assert np.isnan(result.top_by_gain)
    assert result.positive_gain == 0.0


def test_gain_takes_leading_axes() -> None:
    previous = np.array([[0.0, 0.0], [1.0, 1.0]])
    current = np.array([[3.0, 1.0], [1.0, 1.0]])
    result = gain_concentration(previous, current, 0.5)
    np.testing.assert_allclose(result.top_set, [3 / 4, np.nan])
    np.testing.assert_allclose(result.positive_gain, [4.0, 0.0])
    assert gain_concentration(previous[:0], current[:0], 0.5).top_set.shape == (0,)


def test_gain_refuses_other_units_and_nan() -> None:
    with pytest.raises(OptionError, match=r"previous has shape \(2,\) and current \(3,\)"):
        gain_concentration([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(OptionError, match="previous holds 1 values"):
        gain_concentration([np.nan, 2.0], [1.0, 2.0])
    with pytest.raises(OptionError, match="current holds 1 values"):
        gain_concentration([1.0, 2.0], [np.inf, 2.0])


def test_importance_share_leaves_negative_scores_out() -> None:
    # Positive importance 6 + 3 + 1 = 10; the top half {0, 1} holds 9.
    assert importance_share([6.0, 3.0, 1.0, -50.0], 0.5) == pytest.approx(0.9)
    # A top set may reach into negative scores, which count as 0: {0, 1} holds all of 2.
    assert importance_share([2.0, -1.0, -2.0, -3.0], 0.5) == 1.0
    assert np.isnan(importance_share([0.0, -1.0], 0.5))
    np.testing.assert_allclose(importance_share([[1.0, 3.0], [0.0, 0.0]], 0.5), [0.75, np.nan])


def test_entropy_of_equal_units() -> None:
    # Two of four units carry 1/2 each: H = log 2, over log 4 is 1/2; exp(H) = 2.
    # Gini of 0, 0, 1/2, 1/2: ((2·3 − 5)/2 + (2·4 − 5)/2) / 4 = (1/2 + 3/2) / 4 = 1/2.
    result = entropy([2.0, 0.0, 2.0, -7.0])
    assert result.normalised == pytest.approx(0.5)
    assert result.effective_units == pytest.approx(2.0)
    assert result.gini == pytest.approx(0.5)


def test_entropy_of_unequal_units() -> None:
    # Shares 3/4 and 1/4: H = log 4 − (3/4) log 3 = 0.562335; over log 2 is 0.811278; exp(H) = 1.754765.
    # Gini: ((2·1 − 3)·1/4 + (2·2 − 3)·3/4) / 2 = 1/4.
    result = entropy([3.0, 1.0])
    assert result.normalised == pytest.approx(0.8112781244591328)
    assert result.effective_units == pytest.approx(1.7547653506033232)
    assert result.gini == pytest.approx(0.25)


def test_entropy_at_its_ends() -> None:
    even, single = entropy(np.full(5, 0.3)), entropy([0.0, 4.0, 0.0, 0.0])
    assert even.normalised == pytest.approx(1.0)
    assert even.effective_units == pytest.approx(5.0)
    assert even.gini == pytest.approx(0.0, abs=1e-12)
    assert single.normalised == 0.0
    assert single.effective_units == 1.0
    assert single.gini == pytest.approx(3 / 4)  # 1 − 1/N


def test_entropy_where_it_is_undefined() -> None:
    assert all(np.isnan(field) for field in entropy([0.0, -1.0]))
    one_unit = entropy([2.0])
    assert np.isnan(one_unit.normalised)  # log 1 = 0
    assert one_unit.effective_units == 1.0
    assert one_unit.gini == 0.0


def test_entropy_takes_leading_axes() -> None:
    result = entropy([[1.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(result.effective_units, [2.0, np.nan, 1.0])


@given(score_rows, score_rows, st.randoms(use_true_random=False))
def test_order_and_scale_of_units_do_not_matter(first: np.ndarray, second: np.ndarray, random: Random) -> None:
    n = min(first.size, second.size)
    previous, current = first[:n], second[:n]
    order = np.array(random.sample(range(n), n))
    before = gain_concentration(previous, current, 0.3)
    for after in (
        gain_concentration(previous[order], current[order], 0.3),
        gain_concentration(previous * 4.0, current * 4.0, 0.3)._replace(positive_gain=before.positive_gain),
    ):
        for left, right in zip(before, after, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-9)
    np.testing.assert_allclose(importance_share(current, 0.3), importance_share(4.0 * current[order], 0.3))
    for left, right in zip(entropy(current), entropy(4.0 * current[order]), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)


@given(score_rows, st.floats(0.01, 1.0))
def test_shares_and_entropy_stay_inside_their_bounds(scores: np.ndarray, fraction: float) -> None:
    n = scores.size
    evenness = entropy(scores)
    gains = gain_concentration(np.zeros(n), scores, fraction)
    if (scores > 0).any():
        assert 0.0 <= evenness.normalised <= 1.0
        assert 1.0 <= evenness.effective_units <= n
        assert 0.0 <= evenness.gini <= 1.0 - 1.0 / n + 1e-12
        assert 0.0 < importance_share(scores, fraction) <= 1.0
        assert 0.0 <= gains.top_set <= gains.top_by_gain + 1e-12
    else:
        assert np.isnan(evenness.normalised)
        assert np.isnan(gains.top_set)
