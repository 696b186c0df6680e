"""What claims rest on, as series over training: of one arm, from its scores, and of several on one axis.

1. Of every checkpoint the means over relations are read, one checkpoint at a time: [R, N] of the units of one kind.
2. Row 0 of every measure is that of the mean over all prompts, and equal to `run.summary`. Further rows are those of
   means over relations that were drawn with replacement, the same draws for every arm that was asked as many relations:
   what a drawn relation does to two arms alike falls out of their difference.
3. A series has the axis of its checkpoints, one over pairs (J_stab, R_t) that of their later checkpoints. Numbers of a
   whole training (half-life, time to settle, ρ_avg, σ_rel, areas, peaks) are computed from the same rows.
4. With `units`, measures are those of random subsets of so many units, averaged (`metrics.size_matched`): arms with
   different numbers of units at equal N.
5. Times, half-lives and σ_rel are logarithms to base 2, so that differences are doublings. What is not reached within
   the training is put at its end, a lower bound, and named (`censored`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import entr

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.metrics import (
    consolidation_step,
    mean_pairwise,
    overlap_by_gap,
    profile_correlation,
    relative_spread,
    set_size,
    top_mask,
    trajectory_area,
)
from gated_lpi.unit_names import KINDS

FloatArray = NDArray[np.float64]
Facts = Literal["all", "known", "known_last"]
Clock = Literal["tokens", "step", "words", "bytes", "checkpoint"]
COUNTED: tuple[Clock, ...] = ("words", "bytes")  # instead of steps

OVER_PAIRS = ("stability", "gain_top_set", "gain_top_by_gain")
OVER_CHECKPOINTS = ("importance_share", "entropy", "effective_units")
WHOLE = ("half_life", "time_stability", "time_profile", "rho_avg", "sigma_rel")
MATCHED = ("stability", "gain_top_set", "importance_share", "entropy")
_ELEMENTS = 1 << 23  # of drawn means that are held at a time
_ALIKE, _SAME_STEP = 0.01, 0.25  # tokens that differ by less, relatively, are one point of a schedule
_LAYERS = 3  # of fewer, a profile's correlation is nothing but a sign


@dataclass(frozen=True)
class Asked:
    """What is asked of an arm's scores.

    Attributes:
        method: by whose scores.
        kind: of unit, "ffn", "attention" or "mixer".
        facts: over which facts scores were averaged.
        fraction: share of the units in a top set.
        stability_threshold, profile_threshold: from which on top sets and profiles count as settled.
        draws: of relations; 0: none.
        seed: of these draws, and of the subsets of units.
        window: first and last step for ρ_avg and σ_rel; None: all.
        units: measure subsets of so many units; None: all of them.
        subsets: how many of these.
    """

    method: str = schema.LPI
    kind: str = "ffn"
    facts: Facts = "all"
    fraction: float = 0.01
    stability_threshold: float = 0.5
    profile_threshold: float = 0.95
    draws: int = 200
    seed: int = 0
    window: tuple[int, int] | None = None
    units: int | None = None
    subsets: int = 4


@dataclass(frozen=True)
class ArmSeries:
    """The series of one arm, by one method, over one kind of unit.

    Attributes:
        arm: its name.
        clock: what `at` counts: tokens if they are known and ascend, else steps (or the words or bytes that the series
            counts instead), else checkpoints.
        at: [T], the axis.
        steps: [T].
        series: by name, [1 + B, T] or [1 + B, T − 1] for B draws of relations, whose first row is the arm's own.
        numbers: by name, [1 + B].
        censored: the names of numbers that lie beyond the training, in the first row.
        relations: the effective number of relations, (Σw)²/Σw²; 1 where they were not kept.
        units: how many units there are of the kind.
        resolution: by name, the standard deviation that a series or number has from its grain alone: J of small sets
            takes few values, and a time to settle is one of a checkpoint.
    """

    arm: str
    clock: Clock
    at: FloatArray
    steps: FloatArray
    series: Mapping[str, FloatArray]
    numbers: Mapping[str, FloatArray]
    censored: frozenset[str]
    relations: float
    units: int
    resolution: Mapping[str, float]

    def axis(self, name: str) -> tuple[FloatArray, FloatArray]:
        """The axis and the steps of a series; of pairs, those of their later checkpoints."""
        start = self.at.size - self.series[name].shape[1] if name in OVER_PAIRS else 0
        stop = start + self.series[name].shape[1]
        return self.at[start:stop], self.steps[start:stop]


def kinds(scores: xr.Dataset) -> list[str]:
    """The kinds of unit that an arm has scores of, FFN first."""
    blocks = scores["block"].to_numpy().astype(object).astype(str) if "block" in scores else np.array([])
    return [kind for kind in KINDS if (blocks == kind).any()]


def facts_kept(scores: xr.Dataset, method: str) -> list[Facts]:
    """Over which facts a method's scores were kept."""
    known: tuple[Facts, ...] = ("known", "known_last")
    return ["all", *(facts for facts in known if f"{method}_{facts}" in scores)]


def units_of(scores: xr.Dataset, kind: str) -> NDArray[np.int64]:
    """The indices of the units of one kind."""
    return np.flatnonzero(scores["block"].to_numpy().astype(object).astype(str) == kind).astype(np.int64)


def arm_series(arm: str, scores: xr.Dataset, asked: Asked, checkpoints: NDArray[np.int64] | None = None) -> ArmSeries:
    """Every series of an arm.

    Args:
        arm: its name.
        scores: as a run stores them, checkpoints in training order.
        asked: what is asked of them.
        checkpoints: which of them, as indices; None: all.

    Raises:
        OptionError: it has no scores by the method or over these facts, or fewer units of the kind than asked for.
    """
    inside = units_of(scores, asked.kind)
    places = np.arange(scores.sizes["checkpoint"]) if checkpoints is None else np.asarray(checkpoints, dtype=np.int64)
    source = Means(scores, asked, inside)
    subsets = _subsets(inside.size, asked)
    layer = np.unique(scores["layer"].to_numpy()[inside], return_inverse=True)[1]
    collected: dict[str, list[FloatArray]] = {name: [] for name in (*OVER_PAIRS, *OVER_CHECKPOINTS)}
    profiles, sets = [], []
    before: Loaded | None = None
    for place in places.tolist():
        now = source.load(place)
        measured, members = _measure(before, now, subsets, asked)
        for name, values in measured.items():
            collected[name].append(values)
        if asked.units is None:
            profiles.append(now.by_layer(layer))
            sets.append(members)
        before = now
    series = {name: np.stack(values, axis=1) for name, values in collected.items() if values}
    clock, at, steps = clock_of(scores, places)
    numbers: dict[str, FloatArray] = {}
    censored: set[str] = set()
    if asked.units is None:
        stacked = np.stack(profiles, axis=1)
        series["profile_with_last"] = _with_last(stacked)
        numbers, censored = _numbers(series, stacked, sets, at, steps, inside.size, asked)
    found = ArmSeries(
        arm=arm,
        clock=clock,
        at=at,
        steps=steps,
        series=series,
        numbers=numbers,
        censored=frozenset(censored),
        relations=source.effective_relations,
        units=inside.size,
        resolution=_resolution(set_size(asked.units or inside.size, asked.fraction), at),
    )
    return replace(found, numbers=numbers | _areas(found))


def _resolution(top_units: int, at: FloatArray) -> dict[str, float]:
    """What the grain of J and of times does to them: as of numbers that were rounded (width over √12)."""
    gaps = np.diff(np.log2(at[at > 0]))
    between = float(gaps.mean()) if gaps.size else 0.0
    widths = {"stability": 1.0 / top_units, "time_stability": between, "time_profile": between}
    return {name: width / math.sqrt(12.0) for name, width in widths.items()}


@dataclass(frozen=True)
class Loaded:
    """The scores of one checkpoint.

    Attributes:
        mean: [N], over all prompts.
        by_relation: [R, N]; None where relations were not kept or are not drawn.
        weights: [B, R], of the relations in each draw; rows sum to 1, or are NaN where nothing was drawn.
    """

    mean: NDArray[Any]
    by_relation: NDArray[Any] | None
    weights: FloatArray

    @property
    def rows(self) -> int:
        """The mean over all prompts, and one for each draw."""
        return 1 + len(self.weights)

    def means(self, start: int, stop: int) -> NDArray[Any]:
        """Rows from `start` to `stop`, [stop − start, N]."""
        own = [self.mean[None]] if start == 0 else []
        drawn = self.weights[max(start - 1, 0) : stop - 1]
        if self.by_relation is not None and len(drawn):
            own.append(drawn.astype(self.by_relation.dtype) @ self.by_relation)
        return np.concatenate(own)

    def by_layer(self, layer: NDArray[np.int64]) -> FloatArray:
        """The layer profile of every row, [1 + B, L]; L layers that have units of the kind."""

        def profile(row: NDArray[Any]) -> FloatArray:
            return np.asarray(np.bincount(layer, row.astype(np.float64)), dtype=np.float64)

        own = profile(self.mean)[None]
        if self.by_relation is None:
            return own
        return np.concatenate([own, self.weights @ np.stack([profile(row) for row in self.by_relation])])


class Means:
    """An arm's means over relations, read one checkpoint at a time."""

    def __init__(self, scores: xr.Dataset, asked: Asked, inside: NDArray[np.int64]) -> None:
        self._inside = inside
        name = asked.method if asked.facts == "all" else f"{asked.method}_{asked.facts}"
        mean = schema.mean_of(asked.method)
        by_relation = name in scores and "relation" in scores[name].dims
        if asked.facts != "all" and not by_relation:
            raise OptionError(
                f"the scores have no {name}, the means over {asked.facts} facts; set attribution.known = true and run "
                "into a new folder, or ask for facts='all'"
            )
        if asked.facts == "all" and mean not in scores:
            raise OptionError(
                f"the scores have no {mean}; they were made by another method: ask for one of those that they have"
            )
        self._mean = scores[mean] if asked.facts == "all" else None
        self._by_relation = scores[name] if by_relation else None
        self._prompts = self._weights(scores, asked.facts) if by_relation else np.ones((scores.sizes["checkpoint"], 1))
        total = self._prompts.max(axis=0)
        self.effective_relations = float(total.sum() ** 2 / (total**2).sum()) if total.any() else 1.0
        self._counts = np.empty((0, total.size))
        if by_relation and asked.draws and total.size > 1:
            even = np.full(total.size, 1.0 / total.size)
            self._counts = np.random.default_rng(asked.seed).multinomial(total.size, even, size=asked.draws)

    @staticmethod
    def _weights(scores: xr.Dataset, facts: Facts) -> FloatArray:
        """The number of prompts of each relation at each checkpoint, [T, R]."""
        given = scores["n_prompts" if facts == "all" else f"n_{facts}"]
        if given.ndim == 2:
            return np.asarray(given.transpose("checkpoint", "relation").to_numpy(), dtype=np.float64)
        values = given.to_numpy().astype(np.float64)
        return np.broadcast_to(values, (scores.sizes["checkpoint"], values.size))

    def load(self, place: int) -> Loaded:
        """The scores of the checkpoint at `place`."""
        prompts = self._prompts[place]
        by_relation = None
        if self._by_relation is not None and (len(self._counts) or self._mean is None):
            here = self._by_relation.isel(checkpoint=place).transpose("relation", "unit").to_numpy()[:, self._inside]
            by_relation = np.where(prompts[:, None] > 0, here, here.dtype.type(0))
        if self._mean is not None:
            mean = self._mean.isel(checkpoint=place).to_numpy()[self._inside]
        else:
            assert by_relation is not None
            mean = _shares(prompts[None])[0].astype(by_relation.dtype) @ by_relation
        return Loaded(mean, by_relation if len(self._counts) else None, _shares(self._counts * prompts))


def _shares(weights: FloatArray) -> FloatArray:
    """Rows that sum to 1; NaN where there is nothing."""
    total = weights.sum(axis=1, keepdims=True)
    shares = np.divide(weights, total, out=np.full(weights.shape, np.nan), where=total > 0)
    return np.asarray(shares, dtype=np.float64)


def _subsets(units: int, asked: Asked) -> list[Any]:
    """Which units are measured at a time; all of them once, unless subsets were asked for."""
    if asked.units is None or asked.units == units:
        return [slice(None)]
    if asked.units > units:
        raise OptionError(f"subsets of {asked.units} units were asked for; the arm has {units}: ask for fewer")
    generator = np.random.default_rng(asked.seed)
    return [generator.choice(units, asked.units, replace=False) for _ in range(asked.subsets)]


def _measure(
    before: Loaded | None, now: Loaded, subsets: Sequence[Any], asked: Asked
) -> tuple[dict[str, FloatArray], NDArray[np.int32]]:
    """The measures of one checkpoint and of its pair with the one before, [1 + B] each, and its top sets [1 + B, k]."""
    names = [*OVER_CHECKPOINTS, *(OVER_PAIRS if before is not None else ())]
    found = {name: np.full((len(subsets), now.rows), np.nan) for name in names}
    at_once = max(1, _ELEMENTS // now.mean.size)
    members = []
    for start in range(0, now.rows, at_once):
        stop = min(start + at_once, now.rows)
        scores = now.means(start, stop).astype(np.float64)
        earlier = None if before is None else before.means(start, stop).astype(np.float64)
        undefined = np.isnan(scores).any(axis=1)
        paired = undefined if earlier is None else undefined | np.isnan(earlier).any(axis=1)
        for number, subset in enumerate(subsets):
            a = None if earlier is None else np.nan_to_num(earlier[:, subset])
            one, inside = _one(a, np.nan_to_num(scores[:, subset]), asked.fraction)
            for name, values in one.items():
                found[name][number, start:stop] = np.where(paired if name in OVER_PAIRS else undefined, np.nan, values)
            if asked.units is None:
                members.append(np.nonzero(inside)[1].reshape(len(inside), -1).astype(np.int32))
    averaged = {name: _mean(values) for name, values in found.items()}
    return averaged, np.concatenate(members) if members else np.empty((0, 0), dtype=np.int32)


def _one(
    earlier: FloatArray | None, scores: FloatArray, fraction: float
) -> tuple[dict[str, FloatArray], NDArray[np.bool_]]:
    """The measures of rows of scores [C, N], as `metrics` defines them, each set found once; and the top sets' mask."""
    positive = np.maximum(scores, 0.0)
    total = positive.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = entr(positive / total[:, None]).sum(axis=-1)  # NaN where nothing is positive
        even = surprise / np.log(scores.shape[1])
    inside = _top(scores, fraction)
    found = {
        "importance_share": _held(positive, inside, total),
        "entropy": np.minimum(even, 1.0),
        "effective_units": np.minimum(np.exp(surprise), float(scores.shape[1])),
    }
    if earlier is not None:
        gain = np.maximum(scores - earlier, 0.0)
        of_gain = gain.sum(axis=-1)
        was = _top(earlier, fraction)
        found |= {
            "stability": (was & inside).sum(axis=-1) / (was | inside).sum(axis=-1),
            "gain_top_set": _held(gain, inside, of_gain),
            "gain_top_by_gain": _held(gain, _top(gain, fraction), of_gain),
        }
    return found, inside


def _top(values: FloatArray, fraction: float) -> NDArray[np.bool_]:
    """`top_mask`, quickly where no two units tie for the last place."""
    n = values.shape[-1]
    k = set_size(n, fraction)
    inside = values >= np.partition(values, n - k, axis=-1)[:, n - k, None]
    return inside if (inside.sum(axis=-1) == k).all() else top_mask(values, fraction)


def _held(values: FloatArray, inside: NDArray[np.bool_], total: FloatArray) -> FloatArray:
    """The share of a total that a set holds, at most 1 in spite of rounding; NaN where there is nothing."""
    held = np.where(inside, values, 0.0).sum(axis=-1)
    share = np.divide(held, total, out=np.full(total.shape, np.nan), where=total > 0)
    return np.asarray(np.minimum(share, 1.0), dtype=np.float64)


def _mean(values: FloatArray) -> FloatArray:
    """The mean over the first axis of what is defined."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    mean = np.divide(total, count, out=np.full(values.shape[1:], np.nan), where=count > 0)
    return np.asarray(mean, dtype=np.float64)


def _with_last(profiles: FloatArray) -> FloatArray:
    """Each profile's correlation with the last one's, [1 + B, T − 1], for profiles [1 + B, T, L]; NaN if constant."""
    found = np.full((len(profiles), profiles.shape[1] - 1), np.nan)
    for row, profile in zip(found, profiles, strict=True):
        known = np.flatnonzero(~np.isnan(profile).any(axis=1))
        if profile.shape[1] >= _LAYERS and known.size and known[-1] == len(profile) - 1:
            row[known[:-1]] = profile_correlation(profile[known])[:-1, -1]
    return found


def clock_of(scores: xr.Dataset, places: NDArray[np.int64]) -> tuple[Clock, FloatArray, FloatArray]:
    """The axis of checkpoints: tokens, else steps (or words or bytes in their place), else their number."""
    steps = scores["step"].to_numpy()[places].astype(np.float64)
    tokens = scores["tokens"].to_numpy()[places].astype(np.float64) if "tokens" in scores.coords else -np.ones(1)
    if (tokens >= 0).all() and (np.diff(tokens) > 0).all():
        return "tokens", tokens, steps
    if (np.diff(steps) > 0).all() and (steps >= 0).all():
        unit = schema.step_unit(scores.attrs)
        return next((clock for clock in COUNTED if clock == unit), "step"), steps, steps
    return "checkpoint", np.arange(steps.size, dtype=np.float64), steps


def _numbers(
    series: Mapping[str, FloatArray],
    profiles: FloatArray,
    sets: Sequence[NDArray[np.int32]],
    at: FloatArray,
    steps: FloatArray,
    units: int,
    asked: Asked,
) -> tuple[dict[str, FloatArray], set[str]]:
    """Numbers of the whole training, [1 + B] each, and which of the first row lie beyond it."""
    rows = len(profiles)
    first, last = asked.window or (-np.inf, np.inf)
    window = np.flatnonzero((steps >= first) & (steps <= last))
    found = {name: np.full(rows, np.nan) for name in WHOLE}
    censored: set[str] = set()
    if at.size < 2:
        return found, censored
    for row, of_window in enumerate(profiles[:, window]):
        profile = of_window[~np.isnan(of_window).any(axis=1)]  # over known facts, from when on any is known
        if len(profile) > 1:
            if profile.shape[1] >= _LAYERS:
                found["rho_avg"][row] = mean_pairwise(profile_correlation(profile)).mean
            spread = relative_spread(profile).mean
            found["sigma_rel"][row] = np.log2(spread) if np.isfinite(spread) and spread > 0 else np.nan
    end = np.log2(at[-1])
    least = at[at > 0][0]
    for name, of, threshold in (
        ("time_stability", series["stability"], asked.stability_threshold),
        ("time_profile", series["profile_with_last"], asked.profile_threshold),
    ):
        for row, values in enumerate(of):
            settled = consolidation_step(values, np.arange(values.size), threshold)
            if not np.isnan(values).all():
                found[name][row] = end if settled is None else np.log2(max(at[settled], least))
            if row == 0 and settled is None:
                censored.add(name)
    stacked = np.stack(sets, axis=1)
    for row, of_row in enumerate(stacked):
        defined = ~np.isnan(profiles[row]).any(axis=1)
        if defined.sum() < 2:
            continue
        life = overlap_by_gap(of_row[defined], at[defined], units).half_life
        never = "never" in life.reason
        found["half_life"][row] = np.log2(np.ptp(at[defined])) if never else np.log2(life.gap)
        if row == 0 and never:
            censored.add("half_life")
    return found, censored


def _areas(arm: ArmSeries) -> dict[str, FloatArray]:
    """The mean over log tokens and the greatest value of every series."""
    numbers = {}
    for name, values in arm.series.items():
        numbers[f"{name}_area"] = trajectory_area(values, arm.axis(name)[0]).mean
        filled = np.where(np.isnan(values), -np.inf, values).max(axis=1, initial=-np.inf)
        numbers[f"{name}_peak"] = np.where(np.isfinite(filled), filled, np.nan)
    return numbers


@dataclass(frozen=True)
class Aligned:
    """A series of several arms on one axis.

    Attributes:
        clock: what `at` counts.
        at: [K].
        steps: [K]; NaN where arms have no step in common there.
        values: for each arm, [1 + B, K].
        interpolated: whether arms were brought together by straight lines over log tokens.
    """

    clock: Clock
    at: FloatArray
    steps: FloatArray
    values: tuple[FloatArray, ...]
    interpolated: bool


def align(arms: Sequence[ArmSeries], name: str) -> Aligned | None:
    """A series of several arms on common points; None where they have none.

    Arms of one schedule share their points: the same tokens, or the same steps at nearly the same tokens (texts of
    other seeds' batches differ in length), which are then averaged. Else every arm is interpolated linearly in log
    tokens at the points of the arm that has fewest of them within the range that all arms cover.
    """
    axes = [arm.axis(name) for arm in arms]
    clock = arms[0].clock if len({arm.clock for arm in arms}) == 1 else "checkpoint"
    at, steps = axes[0]
    if all(a.size == at.size for a, _ in axes):
        same_steps = all(np.array_equal(steps, other) for _, other in axes)
        every = np.stack([a for a, _ in axes])
        middle = every.mean(axis=0)
        apart = np.abs(every - middle) / np.maximum(middle, 1.0)
        if (apart <= (_SAME_STEP if same_steps else _ALIKE)).all():
            shown = steps if same_steps else np.full(at.size, np.nan)
            return Aligned(clock, middle, shown, tuple(arm.series[name] for arm in arms), interpolated=False)
    if clock == "checkpoint":
        return None
    low, high = max(a[a > 0][0] for a, _ in axes if (a > 0).any()), min(a[-1] for a, _ in axes)
    ranged = [a[(a >= low) & (a <= high)] for a, _ in axes]
    grid = min(ranged, key=len)
    if not grid.size:
        return None
    values = tuple(
        np.stack([_at(grid, a, row) for row in arm.series[name]]) for arm, (a, _) in zip(arms, axes, strict=True)
    )
    return Aligned(clock, grid, np.full(grid.size, np.nan), values, interpolated=True)


def _at(grid: FloatArray, at: FloatArray, values: FloatArray) -> FloatArray:
    """A series on other points, linear in their logarithm; NaN where its own has no value on both sides."""
    kept = (at > 0) & ~np.isnan(values)
    if kept.sum() < 2:
        return np.full(grid.size, np.nan)
    return np.interp(np.log(grid), np.log(at[kept]), values[kept], left=np.nan, right=np.nan)


def stretches(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and last index of every stretch of consecutive entries that are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    for first, end in pairwise(edges.tolist()):
        if mask[first]:
            yield first, end - 1
