"""Churn, survival of memberships, and the backbone with its nulls."""

import time
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.errors import OptionError
from gated_lpi.metrics import backbone, churn, membership_survival, top_set_stability, top_sets

SETS = [[0, 1, 2], [0, 1, 3], [0, 4, 1], [0, 2, 4]]
TOKENS = [0, 10, 30, 60]


def test_churn_by_hand() -> None:
    found = churn(SETS, 12)
    assert found.births.tolist() == found.deaths.tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.rate, [1 / 3] * 3)
    np.testing.assert_allclose(found.chance, [0.75] * 3)
    uneven = churn([[0, 1], [1], [], [5, 6]], 10)
    assert uneven.births.tolist() == [0, 0, 2]
    assert uneven.deaths.tolist() == [1, 1, 0]
    np.testing.assert_allclose(uneven.rate, [0.5, 1.0, np.nan])
    np.testing.assert_allclose(uneven.chance, [0.9, 1.0, np.nan])


def test_churn_of_random_sets_is_at_chance_and_says_what_stability_says() -> None:
    scores = np.random.default_rng(0).standard_normal((30, 2000))
    found = churn(top_sets(scores, 0.2), 2000)
    assert found.rate.mean() == pytest.approx(found.chance.mean(), abs=0.01)
    # J = (k − d) / (k + d) for sets of one size.
    np.testing.assert_allclose(top_set_stability(scores, 0.2), (1 - found.rate) / (1 + found.rate))


def test_survival_by_hand() -> None:
    # Memberships: unit 0 for 60, censored; 1 from 0 to 60, ended; 2 from 0 to 10, ended, and at 60, not followed;
    # 3 from 10 to 30: 20, ended; 4 from 30: 30, censored.
    found = membership_survival(SETS, TOKENS)
    assert (found.memberships, found.censored) == (5, 2)
    assert found.tokens.tolist() == [10, 20, 30, 60]
    assert found.at_risk.tolist() == [5, 4, 3, 2]
    np.testing.assert_allclose(found.survival, [4 / 5, 3 / 5, 3 / 5, 3 / 10])
    assert found.median == 60
    # Greenwood: var(log(−log S)) = Σ d/(n(n−d)) / log² S, at 20: (1/20 + 1/12) / log²(3/5).
    spread = 1.959964 * np.sqrt(1 / 20 + 1 / 12) / abs(np.log(0.6))
    assert found.low[1] == pytest.approx(0.6 ** np.exp(spread), rel=1e-5)
    assert found.high[1] == pytest.approx(0.6 ** np.exp(-spread), rel=1e-5)
    later = membership_survival(SETS, TOKENS, from_first=False)
    assert (later.memberships, later.censored) == (2, 1)
    np.testing.assert_allclose(later.survival, [1 / 2, 1 / 2])
    assert later.median == 20


def test_a_unit_that_comes_back_begins_another_membership() -> None:
    found = membership_survival([[7], [], [7], [7], []], [0, 1, 2, 3, 5])
    assert (found.memberships, found.censored) == (2, 0)
    assert found.tokens.tolist() == [1, 3]
    np.testing.assert_allclose(found.survival, [0.5, 0.0])
    assert np.isnan(found.low[1])  # all have ended: no interval
    stays = membership_survival([[7], [7]], [0, 1])
    assert np.isnan(stays.median)
    assert stays.survival.tolist() == [1.0]


def test_memberships_that_end_at_a_constant_rate_survive_geometrically() -> None:
    generator = np.random.default_rng(1)
    keep, checkpoints = 0.7, 12
    alive = np.ones(4000, dtype=bool)
    sets = []
    for _ in range(checkpoints):
        sets.append(np.flatnonzero(alive))
        alive &= generator.random(4000) < keep
    found = membership_survival(sets, 100 * np.arange(checkpoints))
    np.testing.assert_allclose(found.survival[:6], keep ** np.arange(1, 7), atol=0.02)
    assert (found.low <= found.survival)[:6].all()
    assert found.median == 200  # 0.7² = 0.49


def every_backbone(units: int, sizes: list[int], needed: int) -> np.ndarray:
    """Backbone sizes over every way of drawing sets of these sizes."""
    choices = [list(combinations(range(units), size)) for size in sizes]
    return np.array(
        [(np.bincount(np.concatenate(drawn), minlength=units) >= needed).sum() for drawn in product(*choices)]
    )


def test_the_backbone_by_hand() -> None:
    found = backbone(SETS, 6, after=1, importance=[5.0, 3.0, -9.0, 1.0, 1.0, 0.0], share=0.6)
    # In two of the last three sets: 0 (three), 1 (two), 4 (two).
    assert found.units.tolist() == [0, 1, 4]
    assert (found.size, found.sets, found.needed) == (3, 3, 2)
    assert found.importance == pytest.approx(9 / 10)
    assert found.routing is None
    assert backbone(SETS, 6).units.tolist() == [0]
    assert np.isnan(backbone(SETS, 6).importance)


@pytest.mark.parametrize(("share", "needed"), [(1.0, 3), (0.6, 2)])
def test_the_null_of_independent_sets_against_all_of_them(share: float, needed: int) -> None:
    sizes = every_backbone(5, [2, 2, 3], needed)
    found = backbone([[0, 1], [0, 2], [0, 1, 2]], 5, share=share, importance=np.arange(5.0), draws=4000)
    assert found.needed == needed
    assert found.independent.mean == pytest.approx(sizes.mean())
    assert found.independent.importance == pytest.approx(sizes.mean() / 5)
    assert (found.independent.low, found.independent.high) == tuple(np.quantile(sizes, [0.025, 0.975]))


def test_the_routing_null_against_all_permutations() -> None:
    # Group 0 of 3 units has 2, 1 members, group 1 of 2 units 0, 1: all within which group is open.
    found = backbone([[0, 1], [0, 3]], 5, group=[0, 0, 0, 1, 1], importance=[1.0, 1, 1, 3, 3], draws=4000)
    sizes = every_backbone(3, [2, 1], 2)  # of group 1, missing the first set, there can be none
    assert found.routing.mean == pytest.approx(sizes.mean())
    assert found.routing.importance == pytest.approx(sizes.mean() / 3 * 3 / 9)
    assert (found.routing.low, found.routing.high) == tuple(np.quantile(sizes, [0.025, 0.975]))


def test_drawn_sizes_have_the_exact_mean_and_the_spread_of_simulated_sets() -> None:
    generator = np.random.default_rng(2)
    units, sets, size = 60, 10, 40
    simulated = []
    for _ in range(2000):
        order = generator.random((sets, units)).argsort(axis=1)[:, :size]
        simulated.append((np.bincount(order.ravel(), minlength=units) >= 9).sum())
    found = backbone(np.tile(np.arange(size), (sets, 1)), units, draws=4000)
    assert found.independent.mean == pytest.approx(np.mean(simulated), abs=0.2)
    assert (found.independent.low, found.independent.high) == pytest.approx(
        np.quantile(simulated, [0.025, 0.975]), abs=1.0
    )
    assert found.size == 40


def test_one_group_is_the_independent_null_and_tight_groups_explain_everything() -> None:
    sets = [[0, 1, 2]] * 5
    one = backbone(sets, 9, group=np.zeros(9, dtype=int))
    assert one.routing == pytest.approx(one.independent, nan_ok=True)
    exact = backbone(sets, 9, group=[0, 0, 0, 1, 1, 1, 1, 1, 1])
    assert (exact.routing.mean, exact.routing.low, exact.routing.high) == pytest.approx((3, 3, 3))
    assert exact.independent.mean < 0.1


@given(st.integers(0, 500), st.integers(2, 6))
def test_units_may_be_renumbered(seed: int, checkpoints: int) -> None:
    generator = np.random.default_rng(seed)
    scores, group = generator.standard_normal((checkpoints, 30)), generator.integers(0, 3, 30)
    order = generator.permutation(30)
    tokens = np.arange(checkpoints)
    first, second = top_sets(scores, 0.3), top_sets(scores[:, order], 0.3)
    np.testing.assert_array_equal(churn(first, 30).deaths, churn(second, 30).deaths)
    curve = membership_survival(first, tokens)
    np.testing.assert_allclose(curve.survival, membership_survival(second, tokens).survival)
    assert (np.diff(curve.survival) <= 1e-12).all()
    options = {"share": 0.5, "draws": 50}
    a = backbone(first, 30, group=group, importance=scores[-1], **options)
    b = backbone(second, 30, group=group[order], importance=scores[-1, order], **options)
    assert (a.size, a.routing) == (b.size, pytest.approx(b.routing))
    assert sorted(order[b.units]) == a.units.tolist()
    assert 0 <= a.importance <= 1


def test_a_million_units_take_seconds() -> None:
    generator = np.random.default_rng(0)
    sets = np.stack([generator.choice(1_000_000, 10_000, replace=False) for _ in range(20)])
    group = np.arange(1_000_000) // 1000
    start = time.process_time()
    membership_survival(sets, np.arange(20))
    backbone(sets, 1_000_000, group=group, after=10, draws=200)
    assert time.process_time() - start < 15


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="after is 4"):
        backbone(SETS, 6, after=4)
    with pytest.raises(OptionError, match="share 0"):
        backbone(SETS, 6, share=0.0)
    with pytest.raises(OptionError, match="importance has shape"):
        backbone(SETS, 6, importance=[1.0])
    with pytest.raises(OptionError, match="numbers from 0 on"):
        backbone(SETS, 6, group=np.full(6, -1))
    with pytest.raises(OptionError, match="numbers from 0 to 3 - 1"):
        churn(SETS, 3)
    with pytest.raises(OptionError, match="two or more sets"):
        membership_survival(SETS[:1], [1])
    with pytest.raises(OptionError, match="0 memberships"):
        membership_survival([[], [1]], [1, 2])
    with pytest.raises(OptionError, match="level"):
        membership_survival(SETS, TOKENS, level=1.0)
