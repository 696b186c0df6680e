"""One arm's results on disk: an `xarray.Dataset` in a zarr group that grows by one checkpoint at a time.

1. Every array that differs between checkpoints has `checkpoint` as its first dimension and one chunk per
   checkpoint, so that appending never touches what is there.
2. The group's attribute `checkpoints` lists what is complete, with each checkpoint's provenance. It is written
   last, in one atomic write: that write is the commit.
3. Rows beyond the list are what an interrupted append left behind. Readers do not see them and the next append
   cuts them off first, so a process that is killed, or a disk that fills up, costs one checkpoint at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr

from gated_lpi.errors import RunError

LOG = "checkpoints"
COORDS = "coords"
DIM = "checkpoint"
TARGET = "target_id"  # differs between checkpoints where the target is the model's own prediction


class ResultStore:
    """Results of one arm, at a folder that zarr can write.

    Args:
        path: the zarr group; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def records(self) -> list[dict[str, Any]]:
        """Provenance of the complete checkpoints, in the order in which they were appended.

        Raises:
            RunError: the folder is there but is no result store.
        """
        if not (self.path / "zarr.json").is_file():
            return []
        try:
            return list(zarr.open_group(self.path, mode="r").attrs[LOG])  # type: ignore[arg-type]
        except (KeyError, ValueError, OSError) as error:
            raise RunError(
                f"{self.path} is not a store of results that can be read ({error}); if a run was interrupted before "
                "its first checkpoint was complete, delete this folder and run again"
            ) from error

    def keys(self) -> list[str]:
        """Names of the complete checkpoints."""
        return [record["key"] for record in self.records()]

    def append(self, scores: xr.Dataset, record: Mapping[str, Any]) -> None:
        """Add one checkpoint, or nothing.

        Args:
            scores: the checkpoint's scores, without a checkpoint dimension.
            record: plain values, with at least `key` and `step`; `tokens` and `stage` become coordinates too.

        Raises:
            RunError: the checkpoint is there already, its units differ from those of the others, or it could
                not be written; what was there before stays readable.
        """
        records = self.records()
        if record["key"] in (r["key"] for r in records):
            raise RunError(f"{self.path} holds checkpoint {record['key']!r} already; a checkpoint is added once")
        row = _with_checkpoint(scores, record)
        try:
            if records:
                self._extend(row, len(records))
            else:
                self._create(row)
            zarr.open_group(self.path, mode="r+").attrs[LOG] = [*records, dict(record)]
        except OSError as error:
            raise RunError(
                f"checkpoint {record['key']!r} could not be written to {self.path}: {error}. The "
                f"{len(records)} checkpoints before it are complete and readable; free space or mend the disk, and "
                "run the same command again to go on from there"
            ) from error

    def open(self) -> xr.Dataset:
        """The complete checkpoints, lazily, ordered by step; provenance of each in `attrs["checkpoints"]`.

        Raises:
            RunError: no checkpoint is complete.
        """
        records = self.records()
        if not records:
            raise RunError(f"{self.path} holds no complete checkpoint yet; run the experiment to add some")
        scores = self._complete_rows(len(records))
        order = np.argsort([record["step"] for record in records], kind="stable")
        scores.attrs[LOG] = [records[i] for i in order]
        ordered: xr.Dataset = scores if (np.diff(order) == 1).all() else scores.isel({DIM: order})
        return ordered

    def _complete_rows(self, complete: int) -> xr.Dataset:
        """Open the rows that are listed. An interrupted append may have left arrays of two lengths."""
        group = zarr.open_group(self.path, mode="r")
        lengths = {name: array.shape[0] for name, array in _growing(group)}
        parts = []
        for length in sorted(set(lengths.values())):
            others = [name for name, other in lengths.items() if other != length]
            part = xr.open_zarr(self.path, consolidated=False, chunks=None, drop_variables=others)
            parts.append(part.isel({DIM: slice(0, complete)}))
        coords = set(cast("list[str]", group.attrs[COORDS]))
        parts = [part.set_coords(coords.intersection(part.variables)) for part in parts]
        merged: xr.Dataset = xr.merge(parts, join="exact", compat="override").assign_attrs(parts[0].attrs)
        return merged

    def _create(self, row: xr.Dataset) -> None:
        encoding = {
            name: {"chunks": (1, *variable.shape[1:])} for name, variable in row.variables.items() if _varies(variable)
        }
        attrs = {LOG: [], COORDS: sorted(map(str, row.coords))}
        row.assign_attrs(attrs).to_zarr(self.path, mode="w", consolidated=False, encoding=encoding)

    def _extend(self, row: xr.Dataset, complete: int) -> None:
        group = zarr.open_group(self.path, mode="r+")
        for _, array in _growing(group):
            array.resize((complete, *array.shape[1:]))
        self._refuse_other_axes(row)
        fixed = [name for name, variable in row.variables.items() if not _varies(variable)]
        growing = row.drop_vars(fixed).assign_attrs(dict(group.attrs))
        growing.to_zarr(self.path, append_dim=DIM, consolidated=False)

    def _refuse_other_axes(self, row: xr.Dataset) -> None:
        there = xr.open_zarr(self.path, consolidated=False, chunks=None)
        for name, variable in row.variables.items():
            same = name in there.variables and (
                there[name].sizes.keys() == row[name].sizes.keys()
                and all(there.sizes[dim] == size for dim, size in row[name].sizes.items() if dim != DIM)
                and (_varies(variable) or bool((there[name].to_numpy() == row[name].to_numpy()).all()))
            )
            if not same:
                raise RunError(
                    f"{name!r} of this checkpoint does not fit those in {self.path}: the models, facts or options of "
                    "one arm must be the same at every checkpoint"
                )


def _growing(group: zarr.Group) -> Iterator[tuple[str, zarr.Array[Any]]]:
    """Arrays with a row for each checkpoint."""
    for name, array in group.arrays():
        if (getattr(array.metadata, "dimension_names", None) or (None,))[0] == DIM:
            yield name, array


def _varies(variable: xr.Variable) -> bool:
    return DIM in variable.dims


def _with_checkpoint(scores: xr.Dataset, record: Mapping[str, Any]) -> xr.Dataset:
    """Give every data variable a leading checkpoint dimension, and the checkpoint its coordinates."""
    tokens = record.get("tokens")
    coords = {
        "checkpoint_key": (DIM, np.array([record["key"]], dtype=object)),
        "step": (DIM, np.array([record["step"]], dtype=np.int64)),
        "tokens": (DIM, np.array([-1 if tokens is None else tokens], dtype=np.int64)),
        "stage": (DIM, np.array([record.get("stage", "")], dtype=object)),
    }
    varying = [name for name in scores.variables if name in scores.data_vars or name == TARGET]
    expanded = {name: scores.variables[name].expand_dims(DIM) for name in varying}
    rebuilt = scores.drop_vars(varying).assign(expanded).assign_coords(coords)
    texts = {name: v.astype(object) for name, v in rebuilt.coords.items() if v.dtype.kind == "U"}
    rebuilt = rebuilt.assign_coords(texts)  # zarr has no stable format for strings of a fixed length
    return rebuilt.set_coords(TARGET) if TARGET in rebuilt else rebuilt
