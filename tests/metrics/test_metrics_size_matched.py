"""Arms of different size at equal numbers of units, and of top units."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.errors import OptionError
from gated_lpi.metrics import (
    at_set_size,
    at_units,
    entropy,
    gain_concentration,
    importance_share,
    jaccard_chance,
    size_matched,
    top_set_stability,
)

MEASURES = ["stability", "gain_top_set", "importance_share", "entropy"]


def test_with_all_units_it_is_the_measure_itself() -> None:
    scores = np.random.default_rng(0).standard_normal((4, 200))
    plain = {
        "stability": top_set_stability(scores, 0.05),
        "gain_top_set": gain_concentration(scores[:-1], scores[1:], 0.05).top_set,
        "importance_share": importance_share(scores, 0.05),
        "entropy": entropy(scores).normalised,
    }
    for measure in MEASURES:
        found = at_units(scores, 200, measure, fraction=0.05)
        for values in (found.mean, found.low, found.high, at_set_size(scores, 10, measure).mean):
            np.testing.assert_array_equal(values, plain[measure])
        assert (found.units, found.top_units, found.draws) == (200, 10, 1)


def test_the_share_in_subsets_by_hand() -> None:
    # Two of 4 units at a time, the greater of them in the top set: its share, averaged over the six subsets.
    values = np.array([[1.0, 2.0, 3.0, 6.0]])
    share = np.mean([max(pair) / sum(pair) for pair in combinations(values[0], 2)])
    found = at_units(values, 2, "importance_share", fraction=0.5, draws=4000)
    assert found.mean[0] == pytest.approx(share, abs=0.01)
    assert (found.low[0], found.high[0]) == pytest.approx((3 / 5, 6 / 7))
    assert (found.chance, found.top_units) == (0.5, 1)


def test_arms_that_differ_in_size_alone_agree_when_matched() -> None:
    generator = np.random.default_rng(1)

    def arm(units: int) -> np.ndarray:
        steady = generator.standard_exponential(units) ** 2
        return steady + 0.5 * generator.standard_exponential((6, units))

    arms = {"small": arm(400), "large": arm(40_000)}
    plain = {name: importance_share(scores, 0.01).mean() for name, scores in arms.items()}
    matched = size_matched(arms, "importance_share", draws=60)
    assert matched["large"].units == matched["small"].units == 400
    assert matched["small"].draws == 1
    assert matched["large"].low.mean() < matched["small"].mean.mean() < matched["large"].high.mean()
    assert abs(matched["large"].mean.mean() - plain["large"]) < 0.01  # no bias where only the size differs
    stability = size_matched(arms, "stability", draws=60)
    assert stability["large"].chance == jaccard_chance(400, 4)


def test_equal_sets_of_unequal_arms_have_chance_levels_of_their_own() -> None:
    scores = np.random.default_rng(2).standard_normal((40, 1000))
    found = at_set_size(scores, 100, "stability")
    assert found.chance == jaccard_chance(1000, 100)
    assert found.mean.mean() == pytest.approx(found.chance, abs=0.01)
    assert at_set_size(scores, 1, "importance_share").chance == 0.001
    assert np.isnan(at_set_size(scores, 1, "entropy").chance)


@given(st.integers(1, 997), st.data())
def test_sets_have_exactly_the_size_asked_for(units: int, data: st.DataObject) -> None:
    top_units = data.draw(st.integers(1, units))
    share = at_set_size(np.ones((1, units)), top_units, "importance_share")
    assert share.mean[0] == pytest.approx(top_units / units)


@given(st.integers(0, 99), st.sampled_from(MEASURES))
def test_draws_are_bounded(seed: int, measure: str) -> None:
    scores = np.random.default_rng(seed).standard_normal((3, 30))
    found = at_units(scores, 5, measure, fraction=0.2, draws=10)
    assert ((found.low <= found.mean + 1e-12) & (found.mean <= found.high + 1e-12)).all()
    assert ((found.low >= 0) & (found.high <= 1)).all()


def test_a_draw_in_which_it_is_undefined_is_left_out() -> None:
    rare = np.zeros((1, 30))
    rare[0, 0] = 1.0
    assert at_units(rare, 5, "importance_share", fraction=0.2, draws=60).mean[0] == 1.0
    assert np.isnan(at_units(np.zeros((1, 30)), 5, "importance_share").mean[0])


def test_the_seed_decides() -> None:
    scores = np.random.default_rng(5).standard_normal((3, 60))
    first, again, other = (at_units(scores, 20, "entropy", draws=5, seed=seed).mean for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_does_not_fit_is_refused() -> None:
    scores = np.ones((2, 4))
    with pytest.raises(OptionError, match="units is 5"):
        at_units(scores, 5, "stability")
    with pytest.raises(OptionError, match="top_units is 0"):
        at_set_size(scores, 0, "stability")
    with pytest.raises(OptionError, match="expected one of stability"):
        at_units(scores, 2, "gini")
    with pytest.raises(OptionError, match="2 or more checkpoints for gain_top_set"):
        at_set_size(scores[:1], 1, "gain_top_set")
    with pytest.raises(OptionError, match="no arms"):
        size_matched({}, "entropy")
    with pytest.raises(OptionError, match="draws is 0"):
        at_units(scores, 2, "entropy", draws=0)
    with pytest.raises(OptionError, match="NaN"):
        at_units([[np.nan, 1.0]], 2, "entropy")
