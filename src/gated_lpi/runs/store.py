"""One arm's results on disk: an `xarray.Dataset` in a zarr group that grows by one checkpoint at a time.

1. Every array that differs between checkpoints has `checkpoint` as its first dimension and one chunk per
   checkpoint, so that appending never touches what is there.
2. The group's attribute `checkpoints` lists what is complete, with each checkpoint's provenance. It is written
   last, in one atomic write: that write is the commit. The first checkpoint is written beside and moved in place;
   in an object store, where nothing can be moved in one step, it is written in place and committed like the others.
3. Rows beyond the list are what an interrupted append left behind. Readers do not see them and the next append
   cuts them off first, so a process that is killed, or a disk that fills up, costs one checkpoint at most.
4. The same write holds the shapes of all arrays (zarr calls that consolidated metadata). An append touches the arrays
   only, so that xarray and other readers see the complete rows while one is under way, and after it was interrupted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr
from pydantic import BaseModel, ConfigDict

from gated_lpi.checkpoints.names import stage_order
from gated_lpi.errors import RunError
from gated_lpi.folders import Folder, as_folder, is_remote, read_text, write_atomically, zarr_store
from gated_lpi.foreign import parse_json
from gated_lpi.runs.files import Entry, read_file
from gated_lpi.runs.identity import differences
from gated_lpi.specs import GREATEST

LOG = "checkpoints"
COORDS = "coords"
META = "zarr.json"
DIM = "checkpoint"
TARGET = "target_id"  # differs between checkpoints where the target is the model's own prediction


class MisfitError(RunError):
    """A checkpoint whose scores do not belong beside those of its arm: another model, other tokens or options."""


class _Record(Entry):
    weights_sha256: str = ""
    reconstruction_error: float | None = None
    coverage: float | None = None
    seconds: float | None = None
    shape: dict[str, int] | None = None


class _Attributes(BaseModel):
    model_config = ConfigDict(extra="allow")

    checkpoints: list[_Record] | None = None


class _Group(BaseModel):
    """zarr.json of a group, as far as it says which checkpoints are complete."""

    model_config = ConfigDict(extra="allow")

    attributes: _Attributes = _Attributes()


class ResultStore:
    """Results of one arm, at a folder or fsspec address that zarr can write.

    Args:
        path: the zarr group; it need not exist yet.
    """

    def __init__(self, path: str | Folder) -> None:
        self.path: Folder = as_folder(path)

    def records(self) -> list[dict[str, Any]]:
        """Provenance of the complete checkpoints, in the order in which they were appended.

        At an address, a group without a list is a first checkpoint that was interrupted, and counts as nothing.

        Raises:
            RunError: the folder is there but is no result store.
        """
        advice = "mend or delete what is there and run again"
        group = read_file(self.path / META, _Group, "a store of results", advice)
        if group is None:
            return []
        if group.attributes.checkpoints is None and not is_remote(self.path):
            raise RunError(
                f"{self.path} is not a store of results that can be read (it lists no checkpoints); if a run was "
                "interrupted before its first checkpoint was complete, delete this folder and run again"
            )
        return [record.model_dump(exclude_unset=True) for record in group.attributes.checkpoints or ()]

    def keys(self) -> list[str]:
        """Names of the complete checkpoints."""
        return [record["key"] for record in self.records()]

    def append(self, scores: xr.Dataset, record: Mapping[str, Any]) -> None:
        """Add one checkpoint, or nothing.

        Args:
            scores: the checkpoint's scores, without a checkpoint dimension.
            record: plain values, with at least `key` and `step`; `tokens` and `stage` become coordinates too.

        Raises:
            MisfitError: its model, tokens or units differ from those of the others.
            RunError: the checkpoint is there already, or it could not be written; what was there before stays
                readable.
        """
        records = self.records()
        if record["key"] in (r["key"] for r in records):
            raise RunError(f"{self.path} holds checkpoint {record['key']!r} already; a checkpoint is added once")
        self._refuse_others(records, record)
        row = _with_checkpoint(scores, record)
        try:
            if records:
                self._extend(row, len(records))
                _commit(self.path, [*records, dict(record)])
            else:
                self._create(row, record)
        except OSError as error:
            raise RunError(
                f"checkpoint {record['key']!r} could not be written to {self.path}: {error}. The "
                f"{len(records)} checkpoints before it are complete and readable; free space or mend the disk, and "
                "run the same command again to go on from there"
            ) from error

    def open(self) -> xr.Dataset:
        """The complete checkpoints, lazily, in training order; provenance of each in `attrs["checkpoints"]`.

        Beside what was appended there is the coordinate `weights_sha256` (checkpoint), "" where it is unknown.

        Raises:
            RunError: no checkpoint is complete, or what was written is damaged.
        """
        records = self.records()
        if not records:
            raise RunError(f"{self.path} holds no complete checkpoint yet; run the experiment to add some")
        order = sorted(range(len(records)), key=lambda row: _place_in_training(records[row]))
        digests = np.array([str(record.get("weights_sha256", "")) for record in records], dtype=object)
        try:
            scores = self._complete_rows(len(records)).assign_coords(weights_sha256=(DIM, digests))
        except Exception as error:  # whatever zarr, numpy and xarray make of files that were cut off or edited
            raise RunError(
                f"{self.path} cannot be read: {type(error).__name__}: {error}. Restore the folder, or delete it and "
                "run again"
            ) from error
        scores.attrs[LOG] = [records[row] for row in order]
        ordered: xr.Dataset = scores if (np.diff(order) == 1).all() else scores.isel({DIM: order})
        return ordered

    def _complete_rows(self, complete: int) -> xr.Dataset:
        """Open the rows that are listed. An interrupted append may have left arrays of two lengths."""
        place = zarr_store(self.path, read_only=True)
        group = zarr.open_group(place, mode="r", use_consolidated=False)
        lengths = {name: array.shape[0] for name, array in _growing(group)}
        parts = []
        for length in sorted(set(lengths.values())):
            others = [name for name, other in lengths.items() if other != length]
            part = xr.open_zarr(place, consolidated=False, chunks=None, drop_variables=others)
            parts.append(part.isel({DIM: slice(0, complete)}))
        coords = set(cast("list[str]", group.attrs[COORDS]))
        parts = [part.set_coords(coords.intersection(part.variables)) for part in parts]
        merged: xr.Dataset = xr.merge(parts, join="exact", compat="override").assign_attrs(parts[0].attrs)
        return merged

    def _create(self, row: xr.Dataset, record: Mapping[str, Any]) -> None:
        """Write the first checkpoint, to a folder beside the store's; moving that to its place is the commit.

        At an address it is written in place of what an interrupted attempt left there, and the log is the commit.
        """
        encoding = {
            name: {"chunks": (1, *variable.shape[1:])} for name, variable in row.variables.items() if _varies(variable)
        }
        attrs = {LOG: [], COORDS: sorted(map(str, row.coords))}
        if is_remote(self.path):
            place = zarr_store(self.path, read_only=False)
            row.assign_attrs(attrs).to_zarr(place, mode="w", consolidated=False, encoding=encoding)
            _commit(self.path, [dict(record)])
            return
        draft = self.path.with_name(f".{self.path.name}.draft")
        for folder in (draft, self.path):
            if folder.exists():
                shutil.rmtree(folder)
        row.assign_attrs(attrs).to_zarr(draft, mode="w", consolidated=False, encoding=encoding)
        _commit(draft, [dict(record)])
        draft.rename(self.path)

    def _extend(self, row: xr.Dataset, complete: int) -> None:
        group = zarr.open_group(zarr_store(self.path, read_only=False), mode="r+", use_consolidated=False)
        self._refuse_other_axes(row, complete)
        for name, array in _growing(group):
            array.resize((complete, *array.shape[1:]))
            array.resize((complete + 1, *array.shape[1:]))
            array[complete] = row[name].to_numpy()[0]

    def _refuse_others(self, records: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
        for name in ("step", "tokens"):
            if not -1 <= (record.get(name) or 0) <= GREATEST:
                raise MisfitError(f"the {name} of {record['key']} are more than arrays can hold ({GREATEST:,} at most)")
        differing = differences(records, record)
        if differing:
            raise MisfitError(
                f"{'; '.join(differing)}. Scores of one arm are compared over training, so its checkpoints must be of "
                "one model and one tokenizer; put this one into an arm of its own, or mend its config and tokenizer"
            )

    def _refuse_other_axes(self, row: xr.Dataset, complete: int) -> None:
        there = self._complete_rows(complete)
        missing = [str(name) for name in there.variables if name not in row.variables]
        if missing:
            raise MisfitError(
                f"this checkpoint has no {', '.join(missing)}, which those in {self.path} have: the models, facts or "
                "options of one arm must be the same at every checkpoint"
            )
        for name, variable in row.variables.items():
            same = name in there.variables and (
                there[name].sizes.keys() == row[name].sizes.keys()
                and all(there.sizes[dim] == size for dim, size in row[name].sizes.items() if dim != DIM)
                and (_varies(variable) or bool((there[name].to_numpy() == row[name].to_numpy()).all()))
            )
            if not same:
                raise MisfitError(
                    f"{name!r} of this checkpoint does not fit those in {self.path}: the models, facts or options of "
                    "one arm must be the same at every checkpoint"
                )


def _commit(path: Folder, records: list[dict[str, Any]]) -> None:
    """Write what is complete and the shapes that belong to it, in one step.

    The shapes are zarr's consolidated metadata: each array's own metadata, once more, in that of the group.
    """
    group = zarr.open_group(zarr_store(path, read_only=True), mode="r", use_consolidated=False)
    root = _metadata(path)
    root["attributes"][LOG] = records
    arrays = {name: _metadata(path / name) for name in sorted(group.array_keys())}
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": arrays}
    write_atomically(path / META, json.dumps(root, indent=2))


def _metadata(node: Folder) -> dict[str, Any]:
    text = read_text(node / META)
    if text is None:
        raise FileNotFoundError(str(node / META))
    content: dict[str, Any] = parse_json(text)
    return content


def _growing(group: zarr.Group) -> Iterator[tuple[str, zarr.Array[Any]]]:
    """Arrays with a row for each checkpoint."""
    for name, array in group.arrays():
        if (getattr(array.metadata, "dimension_names", None) or (None,))[0] == DIM:
            yield name, array


def _place_in_training(record: Mapping[str, Any]) -> tuple[Any, int]:
    return stage_order(str(record.get("stage", ""))), int(record["step"])


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
