"""How two groups are compared: what is there is found, and when; what is not there is found in few of many runs."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gated_lpi.claims.judge import Compared, Contrast, adjusted, compare, compare_drops, contrast
from gated_lpi.claims.judged import answer_of
from gated_lpi.claims.publication import BACKBONE, Measure, ablation
from gated_lpi.claims.series import ArmSeries
from gated_lpi.claims.words import sentence, would_decide
from gated_lpi.metrics import holm
from gated_lpi.results.records import AblationRow, AblationTable

STEPS = np.array([1.0, 2, 5, 10, 20, 50, 100, 200])
R_T = BACKBONE.measures[0]
BUMP = np.array([0.0, 0, 0, 0.3, 0.4, 0.3, 0, 0])


def arm(values, draws=0, noise=0.05, seed=0, clock="tokens", at=STEPS * 1000, steps=STEPS, relations=12.0):
    """An arm whose R_t is given, with draws of relations around it."""
    random = np.random.default_rng([seed, 7])
    drawn = values + noise * random.standard_normal((draws, len(values)))
    rows = np.concatenate([np.asarray(values, dtype=float)[None], drawn])
    numbers = {"half_life": rows[:, :1]}
    return ArmSeries(
        f"arm {seed}",
        clock,
        np.asarray(at),
        np.asarray(steps),
        {"gain_top_set": rows},
        numbers,
        frozenset(),
        relations,
        100,
        {},
    )


def group(mean, n, seed, spread=0.03):
    random = np.random.default_rng(seed)
    return [arm(mean + spread * random.standard_normal(len(mean)), seed=i) for i in range(n)]


def judged(moe, dense, measure=R_T, paired=False):
    found = compare(measure, "ffn", ("moe", "dense"), moe, dense, paired=paired)
    assert found is not None
    return adjusted([found])[0]


@pytest.mark.parametrize("paired", [False, True])
def test_a_bump_in_mid_training_is_found_over_replicates_though_the_ends_are_equal(paired):
    found = judged(group(0.2 + BUMP, 5, 1), group(0.2 + 0 * BUMP, 5, 2), paired=paired)
    assert found.contrast.over == "replicates"
    assert found.paired is paired
    assert found.answer == "supported"
    assert found.higher.tolist() == (BUMP > 0).tolist()
    assert not found.lower.any()
    said = sentence(found)
    assert said.startswith("R_t (FFN neurons) is higher in moe than in dense from step 10 to step 50, by at most ")
    assert said.endswith(" at step 20; not told apart elsewhere.")
    assert found.contrast.estimate[4] == pytest.approx(0.4, abs=0.06)


def test_the_same_bump_is_found_over_relations_with_one_run_of_each():
    found = judged([arm(0.2 + BUMP, 300)], [arm(0.2 + 0 * BUMP, 300, seed=1)])
    assert found.contrast.over == "relations"
    assert found.higher.tolist() == (BUMP > 0).tolist()
    assert "3 replicates or more of each, instead of 1" in would_decide([found], found.answer)


def test_what_draws_do_to_both_groups_alike_falls_out():
    found = judged([arm(0.2 + BUMP / 10, 300, seed=3)], [arm(0.2 + 0 * BUMP, 300, seed=3)])
    assert np.isnan(found.contrast.low).all()  # nothing is left that varies, and so there is no band
    assert not found.judged
    assert found.answer == "undecided"


def test_a_bump_the_other_way_contradicts_and_both_ways_are_mixed():
    down = judged(group(0.5 - BUMP, 5, 1), group(0.5 + 0 * BUMP, 5, 2))
    assert down.answer == "contradicted"
    turn = np.array([0.3, 0.3, 0, 0, 0, 0, -0.3, -0.3])
    both = judged(group(0.5 + turn, 5, 3), group(0.5 + 0 * turn, 5, 4))
    assert both.answer == "mixed"
    assert "from step 1 to step 2" in sentence(both)
    assert ", and lower from step 100 to step 200" in sentence(both)
    assert answer_of([down, both]) == "mixed"
    assert "has to be said, not measured" in would_decide([both], "mixed")


@pytest.mark.parametrize(
    ("n", "paired"), [(3, False), *(pytest.param(5, one, marks=pytest.mark.slow) for one in (False, True))]
)
def test_null_data_are_found_in_at_most_one_of_twenty_runs(n, paired):
    runs, found = 200, 0
    random = np.random.default_rng(n)
    for _ in range(runs):
        smooth = np.cumsum(random.standard_normal((2, n, STEPS.size)), axis=2) / 3 + random.standard_normal((2, n, 1))
        c = contrast([row[None] for row in smooth[0]], [row[None] for row in smooth[1]], paired=paired, relations=1.0)
        apart = bool(((c.low > 0) | (c.high < 0)).any())
        assert apart == (c.p <= 0.05)
        found += apart
    assert found / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.slow
def test_null_data_over_relations_are_found_in_at_most_one_of_twenty_runs():
    runs, found, relations = 300, 0, 12
    random = np.random.default_rng(8)
    for _ in range(runs):
        drawn = random.multinomial(relations, np.full(relations, 1 / relations), size=200) / relations
        weights = np.concatenate([np.full((1, relations), 1 / relations), drawn])
        arms = random.standard_normal((2, relations, 1)) + random.standard_normal((2, relations, STEPS.size))
        c = contrast([weights @ arms[0]], [weights @ arms[1]], paired=False, relations=relations)
        assert c.over == "relations"
        found += bool(((c.low > 0) | (c.high < 0)).any())
    assert found / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_families_of_null_data_are_found_in_at_most_one_of_twenty_runs():
    runs, found = 100, 0
    random = np.random.default_rng(5)
    for _ in range(runs):
        values = random.standard_normal((6, 2, 5, 4))
        family = [
            judged_of(contrast([r[None] for r in one[0]], [r[None] for r in one[1]], paired=False, relations=1.0))
            for one in values
        ]
        found += any(one.told for one in adjusted(family))
    assert found / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def judged_of(c: Contrast, measure: Measure = R_T) -> Compared:
    k = c.estimate.size
    return Compared(
        measure,
        "ffn",
        "moe",
        "dense",
        False,
        "step",
        STEPS[:k],
        STEPS[:k],
        c.estimate,
        0 * c.estimate,
        c,
        c.p,
        (5, 5),
        False,
        1.0,
    )


def test_holm_counts_what_is_counted_and_has_a_band():
    moe, dense = group(0.2 + BUMP, 5, 1), group(0.2 + 0 * BUMP, 5, 2)
    one = compare(R_T, "ffn", ("moe", "dense"), moe, dense, paired=False)
    aside = replace(one, measure=replace(R_T, counted=False))
    none = judged_of(
        contrast(
            [m.series["gain_top_set"] for m in moe[:1]], [dense[0].series["gain_top_set"]], paired=False, relations=1
        )
    )
    found = adjusted([one, aside, none, one])
    assert [f.family for f in found] == [2, 0, 0, 2]
    assert found[0].adjusted == pytest.approx(holm([one.contrast.p] * 2)[0])
    assert found[1].adjusted == one.contrast.p
    assert not found[2].judged


def test_replicates_of_one_value_have_no_error_and_are_not_judged():
    stuck = np.array([0.5, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2])
    moe, dense = group(stuck, 4, 1), group(0 * stuck + 0.2, 4, 2)
    for arms, value in ((moe, 0.5), (dense, 0.2)):
        for one in arms:
            one.series["gain_top_set"][:, 0] = value
    found = judged(moe, dense)
    assert np.isnan(found.contrast.low[0])
    assert np.isfinite(found.contrast.low[1:]).all()
    assert found.answer == "undecided"


def test_what_it_takes_grows_as_the_difference_shrinks():
    small, large = (judged(group(0.2 + size * BUMP, 4, 1), group(0.2 + 0 * BUMP, 4, 2)) for size in (0.1, 0.6))
    assert not small.told
    assert small.needed is not None
    assert large.needed is not None
    assert small.needed > 4 >= large.needed
    assert small.detectable == pytest.approx(large.detectable, rel=0.5)
    words = would_decide([small], "undecided")
    assert f"{small.needed} replicates of each for R_t as different as it is here (now 4)" in words


def test_a_design_that_sees_no_possible_difference_says_so():
    found = judged(group(0.2 + 0.5 * BUMP, 3, 1, 0.9), group(0.2 + 0 * BUMP, 3, 2, 0.9), paired=True)
    assert found.detectable > 1
    assert "no difference in R_t is so large that this design would see it" in would_decide([found], found.answer)


def test_a_difference_that_would_not_matter_is_excluded():
    found = judged(group(0.2 + 0 * BUMP, 5, 1, 0.002), group(0.2 + 0 * BUMP, 5, 2, 0.002))
    assert found.answer == "undecided"
    assert found.negligible
    assert answer_of([found]) == "contradicted"
    assert "differences of 5.0 points or more are excluded" in sentence(found)


def test_other_schedules_meet_on_the_coarser_axis_within_the_common_range():
    straight = np.log(STEPS)
    fine = arm(straight)
    coarse_at = np.array([3000.0, 30000, 300000])
    coarse = arm(np.log(coarse_at / 1000), at=coarse_at, steps=np.array([3.0, 30, 300]))
    found = compare(R_T, "ffn", ("moe", "dense"), [fine], [coarse], paired=False)
    assert found.interpolated
    assert found.at.tolist() == [3000.0, 30000.0]
    assert np.isnan(found.steps).all()
    assert found.contrast.estimate == pytest.approx(0, abs=1e-9)  # both are one straight line in log tokens


def table(hit, prompts=400):
    row = AblationRow(name="top-1 head", kind="head", asked=1, count=1, available=8, chosen=(), hit=hit, random_hits=())
    return AblationTable(checkpoint="c", step=9, k=10, n_prompts=prompts, hit=1.0, rows=(row,)), row


def test_drops_of_single_runs_are_compared_over_prompts():
    found = compare_drops(ablation("top-1 head"), "ffn", ("moe", "dense"), [table(0.95)], [table(0.6)], paired=False)
    assert found.contrast.over == "prompts"
    assert found.contrast.estimate[0] == pytest.approx(5.0 - 40.0)
    # Wilson's intervals of 380 and 240 of 400 are 0.924 to 0.967 and 0.551 to 0.647: the ends as squares of both sides.
    assert found.contrast.low[0] == pytest.approx(-35 - math.hypot(1.72, 4.87), abs=0.3)
    assert found.contrast.high[0] == pytest.approx(-35 + math.hypot(2.62, 4.75), abs=0.3)
    assert adjusted([found])[0].answer == "supported"
    alike = compare_drops(ablation("top-1 head"), "ffn", ("moe", "dense"), [table(0.8)], [table(0.8)], paired=False)
    assert alike.contrast.p == 1.0
    assert adjusted([alike])[0].answer == "undecided"


def test_the_p_value_of_drops_is_where_the_interval_touches_nothing():
    close = compare_drops(ablation("x"), "ffn", ("a", "b"), [table(0.84)], [table(0.79)], paired=False)
    assert (close.contrast.p < 0.05) == (close.contrast.high[0] < 0)
    assert 0.01 < close.contrast.p < 0.2


def test_drops_of_replicates_are_compared_over_them():
    moe, dense = ([table(hit) for hit in hits] for hits in ((0.9, 0.92, 0.94), (0.6, 0.62, 0.61)))
    found = compare_drops(ablation("top-1 head"), "ffn", ("moe", "dense"), moe, dense, paired=True)
    differences = 100 * np.array([0.6 - 0.9, 0.62 - 0.92, 0.61 - 0.94])
    half = 4.302653 * differences.std(ddof=1) / math.sqrt(3)  # Student's factor of two degrees of freedom
    assert found.contrast.over == "replicates"
    assert found.contrast.low[0] == pytest.approx(differences.mean() - half, rel=1e-3)
    assert found.contrast.high[0] == pytest.approx(differences.mean() + half, rel=1e-3)
