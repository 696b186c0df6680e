"""Choosing checkpoints and pairing those of two series."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.checkpoints import Checkpoint, align, select
from gated_lpi.errors import OptionError


def checkpoints(steps, per_step=4_000_000, stage="", unit="steps"):
    return [
        Checkpoint(
            None, f"{stage}step{step}", step, None if per_step is None else step * per_step, stage, step_unit=unit
        )
        for step in steps
    ]


PYTHIA = checkpoints([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 143_001, 1000)], 2_097_152)


def steps(selection):
    return [c.step for c in selection.checkpoints]


def test_all_without_a_wish():
    chosen = select(PYTHIA)
    assert chosen.checkpoints == tuple(PYTHIA)
    assert not chosen.matches


def test_the_nearest_step_and_how_far_it_is():
    chosen = select(checkpoints([0, 100, 200, 400]), steps=[400, 90, 310, 120])
    assert steps(chosen) == [100, 400]
    assert [(m.asked, m.found, m.mismatch) for m in chosen.matches] == [
        (400, 400, 0),
        (90, 100, 10),
        (310, 400, 90),
        (120, 100, -20),
    ]
    assert [m.asked for m in chosen.mismatches] == [90, 310, 120]
    assert {m.axis for m in chosen.matches} == {"steps"}


def test_the_nearest_tokens():
    chosen = select(checkpoints([0, 100, 200]), tokens=[500_000_000, 10**12])
    assert steps(chosen) == [100, 200]
    assert [(m.axis, m.mismatch) for m in chosen.mismatches] == [
        ("tokens", -100_000_000),
        ("tokens", 8 * 10**8 - 10**12),
    ]


def test_spacing_by_ratio_or_by_distance():
    log = select(PYTHIA, count=6)
    assert steps(log) == [0, 1, 16, 512, 7000, 143_000]
    assert [m.asked for m in log.matches] == [0, 1, 19, 378, 7354, 143_000]
    even = select(PYTHIA, count=4, spacing="even")
    assert steps(even) == [0, 48_000, 95_000, 143_000]
    assert steps(select(PYTHIA, count=1)) == [143_000]
    assert steps(select(PYTHIA, count=2)) == [0, 143_000]


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=40, unique=True), st.data(), st.sampled_from(["log", "even"])
)
def test_as_many_different_ones_as_asked_for(values, data, spacing):
    series = checkpoints(sorted(values))
    count = data.draw(st.integers(1, len(values)))
    chosen = steps(select(series, count=count, spacing=spacing))
    assert len(set(chosen)) == count
    assert chosen == sorted(chosen)
    assert chosen[-1] == max(values)
    assert count == 1 or chosen[0] == min(values)


def test_multiples():
    chosen = select(PYTHIA, every=20_000)
    assert steps(chosen) == [0, 20_000, 40_000, 60_000, 80_000, 100_000, 120_000, 140_000]
    assert not chosen.mismatches
    assert chosen.unmet == 0


def test_multiples_over_a_gap():
    chosen = select(checkpoints([117_850, 330_000, 331_000, 338_000]), every=10_000)
    assert [(m.asked, m.found) for m in chosen.matches] == [
        (120_000, 117_850),
        (330_000, 330_000),
        (340_000, 338_000),
    ]
    assert chosen.unmet == 20


def test_one_stage_or_stages_that_go_on():
    going_on = checkpoints([40_000, 3_440_000], stage="stage1") + checkpoints([3_480_000], stage="stage2")
    anew = checkpoints([4000], stage="lc-4k")
    assert steps(select(going_on, steps=[3_490_000])) == [3_480_000]
    with pytest.raises(OptionError, match=r"steps begin anew within the stages 'stage1', 'stage2', 'lc-4k'"):
        select(going_on + anew, count=2)
    assert steps(select(going_on + anew, count=2, stages=["stage1", "stage2"])) == [40_000, 3_480_000]
    assert steps(select(going_on + anew, stages=["lc-4k"])) == [4000]
    with pytest.raises(OptionError, match=r"'stage9'.*The series has 'stage1', 'stage2', 'lc-4k'"):
        select(going_on + anew, stages=["stage9"])


def test_without_optimizer_steps_there_are_tokens():
    points = checkpoints([5000, 10_000, 20_000], 10**9, unit="billion tokens")
    assert steps(select(points, tokens=[9 * 10**12])) == [10_000]
    assert [m.axis for m in select(points, count=2).matches] == ["tokens", "tokens"]
    with pytest.raises(OptionError, match="tells no optimizer steps, but billion tokens"):
        select(points, steps=[5000])
    with pytest.raises(OptionError, match="tells no optimizer steps"):
        select(points, every=5)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"steps": [1], "tokens": [1]}, "steps and tokens were given"),
        ({"count": 3, "every": 10}, "count and every were given"),
        ({"spacing": "log"}, "without count"),
        ({"steps": [1], "spacing": "log"}, "without count"),
        ({"count": 3, "spacing": "cubic"}, 'Expected "log" or "even"'),
        ({"count": 0}, "Expected 1 or more"),
        ({"every": -5}, "Expected 1 or more"),
        ({"count": 5}, "there are 3 checkpoints"),
        ({"steps": []}, "Expected one number or more"),
        ({"tokens": [-1]}, "none below 0"),
        ({"steps": [float("nan")]}, r"steps=\[nan\] was given"),
        ({"steps": [1, float("inf")]}, r"steps=\[inf\] was given"),
        ({"steps": [1.5]}, r"steps=\[1\.5\] was given"),
        ({"steps": [True]}, r"steps=\[True\] was given"),
        ({"steps": ["5"]}, r"steps=\['5'\] was given"),
        ({"tokens": [2**63]}, r"tokens=\[9223372036854775808\] was given.*or above 9,223,372,036,854,775,807"),
        ({"tokens": [10**5000]}, r"tokens=\[an integer of about 5,001 digits\] was given"),
        ({"tokens": [1e300]}, r"tokens=\[1e\+300\] was given"),
        ({"count": float("nan")}, "count=nan was given"),
        ({"count": 1.5}, r"count=1\.5 was given"),
        ({"count": True}, "count=True was given"),
        ({"count": 10**400}, "count=an integer of about 401 digits was given"),
        ({"every": float("inf")}, "every=inf was given"),
        ({"every": 10**400}, "every=an integer of about 401 digits was given"),
        ({"every": False}, "every=False was given"),
    ],
)
def test_wishes_that_contradict_or_cannot_be_met(wish, words):
    with pytest.raises(OptionError, match=words):
        select(checkpoints([0, 1, 2]), **wish)


def test_whole_numbers_of_other_types_are_numbers():
    series = checkpoints([0, 5000, 10_000])
    assert steps(select(series, tokens=[20e9])) == steps(select(series, tokens=[20 * 10**9])) == [5000]
    assert steps(select(series, steps=np.array([9000, 1]))) == [0, 10_000]
    assert [m.asked for m in select(series, steps=[9e3]).matches] == [9000]
    assert steps(select(series, count=np.int64(2))) == [0, 10_000]


@pytest.mark.parametrize("spacing", ["log", "even"])
@pytest.mark.parametrize("first", [0, 1, 2**62])
def test_the_largest_steps_are_chosen_exactly(spacing, first):
    series = checkpoints([first, 2**62 + 1, 2**63 - 2, 2**63 - 1], None)
    chosen = select(series, count=3, spacing=spacing)
    assert (chosen.matches[0].mismatch, chosen.matches[-1].mismatch) == (0, 0)
    assert (steps(chosen)[0], steps(chosen)[-1]) == (first, 2**63 - 1)
    assert steps(select(series, steps=[2**63 - 1])) == [2**63 - 1]


@pytest.mark.parametrize("step", [float("nan"), -5, 10**400, "5", True])
def test_checkpoints_with_odd_numbers_are_refused(step):
    series = [Checkpoint(None, "odd", step, step, "")]
    for choose in (lambda: select(series, count=1), lambda: select(series, steps=[5]), lambda: align(series, series)):
        with pytest.raises(OptionError, match=r"odd has (steps|tokens) .*Expected a whole number from 0 to"):
            choose()


def test_unknown_tokens_and_nothing_at_all():
    with pytest.raises(OptionError, match=r"No tokens are known of stage1step5, stage1step9.*Choose on steps"):
        select(checkpoints([5, 9], None, "stage1"), tokens=[10])
    with pytest.raises(OptionError, match="no checkpoints at all"):
        select([], count=1)


def test_alignment_on_tokens_not_steps():
    moe = checkpoints([5000, 10_000, 15_000, 500_000], 4_194_304)
    dense = checkpoints([10_000, 20_000, 30_000, 40_000], 2_097_152)
    found = align(moe, dense)
    assert [(p.a.step, p.b.step, p.difference) for p in found.pairs] == [
        (5000, 10_000, 0),
        (10_000, 20_000, 0),
        (15_000, 30_000, 0),
    ]
    assert [c.step for c in found.unmatched_a] == [500_000]
    assert [c.step for c in found.unmatched_b] == [40_000]
    assert align(moe, dense, tolerance=None).pairs[3].relative == pytest.approx(0.96)
    by_steps = align(moe, dense, on="steps", tolerance=0.3)
    assert [(p.a.step, p.b.step) for p in by_steps.pairs] == [(10_000, 10_000), (15_000, 20_000)]


def test_the_mismatch_of_a_pair_has_a_sign():
    (pair,) = align(checkpoints([100]), checkpoints([90]), on="steps").pairs
    assert (pair.difference, pair.relative) == (-10, 0.1)


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=25, unique=True),
    st.lists(st.integers(0, 500), min_size=1, max_size=25, unique=True),
)
def test_alignment_is_one_to_one_in_order_and_complete(a, b):
    found = align(checkpoints(sorted(a)), checkpoints(sorted(b)), tolerance=None)
    pairs = [(p.a.step, p.b.step) for p in found.pairs]
    assert pairs
    assert pairs == sorted(pairs)
    for side, values, rest in ((0, a, found.unmatched_a), (1, b, found.unmatched_b)):
        partners = [pair[side] for pair in pairs]
        assert sorted([*partners, *(c.step for c in rest)]) == sorted(values)


def test_alignment_needs_the_axis_and_a_sane_tolerance():
    with pytest.raises(OptionError, match="No tokens are known"):
        align(checkpoints([1], None), checkpoints([1]))
    with pytest.raises(OptionError, match="tolerance=-1"):
        align(checkpoints([1]), checkpoints([1]), tolerance=-1)
    with pytest.raises(OptionError, match="tolerance=nan was given"):
        align(checkpoints([1]), checkpoints([1]), tolerance=float("nan"))
    with pytest.raises(OptionError, match=r"on='epochs' was given. Expected \"tokens\", \"steps\", \"words\" or"):
        align(checkpoints([1]), checkpoints([1]), on="epochs")
    assert align(checkpoints([1]), checkpoints([9]), tolerance=float("inf")).pairs


def test_words_are_an_axis_of_their_own():
    """What counts words is chosen and aligned on words, spaced on them, and never passes for steps or tokens."""
    counted = checkpoints([m * 10**6 for m in (1, 2, 5, 10, 100)], None, unit="words")
    chosen = select(counted, words=[4_000_000, 100_000_000])
    assert steps(chosen) == [5_000_000, 100_000_000]
    assert [(m.axis, m.mismatch) for m in chosen.matches] == [("words", 1_000_000), ("words", 0)]
    assert {m.axis for m in select(counted, count=3).matches} == {"words"}
    assert {m.axis for m in select(counted, every=5_000_000).matches} == {"words"}
    assert len(align(counted, counted[1:], on="words").pairs) == 4
    with pytest.raises(OptionError, match=r"tells no optimizer steps, but words. Choose on words"):
        select(counted, steps=[5])
    with pytest.raises(OptionError, match=r"No tokens are known of .* Choose on words"):
        select(counted, tokens=[5])
    with pytest.raises(OptionError, match="No tokens are known"):
        align(counted, checkpoints([1, 2]))
    with pytest.raises(OptionError, match=r"tells no words, but steps. Choose on steps"):
        align(counted, checkpoints([1, 2]), on="words")
    with pytest.raises(OptionError, match="tells no bytes, but words"):
        select(counted, bytes=[5])
    with pytest.raises(OptionError, match="words and count were given"):
        select(counted, words=[5], count=2)
