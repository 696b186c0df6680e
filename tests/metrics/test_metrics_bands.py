"""Simultaneous bands: by hand, their properties, and how often they hold the whole trajectory.

Joint coverage is over 150 simulated runs: a true 95% shows as 91.5 to 98.5% in 95 of 100 such simulations, so 90.5 to
99.5% is what passes. The slow test has 1,000 runs of each case.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from gated_lpi.errors import OptionError
from gated_lpi.metrics import (
    Band,
    difference_band,
    draws_band,
    hierarchical_band,
    hierarchical_difference_band,
    hierarchical_interval,
    replicate_band,
    where_apart,
)


def smooth(generator: np.random.Generator, shape: tuple[int, ...], rho: float) -> np.ndarray:
    """Trajectories of mean 0 and variance 1 whose neighbours correlate by rho, over the last axis."""
    values = generator.standard_normal(shape)
    for k in range(1, shape[-1]):
        values[..., k] = rho * values[..., k - 1] + np.sqrt(1 - rho**2) * values[..., k]
    return values


def test_one_checkpoint_is_students_interval() -> None:
    values = np.array([[1.0], [2.0], [6.0]])
    band = replicate_band(values, draws=200_000)
    half = student.ppf(0.975, 2) * np.sqrt(7 / 3)
    assert (band.low[0], band.high[0]) == pytest.approx((3 - half, 3 + half), rel=0.02)
    assert band.error == pytest.approx([np.sqrt(7 / 3)])
    assert (band.over, band.level) == ("replicates", 0.95)


def test_checkpoints_that_say_the_same_need_no_wider_band() -> None:
    values = np.random.default_rng(0).standard_normal((6, 1)) * np.array([1.0, 2.0, -3.0]) + np.array([0.0, 5.0, 9.0])
    band = replicate_band(values, draws=100_000)
    np.testing.assert_allclose(band.critical, student.ppf(0.975, 5), rtol=0.02)


def test_independent_checkpoints_need_sidaks_level() -> None:
    values = np.random.default_rng(1).standard_normal((400, 4))
    band = replicate_band(values, draws=100_000)
    np.testing.assert_allclose(band.critical, student.ppf((1 + 0.95**0.25) / 2, 399), rtol=0.01)


def test_a_band_lies_between_the_pointwise_and_bonferroni() -> None:
    for rho in (0.0, 0.5, 0.95):
        band = replicate_band(smooth(np.random.default_rng(2), (5, 12), rho))
        assert student.ppf(0.975, 4) < band.critical[0] < 1.02 * student.ppf(1 - 0.025 / 12, 4)


def test_differences_are_welchs_or_those_of_pairs() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.standard_normal((5, 3)), generator.standard_normal((4, 3)) + 1
    band = difference_band(a, b)
    np.testing.assert_allclose(band.estimate, a.mean(axis=0) - b.mean(axis=0))
    np.testing.assert_allclose(band.error, np.sqrt(a.var(axis=0, ddof=1) / 5 + b.var(axis=0, ddof=1) / 4))
    pairs, alone = difference_band(a, a - 1 + 0.01 * b[[0, 1, 2, 3, 0]], paired=True), replicate_band(0.01 * b)
    assert (pairs.error < 0.02).all()
    assert alone.over == pairs.over == "replicates"


def test_over_relations_alone_the_band_says_so() -> None:
    x = np.random.default_rng(4).standard_normal((12, 6))
    band = hierarchical_band([x], draws=4000)
    np.testing.assert_allclose(band.error, x.std(axis=0, ddof=1) / np.sqrt(12), rtol=0.05)
    assert band.over == "relations"
    pointwise = hierarchical_interval([x], draws=4000)
    assert ((band.low < pointwise.low) & (pointwise.high < band.high)).all()
    nothing = hierarchical_band([x[:1]])
    assert nothing.over == "nothing"
    assert np.isnan([nothing.low, nothing.high, nothing.critical]).all()


def test_bootstrap_draws_make_a_band() -> None:
    generator = np.random.default_rng(5)
    draws = 2.0 * generator.standard_normal((40_000, 3)) + 7.0
    band = draws_band([7.0, 7.0, 7.0], draws)
    np.testing.assert_allclose(band.high - 7.0, 2.0 * norm.ppf((1 + 0.95 ** (1 / 3)) / 2), rtol=0.02)
    few = draws_band([7.0, 7.0, 7.0], draws, df=11)
    wider = np.sqrt(12 / 11) * student.ppf((1 + 0.95 ** (1 / 3)) / 2, 11)
    np.testing.assert_allclose(few.high - 7.0, 2.0 * wider, rtol=0.02)
    still = draws_band([1.0, 2.0], [[1.0, 2.0], [1.0, 2.0]])
    np.testing.assert_array_equal(still.low, still.high)


def test_where_arms_part() -> None:
    low, high = np.array([-1.0, 0.5, 0.2, -1.0, -3.0, np.nan]), np.array([1.0, 2.0, 0.9, 1.0, -2.5, np.nan])
    band = Band((low + high) / 2, low, high, low, low, 0.95, "replicates")
    found = where_apart(band)
    assert found.apart.tolist() == [False, True, True, False, True, False]
    assert found.above.tolist() == [False, True, True, False, False, False]
    assert (found.first, found.last, found.greatest) == (1, 4, 4)
    assert where_apart(Band(low[:1], low[:1], high[:1], low, low, 0.95, "replicates"))[3:] == (-1, -1, -1)


def test_what_is_undefined_or_constant_has_no_part_in_the_maximum() -> None:
    generator = np.random.default_rng(6)
    values = generator.standard_normal((5, 4))
    values[:, 1] = np.nan
    values[:4, 2] = np.nan
    values[:, 3] = 2.0
    band, alone = replicate_band(values, draws=100_000), replicate_band(values[:, :1], draws=100_000)
    assert band.critical[0] == pytest.approx(alone.critical[0], rel=0.02)
    assert np.isnan([band.low[1], band.low[2], band.high[2]]).all()
    assert (band.low[3], band.high[3]) == (2.0, 2.0)
    values[0, 0] = np.nan
    assert replicate_band(values).error[0] == pytest.approx(values[1:, 0].std(ddof=1) / 2)


@given(st.integers(0, 999), st.integers(2, 6), st.integers(1, 5))
def test_order_scale_and_shift(seed: int, n: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((n, k))
    band = replicate_band(values, draws=200)
    assert ((band.low <= band.estimate) & (band.estimate <= band.high)).all()
    again = replicate_band(values[generator.permutation(n)], draws=200)
    np.testing.assert_allclose(again.error, band.error)
    np.testing.assert_allclose(again.estimate, band.estimate)
    moved = replicate_band(4 * values - 1, draws=200)
    np.testing.assert_allclose(moved.estimate, 4 * band.estimate - 1, atol=1e-9)
    np.testing.assert_allclose(moved.critical, band.critical, rtol=1e-6)


def test_the_seed_decides() -> None:
    values = np.random.default_rng(7).standard_normal((5, 6))
    first, again, other = (replicate_band(values, seed=seed, draws=500) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.low, again.low)
    assert not np.array_equal(first.low, other.low)


def coverage(case: str, rho: float, runs: int) -> float:
    """In what percentage of runs the band holds all of a trajectory that is 0 throughout."""
    generator = np.random.default_rng(1)
    held = 0
    for run in range(runs):
        if case.startswith("replicates"):
            band = replicate_band(smooth(generator, (int(case[10:]), 20), rho), draws=1000, seed=run)
        elif case == "difference":
            a, b = smooth(generator, (5, 20), rho), 0.5 * smooth(generator, (5, 20), rho)
            band = difference_band(a, b, draws=1000, seed=run)
        elif case == "relations":
            band = hierarchical_band([smooth(generator, (12, 10), rho)], draws=200, seed=run)
        else:
            relation = smooth(generator, (12, 10), rho)
            arms = [
                [smooth(generator, (1, 10), rho) + relation + smooth(generator, (12, 10), rho) for _ in range(5)]
                for _ in range(2)
            ]
            band = (
                hierarchical_difference_band(*arms, draws=100, seed=run)
                if case == "both, difference"
                else hierarchical_band(arms[0], draws=100, seed=run)
            )
        held += bool(((band.low <= 0) & (band.high >= 0)).all())
    return 100.0 * held / runs


CASES = ["replicates3", "replicates5", "replicates10", "difference", "relations", "both", "both, difference"]


@pytest.mark.parametrize(("case", "rho"), list(zip(CASES, [0.9, 0.9, 0.5, 0.5, 0.9, 0.5, 0.9], strict=True)))
def test_joint_coverage(case: str, rho: float) -> None:
    assert 90.5 <= coverage(case, rho, 150) <= 99.5


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.5, 0.9])
@pytest.mark.parametrize("case", CASES)
def test_joint_coverage_of_a_thousand_runs(case: str, rho: float) -> None:
    assert 93 <= coverage(case, rho, 1000) <= 97


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="two or more replicates"):
        replicate_band([[1.0, 2.0]])
    with pytest.raises(OptionError, match="infinite"):
        replicate_band([[1.0], [np.inf]])
    with pytest.raises(OptionError, match="the same in both"):
        difference_band([[1.0], [2.0]], [[1.0, 2.0], [1.0, 2.0]])
    with pytest.raises(OptionError, match="one partner"):
        difference_band([[1.0], [2.0]], [[1.0], [2.0], [3.0]], paired=True)
    with pytest.raises(OptionError, match="one axis, of checkpoints"):
        hierarchical_band([[1.0, 2.0]])
    with pytest.raises(OptionError, match="draws is 0"):
        replicate_band([[1.0], [2.0]], draws=0)
    with pytest.raises(OptionError, match="level"):
        replicate_band([[1.0], [2.0]], level=0.0)
    with pytest.raises(OptionError, match="two draws or more"):
        draws_band([1.0], [[1.0]])
    with pytest.raises(OptionError, match="above 0 or None"):
        draws_band([1.0], [[1.0], [2.0]], df=0)
