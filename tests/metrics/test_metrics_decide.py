"""Verdicts on claims: every row of the table, and what would decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.errors import OptionError
from gated_lpi.metrics import (
    Band,
    compare_groups,
    decide,
    decide_groups,
    decide_over_time,
    difference_band,
    replicates_needed,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("interval", "claimed", "smallest", "verdict"),
    [
        ((0.3, 0.1, 0.5), "greater", 0.0, "supported"),
        ((0.3, 0.1, 0.5), "greater", 0.2, "supported"),
        ((0.3, 0.1, 0.5), "greater", 0.4, "undecided"),  # not 0, but perhaps too small
        ((0.3, 0.1, 0.5), "greater", 0.6, "contradicted"),
        ((0.1, -0.1, 0.3), "greater", 0.0, "undecided"),
        ((-0.3, -0.5, -0.1), "greater", 0.0, "contradicted"),
        ((-0.3, -0.7, 0.1), "greater", 0.0, "undecided"),
        ((-0.3, -0.7, 0.1), "greater", 0.2, "contradicted"),
        ((-0.3, -0.5, -0.1), "smaller", 0.2, "supported"),
        ((0.3, -0.1, 0.7), "smaller", 0.2, "contradicted"),
        ((0.3, 0.1, 0.5), "different", 0.2, "supported"),
        ((-0.3, -0.5, -0.1), "different", 0.0, "supported"),
        ((0.0, -0.1, 0.1), "different", 0.2, "contradicted"),
        ((0.0, -0.1, 0.1), "different", 0.0, "undecided"),
        ((0.0, -0.3, 0.3), "different", 0.2, "undecided"),
        ((0.05, 0.01, 0.1), "same", 0.2, "supported"),
        ((0.3, 0.1, 0.5), "same", 0.2, "contradicted"),
        ((0.1, -0.1, 0.3), "same", 0.2, "undecided"),
    ],
)
def test_every_row_of_the_table(
    interval: tuple[float, float, float], claimed: str, smallest: float, verdict: str
) -> None:
    found = decide(*interval, claimed=claimed, smallest=smallest, sd=0.1)
    assert found.verdict == verdict
    assert (found.would_decide == "") == (verdict != "undecided")
    assert f"{interval[0]:+.3g}" in found.detail


def test_the_reason_is_said() -> None:
    assert "at least 0.1 throughout" in decide(0.3, 0.2, 0.4, claimed="greater", smallest=0.1).detail
    assert "no difference of 0.5" in decide(0.3, 0.2, 0.4, claimed="greater", smallest=0.5).detail
    assert "other way round" in decide(-0.3, -0.4, -0.2, claimed="greater").detail
    assert "other way round" in decide(0.3, 0.2, 0.4, claimed="smaller").detail
    assert "not 0.2 greater" in decide(0.0, -0.3, 0.1, claimed="greater", smallest=0.2).detail
    assert decide(0.3, 0.05, 0.6, claimed="greater", smallest=0.1).detail == "+0.3 [+0.05, +0.6]"


def test_what_would_decide_is_the_number_of_replicates() -> None:
    found = decide(0.2, -0.1, 0.5, claimed="greater", sd=0.3, replicates=5)
    assert found.replicates_needed == replicates_needed(0.2, 0.3)
    assert f"{found.replicates_needed} replicates of each arm" in found.would_decide
    # Falling short of the smallest difference of interest by 0.1: that distance has to be shown.
    short = decide(0.1, -0.2, 0.4, claimed="greater", smallest=0.2, sd=0.3)
    assert short.replicates_needed == replicates_needed(0.1, 0.3)
    turned = decide(-0.1, -0.4, 0.25, claimed="greater", smallest=0.2, sd=0.3)
    assert turned.replicates_needed == replicates_needed(0.3, 0.3)
    pairs = decide(0.2, -0.1, 0.5, claimed="different", sd=0.3, paired=True, comparisons=4)
    assert pairs.replicates_needed == replicates_needed(0.2, 0.3, paired=True, comparisons=4)
    assert "pairs" in pairs.would_decide


def test_where_more_replicates_would_not_decide_it_is_said() -> None:
    assert "by their spread 3 would do" in decide(0.2, -0.1, 0.5, claimed="greater", sd=0.05, replicates=5).would_decide
    assert "10,000" in decide(0.0, -0.1, 0.1, claimed="greater", sd=1.0).would_decide
    unknown = decide(0.2, -0.1, 0.5, claimed="greater")
    assert "standard deviation" in unknown.would_decide
    assert unknown.replicates_needed is None


def test_one_replicate_decides_nothing_about_arms() -> None:
    options = {"claimed": "greater", "over": "relations"}
    found = decide(0.3, 0.1, 0.5, **options)
    assert (found.verdict, found.would_decide) == ("undecided", "two or more replicates of each arm")
    assert "other seeds" in found.detail
    assert decide(0.3, 0.1, 0.5, about="runs", **options).verdict == "supported"
    missing = decide(0.3, NAN, NAN, claimed="greater")
    assert (missing.verdict, missing.detail) == ("undecided", "there is no interval")


def test_one_of_a_family_has_to_hold_after_holm() -> None:
    assert decide(0.3, 0.1, 0.5, claimed="greater", p_adjusted=0.03).verdict == "supported"
    found = decide(0.3, 0.1, 0.5, claimed="greater", p_adjusted=0.2, sd=0.1)
    assert found.verdict == "undecided"
    assert "p is 0.2 after Holm" in found.detail
    assert decide(-0.3, -0.5, -0.1, claimed="greater", p_adjusted=0.2, sd=0.1).verdict == "undecided"
    assert decide(0.3, 0.1, 0.5, claimed="greater", smallest=0.6, p_adjusted=0.2).verdict == "contradicted"


def test_groups_are_decided_by_their_comparison() -> None:
    near = compare_groups([1.0, 1.2, 0.9], [0.9, 1.1, 1.0])
    found = decide_groups(near, claimed="greater")
    assert found.verdict == "undecided"
    assert found.replicates_needed == replicates_needed(near.difference, near.sd)
    assert decide_groups(compare_groups([5.0, 5.1, 5.2], [1.0, 1.1, 1.3]), claimed="greater").verdict == "supported"
    assert decide_groups(near, claimed="same", smallest=2.0).verdict == "supported"
    assert decide_groups(compare_groups([5.0], [1.0, 1.1]), claimed="greater").verdict == "undecided"


def band(low: list[float], high: list[float], over: str = "replicates") -> Band:
    ends = np.array(low), np.array(high)
    middle = (ends[0] + ends[1]) / 2
    return Band(middle, *ends, np.full(middle.size, 0.1), np.full(middle.size, 3.0), 0.95, over)


STEPS = [100, 200, 300, 400]


def test_over_time_one_checkpoint_supports_and_it_is_said_where() -> None:
    found = decide_over_time(band([-1, 1, 2, -1], [0.5, 2, 4, 3]), STEPS, claimed="greater")
    assert (found.verdict, found.first, found.last, found.greatest) == ("supported", 200, 300, 300)
    assert (found.difference, found.low, found.high) == (3.0, 2.0, 4.0)
    assert "2 of 4 checkpoints, steps 200 to 300" in found.detail
    both = decide_over_time(band([-2, 1, -1, -1], [-1, 2, 1, 1]), STEPS, claimed="greater")
    assert both.verdict == "supported"
    assert "other way round at 1 of 4 checkpoints, steps 100 to 100" in both.detail
    down = decide_over_time(band([-2, 1, -1, -1], [-1, 2, 1, 1]), STEPS, claimed="smaller")
    assert (down.verdict, down.first, down.difference) == ("supported", 100, -1.5)


def test_over_time_only_all_checkpoints_contradict() -> None:
    low, high = [-1, -1, -2, -1], [0.5, 0.4, 0.3, 0.2]
    assert decide_over_time(band(low, high), STEPS, claimed="greater", smallest=0.6).verdict == "contradicted"
    found = decide_over_time(band(low, high), STEPS, claimed="greater", smallest=0.45, sd=[0.3] * 4)
    assert (found.verdict, found.first, found.greatest) == ("undecided", None, 100)
    assert found.replicates_needed == replicates_needed(0.45 + 0.25, 0.3, comparisons=4)
    below = decide_over_time(band([-3, -3, -3, -3], [-1, -1, -1, -1]), STEPS, claimed="greater")
    assert below.verdict == "contradicted"


def test_over_time_the_same_is_claimed_of_all() -> None:
    inside = band([-0.1, -0.2, NAN, -0.1], [0.1, 0.2, NAN, 0.3])
    assert decide_over_time(inside, STEPS, claimed="same", smallest=0.5).verdict == "supported"
    assert decide_over_time(inside, STEPS, claimed="different", smallest=0.5).verdict == "contradicted"
    assert decide_over_time(inside, STEPS, claimed="same", smallest=0.25).verdict == "undecided"
    apart = decide_over_time(band([-0.1, 1, 1, -0.1], [0.1, 2, 3, 0.1]), STEPS, claimed="same", smallest=0.5)
    assert (apart.verdict, apart.first, apart.last, apart.greatest) == ("contradicted", 200, 300, 300)


def test_over_time_without_replicates_or_band() -> None:
    one = decide_over_time(band([1] * 4, [2] * 4, "relations"), STEPS, claimed="greater")
    assert (one.verdict, one.would_decide) == ("undecided", "two or more replicates of each arm")
    runs = decide_over_time(band([1] * 4, [2] * 4, "relations"), STEPS, claimed="greater", about="runs")
    assert runs.verdict == "supported"
    none = decide_over_time(band([NAN] * 4, [NAN] * 4, "nothing"), STEPS, claimed="greater")
    assert (none.verdict, none.greatest) == ("undecided", None)


def test_arms_without_a_difference_are_called_different_in_few_runs() -> None:
    generator = np.random.default_rng(0)
    wrong = 0
    for run in range(200):
        a, b = np.cumsum(generator.standard_normal((2, 5, 10)), axis=-1)
        found = decide_over_time(difference_band(a, b, draws=500, seed=run), np.arange(10), claimed="different")
        wrong += found.verdict == "supported"
    assert wrong <= 18  # 5% of 200 are 10, with a standard deviation of 3


@given(st.floats(-2, 2), st.floats(0.01, 2), st.floats(0, 1), st.sampled_from(["greater", "smaller", "different"]))
def test_exchanging_arms_turns_claims(d: float, half: float, smallest: float, claimed: str) -> None:
    turned = {"greater": "smaller", "smaller": "greater"}.get(claimed, claimed)
    there = decide(d, d - half, d + half, claimed=claimed, smallest=smallest, sd=1.0)
    back = decide(-d, -d - half, -d + half, claimed=turned, smallest=smallest, sd=1.0)
    assert there.verdict == back.verdict
    assert there.replicates_needed == back.replicates_needed
    if smallest > 0 and claimed == "different":
        same = decide(d, d - half, d + half, claimed="same", smallest=smallest).verdict
        opposite = {"supported": "contradicted", "contradicted": "supported"}.get(there.verdict, "undecided")
        assert same == opposite


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="expected one of greater"):
        decide(0.0, -1.0, 1.0, claimed="more")
    with pytest.raises(OptionError, match="no difference at all"):
        decide(0.0, -1.0, 1.0, claimed="same")
    with pytest.raises(OptionError, match="0 or more"):
        decide(0.0, -1.0, 1.0, claimed="greater", smallest=-1.0)
    with pytest.raises(OptionError, match="lower end first"):
        decide(0.0, 1.0, -1.0, claimed="greater")
    with pytest.raises(OptionError, match="one step"):
        decide_over_time(band([1], [2]), STEPS, claimed="greater")
    with pytest.raises(OptionError, match="alpha"):
        decide(0.0, -1.0, 1.0, claimed="greater", alpha=1.0)
