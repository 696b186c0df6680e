"""One arm's results on disk: an `xarray.Dataset` in a zarr group that grows by one checkpoint at a time.

1. Every array that differs between checkpoints has `checkpoint` as its first dimension and its chunks hold one
   checkpoint each, so that appending never touches what is there.
2. The group's zarr.json says what is complete: each checkpoint's provenance and the digest of every chunk (`commit`).
   It is written last, in one atomic write: that write is the commit. Before it, all that it speaks of is on the disk:
   chunks and the arrays' metadata are written, then these files and their folders are synced, then comes the copy of
   the commit, then the commit itself, each synced with its folder. The first checkpoint is written to a folder beside,
   which is synced as a whole and moved in place; in an object store, where nothing can be moved in one step, it is
   written in place and committed like the others.
3. Rows beyond the commit are what an interrupted append left behind. Nobody sees them and the next append overwrites
   them, so a process that is killed, or a disk that fills up, costs one checkpoint at most.
4. A reader takes the commit as it was when it opened the store, and every chunk is verified as it is read.
5. What does not verify is left out by `heal`, and can then be appended again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from gated_lpi import score_schema as schema
from gated_lpi._common.folders import (
    Folder,
    as_folder,
    draft_of,
    is_draft,
    is_remote,
    make,
    read_bytes,
    sizes,
    sync,
    write_atomically,
)
from gated_lpi.checkpoints.names import stage_order
from gated_lpi.datasets import as_expected
from gated_lpi.errors import DamagedError, RunError, WriteError
from gated_lpi.metrics.relations import over_relations
from gated_lpi.options.spec import GREATEST
from gated_lpi.results.chunks import Recorder, Verifier, opened
from gated_lpi.results.commit import (
    COORDS,
    DIM,
    LOG,
    META,
    Commit,
    StoredChunk,
    as_row,
    draft_commit,
    grows,
    read_commit,
    split,
    stored,
    with_length,
    write_commit,
)
from gated_lpi.results.damage import Damage, find_damage, leave_out, refuse_visible_damage
from gated_lpi.results.files import digest
from gated_lpi.results.identity import misfits

_LOG = logging.getLogger(__name__)
TARGET = "target_id"  # differs between checkpoints where the target is the model's own prediction
_INTERNAL = ("digests", "format", "sha256")


class MisfitError(RunError):
    """A checkpoint whose scores do not belong beside those of its arm: another model, other tokens or options."""


class ResultStore:
    """Results of one arm, at a folder or fsspec address that zarr can write.

    Args:
        path: the zarr group; it need not exist yet.

    Raises:
        OptionError: an address for which no fsspec package is installed.
    """

    def __init__(self, path: str | Folder) -> None:
        self.path: Folder = as_folder(path)

    def records(self) -> list[dict[str, Any]]:
        """Provenance of the complete checkpoints, in the order of their rows.

        At an address, a group without a list is a first checkpoint that was interrupted, and counts as nothing.

        Raises:
            RunError: the folder is there but is no result store, or a later version of this package wrote it.
        """
        commit = read_commit(self.path)
        return [] if commit is None else commit.records

    def keys(self) -> list[str]:
        """Names of the complete checkpoints.

        Raises:
            RunError: the folder is there but is no result store, or a later version of this package wrote it.
        """
        return [record["key"] for record in self.records()]

    def in_training_order(self) -> list[dict[str, Any]]:
        """Provenance of the complete checkpoints, first to last in training.

        Raises:
            RunError: the folder is there but is no result store, or a later version of this package wrote it.
        """
        records = self.records()
        return [records[row] for row in _in_training_order(records)]

    def digest(self) -> str | None:
        """Digest of what is complete, scores and provenance; None if nothing is, or an earlier version wrote it.

        Raises:
            RunError: what is there is no result store, or is damaged.
        """
        commit = read_commit(self.path)
        if commit is None or commit.rows is None or not commit.records:
            return None
        return digest({"records": commit.records, "axes": commit.axes, "rows": commit.rows})

    def made_of(self, variable: str) -> dict[str, str]:
        """What one variable's values are made of: a digest for each complete checkpoint, by name, in training order.

        Whatever is derived of a checkpoint's values belongs to them as long as this stays. Of checkpoints that an
        earlier version wrote, without digests of chunks, it is that of their record.

        Raises:
            RunError: what is there is no result store, or is damaged.
        """
        commit = read_commit(self.path)
        found: dict[str, str] = {}
        if commit is None:
            return found
        for row in _in_training_order(commit.records):
            record = commit.records[row]
            chunks = {} if commit.rows is None else commit.rows[row]
            mine = {name: known for name, known in chunks.items() if name.startswith(f"{variable}/")}
            found[str(record["key"])] = digest({"chunks": mine} if mine else {"record": record})
        return found

    def append(self, scores: xr.Dataset, record: Mapping[str, Any]) -> None:
        """Add one checkpoint, or nothing.

        Args:
            scores: the checkpoint's scores, without a checkpoint dimension.
            record: plain values, with at least `key` and `step`; `tokens` and `stage` become coordinates too.

        Raises:
            MisfitError: its model, tokens or units differ from those of the others.
            WriteError: it could not be written; what was there before stays readable.
            RunError: the checkpoint is there already, or another process wrote to the store meanwhile.
        """
        commit = read_commit(self.path)
        records = [] if commit is None else commit.records
        if record["key"] in (r["key"] for r in records):
            raise RunError(
                f"{self.path} holds checkpoint {record['key']!r} already; a checkpoint is added once: give another "
                "key, or leave it out"
            )
        self._refuse_others(records, record)
        row = _with_checkpoint(scores if commit is None else _as_begun(scores, commit), record)
        try:
            with zarr.config.set({"array.write_empty_chunks": True}):  # so that one that is missing is an error
                if commit is not None and records:
                    self._extend(commit, row, record)
                else:
                    self._create(row, record)
        except (OSError, WriteError) as error:
            raise WriteError(
                f"checkpoint {record['key']!r} could not be written to {self.path}: {error}. The "
                f"{len(records)} checkpoints before it are complete and readable; free space or mend the disk, and "
                "run the same command again to go on from there"
            ) from error
        _LOG.debug("%s: checkpoint %s is added, the %d. of them", self.path, record["key"], len(records) + 1)

    def open(self) -> xr.Dataset:
        """The complete checkpoints, lazily, in training order; provenance of each in `attrs["checkpoints"]`.

        Texts, attributes and the index on `step` are those of `gated_lpi.datasets`. Beside what was appended there is
        the coordinate `weights_sha256` (checkpoint), "" where it is unknown. What is opened stays as it is while
        checkpoints are added.

        Raises:
            DamagedError: files are missing, or are not as long as what was written; later, as values are read, they are
                not what was written.
            RunError: no checkpoint is complete, or what was written is damaged.
        """
        commit = read_commit(self.path)
        if commit is None or not commit.records:
            raise RunError(f"{self.path} holds no complete checkpoint yet; run the experiment to add some")
        if not is_remote(self.path):
            refuse_visible_damage(self.path, commit)
        records = commit.records
        _LOG.debug("%s: opened with %d checkpoints", self.path, len(records))
        order = _in_training_order(records)
        digests = np.array([str(record.get("weights_sha256", "")) for record in records], dtype=object)
        try:
            scores = xr.open_zarr(self._verified(commit), consolidated=True, chunks=None)
            scores = scores.set_coords(set(commit.group["attributes"][COORDS]).intersection(scores.variables))
            scores = scores.assign_coords(weights_sha256=(DIM, digests), **_checkpoint_coords(records))
        except DamagedError:
            raise
        except Exception as error:  # whatever zarr, numpy and xarray make of files that were cut off or edited
            raise RunError(
                f"{self.path} cannot be read: {type(error).__name__}: {error}. Restore the folder, or delete it and "
                "run again"
            ) from error
        for name in _INTERNAL:
            scores.attrs.pop(name, None)
        scores.attrs[LOG] = [records[row] for row in order]
        return as_expected(scores if (np.diff(order) == 1).all() else scores.isel({DIM: order}))

    def damage(self, *, whole: bool = True) -> Damage:
        """What of the store is not what was written.

        Args:
            whole: read every byte; else compare sizes only.

        Raises:
            RunError: nothing can be said, as neither file that says what is complete can be used.
        """
        return find_damage(self.path, whole=whole)

    def heal(self, damage: Damage) -> list[str]:
        """Leave out the checkpoints that do not verify, so that they can be appended again.

        The last ones take their places.

        Args:
            damage: what `damage` found.

        Returns:
            The names of the checkpoints that were left out.

        Raises:
            WriteError: it could not be written; what verifies is kept.
            RunError: neither file that says what is complete can be used.
        """
        return leave_out(self.path, damage)

    def clear(self) -> None:
        """Leave out all checkpoints, so that others can be appended.

        Raises:
            WriteError: it could not be written.
            RunError: neither file that says what is complete can be used.
        """
        self.heal(Damage(rows=dict.fromkeys(self.keys(), "it is left out"), axes=[], commit=[]))

    def _write(self, name: str, content: bytes) -> None:
        make((self.path / name).parent)
        write_atomically(self.path / name, content)

    def _verified(self, commit: Commit) -> Verifier:
        return Verifier(opened(self.path, read_only=True), commit, str(self.path))

    def _create(self, row: xr.Dataset, record: Mapping[str, Any]) -> None:
        """Write the first checkpoint, to a folder beside the store's; moving that to its place is the commit.

        At an address it is written in place of what an interrupted attempt left there, and the log is the commit.
        """
        checked = [ZstdCodec(level=0, checksum=True)]  # so that other readers notice damage too
        encoding: dict[str, dict[str, Any]] = {}
        for name, variable in row.variables.items():
            encoding[str(name)] = {"compressors": checked}
            if _varies(variable):
                encoding[str(name)]["chunks"] = (1, *variable.shape[1:])
        content = row.assign_attrs({LOG: [], COORDS: sorted(map(str, row.coords))})
        if is_remote(self.path):
            recorder = Recorder(opened(self.path, read_only=False))
            content.to_zarr(recorder, mode="w", consolidated=False, encoding=encoding)
            write_commit(self.path, draft_commit(self.path, record, recorder.noted))
            return
        self._remove_what_is_no_store()
        draft = draft_of(self.path)
        recorder = Recorder(opened(draft, read_only=False))
        content.to_zarr(recorder, mode="w", consolidated=False, encoding=encoding)
        write_commit(self.path, draft_commit(draft, record, recorder.noted), at=draft)
        sync(draft)
        draft.rename(self.path)
        sync(self.path.parent, [])

    def _remove_what_is_no_store(self) -> None:
        """Delete a store without checkpoints, and drafts of one: there is one writer, so nobody is writing them."""
        assert isinstance(self.path, Path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        drafts = [path for path in self.path.parent.iterdir() if is_draft(path.name, self.path.name)]
        for folder in (self.path, *drafts):
            if folder.exists():
                shutil.rmtree(folder)

    def _extend(self, commit: Commit, row: xr.Dataset, record: Mapping[str, Any]) -> None:
        if commit.rows is None:
            commit = self._sealed_as_found(commit)
        assert commit.rows is not None
        damaged = self._refuse_other_axes(commit, row)
        number = len(commit.records)
        recorder = Recorder(opened(self.path, read_only=False))
        for name, array in commit.arrays.items():
            if grows(array) or name in damaged:
                self._write(f"{name}/{META}", json.dumps(with_length(array, number + 1), indent=1).encode())
        group = zarr.open_group(recorder, mode="r+", use_consolidated=False)
        recorder.noted.clear()
        for name, array in commit.arrays.items():
            if grows(array):
                _array(group, name)[number] = row[name].to_numpy()[0]
            elif name in damaged:
                _array(group, name)[...] = row[name].to_numpy()
        if not is_remote(self.path):
            sync(self.path, recorder.noted)
        axes, new = split(recorder.noted, commit.arrays)
        grown = commit.with_rows([*commit.records, record], [*commit.rows, new])
        self._refuse_other_writer(commit)
        write_commit(self.path, Commit(grown.group, grown.records, grown.arrays, grown.axes | axes, grown.rows))

    def _sealed_as_found(self, commit: Commit) -> Commit:
        """A store of format 1 with the digests of what is there: its rows are what they are from now on."""
        axes: dict[str, StoredChunk] = {}
        rows: list[dict[str, StoredChunk]] = [{} for _ in commit.records]
        for name in sizes(self.path):
            array = commit.arrays.get(name.split("/")[0])
            if array is None or name.endswith(META):
                continue
            pattern, number = as_row(name) if grows(array) else (name, 0)
            if number < len(rows):
                (rows[number] if grows(array) else axes)[pattern] = stored(read_bytes(self.path / name) or b"")
        return Commit(commit.group, commit.records, commit.arrays, axes, rows)

    def _refuse_other_writer(self, commit: Commit) -> None:
        now = read_commit(self.path)
        if now is None or [r["key"] for r in now.records] != [r["key"] for r in commit.records]:
            raise RunError(
                f"another process wrote to {self.path} while a checkpoint was added to it, which is not added ; "
                "end the other process, and run the same command again"
            )

    def _refuse_others(self, records: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
        for name in ("step", "tokens"):
            if not -1 <= (record.get(name) or 0) <= GREATEST:
                raise MisfitError(
                    f"the {name} of {record['key']} are more than arrays can hold; give {GREATEST:,} at most"
                )
        differing = misfits(records, record)
        if differing:
            raise MisfitError(
                f"{'; '.join(differing)}. Scores of one arm are compared over training, so its checkpoints must be of "
                "one model and one tokenizer; put this one into an arm of its own, or mend its config and tokenizer"
            )

    def _refuse_other_axes(self, commit: Commit, row: xr.Dataset) -> set[str]:
        """Refuse a checkpoint with other variables or axes; names of what all share and is damaged, to be written anew.

        A coordinate that the store was begun without, by an earlier version, is not added.
        """
        missing = [name for name in commit.arrays if name not in row.variables]
        if missing:
            raise MisfitError(
                f"this checkpoint has no {', '.join(missing)}, which those in {self.path} have: the models, facts or "
                "options of one arm must be the same at every checkpoint; put this one into an arm of its own"
            )
        group = zarr.open_group(self._verified(commit), mode="r", use_consolidated=True)
        damaged = set()
        for name, variable in row.variables.items():
            array = commit.arrays.get(str(name))
            if array is None and not _varies(variable):
                continue
            same = array is not None and (
                tuple(array["dimension_names"]) == variable.dims and tuple(array["shape"][1:]) == variable.shape[1:]
                if _varies(variable)
                else tuple(array["shape"]) == variable.shape
            )
            if same and not _varies(variable):
                try:
                    same = bool(
                        (np.asarray(_array(group, str(name))[...], dtype=variable.dtype) == variable.to_numpy()).all()
                    )
                except DamagedError:
                    damaged.add(str(name))
            if not same:
                raise MisfitError(
                    f"{name!r} of this checkpoint does not fit those in {self.path}: the models, facts or options of "
                    "one arm must be the same at every checkpoint; put this one into an arm of its own"
                )
        return damaged


def _as_begun(scores: xr.Dataset, commit: Commit) -> xr.Dataset:
    """Scores as an earlier version would have them that began the store: what routers did, meant over relations."""
    older = [
        name
        for name in (schema.EXPERT_UTILISATION, schema.EXPERT_GATE)
        if name in scores and "relation" not in commit.arrays.get(name, {}).get("dimension_names", ["relation"])
    ]
    return scores.assign({name: over_relations(scores, name) for name in older})


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _in_training_order(records: Sequence[Mapping[str, Any]]) -> list[int]:
    """The rows of checkpoints, first to last in training."""
    return sorted(range(len(records)), key=lambda row: _place_in_training(records[row]))


def _place_in_training(record: Mapping[str, Any]) -> tuple[Any, int]:
    return stage_order(str(record.get("stage", ""))), int(record["step"])


def _varies(variable: xr.Variable) -> bool:
    return DIM in variable.dims


def _checkpoint_coords(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, NDArray[Any]]]:
    """Coordinates of checkpoints, in the order of their records, from which no chunk has to be read."""
    texts = {"checkpoint_key": [str(one["key"]) for one in records], "stage": [one.get("stage", "") for one in records]}
    tokens = [-1 if one.get("tokens") is None else one["tokens"] for one in records]
    coords = {name: (DIM, np.array(values, dtype=object)) for name, values in texts.items()}
    return coords | {
        "step": (DIM, np.array([one["step"] for one in records], dtype=np.int64)),
        "tokens": (DIM, np.array(tokens, dtype=np.int64)),
    }


def _texts_in_order(variable: xr.Variable) -> xr.Variable:
    """The same, texts as they follow each other in memory: zarr writes those of a whole chunk in that order."""
    if variable.dtype.kind not in "TO":
        return variable
    return variable.copy(data=np.ascontiguousarray(variable.to_numpy()))


def _with_checkpoint(scores: xr.Dataset, record: Mapping[str, Any]) -> xr.Dataset:
    """Give every data variable a leading checkpoint dimension, and the checkpoint its coordinates."""
    varying = [name for name in scores.variables if name in scores.data_vars or name == TARGET]
    expanded = {name: _texts_in_order(scores.variables[name]).expand_dims(DIM) for name in varying}
    rebuilt = scores.drop_vars(varying).assign(expanded).assign_coords(_checkpoint_coords([record]))
    texts = {name: v.astype(object) for name, v in rebuilt.coords.items() if v.dtype.kind == "U"}
    rebuilt = rebuilt.assign_coords(texts)  # zarr has no stable format for strings of a fixed length
    return rebuilt.set_coords(TARGET) if TARGET in rebuilt else rebuilt
