"""The bootstrap over relations, and the share of a random set."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gated_lpi.errors import OptionError
from gated_lpi.metrics import bootstrap, random_share_chance


def mean_of(values: np.ndarray) -> np.ndarray:
    return values


def test_the_estimate_weights_relations_by_their_prompts() -> None:
    # (3 · 1 + 1 · 5) / 4 = 2 and (3 · 0 + 1 · 8) / 4 = 2.
    result = bootstrap(mean_of, [[1.0, 0.0], [5.0, 8.0]], [3, 1], draws=10)
    np.testing.assert_allclose(result.estimate, [2.0, 2.0])
    assert result.draws.tolist() == [10, 10]


def test_the_interval_of_two_relations_by_hand() -> None:
    # Draws of two relations: both the first (1/4) gives 1, both the second (1/4) gives 5, one of each (1/2) gives 2.
    # So the middle 60% (0.2 to 0.8) runs from 1 to 5, and the middle 40% (0.3 to 0.7) is 2 alone.
    data, weights = [1.0, 5.0], [3, 1]
    wide = bootstrap(mean_of, data, weights, draws=4000, level=0.6)
    narrow = bootstrap(mean_of, data, weights, draws=4000, level=0.4)
    assert (wide.low, wide.high) == pytest.approx((1.0, 5.0))
    assert (narrow.low, narrow.high) == pytest.approx((2.0, 2.0))


def test_the_interval_of_many_relations_matches_theory() -> None:
    # The mean of R values has standard error std / sqrt(R); with 400 relations it is nearly normal.
    data = np.random.default_rng(1).standard_normal(400)
    result = bootstrap(mean_of, data, np.ones(400), draws=2000, seed=2)
    error = data.std() / np.sqrt(400)
    assert result.low == pytest.approx(data.mean() - 1.96 * error, abs=0.2 * error)
    assert result.high == pytest.approx(data.mean() + 1.96 * error, abs=0.2 * error)


def test_a_single_relation_has_no_width() -> None:
    result = bootstrap(np.max, [[1.0, 7.0]], [4], draws=5)
    assert (result.estimate, result.low, result.high) == (7.0, 7.0, 7.0)


def test_undefined_draws_are_left_out_and_counted() -> None:
    # The mean is 1, 2 or 3; only the mixed draw has a defined statistic.
    result = bootstrap(lambda mean: np.where(mean == 2.0, mean, np.nan), [1.0, 3.0], [1, 1], draws=100)
    assert (result.low, result.high) == (2.0, 2.0)
    assert 0 < result.draws < 100
    never = bootstrap(lambda _: np.nan, [1.0, 3.0], [1, 1], draws=5)
    assert np.isnan([never.estimate, never.low, never.high]).all()
    assert never.draws == 0


def test_a_statistic_may_be_empty() -> None:
    assert bootstrap(lambda mean: mean[:0], np.ones((2, 3)), [1, 1], draws=5).low.shape == (0,)


def test_the_seed_decides() -> None:
    data, weights = np.random.default_rng(0).standard_normal((6, 3)), np.arange(1, 7)
    first, again, other = (bootstrap(mean_of, data, weights, draws=50, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.low, again.low)
    assert not np.array_equal(first.low, other.low)


def test_single_precision_is_kept() -> None:
    seen = []
    bootstrap(lambda mean: seen.append(mean.dtype) or 0.0, np.ones((2, 3), dtype=np.float32), [1, 1], draws=1)
    assert set(seen) == {np.dtype(np.float32)}


@pytest.mark.parametrize("weights", [[1, 2, 3], [1, 0], [1, -1]])
def test_weights_that_do_not_fit_are_refused(weights: list[int]) -> None:
    with pytest.raises(OptionError, match="one positive weight"):
        bootstrap(mean_of, [[1.0], [2.0]], weights)


def test_other_bad_options_are_refused() -> None:
    with pytest.raises(OptionError, match="draws is 0"):
        bootstrap(mean_of, [1.0], [1], draws=0)
    with pytest.raises(OptionError, match=r"level is 1\.5"):
        bootstrap(mean_of, [1.0], [1], level=1.5)
    with pytest.raises(OptionError, match="one positive weight"):
        bootstrap(mean_of, 1.0, [1])
    with pytest.raises(OptionError, match="draws is -1"):
        random_share_chance([1.0], draws=-1)


@given(arrays(np.float64, (5, 2), elements=st.floats(-10, 10)), st.integers(0, 5))
def test_a_resampled_mean_stays_between_the_relations(data: np.ndarray, seed: int) -> None:
    result = bootstrap(mean_of, data, np.arange(1, 6), draws=20, seed=seed)
    assert (result.low <= result.high).all()
    assert (result.low >= data.min(axis=0) - 1e-9).all()
    assert (result.high <= data.max(axis=0) + 1e-9).all()


def test_the_mean_share_of_a_random_set_is_its_size() -> None:
    values = np.array([9.0, 1.0, 0.0, -4.0, 2.0, 0.5])
    # Half of 6 units: every unit lies in half of the 20 sets of three, so the mean share is 1/2 exactly.
    positive = np.maximum(values, 0.0)
    shares = [positive[list(members)].sum() / positive.sum() for members in combinations(range(6), 3)]
    chance = random_share_chance(values, 0.5, draws=400)
    assert chance.mean == pytest.approx(np.mean(shares))
    assert chance.mean == pytest.approx(0.5)
    assert min(shares) - 1e-12 <= chance.low < 0.5 < chance.high <= max(shares) + 1e-12


def test_the_interval_of_one_unit_by_hand() -> None:
    # One of two units: its share is 1/4 or 3/4, each half of the time.
    chance = random_share_chance([1.0, 3.0], 0.5, draws=200)
    assert (chance.low, chance.high) == pytest.approx((0.25, 0.75))
    # Even values leave nothing to chance; with all the units the share is 1.
    even = random_share_chance(np.ones(10), 0.3, draws=20)
    assert (even.mean, even.low, even.high) == pytest.approx((0.3, 0.3, 0.3))
    assert random_share_chance([1.0, 3.0], 1.0, draws=5) == pytest.approx((1.0, 1.0, 1.0))


def test_chance_takes_leading_axes_and_is_undefined_without_positive_values() -> None:
    chance = random_share_chance([[1.0, 1.0], [0.0, -1.0]], 0.5, draws=10)
    np.testing.assert_allclose(chance.mean, [0.5, np.nan])
    np.testing.assert_allclose(chance.low, [0.5, np.nan])
    assert random_share_chance(np.empty((0, 4)), 0.5, draws=3).high.shape == (0,)


@given(arrays(np.float64, 12, elements=st.floats(0, 10, width=32)), st.floats(0.05, 1.0))
def test_chance_is_free_of_scale_and_ordered(values: np.ndarray, fraction: float) -> None:
    chance = random_share_chance(values, fraction, draws=20)
    np.testing.assert_allclose(random_share_chance(values * 8.0, fraction, draws=20), chance)
    if (values > 0).any():
        assert 0.0 <= chance.low <= chance.high <= 1.0 + 1e-12
