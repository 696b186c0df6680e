"""Areas and drops of curves that can be drawn on paper, and what their intervals hold."""

import numpy as np
import pytest

from gated_lpi.errors import OptionError
from gated_lpi.metrics import (
    curve_area,
    drop_at_damage,
    drop_at_damage_interval,
    faithfulness_areas,
    faithfulness_intervals,
)


def test_areas_by_hand():
    # m(1) = −1, m(0) = −5; at half the units −2: f = 0, 3/4, 1.
    found = faithfulness_areas([0.5], [-2.0], whole=-1.0, empty=-5.0)
    assert found.cpr == pytest.approx(0.5 * (0.75 / 2 + 1.75 / 2))
    assert found.cmd == pytest.approx(1 - found.cpr)  # f never exceeds 1


def test_ends_that_were_measured_count_as_what_they_are_by_definition():
    assert faithfulness_areas([0.0, 0.5, 1.0], [9.0, -2.0, 9.0], -1.0, -5.0) == faithfulness_areas(
        [0.5], [-2.0], -1.0, -5.0
    )


def test_a_curve_above_the_model_counts_twice():
    # f = 0, 2, 1 at 0, 1/2, 1: ∫f = 1/2·1 + 1/2·3/2 = 1.25. |1 − f|: from 1 through 0 at 1/4 to 1 (area 1/4), then
    # down to 0 (area 1/4).
    found = faithfulness_areas([0.5], [2.0], 1.0, 0.0)
    assert found.cpr == pytest.approx(1.25)
    assert found.cmd == pytest.approx(0.5)


def test_perfect_useless_and_undefined():
    shares = np.linspace(0.01, 0.99, 99)
    assert faithfulness_areas(shares, shares * 4 - 5, -1.0, -5.0).cpr == pytest.approx(0.5)
    assert faithfulness_areas([1e-9], [-1.0], -1.0, -5.0).cmd == pytest.approx(0.0, abs=1e-8)
    assert np.isnan(faithfulness_areas([0.5], [1.0], 1.0, 1.0)).all()


def test_heights_of_curves():
    assert curve_area([0.0, 0.1, 0.5], [0.0, 1.0, 1.0]) == pytest.approx((0.05 + 0.4) / 0.5)
    assert np.isnan(curve_area([0.1], [3.0]))


def test_drops_at_equal_damage_by_hand():
    # (0, 0), (1, 2), (3, 4): halfway to the first 1, then one of damage is one of drop.
    assert drop_at_damage([1.0, 3.0], [2.0, 4.0], [0.0, 0.5, 1.0, 2.0, 3.0]).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert np.isnan(drop_at_damage([1.0, 3.0], [2.0, 4.0], 3.1))
    # The damage goes back: what counts is where it is first reached; at −1 nothing new was.
    assert drop_at_damage([2.0, -1.0, 4.0], [2.0, 9.0, 5.0], [1.0, 2.0]).tolist() == [1.0, 2.0]
    assert drop_at_damage([2.0, 1.0, 4.0], [2.0, 9.0, 6.0], 2.5) == pytest.approx(9 + 1.5 / 3 * -3)
    assert drop_at_damage([0.0], [1.0], 0.0) == 0.0


def test_intervals_of_areas_hold_what_all_prompts_would_give():
    random = np.random.default_rng(0)
    shares, held = [0.1, 0.3, 0.6], []
    means = np.array([-4.0, -3.0, -1.5, -1.0, -5.0])
    wanted = faithfulness_areas(shares, means[:3], means[3], means[4])
    for seed in range(60):
        prompts = means + random.standard_normal((40, 1)) + 0.5 * random.standard_normal((40, 5))
        found = faithfulness_intervals(shares, prompts[:, :3], prompts[:, 3], prompts[:, 4], draws=150, seed=seed)
        assert found.cpr.low <= found.cpr.estimate <= found.cpr.high
        held.append([i.low <= w <= i.high for i, w in zip(found, wanted, strict=True)])
    assert (np.mean(held, axis=0) >= 0.85).all()
    assert (np.mean(held, axis=0) <= 1.0).all()


def test_intervals_of_drops_hold_what_all_prompts_would_give():
    random, held = np.random.default_rng(0), []
    for seed in range(60):
        drops = np.array([1.0, 3.0]) + random.standard_normal((40, 2))
        found = drop_at_damage_interval([1.0, 2.0], drops, [1.5, 9.0], draws=150, seed=seed)
        held.append(found.low[0] <= 2.0 <= found.high[0])
        assert np.isnan(found.estimate[1])
        assert found.draws.tolist() == [150, 0]
    assert np.mean(held) >= 0.85


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: faithfulness_areas([0.5, 0.1], [1.0, 2.0], 1.0, 0.0), "shares from 0 to 1 that ascend"),
        (lambda: faithfulness_areas([0.5, 1.5], [1.0, 2.0], 1.0, 0.0), "shares from 0 to 1 that ascend"),
        (lambda: faithfulness_areas([0.5], [1.0, 2.0], 1.0, 0.0), "expected a value at each share"),
        (lambda: faithfulness_intervals([0.5], np.zeros((3, 1)), np.zeros(2), np.zeros(3)), "of the same prompts"),
        (lambda: drop_at_damage([1.0], [1.0, 2.0], 1.0), "both at the same points"),
        (lambda: drop_at_damage([1.0], [1.0], -1.0), "at goes down to -1.0"),
    ],
)
def test_what_is_no_curve_is_refused(call, message):
    with pytest.raises(OptionError, match=message):
        call()
