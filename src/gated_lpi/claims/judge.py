"""How a mixture-of-experts group and a dense group compare in one measure, over all of training at once.

1. **What an interval is over.** With three replicates or more in both groups: over replicates (Student on the
   differences of pairs where both were trained with the same seeds and order of data, else Welch). Else over
   relations, by draws that both groups share; such an interval says nothing of other seeds. Else there is none.
2. **When.** Series are compared by simultaneous bands (max-t): wherever the band of a difference leaves 0, the groups
   differ, and in 95% of runs without any difference it leaves 0 nowhere. The p-value of a whole series is that of its
   least pointwise one, for as many independent looks as the band's factor stands for.
3. **How many.** Holm's correction over the *family*: all counted measures of all claims against all dense groups, by
   one method over one kind of unit. Only what survives it counts as told apart.
4. **What it would take.** The least difference that this design sees in four of five runs, and the replicates that
   would show the greatest one observed.

5. **Grain.** J of a small top set takes few values, and a time to settle is that of a checkpoint: replicates that agree
   to the grain seem surer than they are. Its variance (that of rounding) is added to the error.

A point at which all replicates have one value has no error of its own and is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from gated_lpi.claims.publication import Direction, Measure
from gated_lpi.claims.series import ArmSeries, Clock, FloatArray, align, stretches
from gated_lpi.metrics import (
    difference_band,
    draws_band,
    hit_interval,
    holm,
    relative_drop,
    replicates_needed,
    smallest_detectable,
)
from gated_lpi.metrics.hierarchical import Group, Resampled, differences, errors_of, parts_of
from gated_lpi.results.records import AblationRow, AblationTable

Over = Literal["replicates", "relations", "prompts", "nothing"]
Answer = Literal["supported", "contradicted", "mixed", "undecided"]
LEVEL, POWER = 0.95, 0.8
LEAST = 3  # replicates of a group, for an interval over them
_NORMAL = 4000  # draws of the maximum over checkpoints
_MOST = 1000  # replicates that are still worth naming


class Contrast(NamedTuple):
    """One series less another, [K] each; NaN where nothing can be said.

    Attributes:
        estimate: MoE less dense.
        low, high: the simultaneous band.
        error: standard errors.
        df: their degrees of freedom.
        alpha: the pointwise level that the band stands for.
        p: of the whole series.
        over: what the band is over.
    """

    estimate: FloatArray
    low: FloatArray
    high: FloatArray
    error: FloatArray
    df: FloatArray
    alpha: float
    p: float
    over: Over


@dataclass(frozen=True)
class Compared:
    """A mixture-of-experts group beside a dense one in one measure.

    Attributes:
        measure: which.
        kind: of unit.
        moe, dense: names of the groups.
        matched: whether at equal numbers of units.
        clock: what `at` counts.
        at: [K], the axis; empty for a number of a whole training.
        steps: [K]; NaN where arms have no steps in common.
        moe_value, dense_value: [K], the groups' means.
        contrast: their difference.
        adjusted: the p-value after Holm's correction; the plain one where the measure is not counted.
        replicates: how many arms each group has.
        paired: whether replicates were compared in pairs.
        relations: the effective number of relations.
        interpolated: whether arms of other schedules were brought to common points.
        censored: groups some of whose values lie beyond the training.
        family: how many comparisons Holm's correction was for; 0: none.
    """

    measure: Measure
    kind: str
    moe: str
    dense: str
    matched: bool
    clock: Clock
    at: FloatArray
    steps: FloatArray
    moe_value: FloatArray
    dense_value: FloatArray
    contrast: Contrast
    adjusted: float
    replicates: tuple[int, int]
    paired: bool
    relations: float
    interpolated: bool = False
    censored: tuple[str, ...] = ()
    family: int = 0

    @property
    def judged(self) -> bool:
        """Whether there is a band anywhere."""
        return bool(np.isfinite(self.contrast.low).any())

    @property
    def told(self) -> bool:
        """Whether the groups are told apart anywhere, after Holm's correction."""
        return self.judged and self.adjusted <= 1.0 - LEVEL + 1e-12

    @property
    def higher(self) -> NDArray[np.bool_]:
        """Where the MoE group is told to be higher, [K]."""
        return np.asarray(self.told & (self.contrast.low > 0))

    @property
    def lower(self) -> NDArray[np.bool_]:
        """Where it is told to be lower, [K]."""
        return np.asarray(self.told & (self.contrast.high < 0))

    @property
    def negligible(self) -> bool:
        """Whether the whole band lies within differences that would not matter."""
        c = self.contrast
        known = np.isfinite(c.estimate)
        ends = np.abs(np.stack([c.low[known], c.high[known]]))
        return bool(known.any() and np.isfinite(ends).all() and (ends <= self.measure.smallest).all())

    @property
    def answer(self) -> Answer:
        """What the measure says to its claim."""
        wanted, other = (self.higher, self.lower) if self.measure.claimed == "higher" else (self.lower, self.higher)
        if wanted.any():
            return "mixed" if other.any() else "supported"
        return "contradicted" if other.any() else "undecided"

    def greatest(self, where: NDArray[np.bool_] | None = None) -> int:
        """The index of the greatest difference, in size, among those told apart or, if none is, of all; −1: none."""
        c = self.contrast
        chosen = (self.higher | self.lower) if where is None else where
        if not chosen.any():
            chosen = np.isfinite(c.low) if self.judged else np.isfinite(c.estimate)
        if not chosen.any():
            return -1
        return int(np.argmax(np.where(chosen, np.abs(c.estimate), -np.inf)))

    def stretches(self, direction: Direction) -> list[tuple[int, int]]:
        """First and last index of every stretch of training in which the MoE group lies on that side."""
        return list(stretches(self.higher if direction == "higher" else self.lower))

    @property
    def detectable(self) -> float:
        """The least difference that this design tells apart in four of five runs, at the place of the greatest one."""
        place, c = self.greatest(), self.contrast
        if place < 0 or not np.isfinite(c.error[place]):
            return float("nan")
        if c.over == "replicates":
            design = self.replicates[:1] if self.paired else self.replicates
            sd = self._spread(place)
            return smallest_detectable(sd, design, alpha=c.alpha, comparisons=max(self.family, 1), power=POWER)
        df = min(float(c.df[place]), 1e9)  # over relations or prompts: by the central t distribution
        sides = stdtrit(df, 1.0 - c.alpha / max(self.family, 1) / 2.0) + stdtrit(df, POWER)
        return float(sides * c.error[place])

    @property
    def needed(self) -> int | None:
        """Replicates of each group that would tell the greatest difference apart; None: not known, or too many."""
        place, c = self.greatest(), self.contrast
        if place < 0 or c.over != "replicates" or not c.error[place] > 0 or c.estimate[place] == 0:
            return None
        return replicates_needed(
            float(c.estimate[place]),
            self._spread(place),
            paired=self.paired,
            alpha=c.alpha,
            comparisons=max(self.family, 1),
            power=POWER,
            most=_MOST,
        )

    def _spread(self, place: int) -> float:
        """The standard deviation of replicates, or of differences of pairs, that the error at a place stands for."""
        one, other = self.replicates
        size = 1.0 / one if self.paired else 1.0 / one + 1.0 / other
        return float(self.contrast.error[place] / math.sqrt(size))


def contrast(
    moe: Sequence[FloatArray],
    dense: Sequence[FloatArray],
    *,
    paired: bool,
    relations: float,
    resolution: float = 0.0,
    level: float = LEVEL,
) -> Contrast:
    """The difference of two groups with its simultaneous band.

    Args:
        moe, dense: for each replicate, [1 + B, K]: its own series, then those of B draws of relations.
        paired: replicate i of both groups shares seed and order of data.
        relations: the effective number of relations.
        resolution: the standard deviation that one value has from its grain alone.
        level: of the band.
    """
    grain = resolution * math.sqrt(1.0 / len(moe) + 1.0 / len(dense))
    a, b = np.stack([rows[0] for rows in moe]), np.stack([rows[0] for rows in dense])
    k = a.shape[1]
    nothing = np.full(k, np.nan)
    if min(len(a), len(b)) >= LEAST:
        groups = (Group(a, np.zeros((len(a), 1, k))), Group(b, np.zeros((len(b), 1, k))))
        resampled = Resampled(groups, "relations", 1.0, False)
        parts = parts_of(differences(resampled) if paired else resampled)
        error, df = errors_of(parts)
        usable = np.isfinite(error) & (error > 0)
        over: Over = "replicates"
        if usable.any():
            band = difference_band(a[:, usable], b[:, usable], paired=paired, level=level)
            return _judged(parts.estimate, usable, np.hypot(error, grain), df, band.critical, over)
        return Contrast(parts.estimate, nothing, nothing, nothing, nothing, float("nan"), float("nan"), "nothing")
    estimate = _average(a) - _average(b)
    if relations >= 2 and min(len(rows) for rows in (*moe, *dense)) > 2:
        drawn = _average(np.stack([rows[1:] for rows in moe])) - _average(np.stack([rows[1:] for rows in dense]))
        usable = np.isfinite(estimate) & (np.isfinite(drawn).mean(axis=0) > 0.5)
        centre = _average(drawn)
        drawn = np.where(np.isfinite(drawn), drawn, centre)
        usable &= np.nan_to_num(drawn.std(axis=0)) > 1e-12
        if usable.any():
            df = np.full(k, relations - 1.0)
            spread = shrunk(drawn[:, usable], relations - 1.0)
            band = draws_band(estimate[usable], spread, df=relations - 1.0, level=level)
            error = np.full(k, np.nan)
            error[usable] = band.error
            return _judged(estimate, usable, np.hypot(error, grain), df, band.critical, "relations")
    return Contrast(estimate, nothing, nothing, nothing, nothing, float("nan"), float("nan"), "nothing")


def shrunk(drawn: FloatArray, df: float) -> FloatArray:
    """Normal draws [M, K] with the spread of bootstrap draws [B, K], and their correlations less far from 0.

    A dozen relations know little of the correlation of a dozen checkpoints, and take too much of it for known: the band
    would be too narrow. Shrunk as in `metrics.bands` (Schäfer and Strimmer 2005).
    """
    centred = drawn - drawn.mean(axis=0)
    sd = centred.std(axis=0, ddof=1)
    scaled = centred / sd
    r = scaled.T @ scaled / (len(drawn) - 1.0)
    off = r[~np.eye(len(r), dtype=np.bool_)]
    amount = min(1.0, float(((1.0 - off**2) ** 2).sum() / df / (off**2).sum())) if (off**2).sum() > 0 else 0.0
    random = np.random.default_rng(0)
    together = random.standard_normal((_NORMAL, len(drawn))) @ scaled / math.sqrt(len(drawn) - 1.0)
    apart = random.standard_normal((_NORMAL, len(r)))
    mixed = math.sqrt(1.0 - amount) * together + math.sqrt(amount) * apart
    mixed -= mixed.mean(axis=0)
    return np.asarray(mixed / mixed.std(axis=0, ddof=1) * sd, dtype=np.float64)


def _judged(
    estimate: FloatArray,
    usable: NDArray[np.bool_],
    error: FloatArray,
    df: FloatArray,
    critical: FloatArray,
    over: Over,
) -> Contrast:
    """The band of a difference, with the p-value of the whole."""
    common = 1.0 / float(np.mean(1.0 / df[usable]))  # degrees of freedom, as the band has them
    factor = float(np.nanmax(critical))
    alpha = float(2.0 * stdtr(common, -factor))
    pointwise = 2.0 * stdtr(common, -np.abs(estimate[usable]) / error[usable])
    looks = math.log1p(-(1.0 - LEVEL)) / math.log1p(-min(alpha, 1.0 - 1e-12)) if alpha > 0 else float(usable.sum())
    p = -math.expm1(looks * math.log1p(-min(float(pointwise.min()), 1.0 - 1e-12)))
    error, df = np.where(usable, error, np.nan), np.where(usable, common, np.nan)
    return Contrast(estimate, estimate - factor * error, estimate + factor * error, error, df, alpha, min(1.0, p), over)


def compare(
    measure: Measure,
    kind: str,
    names: tuple[str, str],
    moe: Sequence[ArmSeries],
    dense: Sequence[ArmSeries],
    *,
    paired: bool,
    matched: bool = False,
) -> Compared | None:
    """Two groups in one measure of their arms' series; None where they have no point in common.

    Args:
        measure: a series, or a number of a whole training.
        kind: of unit.
        names: of the groups.
        moe, dense: their arms; in the same order of seeds if they are paired.
        paired: whether replicate i of both shares seed and order of data.
        matched: whether at equal numbers of units.
    """
    arms = [*moe, *dense]
    relations = min(arm.relations for arm in arms)
    interpolated = False
    censored: tuple[str, ...] = ()
    if measure.over_time:
        if any(measure.name not in arm.series or not arm.series[measure.name].shape[1] for arm in arms):
            return None
        aligned = align(arms, measure.name)
        if aligned is None:
            return None
        at, steps, rows, interpolated = aligned.at, aligned.steps, aligned.values, aligned.interpolated
    else:
        if any(measure.name not in arm.numbers for arm in arms):
            return None
        at = steps = np.empty(0)
        rows = tuple(arm.numbers[measure.name][:, None] for arm in arms)
        censored = tuple(
            name
            for name, group in zip(names, (moe, dense), strict=True)
            if any(measure.name in a.censored for a in group)
        )
    least = min(len(row) for row in rows)
    rows = tuple(row[:least] for row in rows)
    resolution = max(arm.resolution.get(measure.name, 0.0) for arm in arms)
    found = contrast(rows[: len(moe)], rows[len(moe) :], paired=paired, relations=relations, resolution=resolution)
    return Compared(
        measure=measure,
        kind=kind,
        moe=names[0],
        dense=names[1],
        matched=matched,
        clock=arms[0].clock,
        at=at,
        steps=steps,
        moe_value=_average(np.stack([row[0] for row in rows[: len(moe)]])),
        dense_value=_average(np.stack([row[0] for row in rows[len(moe) :]])),
        contrast=found,
        adjusted=found.p,
        replicates=(len(moe), len(dense)),
        paired=paired and found.over == "replicates",
        relations=relations,
        interpolated=interpolated,
        censored=censored,
    )


def compare_drops(
    measure: Measure,
    kind: str,
    names: tuple[str, str],
    moe: Sequence[tuple[AblationTable, AblationRow]],
    dense: Sequence[tuple[AblationTable, AblationRow]],
    *,
    paired: bool,
) -> Compared:
    """Two groups in what an ablation takes of recall, in % of the intact one.

    Over replicates if there are three of both; else over prompts: Wilson's intervals of the ablated HIT@k, with the
    intact one held, and of the difference of two of them as Donner and Zou (2012) make it of both.
    """
    drops = [[relative_drop(table.hit, row.hit) for table, row in group] for group in (moe, dense)]
    if min(len(moe), len(dense)) >= LEAST:
        rows = [[np.array([[drop]]) for drop in group] for group in drops]
        found = contrast(rows[0], rows[1], paired=paired, relations=1.0)
    else:
        found = _over_prompts(moe, dense)
    return Compared(
        measure=measure,
        kind=kind,
        moe=names[0],
        dense=names[1],
        matched=False,
        clock="checkpoint",
        at=np.empty(0),
        steps=np.empty(0),
        moe_value=_average(np.array(drops[0])[:, None]),
        dense_value=_average(np.array(drops[1])[:, None]),
        contrast=found,
        adjusted=found.p,
        replicates=(len(moe), len(dense)),
        paired=paired and found.over == "replicates",
        relations=1.0,
    )


def _over_prompts(
    moe: Sequence[tuple[AblationTable, AblationRow]], dense: Sequence[tuple[AblationTable, AblationRow]]
) -> Contrast:
    sides = []
    for group in (moe, dense):
        intact = float(np.mean([table.hit for table, _ in group]))
        ablated = float(np.mean([row.hit for _, row in group]))
        sides.append((intact, ablated, group[0][0].n_prompts))
    if any(intact <= 0 for intact, _, _ in sides):
        none = np.full(1, np.nan)
        return Contrast(none, none, none, none, none, float("nan"), float("nan"), "nothing")

    def ends(level: float) -> tuple[float, float, float]:
        centre, below, above = 0.0, 0.0, 0.0
        for (intact, ablated, prompts), sign in zip(sides, (1.0, -1.0), strict=True):
            bounds = hit_interval(round(ablated * prompts), prompts, level)
            drop, low, high = (relative_drop(intact, hit) for hit in (ablated, bounds.high, bounds.low))
            centre += sign * drop
            below += (drop - low if sign > 0 else high - drop) ** 2
            above += (high - drop if sign > 0 else drop - low) ** 2
        return centre, centre - math.sqrt(below), centre + math.sqrt(above)

    estimate, low, high = ends(LEVEL)
    smallest, largest = 0.0, 9.0  # of the normal factor at which the interval's end reaches 0
    for _ in range(50):
        middle = (smallest + largest) / 2.0
        _, lower, upper = ends(min(max(2.0 * float(ndtr(middle)) - 1.0, 1e-9), 1.0 - 1e-15))
        smallest, largest = (smallest, middle) if lower <= 0 <= upper else (middle, largest)
    error = (high - low) / (2.0 * 1.959964)
    p = 1.0 if estimate == 0 else float(2.0 * ndtr(-smallest))
    one = np.ones(1)
    return Contrast(estimate * one, low * one, high * one, error * one, np.inf * one, 1.0 - LEVEL, p, "prompts")


def adjusted(compared: Sequence[Compared]) -> list[Compared]:
    """The comparisons of one family with Holm's correction over those that are counted and have a band."""
    counted = [one.contrast.p if one.measure.counted and one.judged else float("nan") for one in compared]
    family = int(np.isfinite(counted).sum())
    return [
        one if math.isnan(p) else replace(one, adjusted=float(p), family=family)
        for one, p in zip(compared, holm(counted), strict=True)
    ]


def _average(values: FloatArray) -> FloatArray:
    """The mean over the first axis of what is defined; NaN where nothing is."""
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.asarray(mean, dtype=np.float64)
