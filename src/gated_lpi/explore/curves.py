"""Scores of one variable, turned so that all checkpoints of a unit lie together: derived of an arm's store.

A store has a chunk for each checkpoint, so that adding one touches nothing that is there; the price is that a unit's
history is spread over as many chunks as there are checkpoints. Here the same numbers stand unit by unit:

1. A *segment* is a file [N, K, W] of some K checkpoints: N units, W numbers each (1, or one for each relation), as they
   are in the store, little end first. Beside it a JSON file says of which checkpoints, by what they are made of
   (`ResultStore.made_of`); it is written last, and without it the segment does not exist.
2. Whatever is not there is added in new segments, the last one that is not full being made again with them. A segment
   that speaks of a checkpoint which is no longer what it was is deleted. So a run that grows is followed.
3. A unit's history is one short read of each segment. Nothing here is more than a copy: the folder may be deleted at
   any time.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from gated_lpi._common.folders import draft_of, is_draft, write_atomically

LARGEST = 256 << 20  # bytes of a segment: what is held in memory while it is made
MOST = 32  # checkpoints of a segment
SPARE = 2  # times the room that is needed must be free
VERSION = 1

Advance = Callable[[int, int], None]


class _Description(BaseModel):
    """What a segment holds.

    Attributes:
        version: of this layout.
        made_of: of each of its checkpoints.
        units, width: N and W.
        dtype: as NumPy writes it.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    version: int
    made_of: list[str]
    units: int
    width: int
    dtype: str


@dataclass(frozen=True)
class _Segment:
    file: Path
    made_of: tuple[str, ...]
    values: NDArray[Any]


class Curves:
    """The histories of all units by one variable.

    Args:
        folder: where they are kept, on this machine.
        variable: a name of scores [checkpoint, unit] or [checkpoint, relation, unit].
    """

    def __init__(self, folder: Path, variable: str) -> None:
        self._folder = folder
        self._variable = variable
        self._segments: tuple[_Segment, ...] = ()

    def of(self, unit: int, made_of: Mapping[str, str]) -> NDArray[Any]:
        """A unit's history, [T, W]; NaN at checkpoints that are not there yet.

        Args:
            unit: its place on the axis.
            made_of: of each checkpoint, in order.
        """
        segments = self._segments
        width = segments[0].values.shape[2] if segments else 1
        found = np.full((len(made_of), width), np.nan)
        places: dict[str, list[int]] = {}
        for place, one in enumerate(made_of.values()):
            places.setdefault(one, []).append(place)
        for segment in segments:
            row = np.asarray(segment.values[unit])
            for values, one in zip(row, segment.made_of, strict=True):
                found[places.get(one, [])] = values
        return found

    def refresh(self, scores: xr.Dataset, made_of: Mapping[str, str], advance: Advance) -> None:
        """Bring it up to date: use what was kept, delete what is no longer true, add what is missing.

        Args:
            scores: of the arm, its checkpoints those of `made_of`.
            made_of: of each checkpoint, in order.
            advance: called with how many checkpoints are done, of how many.

        Raises:
            OSError: it cannot be written.
            DamagedError: what is in the store is not what was written.
        """
        variable = scores[self._variable].transpose("checkpoint", ..., "unit")
        width = variable.size // (variable.sizes["checkpoint"] * variable.sizes["unit"])
        dtype = np.dtype(variable.dtype).newbyteorder("<")
        wanted = dict(zip(made_of.values(), range(len(made_of)), strict=True))
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = list(self._kept(set(wanted), variable.sizes["unit"], width, dtype))
        most = max(1, min(MOST, LARGEST // (variable.sizes["unit"] * width * dtype.itemsize)))
        known = {one for segment in kept for one in segment.made_of}
        if wanted.keys() - known:
            kept = [segment for segment in kept if len(segment.made_of) >= most]
            known = {one for segment in kept for one in segment.made_of}
        missing = [one for one in wanted if one not in known]
        self._refuse_too_large(len(missing) * variable.sizes["unit"] * width * dtype.itemsize)
        self._segments = tuple(kept)
        for start in range(0, len(missing), most):
            chosen = missing[start : start + most]
            values = np.empty((variable.sizes["unit"], len(chosen), width), dtype)
            for place, one in enumerate(chosen):
                advance(len(known) + start + place, len(wanted))
                at = variable.isel(checkpoint=wanted[one]).to_numpy()
                values[:, place, :] = at.reshape(width, -1).T
            self._segments = (*self._segments, self._keep(tuple(chosen), values))
        advance(len(wanted), len(wanted))
        self._forget()

    def _kept(self, wanted: set[str], units: int, width: int, dtype: np.dtype[Any]) -> Iterator[_Segment]:
        """The segments that are there and true, no checkpoint twice."""
        seen: set[str] = set()
        for file in sorted(self._folder.glob(f"{self._variable}-*.json")):
            try:
                said = _Description.model_validate_json(file.read_bytes())
            except (OSError, ValidationError):
                continue
            mine = set(said.made_of)
            data = file.with_suffix(".bin")
            shape = (units, len(said.made_of), width)
            alike = (said.version, said.units, said.width, said.dtype) == (VERSION, units, width, dtype.str)
            if not alike or not mine or not mine <= wanted or mine & seen or not data.is_file():
                continue
            if data.stat().st_size != int(np.prod(shape)) * dtype.itemsize:
                continue
            seen |= mine
            yield _Segment(data, tuple(said.made_of), np.memmap(data, dtype, "r", shape=shape))

    def _refuse_too_large(self, needed: int) -> None:
        """Leave at least as much room on the disk as is taken of it."""
        free = shutil.disk_usage(self._folder).free
        if free < SPARE * needed:
            raise OSError(
                errno.ENOSPC,
                f"{self._folder} would take {needed / 1e9:.1f} GB more and the disk has {free / 1e9:.1f} GB free; free "
                f"{(SPARE * needed - free) / 1e9:.1f} GB and start again",
            )

    def _keep(self, made_of: tuple[str, ...], values: NDArray[Any]) -> _Segment:
        name = f"{self._variable}-{sha256(json.dumps(made_of).encode()).hexdigest()[:16]}"
        data = self._folder / f"{name}.bin"
        draft = draft_of(data)
        try:
            values.tofile(draft)
            draft.replace(data)
        finally:
            draft.unlink(missing_ok=True)
        said = _Description(
            version=VERSION,
            made_of=list(made_of),
            units=values.shape[0],
            width=values.shape[2],
            dtype=values.dtype.str,
        )
        write_atomically(data.with_suffix(".json"), said.model_dump_json())
        return _Segment(data, made_of, np.memmap(data, values.dtype, "r", shape=values.shape))

    def _forget(self) -> None:
        """Delete what is not used: segments of checkpoints that changed, and what a killed process left."""
        used = {name for segment in self._segments for name in (segment.file.name, segment.file.stem + ".json")}
        for file in self._folder.iterdir():
            mine = file.name.startswith(f"{self._variable}-") and file.suffix in (".bin", ".json")
            if (mine and file.name not in used) or is_draft(file.name, f"{self._variable}-"):
                file.unlink(missing_ok=True)
