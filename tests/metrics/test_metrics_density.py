"""Choices of checkpoints, and findings that flip with them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.errors import OptionError
from gated_lpi.metrics import Density, across_densities, densities, every, token_grid


def test_every_counts_back_from_the_last() -> None:
    assert every(7, 1).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert every(7, 2).tolist() == [0, 2, 4, 6]
    assert every(8, 2).tolist() == [1, 3, 5, 7]
    assert every(7, 4).tolist() == [2, 6]
    assert every(3, 9).tolist() == [2]


def test_grids_by_hand() -> None:
    tokens = [0, 1, 2, 4, 8, 16, 17, 18]
    # Log grid from 1 to 18: 1, 4.24, 18. Linear from 0 to 18: 0, 9, 18.
    assert token_grid(tokens, 3).tolist() == [1, 3, 7]
    assert token_grid(tokens, 3, spacing="linear").tolist() == [0, 4, 7]
    # Points 0, 3.6, 7.2, 10.8, 14.4, 18: 8 is nearest to two of them and is there once.
    assert token_grid(tokens, 6, spacing="linear").tolist() == [0, 3, 4, 5, 7]
    assert token_grid([5], 3).tolist() == [0]


def test_densities_of_twelve_checkpoints() -> None:
    found = densities(2.0 ** np.arange(12))
    assert [choice.name for choice in found] == ["all", "every 2nd", "every 4th", "6 by log tokens", "6 by tokens"]
    assert found[2].checkpoints.tolist() == [3, 7, 11]
    # On a log scale the checkpoints nearest to 6 points are not those of every 2nd: both ends are among them.
    assert found[3].checkpoints[[0, -1]].tolist() == [0, 11]
    assert [choice.name for choice in densities([0, 1])] == ["all"]
    # Evenly spaced: the linear grid of 3 of 5 is every 2nd, and is not there twice.
    assert [choice.name for choice in densities(np.arange(5.0))] == ["all", "every 2nd", "3 by log tokens"]


def test_a_finding_that_flips_is_named() -> None:
    series = np.array([0.0, 5.0, 1.0, 6.0, 2.0])  # rises on the whole, and from one checkpoint to the next on average
    choices = [Density("all", np.arange(5)), Density("middle", np.array([1, 2])), Density("none", np.array([4]))]

    def mean_change(index: np.ndarray) -> float:
        return float(np.diff(series[index]).mean()) if index.size > 1 else math.nan

    found = across_densities(mean_change, choices)
    assert found.values[:2] == (0.5, -4.0)
    assert found.verdicts == ("positive", "negative", "undefined")
    assert found.flips
    assert found.flips_at == ("middle",)
    steady = across_densities(mean_change, choices, verdict=lambda value: "large" if value > 9 else "small")
    assert not steady.flips
    assert steady.flips_at == ()
    unknown = across_densities(mean_change, choices[::-1])
    assert not unknown.flips  # nothing to compare with
    assert across_densities(lambda _: 0.0, choices).verdicts == ("zero",) * 3


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 99))
def test_choices_are_ascending_and_end_with_the_last(n: int, points: int, seed: int) -> None:
    tokens = np.cumsum(np.random.default_rng(seed).uniform(0.1, 5, n))
    for index in [every(n, points), token_grid(tokens, points), token_grid(tokens, points, spacing="linear")]:
        assert (np.diff(index) > 0).all()
        assert index[-1] == n - 1
        assert index[0] >= 0
    for choice in densities(tokens)[1:]:
        assert 3 <= choice.checkpoints.size < n


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="step is 0"):
        every(4, 0)
    with pytest.raises(OptionError, match="number of checkpoints is 0"):
        every(0, 2)
    with pytest.raises(OptionError, match="2 or more points"):
        token_grid([1, 2], 1)
    with pytest.raises(OptionError, match="'log' or 'linear'"):
        token_grid([1, 2], 2, spacing="cubic")
    with pytest.raises(OptionError, match="above 0 tokens"):
        token_grid([0], 2)
    with pytest.raises(OptionError, match="each above"):
        token_grid([2, 1], 2)
    with pytest.raises(OptionError, match="no choices"):
        across_densities(lambda _: 0.0, [])
