"""The files of one checkpoint, on a hub or a disk, and which of them are its weights.

The weights are those that transformers would load (`gated_lpi._common.weight_files`): `model.safetensors`, else the
shards that the index names; other safetensors files beside these are left aside. Without either they are, only to be
compared and never opened, all safetensors files, else pickles: the shards that `pytorch_model.bin.index.json` names, or
files that end like pickles and are no state of an optimizer. Files in sub-folders do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gated_lpi._common.entries import (
    LARGEST,
    is_commit,
    is_count,
    is_file_name,
    is_file_path,
    is_sha256,
    quoted,
    writable,
)
from gated_lpi._common.weight_files import (
    INDEX_NAME,
    PICKLE_INDEX_NAME,
    SINGLE_NAME,
    entry_of,
    file_names,
    is_pickle,
    is_safetensors,
    named_in_config,
    read_index,
    text_of,
)
from gated_lpi.checkpoints.weights import file_sha256
from gated_lpi.errors import WeightsError

DISTRIBUTED = "distributed"
_MOST_SHARDS = 10_000


@dataclass(frozen=True)
class RemoteFile:
    """One file of a listing.

    Attributes:
        name: its path in the repository or folder.
        size: bytes.
        sha256: of its bytes, "" where it is not known.
        git_oid: git's id of it, "" where it is not known.
    """

    name: str
    size: int
    sha256: str = ""
    git_oid: str = ""

    @property
    def digest(self) -> str:
        """What tells its bytes apart from others: SHA-256, or git's id for a file that is not in large-file storage."""
        return self.sha256 or self.git_oid


@dataclass(frozen=True)
class Inventory:
    """The files of a checkpoint.

    Attributes:
        files: all of them.
        shards: the names that the index of its weights lists; None without an index.
        left_out: entries of a hub's listing that cannot be used, each with the reason; none of them is among the files.
        named: what a folder's `config.json` names as its weights instead of the usual file or index.
    """

    files: tuple[RemoteFile, ...]
    shards: tuple[str, ...] | None = None
    left_out: tuple[str, ...] = ()
    named: str = ""

    @classmethod
    def from_json(cls, value: Any) -> Inventory | None:
        """Read what `dataclasses.asdict` and JSON made of an inventory; None for anything else."""
        if not isinstance(value, dict) or not isinstance(value.get("files"), list):
            return None
        fields = {"name", "size", "sha256", "git_oid"}
        if not all(isinstance(file, dict) and set(file) == fields for file in value["files"]):
            return None
        files, wrong = listed_files((f["name"], f["size"], f["sha256"], f["git_oid"]) for f in value["files"])
        shards, left_out = value.get("shards"), value.get("left_out", [])
        if wrong or not isinstance(left_out, list) or not all(isinstance(line, str) for line in left_out):
            return None
        if shards is None:
            return None if index_of(files) else cls(files, None, tuple(left_out))
        if not isinstance(shards, list) or not shards or not all(is_file_name(name) for name in shards):
            return None
        return cls(files, tuple(shards), tuple(left_out))

    @property
    def format(self) -> str:
        """What the weights are stored as: "safetensors", "distributed", "pickle" or, without any, ""."""
        names = {file.name for file in self.files}
        if INDEX_NAME in names or any(is_safetensors(name) for name in names):
            return "safetensors"
        if any(name.endswith(".distcp") for name in names):
            return DISTRIBUTED
        return "pickle" if PICKLE_INDEX_NAME in names or any(is_pickle(name) for name in names) else ""

    @property
    def weights(self) -> tuple[RemoteFile, ...]:
        """The files of the weights that are there, in name order."""
        wanted = self._wanted()
        return tuple(sorted((file for file in self.files if file.name in wanted), key=lambda file: file.name))

    @property
    def aside(self) -> tuple[str, ...]:
        """Names of safetensors files that are no part of the weights."""
        wanted = self._wanted()
        return tuple(sorted(writable(f.name) for f in self.files if is_safetensors(f.name) and f.name not in wanted))

    @property
    def missing(self) -> tuple[str, ...]:
        """Shards that the index names, or that names like model-00001-of-00003 imply, and that are not there."""
        names = {file.name for file in self.files}
        implied = {name for file in self.weights for name in _siblings(file.name)}
        return tuple(sorted((self._wanted() | implied) - names))

    @property
    def all_weights(self) -> tuple[RemoteFile, ...]:
        """The weights and, beside safetensors, pickles of the same checkpoint: all that another may share."""
        pickles = tuple(file for file in self.files if is_pickle(file.name))
        return tuple(dict.fromkeys((*self.weights, *pickles)))

    @property
    def objection(self) -> str:
        """Why transformers could not load any of these files, "" where it finds safetensors."""
        if self.named or entry_of({file.name for file in self.files}):
            return ""
        if self.format == "safetensors":
            found = ", ".join(writable(file.name) for file in self.weights[:4])
            return f"holds {found}, but neither {SINGLE_NAME} nor {INDEX_NAME}: transformers loads none of these"
        if self.format == DISTRIBUTED:
            return "a torch distributed checkpoint (.distcp) of a training run: convert it with gated-lpi import first"
        if self.format:
            return "pickled weights only, which are never opened: convert them to safetensors first"
        return "holds no weights"

    def _wanted(self) -> set[str]:
        names = {file.name for file in self.files}
        entry = self.named or entry_of(names)
        if is_safetensors(entry):
            return {entry}
        if self.shards is not None:
            return set(self.shards)
        return {name for name in names if is_safetensors(name)} or {name for name in names if is_pickle(name)}


def listed_files(entries: Iterable[tuple[Any, Any, Any, Any]]) -> tuple[tuple[RemoteFile, ...], tuple[str, ...]]:
    """Sort the entries of a listing into files and lines about those that cannot be used.

    Args:
        entries: name, size in bytes, SHA-256 and git's id of each. An unknown size is None, an unknown hash None or "".
    """
    files: dict[str, RemoteFile] = {}
    left_out: list[str] = []
    for name, size, sha256, git_oid in entries:
        wrong = _wrong_entry(name, size, sha256, git_oid)
        if not wrong and name in files:
            wrong = "it is listed twice"
        if wrong:
            left_out.append(f"{quoted(name)}: {wrong}")
        else:
            files[name] = RemoteFile(name, size or 0, sha256 or "", git_oid or "")
    return tuple(files.values()), tuple(left_out)


def index_of(files: Iterable[RemoteFile], named: str = "") -> RemoteFile | None:
    """The index that names the weights; that of pickles only where there are no safetensors at all."""
    by_name = {file.name: file for file in files}
    entry = named or entry_of(by_name)
    if not entry and not any(is_safetensors(name) for name in by_name):
        entry = PICKLE_INDEX_NAME
    return None if is_safetensors(entry) else by_name.get(entry)


def shards_of(text: str, index: str, what: str) -> tuple[str, ...]:
    """The names of the shards in the text of an index.

    Args:
        text: of the index.
        index: its name.
        what: what to call it.

    Raises:
        WeightsError: it is no index, names no shards, or names what is not a file right beside it of their kind.
    """
    return tuple(sorted(read_index(text, what, pickled=index == PICKLE_INDEX_NAME)))


def folder_listing(folder: Path, files: tuple[RemoteFile, ...]) -> Inventory:
    """What is known of the files of a folder, with the index read.

    Raises:
        WeightsError: the index or the `config.json` cannot be used.
    """
    named = named_in_config(folder, [file.name for file in files])
    index = index_of(files, named)
    if index is None:
        return Inventory(files, named=named)
    path = folder / index.name
    return Inventory(files, shards_of(text_of(path), index.name, str(path)), named=named)


def local_inventory(folder: Path) -> Inventory:
    """The files of a folder; those of the weights are read in full to hash them, and never opened as weights.

    Raises:
        WeightsError: a file or the index cannot be used.
    """
    try:
        files = tuple(RemoteFile(name, (folder / name).stat().st_size) for name in file_names(folder))
    except OSError as error:
        raise WeightsError(f"{folder} cannot be read ({error}). Make it readable, and check the disk.") from error
    found = folder_listing(folder, files)
    hashed = {file.name: file_sha256(folder / file.name) for file in found.all_weights}
    return replace(found, files=tuple(replace(file, sha256=hashed.get(file.name, "")) for file in files))


def _wrong_entry(name: Any, size: Any, sha256: Any, git_oid: Any) -> str:
    if not is_file_path(name):
        return "not the name of a file that could be kept in a folder"
    if size is not None and not is_count(size):
        return f"its size is {quoted(size)}, not a number of bytes up to {LARGEST:,}"
    if sha256 not in (None, "") and not is_sha256(sha256):
        return f"its SHA-256 is {quoted(sha256)}, not 64 hexadecimal digits"
    if git_oid not in (None, "") and not is_commit(git_oid):
        return f"its git id is {quoted(git_oid)}, not 40 or 64 hexadecimal digits"
    return ""


def _siblings(name: str) -> list[str]:
    """All shards of the set that a shard's name says it belongs to; nothing for other names."""
    match = re.fullmatch(r"(.+-)(\d{1,9})(-of-)(\d{1,9})(\.\w+)", name, re.ASCII)
    if match is None or int(match[4]) > _MOST_SHARDS:
        return []
    start, number, of, total, end = match.groups()
    return [f"{start}{i:0{len(number)}}{of}{total}{end}" for i in range(1, int(total) + 1)]
