"""Trajectories as one number: area over (log) tokens, settling, peak."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.errors import OptionError
from gated_lpi.metrics import peak, time_to_consolidation, trajectory_area


def test_areas_by_hand() -> None:
    # Log axis: 1, 10, 1000 are 0, 1, 3 decades: (0.5 · 1 + 1 · 2) / 3. Linear: (0.5 · 9 + 1 · 990) / 999.
    series, tokens = [0.0, 1.0, 1.0], [1, 10, 1000]
    found = trajectory_area(series, tokens)
    assert found.mean == pytest.approx(2.5 / 3)
    assert found.covered == 1.0
    assert trajectory_area(series, tokens, axis="linear").mean == pytest.approx(994.5 / 999)


def test_a_start_at_no_tokens_is_not_on_the_log_axis() -> None:
    found = trajectory_area([9.0, 0.0, 1.0], [0, 1, 10])
    assert (found.mean, found.covered) == (0.5, 1.0)
    assert np.isnan(trajectory_area([9.0, 0.0], [0, 1]).mean)
    assert trajectory_area([9.0, 0.0], [0, 1], axis="linear").mean == 4.5


def test_undefined_entries_are_bridged_inside_and_cut_at_the_ends() -> None:
    tokens = [1, 10, 100, 1000, 10000]
    bridged = trajectory_area([0.0, np.nan, 2.0, 2.0, 2.0], tokens)
    assert bridged.mean == pytest.approx((1.0 * 2 + 2.0 * 2) / 4)
    assert bridged.covered == 1.0
    cut = trajectory_area([np.nan, 1.0, 1.0, 3.0, np.nan], tokens)
    assert (cut.mean, cut.covered) == pytest.approx((1.5, 0.5))
    nothing = trajectory_area([np.nan, 1.0, np.nan, np.nan, np.nan], tokens)
    assert np.isnan(nothing.mean)
    assert nothing.covered == 0.0


def test_leading_axes_are_kept() -> None:
    values = np.random.default_rng(0).random((2, 3, 5))
    found = trajectory_area(values, 2.0 ** np.arange(5))
    assert found.mean.shape == found.covered.shape == (2, 3)
    assert found.mean[1, 2] == trajectory_area(values[1, 2], 2.0 ** np.arange(5)).mean


def test_time_to_consolidation_by_hand() -> None:
    tokens = [10, 20, 30, 40]
    assert time_to_consolidation([0.9, 0.2, 0.6, 0.7], tokens, 0.5) == 30.0
    assert time_to_consolidation([0.9, 0.8, 0.6, 0.7], tokens, 0.5) == 10.0
    assert np.isnan(time_to_consolidation([0.9, 0.8, 0.6, 0.4], tokens, 0.5))
    assert time_to_consolidation([0.9, np.nan, 0.6, 0.7], tokens, 0.5) == 30.0


def test_peaks_by_hand() -> None:
    assert peak([1.0, 3.0, 3.0, 2.0], [5, 6, 7, 8]) == (3.0, 6.0, 1, False)
    assert peak([np.nan, 3.0, 2.0], [5, 6, 7]) == (3.0, 6.0, 1, True)
    assert peak([1.0, 3.0], [5, 6]).at_edge
    empty = peak([np.nan], [5])
    assert np.isnan([empty.value, empty.tokens]).all()
    assert (empty.checkpoint, empty.at_edge) == (-1, False)


@given(st.integers(0, 999), st.integers(2, 9))
def test_an_area_is_a_mean_and_free_of_the_unit_of_tokens(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    values, tokens = generator.standard_normal(n), np.cumsum(generator.uniform(0.5, 9, n))
    for axis in ("log", "linear"):
        mean = trajectory_area(values, tokens, axis=axis).mean
        assert values.min() - 1e-12 <= mean <= values.max() + 1e-12
        assert trajectory_area(values, tokens * 1e9, axis=axis).mean == pytest.approx(mean)
        assert trajectory_area(2 * values + 1, tokens, axis=axis).mean == pytest.approx(2 * mean + 1)
    # A checkpoint more on the straight line between two others changes nothing.
    middle = (tokens[0] + tokens[1]) / 2
    more = np.insert(values, 1, (values[0] + values[1]) / 2), np.insert(tokens, 1, middle)
    assert trajectory_area(*more, axis="linear").mean == pytest.approx(
        trajectory_area(values, tokens, axis="linear").mean
    )
    assert peak(values, tokens).value == values.max()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="for each of 2"):
        trajectory_area([1.0, 2.0], [1, 2, 3])
    with pytest.raises(OptionError, match="'log' or 'linear'"):
        trajectory_area([1.0, 2.0], [1, 2], axis="square")
    with pytest.raises(OptionError, match="infinite"):
        peak([np.inf, 1.0], [1, 2])
    with pytest.raises(OptionError, match="one axis"):
        peak([[1.0, 1.0]], [1, 2])
    with pytest.raises(OptionError, match="threshold is NaN"):
        time_to_consolidation([1.0], [1], float("nan"))
