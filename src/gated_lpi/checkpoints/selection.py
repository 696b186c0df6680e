"""Choosing checkpoints of a series, and pairing those of two series.

Asked-for steps or tokens are matched to the nearest checkpoint there is, and every mismatch is kept to be shown.
What a series counts instead of steps, words or bytes, is an axis of its own and never stands in for tokens.
Steps and tokens often begin anew in each stage. A choice over several stages is therefore made only where each stage
goes on from the one before; otherwise the stage has to be named.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from gated_lpi._common.entries import LARGEST, is_count, quoted
from gated_lpi.checkpoints.series import Series
from gated_lpi.checkpoints.types import PROGRESS, STEPS, Checkpoint
from gated_lpi.errors import OptionError

AxisName = Literal["steps", "tokens", "words", "bytes"]
Spacing = Literal["log", "even"]


@dataclass(frozen=True)
class Match:
    """What was asked for on an axis, and the checkpoint that is nearest to it.

    Attributes:
        axis: "steps", "tokens", "words" or "bytes".
        asked: the step, or the number of tokens, words or bytes, that was asked for.
        found: that of the nearest checkpoint.
        key: the name of this checkpoint.
    """

    axis: AxisName
    asked: int
    found: int
    key: str

    @property
    def mismatch(self) -> int:
        """The difference found − asked, in what the axis counts."""
        return self.found - self.asked


@dataclass(frozen=True)
class Selection:
    """The chosen checkpoints, and how each wish was met. Two wishes may share a checkpoint.

    Attributes:
        checkpoints: in training order.
        matches: one for each step or number of tokens that was asked for.
        unmet: with `every`, how many multiples between the first checkpoint and the last have none near them.
    """

    checkpoints: tuple[Checkpoint, ...]
    matches: tuple[Match, ...] = ()
    unmet: int = 0

    @property
    def mismatches(self) -> tuple[Match, ...]:
        """The wishes that were met by a neighbour only."""
        return tuple(match for match in self.matches if match.mismatch)


@dataclass(frozen=True)
class Pair:
    """One checkpoint of each of two series.

    Attributes:
        a, b: the checkpoints.
        difference: that of b minus that of a, in what the axis counts.
        relative: the difference over the larger of the two.
    """

    a: Checkpoint
    b: Checkpoint
    difference: int
    relative: float


@dataclass(frozen=True)
class Alignment:
    """Checkpoints of two series, paired.

    Attributes:
        on: the axis, "steps", "tokens", "words" or "bytes".
        pairs: in training order.
        unmatched_a, unmatched_b: the checkpoints of each series that have no partner.
    """

    on: AxisName
    pairs: tuple[Pair, ...]
    unmatched_a: tuple[Checkpoint, ...]
    unmatched_b: tuple[Checkpoint, ...]


def select(
    series: Series | Sequence[Checkpoint],
    *,
    steps: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
    words: Sequence[int] | None = None,
    bytes: Sequence[int] | None = None,  # noqa: A002
    count: int | None = None,
    spacing: Spacing | None = None,
    every: int | None = None,
    stages: Sequence[str] | None = None,
) -> Selection:
    """Choose checkpoints in one of four ways, or all.

    Args:
        series: what to choose from.
        steps, tokens, words, bytes: the nearest checkpoint to each.
        count: so many different ones, from the first to the last.
        spacing: with `count`, how they are spaced on the series' own axis: "log" (the default, equal ratios, and step 0
            if there is one) or "even".
        every: the nearest to each multiple of so many steps (words or bytes, where the series counts these), where one
            lies within half that distance.
        stages: only these stages, before anything else.

    Raises:
        OptionError: two ways at once, a number that is not whole or too large to be stored, nothing to choose from, an
            axis that the series does not tell or that begins anew within the stages, or more checkpoints than there
            are.
    """
    given: dict[AxisName, Sequence[int] | None] = {"steps": steps, "tokens": tokens, "words": words, "bytes": bytes}
    asked = {axis: _whole(axis, values) for axis, values in given.items()}
    count, every = _positive("count", count), _positive("every", every)
    ways: dict[str, object] = {str(axis): values for axis, values in asked.items()}
    _refuse_contradictions(ways | {"count": count, "every": every}, spacing)
    candidates = _of_stages(series, stages)
    for axis, values in asked.items():
        if values is not None:
            return _nearest_each(candidates, axis, values)
    if count is not None:
        return _spaced(candidates, count, spacing or "log")
    if every is not None:
        return _multiples(candidates, every)
    return Selection(candidates)


def align(
    a: Series | Selection | Sequence[Checkpoint],
    b: Series | Selection | Sequence[Checkpoint],
    *,
    on: AxisName = "tokens",
    tolerance: float | None = 0.1,
) -> Alignment:
    """Pair the checkpoints of two series that are nearest to each other in tokens (or steps, words or bytes).

    Each has one partner at most, and pairs do not cross; the closest are made first.

    Args:
        a, b: the two series.
        on: the axis. Runs with different batch sizes are comparable on tokens only.
        tolerance: pairs that differ by more, relative to the larger of the two, are not made; None for no limit.

    Raises:
        OptionError: an axis that is none, that one of them does not tell or on which it begins anew, or a tolerance
            below 0 or that is no number.
    """
    if on != "tokens" and on not in PROGRESS:
        raise OptionError(f'on={quoted(on)} was given. Expected "tokens", "steps", "words" or "bytes".')
    if tolerance is not None and not tolerance >= 0:
        raise OptionError(f"tolerance={tolerance} was given. Expected a relative difference of 0 or more, or None.")
    left, right = _checkpoints(a), _checkpoints(b)
    x, y = _axis(left, on), _axis(right, on)
    partner: dict[int, int] = {}
    taken: list[int] = []  # the partners, which grow as their owners do
    owners: list[int] = []
    for i, j in _adjacent(x, y):
        at = bisect_left(owners, i)
        new = i not in partner and (at == 0 or taken[at - 1] < j) and (at == len(taken) or j < taken[at])
        if new and (tolerance is None or _relative(x[i], y[j]) <= tolerance):
            partner[i] = j
            owners.insert(at, i)
            taken.insert(at, j)
    pairs = tuple(
        Pair(left[i], right[j], y[j] - x[i], _relative(x[i], y[j])) for i, j in zip(owners, taken, strict=True)
    )
    return Alignment(
        on,
        pairs,
        tuple(c for i, c in enumerate(left) if i not in partner),
        tuple(c for j, c in enumerate(right) if j not in taken),
    )


def _refuse_contradictions(ways: Mapping[str, object], spacing: str | None) -> None:
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise OptionError(f"{' and '.join(given)} were given. Expected one way of choosing: leave the others out.")
    if spacing is not None and ways["count"] is None:
        raise OptionError(f"spacing={spacing!r} was given without count. Say how many checkpoints, or leave it out.")
    if spacing not in (None, "log", "even"):
        raise OptionError(f'spacing={spacing!r} was given. Expected "log" or "even".')


def _positive(name: str, value: int | None) -> int | None:
    number = None if value is None else _integer(value)
    if value is not None and not number:
        raise OptionError(f"{name}={quoted(value)} was given. Expected 1 or more, a whole number up to {LARGEST:,}.")
    return number


def _whole(name: str, values: Sequence[int] | None) -> list[int] | None:
    """The asked-for steps or tokens as integers: 20e9 is one, too."""
    if values is None:
        return None
    numbers = [_integer(value) for value in values]
    wrong = [quoted(given) for given, number in zip(values, numbers, strict=True) if number is None]
    if wrong or not numbers:
        raise OptionError(
            f"{name}=[{', '.join(wrong[:8])}] was given. Expected one number or more, none below 0 or above "
            f"{LARGEST:,}, all of them whole."
        )
    return [number for number in numbers if number is not None]


def _integer(value: object) -> int | None:
    if isinstance(value, float | np.floating):
        value = int(value) if np.isfinite(value) and value == int(value) else None
    elif isinstance(value, np.integer):
        value = int(value)
    return value if is_count(value) else None


def _checkpoints(series: Series | Selection | Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    return tuple(series.checkpoints if isinstance(series, Series | Selection) else series)


def _of_stages(series: Series | Sequence[Checkpoint], stages: Sequence[str] | None) -> tuple[Checkpoint, ...]:
    checkpoints = _checkpoints(series)
    present = tuple(dict.fromkeys(checkpoint.stage for checkpoint in checkpoints))
    unknown = [stage for stage in stages or () if stage not in present]
    if unknown or not checkpoints:
        known = ", ".join(repr(stage) for stage in present) or "no checkpoints at all"
        raise OptionError(f"stages={unknown} were asked for. The series has {known}; choose among these.")
    return tuple(c for c in checkpoints if stages is None or c.stage in stages)


def _axis(checkpoints: tuple[Checkpoint, ...], axis: AxisName) -> list[int]:
    """The values of an axis, which grow along the checkpoints.

    Raises:
        OptionError: they are untold for some checkpoint, are no numbers that can be stored, or do not grow.
    """
    values = [checkpoint.tokens if axis == "tokens" else checkpoint.step for checkpoint in checkpoints]
    other = own_axis(checkpoints) if axis == "tokens" else "tokens"
    silent = [c.key for c, value in zip(checkpoints, values, strict=True) if value is None]
    if silent or not values:
        raise OptionError(
            f"No {axis} are known of {', '.join(silent[:4]) or 'an empty series'}"
            f"{' and others' if len(silent) > 4 else ''}. Choose on {other}, or only stages that tell them."
        )
    odd = [(c.key, value) for c, value in zip(checkpoints, values, strict=True) if _integer(value) is None]
    if odd:
        raise OptionError(
            f"{odd[0][0]} has {axis} {quoted(odd[0][1])}. Expected a whole number from 0 to {LARGEST:,}: correct it, "
            "or leave this checkpoint out."
        )
    told = [value for value in values if value is not None]
    counted = checkpoints[0].step_unit
    if axis != "tokens" and counted != axis:
        what = "optimizer steps" if axis == "steps" else axis
        raise OptionError(
            f"{checkpoints[0].key} tells no {what}, but {counted}. Choose on {own_axis(checkpoints)} instead."
        )
    if any(later < earlier for earlier, later in pairwise(told)):
        stages = ", ".join(dict.fromkeys(repr(checkpoint.stage) for checkpoint in checkpoints))
        raise OptionError(
            f"{axis} begin anew within the stages {stages}, so that none of them is one place in training. "
            "Choose one stage, or stages that go on from each other."
        )
    return told


def _nearest_each(candidates: tuple[Checkpoint, ...], axis: AxisName, asked: Sequence[int]) -> Selection:
    values = _axis(candidates, axis)
    nearest = [_nearest(values, target) for target in asked]
    matches = tuple(Match(axis, target, values[i], candidates[i].key) for target, i in zip(asked, nearest, strict=True))
    return Selection(tuple(candidates[i] for i in sorted(set(nearest))), matches)


def own_axis(checkpoints: Sequence[Checkpoint]) -> AxisName:
    """The axis that checkpoints are told on: what their steps count or, where that is no progress, tokens."""
    counted = checkpoints[0].step_unit if checkpoints else STEPS
    return next((axis for axis in get_args(AxisName) if axis == counted), "tokens")


def _multiples(candidates: tuple[Checkpoint, ...], every: int) -> Selection:
    axis: AxisName = "steps" if own_axis(candidates) == "tokens" else own_axis(candidates)
    values = _axis(candidates, axis)
    nearest: dict[int, int] = {}
    for i, value in enumerate(values):
        multiple = (value + every // 2) // every * every
        best = nearest.setdefault(multiple, i)
        if abs(value - multiple) < abs(values[best] - multiple):
            nearest[multiple] = i
    matches = tuple(Match(axis, multiple, values[i], candidates[i].key) for multiple, i in nearest.items())
    unmet = (max(nearest) - min(nearest)) // every + 1 - len(nearest)
    return Selection(tuple(candidates[i] for i in nearest.values()), matches, unmet)


def _spaced(candidates: tuple[Checkpoint, ...], count: int, spacing: Spacing) -> Selection:
    """`count` different checkpoints: each target, in order, takes the nearest that leaves room for the rest."""
    axis = own_axis(candidates)
    values = _axis(candidates, axis)
    if count > len(values):
        raise OptionError(
            f"count={count} was given, but there are {len(values)} checkpoints. Ask for no more than that."
        )
    targets = _targets(values, count, spacing)
    chosen: list[int] = []
    for rank, target in enumerate(targets):
        first = chosen[-1] + 1 if chosen else 0
        last = len(values) - (count - rank)
        chosen.append(
            first + _nearest(values[first : last + 1], target, _log_distance if spacing == "log" else _distance)
        )
    matches = tuple(
        Match(axis, target, values[i], candidates[i].key) for target, i in zip(targets, chosen, strict=True)
    )
    return Selection(tuple(candidates[i] for i in chosen), matches)


def _targets(values: list[int], count: int, spacing: Spacing) -> list[int]:
    if count == 1:
        return [values[-1]]
    if spacing == "even":
        even = [round(value) for value in np.linspace(values[0], values[-1], count).tolist()]
        return [values[0], *even[1:-1], values[-1]]  # the ends as they are: they may have more digits than a float
    zero = [0] if values[0] == 0 else []
    positive = [value for value in values if value > 0]
    if count == 2 or not positive:
        return [values[0], values[-1]]
    ratios = [round(value) for value in np.geomspace(positive[0], positive[-1], count - len(zero)).tolist()]
    return [*zero, positive[0], *ratios[1:-1], positive[-1]]


def _nearest(values: Sequence[int], target: int, distance: Callable[[int, int], float] | None = None) -> int:
    """Index of the value nearest to the target among growing values; the smaller of two equally near ones."""
    measure = _distance if distance is None else distance
    return min(_around(values, target), key=lambda i: (measure(values[i], target), abs(values[i] - target)))


def _adjacent(x: list[int], y: list[int]) -> list[tuple[int, int]]:
    """Index pairs (i, j) with no other value between x[i] and y[j] on one of the sides, the closest first."""
    pairs = {(i, j) for i, value in enumerate(x) for j in _around(y, value)}
    pairs |= {(i, j) for j, value in enumerate(y) for i in _around(x, value)}
    return sorted(pairs, key=lambda pair: (abs(x[pair[0]] - y[pair[1]]), pair))


def _around(values: Sequence[int], target: int) -> list[int]:
    at = bisect_left(values, target)
    return [i for i in (at - 1, at) if 0 <= i < len(values)]


def _distance(value: int, target: int) -> float:
    return abs(value - target)


def _log_distance(value: int, target: int) -> float:
    return abs(float(np.log((value + 1e-9) / (target + 1e-9))))


def _relative(x: int, y: int) -> float:
    return abs(x - y) / max(x, y, 1)
