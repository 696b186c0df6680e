"""Survival: how long do units stay in the top set, and is there a backbone?

1. **Survival** of memberships over tokens (Kaplan and Meier), and **churn**: the share of a top set that is gone at the
   next checkpoint. Churn depends on how densely checkpoints were saved; survival hardly does.
2. **Backbone**: the units in at least 90% of the top sets of a later part of training, their number, and their share of
   importance there, beside independent sets and beside units permuted within their experts, which leaves only routing.
3. Groups are compared over replicates; a single one has no interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field

from gated_lpi import score_schema as schema
from gated_lpi.claims.curves import mean_and_error
from gated_lpi.claims.groups import pairs
from gated_lpi.claims.judge import LEAST, contrast
from gated_lpi.claims.series import clock_of, units_of
from gated_lpi.metrics import Backbone, Survival, backbone, churn, membership_survival, top_sets
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Spec
from gated_lpi.results import Run
from gated_lpi.results.experts import is_moe
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._intervals import over_replicates
from gated_lpi.studies._runs import methods_of, with_scores
from gated_lpi.studies.finding import Analysis, Cell, Table, Verdict, judged
from gated_lpi.studies.page import method_name

QUESTION = "Do the neurons that matter stay the same?"
NO_BACKBONE = "no backbone in either"


class Options(Spec):
    """Options of the analysis.

    Attributes:
        methods: by whose scores; None: all that the run has.
        kind: of unit.
        after: the share of the checkpoints after which the backbone is looked for.
        share: of the later top sets that a unit of the backbone is in.
    """

    methods: Listed[str] | None = None
    kind: Literal["ffn", "attention", "mixer"] = "ffn"
    after: float = Field(default=0.5, ge=0, lt=1)
    share: float = Field(default=0.9, gt=0, le=1)


class Stay(NamedTuple):
    """What is found of one arm by one method.

    Attributes:
        curve: survival of memberships.
        lasting: the mean share of memberships alive, over the log of the tokens that all arms cover.
        churn, churn_chance: the mean rate over pairs, and that of independent sets.
        backbone: beside its nulls.
        units: N.
        excess: the backbone's share of importance less that under the routing null.
    """

    curve: Survival
    lasting: float
    churn: float
    churn_chance: float
    backbone: Backbone
    units: int
    excess: float


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """Survival, churn and backbone of every group by every method, and MoE against dense groups."""
    groups, notes = with_scores(run)
    arms = [arm for names in groups.values() for arm in names]
    short = [arm for arm in arms if run.scores(arm).sizes["checkpoint"] < 2]
    if short:
        return Analysis(notes=[*notes, f"{', '.join(short)} has a single checkpoint: nothing can survive"])
    methods = methods_of(run, arms, options.methods)
    grid = _grid([_axis(run.scores(arm)) for arm in arms])
    found: dict[tuple[str, str], Stay] = {}
    with progress.task("follow the top sets") as advance:
        for done, (method, arm) in enumerate([(method, arm) for method in methods for arm in arms]):
            advance(done, len(methods) * len(arms))
            found[method, arm] = _stay(run, arm, method, grid, options)
    moe = [group for group, names in groups.items() if is_moe(run.scores(names[0]))]
    compared = [(one, other) for one in moe for other in groups if other not in moe]
    return Analysis(
        verdicts=[
            verdict
            for method in methods
            for one, other in compared
            for verdict in _verdicts(run, found, method, one, other, groups)
        ],
        tables=[_table(found, groups, methods)],
        figures={"survival": _figure(found, groups, methods, grid)},
        notes=notes,
    )


def _axis(scores: xr.Dataset) -> NDArray[np.float64]:
    return clock_of(scores, np.arange(scores.sizes["checkpoint"]))[1]


def _grid(axes: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Lengths of time that every arm can show, even in their logarithm."""
    low = max(float(np.diff(axis).min()) for axis in axes)
    high = min(float(axis[-1] - axis[0]) for axis in axes)
    return np.geomspace(min(low, high), high, 60)


def _stay(run: Run, arm: str, method: str, grid: NDArray[np.float64], options: Options) -> Stay:
    scores = run.scores(arm)
    inside = units_of(scores, options.kind)
    means = scores[schema.mean_of(method)].transpose("checkpoint", "unit").to_numpy()[:, inside]
    sets = top_sets(means, run.experiment.metrics.fraction)
    curve = membership_survival(sets, _axis(scores))
    change = churn(sets, inside.size)
    after = min(int(np.ceil(options.after * len(sets))), len(sets) - 1)
    core = backbone(
        sets,
        inside.size,
        after=after,
        share=options.share,
        importance=means[after:].mean(axis=0),
        group=_groups(scores, inside),
        seed=run.experiment.metrics.seed,
    )
    null = core.routing.importance if core.routing is not None else float("nan")
    return Stay(
        curve,
        float(_alive(curve, grid).mean()),
        float(np.nanmean(change.rate)),
        float(np.nanmean(change.chance)),
        core,
        inside.size,
        core.importance - null,
    )


def _groups(scores: xr.Dataset, inside: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for the expert of each unit, or for its block where it is of none."""
    layer = scores["layer"].to_numpy()[inside].astype(np.int64)
    none = np.full(layer.size, -1, dtype=np.int64)
    expert = scores["expert"].to_numpy()[inside].astype(np.int64) if "expert" in scores.coords else none
    shared = scores["shared"].to_numpy()[inside].astype(np.int64) if "shared" in scores.coords else np.zeros_like(layer)
    each = np.stack([layer, np.where(shared > 0, expert.max(initial=-1) + 1, expert)])
    return np.asarray(np.unique(each, axis=1, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def _alive(curve: Survival, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of memberships that last longer than each length."""
    places = np.searchsorted(curve.tokens, grid, side="right")
    return np.concatenate([[1.0], curve.survival])[places]


def _verdicts(
    run: Run,
    found: dict[tuple[str, str], Stay],
    method: str,
    moe: str,
    dense: str,
    groups: dict[str, tuple[str, ...]],
) -> list[Verdict]:
    paired = pairs(run.experiment, groups[moe], groups[dense])
    sides = paired or (groups[moe], groups[dense])
    claims = (
        ("lasting", f"Neurons stay longer in the top set of {moe} than of {dense}", 100.0, "percentage points alive"),
        (
            "excess",
            f"Beyond what routing gives, a backbone holds more importance in {moe} than in {dense}",
            100.0,
            "percentage points of importance",
        ),
    )
    verdicts = []
    for name, claim, scale, unit in claims:
        if name == "excess" and not any(found[method, arm].backbone.size for side in sides for arm in side):
            verdicts.append(_no_backbone(claim, method))
            continue
        values = [[getattr(found[method, arm], name) for arm in side] for side in sides]
        rows = [[np.array([[value]]) for value in side] for side in values]
        c = contrast(rows[0], rows[1], paired=paired is not None, relations=1.0)
        low, high = (scale * float(end[0]) for end in (c.low, c.high))
        replicates = min(len(side) for side in sides)
        verdicts.append(
            Verdict(
                question=QUESTION,
                claim=claim,
                method=method,
                verdict=judged(low, high, claimed="above"),
                effect=scale * float(c.estimate[0]),
                low=low,
                high=high,
                unit=unit,
                detail=f"over {replicates} replicates of each{', in pairs of one seed' if paired else ''}"
                if c.over == "replicates"
                else f"without an interval: {replicates} replicate{'s' if replicates > 1 else ''} of each",
                would_decide="more replicates" if replicates >= LEAST else f"{LEAST} replicates or more of each",
            )
        )
    return verdicts


def _no_backbone(claim: str, method: str) -> Verdict:
    """Where no unit of any arm stays for good, what is left is the null's: nothing to be told apart."""
    return Verdict(
        question=QUESTION,
        claim=claim,
        method=method,
        verdict="undecided",
        because=NO_BACKBONE,
        detail="no unit of any arm is in enough of the later top sets",
        would_decide="training in which neurons stay",
    )


def _table(found: dict[tuple[str, str], Stay], groups: dict[str, tuple[str, ...]], methods: Sequence[str]) -> Table:
    rows: list[list[Cell]] = []
    for method in methods:
        for group, arms in groups.items():
            here = [found[method, arm] for arm in arms]
            routing = [one.backbone.routing for one in here if one.backbone.routing is not None]

            def mean(values: Sequence[float]) -> float:
                return over_replicates(values).value

            rows.append(
                [
                    method_name(method),
                    group,
                    len(arms),
                    mean([one.curve.median for one in here]),
                    100 * mean([one.lasting for one in here]),
                    100 * mean([one.churn for one in here]),
                    100 * mean([one.churn_chance for one in here]),
                    mean([one.backbone.size for one in here]),
                    mean([one.backbone.independent.mean for one in here]),
                    mean([null.mean for null in routing]),
                    100 * mean([one.backbone.importance for one in here]),
                    100 * mean([one.backbone.independent.importance for one in here]),
                    100 * mean([null.importance for null in routing]),
                ]
            )
    return Table(
        name="survival",
        caption=(
            "How long units stay in the top set and what stays for good; means over replicates. Medians are over the "
            "replicates in which half of the memberships ended within the training."
        ),
        columns=[
            *("method", "group", "replicates", "median stay, tokens", "alive, % (mean over log tokens)", "churn, %"),
            *("churn by chance, %", "backbone, units", "of independent sets", "of routing alone"),
            *("its importance, %", "of independent sets, %", "of routing alone, %"),
        ],
        rows=rows,
    )


def _figure(
    found: dict[tuple[str, str], Stay],
    groups: dict[str, tuple[str, ...]],
    methods: Sequence[str],
    grid: NDArray[np.float64],
) -> Figure:
    drawn = Figure(figsize=(3.6 * len(methods) + 0.6, 3.0), layout="constrained")
    for axes, method in zip(drawn.subplots(1, len(methods), squeeze=False, sharey=True)[0], methods, strict=True):
        for number, (group, arms) in enumerate(groups.items()):
            alive = np.stack([_alive(found[method, arm].curve, grid) for arm in arms])
            mean, error = mean_and_error(alive)
            axes.step(grid, mean, where="post", color=f"C{number}", label=group)
            axes.fill_between(
                grid, mean - 2 * error, mean + 2 * error, step="post", color=f"C{number}", alpha=0.15, linewidth=0
            )
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
        axes.set_xlabel("tokens since it came in")
        axes.set_title(method_name(method), fontsize=9)
    drawn.axes[0].set_ylabel("share still in the top set")
    handles, labels = drawn.axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=6, fontsize=8, frameon=False)
    return drawn
