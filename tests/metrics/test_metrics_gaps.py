"""J(Δ): overlap of top sets by the gap between their checkpoints."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.errors import OptionError
from gated_lpi.metrics import (
    half_life,
    jaccard,
    jaccard_chance,
    overlap_by_gap,
    overlap_matrix,
    top_set,
    top_set_stability,
    top_sets,
)

SETS = [[0, 1], [0, 2], [2, 3]]  # J: 1/3 of the first two, 0 of the first and last, 1/3 of the last two


def test_top_sets_are_those_of_each_checkpoint() -> None:
    scores = np.random.default_rng(0).standard_normal((4, 130)).astype(np.float32)
    assert top_sets(scores).shape == (4, 2)
    for row, at in zip(top_sets(scores, 0.1), scores, strict=True):
        np.testing.assert_array_equal(row, top_set(at, 0.1))


def test_the_matrix_by_hand_and_against_pairs() -> None:
    third = 1 / 3
    np.testing.assert_allclose(overlap_matrix(SETS), [[1, third, 0], [third, 1, third], [0, third, 1]])
    np.testing.assert_array_equal(overlap_matrix([[], [], [5]]), [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    scores = np.random.default_rng(1).standard_normal((6, 50))
    matrix = overlap_matrix(top_sets(scores, 0.2))
    np.testing.assert_allclose(np.diagonal(matrix, 1), top_set_stability(scores, 0.2))
    assert matrix[1, 4] == jaccard(top_set(scores[1], 0.2), top_set(scores[4], 0.2))


def test_bins_of_a_factor_of_two_by_hand() -> None:
    # Gaps 10 (first two), 30 (last two), 40 (first and last): bins [10, 20) and [20, 40), [40, 80).
    found = overlap_by_gap(SETS, [0, 10, 40], 8, weigh="pairs")
    np.testing.assert_allclose(found.low, [10, 20, 40])
    np.testing.assert_allclose(found.high, [20, 40, 80])
    np.testing.assert_allclose(found.gap, [10, 30, 40])
    np.testing.assert_allclose(found.overlap, [1 / 3, 1 / 3, 0])
    assert found.pairs.tolist() == [1, 1, 1]
    assert found.chance == jaccard_chance(8, 2)
    assert found.left_out == 0
    # Half-way from 1/3 to chance, on the way from (30, 1/3) to (40, 0).
    part = (1 / 3 - (1 / 3 + found.chance) / 2) / (1 / 3)
    assert found.half_life.gap == pytest.approx(30 * (4 / 3) ** part)


def test_a_pair_weighs_what_its_checkpoints_stand_for() -> None:
    # Gaps 10, 10 and 20 are all in [10, 20) and [20, 40) with 2 bins a doubling: [10, 14.1): two pairs.
    # Stretches: 5, 10, 5 — the same weights for both pairs; with a fourth at 50: 5, 10, 20, 15.
    sets = [[0, 1], [0, 2], [2, 3], [2, 3]]
    found = overlap_by_gap(sets, [0, 10, 20, 50], 8)
    # Bin [10, 20): pairs (0, 1) of weight 5 · 10 and (1, 2) of 10 · 20, both J = 1/3.
    # Bin [20, 40): (0, 2) of 5 · 20 with J = 0, (2, 3) of 20 · 15 with J = 1. [40, 80): (1, 3) 1/3, (0, 3) 0.
    np.testing.assert_allclose(found.overlap, [1 / 3, 300 / 400, (10 * 15 / 3) / (10 * 15 + 5 * 15)])
    assert found.pairs.tolist() == [2, 2, 2]
    assert found.gap[1] == pytest.approx(20 ** (100 / 400) * 30 ** (300 / 400))


def test_ratios_leave_out_the_start_and_say_so() -> None:
    found = overlap_by_gap([[0, 1], *SETS], [0, 10, 20, 40], 8, by="ratio", weigh="pairs")
    assert found.left_out == 3
    np.testing.assert_allclose(found.gap, [2, 4])  # 20/10, 40/20; 40/10
    np.testing.assert_allclose(found.overlap, [1 / 3, 0])
    by_spacing = overlap_by_gap([[0, 1], *SETS], [0, 10, 20, 40], 8, by="ratio")
    np.testing.assert_allclose(by_spacing.overlap, [1 / 3, 0])
    alone = overlap_by_gap(SETS[:2], [0, 10], 8, by="ratio")
    assert (alone.left_out, alone.overlap.size) == (1, 0)
    assert "no two checkpoints" in alone.half_life.reason


def test_gaps_on_an_edge_do_not_depend_on_rounding() -> None:
    tokens = np.arange(1, 9) * 0.1
    found = overlap_by_gap([[0]] * 8, tokens, 4, weigh="pairs")
    assert found.pairs.tolist() == [7, 6 + 5, 4 + 3 + 2 + 1]


def test_a_curve_that_is_known() -> None:
    # Each step of 100 tokens exchanges one of eight units for a new one: J after d steps is (8 − d) / (8 + d).
    sets = [list(range(t, t + 8)) for t in range(6)]
    found = overlap_by_gap(sets, 100 * np.arange(6), 1000, bins_per_doubling=8)
    np.testing.assert_allclose(found.overlap, [(8 - d) / (8 + d) for d in range(1, 6)])
    # Half of 7/9 (chance is 0.004): between d = 3 (5/11) and d = 4 (1/3).
    assert 300 < found.half_life.gap < 400


@pytest.mark.parametrize("thin", [1, 2, 3])
def test_how_densely_checkpoints_lie_moves_consecutive_overlap_but_not_the_curve(thin: int) -> None:
    sets = [list(range(t, t + 60)) for t in range(25)][::thin]
    tokens = (np.arange(25) * 100)[::thin]
    found = overlap_by_gap(sets, tokens, 4000, bins_per_doubling=2)
    np.testing.assert_allclose(found.overlap, (60 - found.gap / 100) / (60 + found.gap / 100), rtol=0.05)


def test_half_life_by_hand_and_where_there_is_none() -> None:
    assert half_life([1, 10, 100], [0.9, 0.7, 0.3], 0.1).gap == pytest.approx(10 * 10**0.5)
    assert half_life([1, 10], [0.9, 0.5], 0.1) == (10.0, "")
    never = half_life([1, 10], [0.9, 0.6], 0.1)
    assert np.isnan(never.gap)
    assert "never falls" in never.reason
    flat = half_life([1, 10], [0.1, 0.1], 0.1)
    assert np.isnan(flat.gap)
    assert "not above chance" in flat.reason
    with pytest.raises(OptionError, match="ascend"):
        half_life([2, 1], [0.5, 0.4], 0.1)


@given(st.integers(0, 1000), st.integers(2, 7))
def test_units_may_be_renumbered_and_overlaps_are_bounded(seed: int, checkpoints: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal((checkpoints, 40))
    tokens = np.cumsum(generator.uniform(0.1, 9.0, checkpoints))
    found = overlap_by_gap(top_sets(scores, 0.2), tokens, 40)
    again = overlap_by_gap(top_sets(scores[:, generator.permutation(40)], 0.2), tokens, 40)
    np.testing.assert_allclose(found.overlap, again.overlap)
    assert ((found.overlap >= 0) & (found.overlap <= 1)).all()
    assert ((found.gap >= found.low * (1 - 1e-6)) & (found.gap <= found.high * (1 + 1e-6))).all()
    assert found.pairs.sum() == checkpoints * (checkpoints - 1) / 2


def test_random_sets_are_at_chance() -> None:
    scores = np.random.default_rng(3).standard_normal((20, 5000))
    found = overlap_by_gap(top_sets(scores, 0.1), np.arange(1, 21), 5000)
    np.testing.assert_allclose(found.overlap, found.chance, atol=0.02)


def test_a_million_units_take_seconds() -> None:
    scores = np.random.default_rng(0).standard_normal((20, 1_000_000), dtype=np.float32)
    start = time.process_time()
    sets = top_sets(scores)
    middle = time.process_time()
    overlap_by_gap(sets, np.arange(20), 1_000_000)
    assert middle - start < 10
    assert time.process_time() - middle < 3


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="of one size"):
        overlap_by_gap([[0], [0, 1]], [1, 2], 8)
    with pytest.raises(OptionError, match="two or more"):
        overlap_by_gap([[0]], [1], 8)
    with pytest.raises(OptionError, match="each above the one before"):
        overlap_by_gap(SETS, [0, 10, 10], 8)
    with pytest.raises(OptionError, match="for each of 3"):
        overlap_by_gap(SETS, [0, 10], 8)
    with pytest.raises(OptionError, match="numbers from 0 to 3"):
        overlap_by_gap(SETS, [0, 1, 2], 3)
    with pytest.raises(OptionError, match="'tokens' or 'ratio'"):
        overlap_by_gap(SETS, [0, 1, 2], 8, by="steps")
    with pytest.raises(OptionError, match="more than once"):
        overlap_matrix([[1, 1]])
    with pytest.raises(OptionError, match="unit numbers"):
        overlap_matrix([[0.5, 1.5]])
    with pytest.raises(OptionError, match="no sets"):
        overlap_matrix([])
    with pytest.raises(OptionError, match="NaN"):
        top_sets([[np.nan, 1.0]])
    with pytest.raises(OptionError, match=r"\[checkpoints, units\]"):
        top_sets([1.0, 2.0])
