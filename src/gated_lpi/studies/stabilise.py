"""Explore, then stabilise: what it brings to stop the routers of a mixture of experts in the course of training.

1. The groups of MoE arms are told apart by `training.stabilise`: none ("never"), or when and how it stops them. Groups
   that differ in anything else are not compared.
2. Of every arm: tokens and seconds until HIT@10 is 90%, HIT@1 and HIT@10 at the end, log p of the facts at the end, and
   tokens to re-learn where data shift.
3. Each group less "never", replicates paired by seed, and whether what it gives up of recall is too little to count.
   A threshold is worth something only if it does better than a fixed step and random ones, too: it is compared with
   these besides.
4. training/ARM/stabilise.json says when an arm's routers stopped; without it only the options are known.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field

from gated_lpi import score_schema as schema
from gated_lpi.options.spec import Spec
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.runs.training_jobs import seconds_of
from gated_lpi.studies._charts import Curve, Lines, lines
from gated_lpi.studies._intervals import CELLS, NAN, Estimate, cells, difference, over_replicates
from gated_lpi.studies._replicates import Member, Members, members_of
from gated_lpi.studies.finding import Analysis, Table, Verdict
from gated_lpi.studies.recall import hits_of
from gated_lpi.studies.shift import AFTER, BEFORE, crossed, hits_over, kinds_of, measure, shift_step
from gated_lpi.training.stabilise import RECORD, Decision

QUESTION = "Does it help to stop the routers once importance has settled?"
NEVER = "never"
Mask = NDArray[np.bool_]
K = 10
PP = "percentage points"


class Options(Spec):
    """What is asked.

    Attributes:
        target: HIT@10 that is waited for, and of new objects after a shift.
        margin: percentage points of HIT@10, and of HIT@1, at the end that count as no cost.
    """

    target: float = Field(default=0.9, gt=0, le=1)
    margin: float = Field(default=2.0, gt=0, le=100)


class Measure(NamedTuple):
    """What is compared.

    Attributes:
        name: as tables show it.
        claim: of a group and the one that it is compared with.
        better: "below" if less of it is better, "above" if more.
        unit: of the difference.
        least, most: ends of what it may be.
    """

    name: str
    claim: str
    better: Any
    unit: str
    least: float = 0
    most: float = math.inf


MEASURES = {
    "tokens": Measure(
        "tokens to HIT@10", "{one} takes fewer tokens to learn the facts than {other}", "below", "tokens"
    ),
    "seconds": Measure(
        "seconds to HIT@10", "{one} takes less time to learn the facts than {other}", "below", "seconds"
    ),
    "hit_1": Measure("HIT@1 at the end", "{one} recalls more at the end (HIT@1) than {other}", "above", PP, most=100),
    "hit_k": Measure("HIT@10 at the end", "{one} recalls more at the end (HIT@10) than {other}", "above", PP, most=100),
    "logprob": Measure(
        "log p at the end", "{one} has more log p of the facts at the end than {other}", "above", "nats", -math.inf, 0
    ),
    "recovery": Measure(
        "tokens to re-learn", "{one} recovers from the shift in fewer tokens than {other}", "below", "tokens"
    ),
}


COUNTED, GRAIN = ("hit_1", "hit_k"), "grain"  # measures that are counted in prompts, and one prompt of them


class Fired(NamedTuple):
    """When routers stopped; NaN where it is not known or they did not.

    Attributes:
        step, tokens: by then.
        value: of what was watched.
    """

    step: float
    tokens: float
    value: float


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """Compare groups of MoE arms by when their routers stop learning."""
    del progress
    members = members_of(run)
    named = {group: stabilised(run, arms[0]) for group, arms in members.groups.items() if arms[0].routed}
    if len(set(named.values())) < 2:
        reason = "No two groups of MoE arms differ in training.stabilise, so there is nothing to compare."
        return Analysis(notes=[*members.notes, reason])
    arms = [member for member in members.every if member.group in named]
    found = {member.arm: measured(run, member.arm, options.target) for member in arms}
    fired = {member.arm: when_fired(run, member.arm) for member in arms}
    return Analysis(
        verdicts=[
            *_without_cost(run, members, named, found, options.margin),
            *_compared(run, members, named, found),
        ],
        tables=[_table(members, named, found, fired), _differences(run, members, named, found)],
        figures={"stabilise": _figure(run, members, named)},
        notes=[*members.notes, *_notes(named, found, fired, arms)],
    )


def stabilised(run: Run, member: Member) -> str:
    """How an arm's routers are stopped, in words: "never", "j_stab 0.8, freeze", "step 100, decay"."""
    arm = run.experiment.arm(member.arm)
    given = run.experiment.training_of(arm).stabilise if arm.train else None
    if given is None:
        return NEVER
    when = {"threshold": f"{given.measure} {given.threshold:g}", "step": f"step {given.step}", "random": "random step"}
    return f"{when[given.when]}, {given.action}"


def when_fired(run: Run, arm: str) -> Fired:
    """When an arm's routers stopped, as its training noted; all NaN where there is no note."""
    try:
        content = json.loads((run.training_folder(arm) / RECORD).read_text(encoding="utf-8"))
        fired = Decision.model_validate(content["fired"])
    except (OSError, ValueError, KeyError, TypeError):
        return Fired(NAN, NAN, NAN)
    return Fired(*(NAN if value is None else float(value) for value in (fired.step, fired.tokens, fired.value)))


def measured(run: Run, arm: str, target: float) -> dict[str, float]:
    """The measures of one arm; infinite tokens and seconds if a target is never reached, NaN what cannot be said."""
    scores = run.scores(arm)
    shift = shift_step(run, arm, None)
    learnt, last = (_true(scores, of) for of in (AFTER, BEFORE))  # at first, and at the end
    step, tokens = (scores[name].to_numpy().astype(np.float64) for name in ("step", "tokens"))
    reached = crossed(step, hits_over(scores, learnt, K), target)
    never = math.isnan(reached) or (shift is not None and reached > shift)
    seconds = seconds_of(run.training_folder(arm)) or NAN
    return {
        "tokens": math.inf if never else float(np.interp(reached, step, tokens)),
        "seconds": math.inf if never else seconds * reached / step[-1] if step[-1] else NAN,
        "hit_1": 100 * float(hits_over(scores, last, 1)[-1]),
        "hit_k": 100 * float(hits_over(scores, last, K)[-1]),
        "logprob": float(scores[schema.TARGET_LOGPROB].transpose("checkpoint", "prompt").to_numpy()[-1, last].mean()),
        GRAIN: 100 / max(1, int(last.sum())),
        "recovery": NAN if shift is None else measure(scores, shift, target).tokens,
    }


def _true(scores: xr.Dataset, untrue: str) -> Mask:
    """Which prompts ask for what is true, [P]: all but those of one of the kinds that a shift makes."""
    if "prompt_relation" not in scores.coords:
        return np.ones(scores.sizes["prompt"], dtype=np.bool_)
    return np.asarray(kinds_of(scores) != untrue, dtype=np.bool_)


def _alike(run: Run, member: Member) -> str:
    """All that an arm is trained with but for its seed and how its routers are stopped."""
    arm = run.experiment.arm(member.arm)
    training = run.experiment.training_of(arm).model_dump(mode="json")
    return json.dumps(
        [arm.train, {key: training[key] for key in training.keys() - {"seed", "stabilise"}}], sort_keys=True
    )


def pairs_of(named: Mapping[str, str], alike: Mapping[str, str]) -> list[tuple[str, str]]:
    """Which groups are compared: each with "never", and thresholds with fixed and random steps too.

    Args:
        named: how each group is stabilised.
        alike: what else it is trained with; groups that differ in it are not compared.
    """
    found = []
    for one, other in itertools.permutations(named, 2):
        against_control = not named[one].startswith(("step", "random")) and named[other].startswith(("step", "random"))
        if alike[one] == alike[other] and named[one] != NEVER and (named[other] == NEVER or against_control):
            found.append((one, other))
    return found


def _finite(found: Mapping[str, dict[str, float]], key: str) -> dict[str, float]:
    """A measure by arm; what was never reached is NaN."""
    return {arm: one[key] if math.isfinite(one[key]) else NAN for arm, one in found.items()}


def _pairs(run: Run, members: Members, named: Mapping[str, str]) -> list[tuple[str, str]]:
    return pairs_of(named, {group: _alike(run, members.of(group)[0]) for group in named})


def _compared(
    run: Run, members: Members, named: Mapping[str, str], found: Mapping[str, dict[str, float]]
) -> Iterator[Verdict]:
    for (one, other), (key, what) in itertools.product(_pairs(run, members, named), MEASURES.items()):
        estimate = _difference(members, found, key, one, other)
        if not estimate.n:
            continue
        yield estimate.verdict(
            question=QUESTION,
            claim=f"{what.claim.format(one=one, other=other)}.",
            claimed=what.better,
            unit=what.unit,
            detail=f"{what.name}: {one} ({named[one]}) less {other} ({named[other]}), by seed; {estimate.basis}.",
            would_decide="More replicates, until the interval leaves 0 out; for a threshold the same against stopping "
            "at a fixed step and at random ones.",
        )


def _without_cost(
    run: Run, members: Members, named: Mapping[str, str], found: Mapping[str, dict[str, float]], margin: float
) -> Iterator[Verdict]:
    """Whether groups give up less than a margin of recall against "never": of HIT@10 and of HIT@1."""
    for (one, other), (key, k) in itertools.product(_pairs(run, members, named), (("hit_k", K), ("hit_1", 1))):
        estimate = _difference(members, found, key, one, other)
        if named[other] != NEVER or not estimate.n:
            continue
        yield estimate.verdict(
            question=QUESTION,
            claim=f"{one} gives up less than {margin:g} points of HIT@{k} at the end against {other}",
            claimed="above",
            against=-margin,
            unit=PP,
            detail=f"HIT@{k} at the end: {one} ({named[one]}) less {other} ({named[other]}), by seed, against "
            f"-{margin:g}; {estimate.basis}.",
            would_decide=f"More replicates, until the interval leaves -{margin:g} out.",
        )


def _difference(members: Members, found: Mapping[str, dict[str, float]], key: str, one: str, other: str) -> Estimate:
    """A measure of one group less that of another, replicates paired by seed."""
    values = _finite(found, key)
    estimate = difference(*(members.by_seed(group, values) for group in (one, other)))
    return estimate.grained(_grain(found)) if key in COUNTED else estimate


def _grain(found: Mapping[str, dict[str, float]]) -> float:
    """What one prompt is of HIT@k, percentage points."""
    return next(iter(found.values()))[GRAIN]


def _differences(run: Run, members: Members, named: Mapping[str, str], found: Mapping[str, dict[str, float]]) -> Table:
    rows: list[list[str | float | int | None]] = []
    for (one, other), (key, what) in itertools.product(_pairs(run, members, named), MEASURES.items()):
        rows.append([one, other, what.name, *cells(_difference(members, found, key, one, other))])
    caption = "Differences of groups, replicates paired by seed: value is the group less that which it is held against."
    return Table(
        name="stabilise-differences", caption=caption, columns=["group", "against", "measure", *CELLS], rows=rows
    )


def _table(
    members: Members, named: Mapping[str, str], found: Mapping[str, dict[str, float]], fired: Mapping[str, Fired]
) -> Table:
    rows: list[list[str | float | int | None]] = []
    for group, how in named.items():
        arms = [member.arm for member in members.of(group)]
        stopped = over_replicates(fired[arm].step for arm in arms)
        for key, what in MEASURES.items():
            values = [found[arm][key] for arm in arms]
            missed = sum(map(math.isinf, values))
            rows.append(
                [
                    group,
                    how,
                    stopped.value,
                    what.name,
                    *cells(
                        over_replicates(values)
                        .grained(_grain(found) if key in COUNTED else 0.0)
                        .within(what.least, what.most)
                    ),
                    missed,
                ]
            )
    return Table(
        name="stabilise",
        caption="Each group: when its routers stop, the mean step at which they did, and what came of it. Never: "
        f"replicates that do not come to the target, which are left out. HIT@{K}: the target of the options.",
        columns=["group", "routers stop", "stopped at step", "measure", *CELLS, "never"],
        rows=rows,
    )


def _notes(
    named: Mapping[str, str], found: Mapping[str, dict[str, float]], fired: Mapping[str, Fired], arms: Sequence[Member]
) -> list[str]:
    unknown = [m.arm for m in arms if named[m.group] != NEVER and math.isnan(fired[m.arm].step)]
    notes = ["No loss on the training corpus is recorded: log p of the facts stands in its place."]
    if unknown:
        notes.append(f"Of {', '.join(unknown)} it is not noted at which step their routers stopped, or they did not.")
    missed = [arm for arm, one in found.items() if math.isinf(one["tokens"])]
    if missed:
        notes.append(f"{', '.join(missed)} never came to the target, and are left out of means of tokens and seconds.")
    return notes


def _figure(run: Run, members: Members, named: Mapping[str, str]) -> Figure:
    panels = []
    for k in (1, K):
        curves = {}
        for group in named:
            by_step = [
                {step: hits[k] for step, hits in hits_of(run, member.arm, (k,))[0].items()}
                for member in members.of(group)
            ]
            steps = sorted(by_step[0])
            curves[group] = Curve(
                steps, [over_replicates(one.get(step, NAN) for one in by_step).within(0, 1) for step in steps]
            )
        panels.append(Lines(f"HIT@{k}", "facts recalled", curves, percent=True))
    return lines("stabilise", "Recall by when routers stop", "step", panels)
