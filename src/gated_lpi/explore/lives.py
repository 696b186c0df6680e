"""When each unit was in a top set: of every unit, over all checkpoints of an arm.

Top sets are those of the metrics: of each kind of unit the ceil(fraction · N) of greatest mean score. What is kept is
small, and made once for each checkpoint: the members' numbers, and the least score that was enough.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi._common.folders import write_atomically
from gated_lpi.errors import OptionError
from gated_lpi.explore.curves import Advance
from gated_lpi.metrics import top_set

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Lives:
    """Of N units over T checkpoints.

    Attributes:
        sets: of each checkpoint the members of the top sets of all kinds, ascending.
        least: [T], by kind, the least score of a member; NaN where there is no top set.
        times: [N], in how many top sets a unit was.
        first: [N], the place of the first checkpoint whose top set has it; −1 for none.
        stays: [N], of the times that it was in a top set with a next checkpoint, the share in which it was in the next
            one too; NaN where that never was.
        longest: [N], the longest unbroken stay, in checkpoints.
    """

    sets: tuple[Ints, ...]
    least: Mapping[str, NDArray[np.float64]]
    times: NDArray[np.int32]
    first: NDArray[np.int32]
    stays: NDArray[np.float32]
    longest: NDArray[np.int32]


def lives(
    file: Path,
    made_of: Mapping[str, str],
    kinds: Mapping[str, Ints],
    fraction: float,
    row: Callable[[int], NDArray[Any]],
    advance: Advance,
) -> Lives:
    """The lives of all units, from top sets that are kept in a file and added to.

    Args:
        file: where top sets are kept; one that does not fit is written anew.
        made_of: of each checkpoint, in order.
        kinds: the units of each kind.
        fraction: of the units in a top set.
        row: the mean scores [N] at the checkpoint of a place.
        advance: called with how many checkpoints are done, of how many.

    Raises:
        WriteError: the file cannot be written.
        DamagedError: what is in the store is not what was written.
    """
    known = _read(file, fraction)
    new = False
    total = sum(units.size for units in kinds.values())
    for place, one in enumerate(made_of.values()):
        if one not in known:
            advance(place, len(made_of))
            known[one] = _tops(row(place), kinds, fraction)
            new = True
    advance(len(made_of), len(made_of))
    if new:
        _write(file, {one: known[one] for one in made_of.values()}, fraction)
    found = [known[one] for one in made_of.values()]
    least = {kind: np.array([at[kind][1] for at in found]) for kind in kinds}
    sets = tuple(np.sort(np.concatenate([at[kind][0] for kind in kinds])) for at in found)
    return Lives(sets, least, *_counted(sets, total))


def _tops(scores: NDArray[Any], kinds: Mapping[str, Ints], fraction: float) -> dict[str, tuple[Ints, float]]:
    """Members and least score of each kind's top set; none where scores are not finite."""
    found = {}
    for kind, units in kinds.items():
        try:
            inside = units[top_set(scores[units], fraction)]
            found[kind] = (inside, float(scores[inside].min()))
        except OptionError:
            found[kind] = (np.empty(0, dtype=np.int64), float("nan"))
    return found


def _counted(
    sets: tuple[Ints, ...], units: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    times, first = np.zeros(units, np.int32), np.full(units, -1, np.int32)
    run, longest, kept = (np.zeros(units, np.int32) for _ in range(3))
    for place, members in enumerate(sets):
        inside = np.zeros(units, dtype=np.bool_)
        inside[members] = True
        kept[members] += run[members] > 0
        run = np.where(inside, run + 1, 0).astype(np.int32)
        longest[members] = np.maximum(longest[members], run[members])
        times[members] += 1
        first[members] = np.where(first[members] < 0, place, first[members])
    chances = times.copy()
    if sets:
        chances[sets[-1]] -= 1
    stays = np.divide(kept, chances, out=np.full(units, np.nan, np.float32), where=chances > 0, dtype=np.float32)
    return times, first, stays, longest


def _read(file: Path, fraction: float) -> dict[str, dict[str, tuple[Ints, float]]]:
    """Top sets that were kept, by what their checkpoint is made of; nothing if they are of another fraction."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            if float(kept["fraction"]) != fraction:
                return {}
            kinds = [str(kind) for kind in kept["kinds"]]
            sets = {kind: kept[f"{kind}_sets"].astype(np.int64) for kind in kinds}
            sizes = {kind: np.cumsum(kept[f"{kind}_sizes"])[:-1] for kind in kinds}
            least = {kind: kept[f"{kind}_least"] for kind in kinds}
            parts = {kind: np.split(sets[kind], sizes[kind]) for kind in kinds}
            return {
                str(one): {kind: (parts[kind][place], float(least[kind][place])) for kind in kinds}
                for place, one in enumerate(kept["made_of"])
            }
    except Exception:  # whatever NumPy makes of a file that is not there, cut short or edited: it is a copy
        return {}


def _write(file: Path, tops: Mapping[str, Mapping[str, tuple[Ints, float]]], fraction: float) -> None:
    kinds = list(next(iter(tops.values())))
    arrays: dict[str, Any] = {"fraction": fraction, "kinds": np.array(kinds), "made_of": np.array(list(tops))}
    for kind in kinds:
        arrays[f"{kind}_sets"] = np.concatenate([at[kind][0] for at in tops.values()]).astype(np.int32)
        arrays[f"{kind}_sizes"] = np.array([at[kind][0].size for at in tops.values()])
        arrays[f"{kind}_least"] = np.array([at[kind][1] for at in tops.values()])
    content = io.BytesIO()
    np.savez(content, **arrays)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, content.getvalue())
