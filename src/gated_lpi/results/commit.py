"""What is complete in a store of results: the content of the zarr.json of its group, written in one step.

It holds, in one file, so that whoever reads it once has a consistent view of the store:
1. `attributes.checkpoints`, the provenance of each complete checkpoint, in the order of the arrays' rows;
2. `consolidated_metadata`, zarr's name for the shapes of all arrays, with so many rows;
3. `attributes.digests`, size and SHA-256 of every chunk: of each checkpoint's row (its number written as "*", such as
   "lpi/c/*/0/0"), and of the coordinates that all checkpoints share;
4. `attributes.format` and `attributes.sha256`, as in the other files of a run (`files`).

It is kept twice: the copy, ARM.commit.json beside the group, is written first. If either is damaged the other serves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from gated_lpi._common.folders import Folder, is_remote, names, read_text, write_atomically
from gated_lpi._common.foreign import ForeignTextError
from gated_lpi.errors import RunError
from gated_lpi.options.explain import describe
from gated_lpi.results.files import FORMAT_KEY, SEAL, Entry, NewerError, NewerFormatError, parsed, sealed, unsealed

LOG = "checkpoints"
COORDS = "coords"
META = "zarr.json"
DIM = "checkpoint"
_DIGESTS = "digests"
_CONSOLIDATED = "consolidated_metadata"
_ADVICE = "mend or delete what is there and run again"

StoredChunk: TypeAlias = tuple[int, str]
"""Bytes and SHA-256 of a chunk as it is stored."""


class _Record(Entry):
    weights_sha256: str = ""
    reconstruction_error: float | None = None
    coverage: float | None = None
    seconds: float | None = None
    shape: dict[str, int] | None = None


class _Digests(BaseModel):
    axes: dict[str, StoredChunk]
    rows: list[dict[str, StoredChunk]]


class _Attributes(BaseModel):
    model_config = ConfigDict(extra="allow")

    checkpoints: list[_Record] | None = None
    digests: _Digests | None = None


class _Consolidated(BaseModel):
    model_config = ConfigDict(extra="allow")

    metadata: dict[str, dict[str, Any]]


class _Group(BaseModel):
    """zarr.json of a group, as far as it says which checkpoints are complete.

    Attributes:
        attributes: what is listed, and the digests of it.
        consolidated_metadata: the shapes of all arrays.
    """

    model_config = ConfigDict(extra="allow")

    attributes: _Attributes = _Attributes()
    consolidated_metadata: _Consolidated | None = None


@dataclass(frozen=True)
class Commit:
    """What is complete in a store.

    Attributes:
        group: its zarr.json without what is below.
        records: of each checkpoint, by row.
        arrays: the metadata of each array by name, with as many rows.
        axes: of each chunk that all checkpoints share.
        rows: of each chunk of a checkpoint; None in a store of format 1, which has no digests.
    """

    group: dict[str, Any]
    records: list[dict[str, Any]]
    arrays: dict[str, dict[str, Any]]
    axes: dict[str, StoredChunk]
    rows: list[dict[str, StoredChunk]] | None

    def text(self) -> str:
        """The content of zarr.json."""
        attributes = {**self.group["attributes"], LOG: self.records}
        if self.rows is not None:
            attributes[_DIGESTS] = {"axes": self.axes, "rows": self.rows}
        consolidated = {"kind": "inline", "must_understand": False, "metadata": self.arrays}
        group = {**self.group, "attributes": attributes, _CONSOLIDATED: consolidated}
        if self.rows is not None:
            attributes.update({key: sealed({"group": group})[key] for key in (FORMAT_KEY, SEAL)})
        return json.dumps(group, indent=1) + "\n"

    def expected(self) -> Iterator[tuple[str, int | None, StoredChunk]]:
        """Every chunk: its name in the store, its row (None: it belongs to all), its bytes and digest."""
        for name, stored in self.axes.items():
            yield name, None, stored
        for number, row in enumerate(self.rows or ()):
            for name, stored in row.items():
                yield name.replace("*", str(number)), number, stored

    def with_rows(self, records: Sequence[Mapping[str, Any]], rows: list[dict[str, StoredChunk]]) -> Commit:
        """This store with other rows, as many in every array that has a row for each checkpoint."""
        arrays = {name: with_length(array, len(records)) for name, array in self.arrays.items()}
        return Commit(self.group, [dict(record) for record in records], arrays, self.axes, rows)


def stored(content: bytes) -> StoredChunk:
    """Bytes and digest of a chunk."""
    return len(content), sha256(content).hexdigest()


def as_row(name: str) -> tuple[str, int]:
    """The name of a chunk of a growing array with "*" for its row, and the row: "lpi/c/3/0" gives "lpi/c/*/0", 3."""
    array, mark, row, *rest = name.split("/")
    return "/".join([array, mark, "*", *rest]), int(row)


def grows(array: Mapping[str, Any]) -> bool:
    """Whether an array, by its metadata, has a row for each checkpoint."""
    return (array.get("dimension_names") or (None,))[0] == DIM


def with_length(array: Mapping[str, Any], length: int) -> dict[str, Any]:
    """An array's metadata, with so many rows if it has rows."""
    return {**array, "shape": [length, *array["shape"][1:]]} if grows(array) else dict(array)


def draft_commit(group: Folder, record: Mapping[str, Any], noted: Mapping[str, StoredChunk]) -> Commit:
    """What is to be said of a group that holds a first checkpoint.

    Args:
        group: where it is.
        record: the checkpoint's.
        noted: the chunks that were written.
    """
    arrays = _arrays_of(group)
    content = parsed(read_text(group / META) or "")
    axes, row = split(noted, arrays)
    return Commit(content, [dict(record)], arrays, axes, [row])


def split(
    noted: Mapping[str, StoredChunk], arrays: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, StoredChunk], dict[str, StoredChunk]]:
    """Chunks that were written: those that all checkpoints share, and those of one row."""
    axes: dict[str, StoredChunk] = {}
    row: dict[str, StoredChunk] = {}
    for name, known in noted.items():
        if name.rsplit("/", 1)[-1] == META:
            continue
        if grows(arrays[name.split("/")[0]]):
            row[as_row(name)[0]] = known
        else:
            axes[name] = known
    return axes, row


def read_commit(path: Folder) -> Commit | None:
    """What is complete in the store at a folder or address; None if there is none.

    At an address, a group without a list is a first checkpoint that was interrupted, and counts as nothing.

    Raises:
        NewerFormatError: a later version of this package wrote it.
        RunError: the folder is there but is no store, or both copies of what is complete are damaged.
    """
    try:
        commit = read_one(path / META, path)
    except NewerFormatError:
        raise
    except RunError as error:
        kept = _copy_or_none(path)
        if kept is None:
            raise error
        return kept
    if commit is None and _is_there(path):
        return _copy_or_none(path)
    return commit


def read_one(file: Folder, path: Folder) -> Commit | None:
    """What one of the two files says of the store at `path`; None if it is not there, or says nothing yet.

    Raises:
        NewerFormatError: a later version of this package wrote it.
        RunError: it cannot be used.
    """
    try:
        text = read_text(file)
        return None if text is None else _parse(text, path)
    except NewerError as error:
        raise NewerFormatError(f"{path} {error}") from None
    except _ListlessError:
        if is_remote(path):
            return None
        raise RunError(
            f"{path} is not a store of results that can be read (it lists no checkpoints); if a run was interrupted "
            "before its first checkpoint was complete, delete this folder and run again"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{file} cannot be read as a store of results ({error}); {_ADVICE}") from error


def write_commit(path: Folder, commit: Commit, at: Folder | None = None) -> None:
    """Say what is complete in a store; the copy first.

    Args:
        path: where the store is, or will be.
        commit: what is complete.
        at: where the group is now, if it is moved later.

    Raises:
        WriteError: it could not be written.
        RunError: the address cannot be reached.
    """
    text = commit.text()
    write_atomically(copy_of(path), text)
    write_atomically((path if at is None else at) / META, text)


def copy_of(path: Folder) -> Folder:
    """Where the copy of what is complete is, beside the group."""
    return path.with_name(f"{path.name.removesuffix('.zarr')}.commit.json")


class _ListlessError(ValueError):
    """A group that lists no checkpoints."""


def _copy_or_none(path: Folder) -> Commit | None:
    try:
        return read_one(copy_of(path), path)
    except NewerFormatError:
        raise
    except RunError:
        return None


def _is_there(path: Folder) -> bool:
    return bool(names(path)) if is_remote(path) else path.is_dir()


def _parse(text: str, path: Folder) -> Commit:
    content = parsed(text)
    if isinstance(content, dict) and isinstance(content.get("attributes"), dict):
        attributes = dict(content["attributes"])
        seal = {key: attributes.pop(key) for key in (FORMAT_KEY, SEAL) if key in attributes}
        content = unsealed({"group": {**content, "attributes": attributes}, **seal})["group"]
    try:
        group = _Group.model_validate(content)
    except ValidationError as error:
        raise ForeignTextError(describe(error, _Group)) from None
    if group.attributes.checkpoints is None:
        raise _ListlessError
    records = [record.model_dump(exclude_unset=True) for record in group.attributes.checkpoints]
    there = group.consolidated_metadata
    arrays = _arrays_of(path) if there is None and records else {} if there is None else there.metadata
    digests = group.attributes.digests
    for name in (LOG, _DIGESTS):
        content["attributes"].pop(name, None)
    content.pop(_CONSOLIDATED, None)
    short = [name for name, array in arrays.items() if grows(array) and array["shape"][0] < len(records)]
    if short:
        raise ForeignTextError(f"it lists {len(records)} checkpoints, of which {short[0]} has not as many rows")
    if digests is not None and len(digests.rows) != len(records):
        raise ForeignTextError(f"it lists {len(records)} checkpoints and digests of {len(digests.rows)}")
    return Commit(
        content,
        records,
        {name: with_length(array, len(records)) for name, array in arrays.items()},
        {} if digests is None else digests.axes,
        None if digests is None else digests.rows,
    )


def _arrays_of(path: Folder) -> dict[str, dict[str, Any]]:
    """The metadata of every array by its own file, of a store that was written before one file held them all."""
    texts = {name: read_text(path / name / META) for name in names(path)}
    return {name: parsed(text) for name, text in sorted(texts.items()) if text is not None}
