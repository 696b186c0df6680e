"""Which files of a checkpoint are its weights: one rule for listings, digests, the check of values and downloads.

It is the order in which transformers looks, told to read safetensors only:
1. what `config.json` names as `transformers_weights`, a file or an index;
2. `model.safetensors`, also where there is an index beside it;
3. the shards that `model.safetensors.index.json` names.
Any other safetensors file (an adapter, the same weights in another layout) is no part of the weights: it is left aside,
and listed as such. Nothing here reads of a file of weights more than the length of its header.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from gated_lpi._common.entries import is_file_name, quoted, writable
from gated_lpi._common.foreign import ForeignTextError, parse_json
from gated_lpi.errors import WeightsError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PICKLE_INDEX_NAME = "pytorch_model.bin.index.json"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
PICKLED_STATE = {"training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"}
BESIDE_WEIGHTS = (  # the files of a tokenizer, as patterns
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
_TOKENIZER_ITSELF = ("tokenizer.json", "*.model", "*.tiktoken", "tekken.json", "vocab.*", "tokenizer.bin")
LONGEST_TEXT = 1 << 24  # bytes of a config or an index: those of the largest models have a tenth of it
LONGEST_HEADERS = 1 << 24  # bytes of the headers of all files: over 100,000 tensors
_SAFETENSORS = ".safetensors"
CONFIG_NAME = "config.json"
_NAMED = "transformers_weights"
_ADAPTER = "adapter_config.json"


Stamp: TypeAlias = tuple[tuple[str, int, int, int, int, int], ...]


@dataclass(frozen=True)
class WeightFiles:
    """The files of a folder that are its weights.

    Attributes:
        paths: in name order.
        promised: for each path, the tensors that the index says are in it, none without an index.
        aside: names of the folder's other safetensors files, which are not part of the weights.
    """

    paths: tuple[Path, ...]
    promised: Mapping[Path, frozenset[str]]
    aside: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def stamp(self) -> Stamp:
        """What tells whether a file was replaced or written to since: device, number, size and times of each."""
        found = [(path, path.stat()) for path in self.paths]
        return tuple((str(path), s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in found)


def weight_files(folder: str | Path) -> WeightFiles:
    """Find the files that transformers would load of a folder.

    Raises:
        WeightsError: there is no such folder; it holds none of these files, an adapter, or an index or a `config.json`
            that cannot be used; or a file that is named is not there.
    """
    root = Path(folder)
    names = file_names(root)
    _refuse_adapter(root, names)
    named = named_in_config(root, names)
    entry = named or entry_of(names)
    if not entry:
        raise _no_weights(root, names)
    if is_safetensors(entry):
        promised = {root / entry: frozenset[str]()}
    else:
        shards = read_index(text_of(root / entry), str(root / entry))
        promised = {root / name: frozenset(shards[name]) for name in sorted(shards)}
    missing = [path.name for path in promised if path.name not in names]
    if missing:
        raise WeightsError(
            f"{entry} of {root} names {len(promised)} shards, of which {len(missing)} are missing: "
            f"{', '.join(missing[:8])}{_dead(root, missing)}. Fetch the missing files into that folder."
        )
    chosen = {path.name for path in promised}
    aside = tuple(writable(name) for name in names if is_safetensors(name) and name not in chosen)
    return WeightFiles(tuple(promised), promised, aside)


def refuse_changed(folder: str | Path, before: Stamp) -> None:
    """Refuse a folder whose weights are other files than before, or were written to since.

    Seen are another file, another size and a write that its times tell of; a write within one tick of the file system's
    clock is not.

    Args:
        folder: a checkpoint's.
        before: the `WeightFiles.stamp` of its weights as they were.

    Raises:
        WeightsError: names the files that changed.
    """
    try:
        now = weight_files(folder).stamp
    except OSError:
        now = ()
    if now != before:
        names = sorted({Path(entry[0]).name for entry in set(now) ^ set(before)})
        raise WeightsError(
            f"{', '.join(names[:8])} of {folder} changed between being checked and being loaded. Let whatever writes "
            "there finish (a download, a training run), and run again."
        )


def refuse_long_headers(paths: Iterable[Path]) -> None:
    """Refuse safetensors files whose headers have more than `LONGEST_HEADERS` bytes together.

    Of a header no more is read than its length. One that is longer than its file is left to the reader of such files.

    Raises:
        WeightsError: they have; or a file cannot be read.
    """
    total = 0
    for path in paths:
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                total += length if length <= path.stat().st_size else 0
        except OSError as error:
            raise WeightsError(f"{path} cannot be read ({error}). Make it readable, and check the disk.") from error
        if total > LONGEST_HEADERS:
            raise WeightsError(
                f"{path} says that its header has {length:,} bytes, {total:,} with those of the files before it. "
                f"Expected {LONGEST_HEADERS:,} at most, which is room for 100,000 tensors: leave this checkpoint out."
            )


def entry_of(names: Collection[str]) -> str:
    """The file that transformers starts from: the single file, else the index, "" where there is neither."""
    return next((name for name in (SINGLE_NAME, INDEX_NAME) if name in names), "")


def named_in_config(root: Path, names: Collection[str]) -> str:
    """The file or index that a folder's `config.json` names instead of the usual ones, "" if it names none.

    Args:
        root: the folder.
        names: of the files in it.

    Raises:
        WeightsError: the `config.json` cannot be read, or names what is no such file of the folder.
    """
    if CONFIG_NAME not in names:
        return ""
    try:
        config = parse_json(text_of(root / CONFIG_NAME))
    except ForeignTextError as error:
        raise WeightsError(
            f"{root / CONFIG_NAME} cannot be used ({error}), and it may name the weights. Fetch the file again."
        ) from error
    named = config.get(_NAMED) if isinstance(config, dict) else None
    if named is None:
        return ""
    if not is_file_name(named) or not named.endswith((_SAFETENSORS, f"{_SAFETENSORS}.index.json")):
        raise WeightsError(
            f"{root / CONFIG_NAME} names {quoted(named)} as {_NAMED}. Expected a safetensors file in that folder, or "
            f"the index of such files: correct it, or remove it where {SINGLE_NAME} is meant."
        )
    if named not in names:
        raise WeightsError(
            f"{root / CONFIG_NAME} names {named} as {_NAMED}, which is not in that folder. Put the file there, or "
            f"remove {_NAMED} where {SINGLE_NAME} is meant."
        )
    return named


def read_index(text: str, what: str, *, pickled: bool = False) -> dict[str, set[str]]:
    """Read the text of an index.

    Args:
        text: of the index.
        what: what to call it.
        pickled: whether its shards are pickles, which are compared and never opened.

    Returns:
        Each shard's name, and the tensors that are said to be in it.

    Raises:
        WeightsError: it is no index, names no shards, or names what is not a file right beside it of safetensors (with
            `pickled`, of pickles).
    """
    try:
        return _shards_in(parse_json(text), pickled)
    except ForeignTextError as error:
        raise WeightsError(
            f"{writable(what)} cannot be used ({error}). Expected a JSON object whose weight_map maps tensor names to "
            "the names of files beside it. Fetch the file again; if its publisher wrote it so, leave this checkpoint "
            "out."
        ) from error


def file_names(root: Path) -> list[str]:
    """The names of the files right in a folder, in order.

    Raises:
        WeightsError: it is no folder or cannot be read.
    """
    try:
        if root.is_dir():
            return sorted(path.name for path in root.iterdir() if path.is_file())
    except OSError as error:
        raise WeightsError(f"{root} cannot be read ({error}). Make it readable, and check the disk.") from error
    raise WeightsError(f"{root} is not a folder. Expected the folder of one checkpoint; check the path.")


def text_of(path: Path) -> str:
    """The text of a file beside the weights.

    What is no regular file (a pipe, a device, a link to one) is not opened, nor is one of more than `LONGEST_TEXT`
    bytes.

    Raises:
        WeightsError: it cannot be read as UTF-8, is no regular file, or is too long.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise WeightsError(
                f"{path} is no file but a folder, a device, a pipe or a socket. Put the right file there."
            )
        if found.st_size > LONGEST_TEXT:
            raise WeightsError(
                f"{path} has {found.st_size:,} bytes, more than the {LONGEST_TEXT:,} that such a file may have. Fetch "
                "the file again; if its publisher wrote it so, leave this checkpoint out."
            )
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be used ({error}). Fetch the file again.") from error


def is_safetensors(name: str) -> bool:
    """Whether a name is that of a safetensors file right in its folder."""
    return "/" not in name and name.endswith(_SAFETENSORS)


def is_pickle(name: str) -> bool:
    """Whether a name is that of pickled weights right in their folder, and not of the state of a training run."""
    state = name in PICKLED_STATE or name.startswith(("optimizer", "scheduler", "scaler", "rng_state"))
    return "/" not in name and PurePosixPath(name).suffix in PICKLES and not state


def _shards_in(content: Any, pickled: bool) -> dict[str, set[str]]:
    if not isinstance(content, dict) or "weight_map" not in content:
        raise ForeignTextError("it has no weight_map")
    placed = content["weight_map"]
    if not isinstance(placed, dict) or not placed:
        raise ForeignTextError("its weight_map maps no tensor names")
    shards: dict[str, set[str]] = defaultdict(set)
    for tensor, name in placed.items():
        if not is_file_name(name) or not (PurePosixPath(name).suffix in PICKLES if pickled else is_safetensors(name)):
            kind = "pickle" if pickled else "safetensors file"
            raise ForeignTextError(f"it places {quoted(tensor)} in {quoted(name)}, no {kind} right beside it")
        shards[name].add(tensor)
    return dict(shards)


def _refuse_adapter(root: Path, names: Collection[str]) -> None:
    if _ADAPTER in names:
        raise WeightsError(
            f"{root} holds {_ADAPTER}: where peft is installed, transformers would load an adapter on top of the "
            "weights, or another model beneath it. Merge the adapter (merge_and_unload) and save the whole model "
            f"to a new folder, or remove {_ADAPTER} if the weights alone are meant."
        )


def _no_weights(root: Path, names: Collection[str]) -> WeightsError:
    others = [writable(name) for name in names if is_safetensors(name)]
    if others:
        return WeightsError(
            f"{root} holds {', '.join(others[:8])}, but neither {SINGLE_NAME} nor {INDEX_NAME}: transformers loads "
            f"none of these. Rename the file that holds the weights to {SINGLE_NAME}, or put the index of the shards "
            "beside them."
        )
    pickles = [writable(name) for name in names if is_pickle(name)]
    if pickles:
        return WeightsError(
            f"{root} holds pickled weights only ({', '.join(pickles[:4])}), which can run code when "
            "opened. Expected safetensors. If you trust the source, convert them: load the model with "
            "transformers' from_pretrained and write it with save_pretrained to a new folder."
        )
    return WeightsError(
        f"{root} holds no weights{_dead(root, (SINGLE_NAME, INDEX_NAME))}. Expected {SINGLE_NAME}, or shards with "
        f"{INDEX_NAME}. Finish the download, or give the folder of another checkpoint."
    )


def _dead(root: Path, names: Collection[str]) -> str:
    """Which of the names are there, but as no file: what to add to a message that misses them."""
    dead = [name for name in names if os.path.lexists(root / name)]
    return f" ({', '.join(dead[:8])}: a link to nothing, or no file)" if dead else ""


def holds_tokenizer(names: Iterable[str]) -> bool:
    """Whether a tokenizer can be made of files with these names: settings alone are none."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in _TOKENIZER_ITSELF)
