"""The files of one checkpoint, on a hub or a disk, and which of them are its weights.

The weights are, in this order: the shards that `model.safetensors.index.json` names; `model.safetensors`; all other
safetensors files; and, only to be compared and never opened, pickles: the shards that `pytorch_model.bin.index.json`
names, else files that end like pickles and are no state of an optimizer. Files in sub-folders do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gated_lpi.checkpoints.weights import INDEX_NAME, PICKLED_STATE, PICKLES, file_sha256
from gated_lpi.errors import WeightsError

PICKLE_INDEX_NAME = "pytorch_model.bin.index.json"
SINGLE_NAME = "model.safetensors"
_MOST_SHARDS = 10_000


@dataclass(frozen=True)
class RemoteFile:
    """One file of a listing: name, size in bytes, SHA-256 where it is known, git's id where it is known."""

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
    """The files of a checkpoint, and the names that the index of its weights lists (None without an index)."""

    files: tuple[RemoteFile, ...]
    shards: tuple[str, ...] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Inventory:
        """Read what `dataclasses.asdict` and JSON made of an inventory."""
        shards = value["shards"]
        return cls(tuple(RemoteFile(**file) for file in value["files"]), None if shards is None else tuple(shards))

    @property
    def format(self) -> str:
        """What the weights are stored as: "safetensors", "pickle" or, without any, ""."""
        names = [file.name for file in self.files]
        if INDEX_NAME in names or any(_is_safetensors(name) for name in names):
            return "safetensors"
        return "pickle" if PICKLE_INDEX_NAME in names or any(_is_pickle(name) for name in names) else ""

    @property
    def weights(self) -> tuple[RemoteFile, ...]:
        """The files of the weights that are there, in name order."""
        if self.shards is not None:
            chosen = [file for file in self.files if file.name in self.shards]
        elif self.format == "pickle":
            chosen = [file for file in self.files if _is_pickle(file.name)]
        else:
            chosen = [file for file in self.files if _is_safetensors(file.name)]
            chosen = [file for file in chosen if file.name == SINGLE_NAME] or chosen
        return tuple(sorted(chosen, key=lambda file: file.name))

    @property
    def missing(self) -> tuple[str, ...]:
        """Shards that the index names, or that names like model-00001-of-00003 imply, and that are not there."""
        names = {file.name for file in self.files}
        implied = {name for file in self.weights for name in _siblings(file.name)}
        return tuple(sorted((set(self.shards or ()) | implied) - names))

    @property
    def all_weights(self) -> tuple[RemoteFile, ...]:
        """The weights and, beside safetensors, pickles of the same checkpoint: all that another may share."""
        pickles = tuple(file for file in self.files if _is_pickle(file.name))
        return tuple(dict.fromkeys((*self.weights, *pickles)))


def index_of(files: Iterable[RemoteFile]) -> RemoteFile | None:
    """The index of sharded weights, that of safetensors first; none for pickles where there are safetensors."""
    by_name = {file.name: file for file in files}
    if INDEX_NAME in by_name or any(_is_safetensors(name) for name in by_name):
        return by_name.get(INDEX_NAME)
    return by_name.get(PICKLE_INDEX_NAME)


def shards_of(text: str, what: str) -> tuple[str, ...]:
    """The names of the shards in the text of an index; raises WeightsError if it is none."""
    try:
        shards = sorted(set(json.loads(text)["weight_map"].values()))
        if not shards or not all(isinstance(name, str) and PurePosixPath(name).name == name for name in shards):
            raise ValueError("no plain file names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{what} cannot be used ({type(error).__name__}: {error}). Expected a JSON object whose weight_map maps "
            "tensor names to shard names. Leave this checkpoint out, or tell its publisher."
        ) from error
    return tuple(shards)


def local_names(folder: Path) -> list[str]:
    """The names of the files right in a folder, in order."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def local_inventory(folder: Path) -> Inventory:
    """The files of a folder; those of the weights are read in full to hash them, and never opened as weights.

    Raises WeightsError if the index cannot be used.
    """
    files = tuple(
        RemoteFile(name, (folder / name).stat().st_size, file_sha256(folder / name) if _is_weights(name) else "")
        for name in local_names(folder)
    )
    index = index_of(files)
    if index is None:
        return Inventory(files)
    path = folder / index.name
    return Inventory(files, shards_of(path.read_text(encoding="utf-8", errors="replace"), str(path)))


def _siblings(name: str) -> list[str]:
    """All shards of the set that a shard's name says it belongs to; nothing for other names."""
    match = re.fullmatch(r"(.+-)(\d+)(-of-)(\d+)(\.\w+)", name)
    if match is None or int(match[4]) > _MOST_SHARDS:
        return []
    start, number, of, total, end = match.groups()
    return [f"{start}{i:0{len(number)}}{of}{total}{end}" for i in range(1, int(total) + 1)]


def _is_weights(name: str) -> bool:
    return _is_safetensors(name) or _is_pickle(name)


def _is_safetensors(name: str) -> bool:
    return "/" not in name and name.endswith(".safetensors")


def _is_pickle(name: str) -> bool:
    return "/" not in name and PurePosixPath(name).suffix in PICKLES and not _is_state(name)


def _is_state(name: str) -> bool:
    """Whether a pickle is the state of a training run: of the optimizer, or one process's random numbers."""
    return name in PICKLED_STATE or name.startswith(("optimizer", "scheduler", "scaler", "rng_state"))
