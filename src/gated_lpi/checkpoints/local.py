"""Checkpoints on this machine's disk: which sub-folders are checkpoints, and can their weights be trusted?

A sub-folder is a checkpoint when its whole name reads `[stage1[-ingredient2]-]step100[-tokens5B]`. `step` may
be `checkpoint` (as the Hugging Face Trainer writes it), with `-`, `_` or nothing before the number. Any other
name, such as `ckpt_003` (an index, not a step) or a side run's `stage2-step100-mix-b`, is left out of the
series, and listed as left out. A `checkpoint.json` inside the folder, as `gated_lpi.training` writes it, adds
tokens and stage.

Weights are read from safetensors files only, since unpickling runs code of whoever wrote the file.
`check_weights`
1. finds the files: the shards named in the index, else every safetensors file of the folder;
2. reads one tensor at a time and counts its values, NaN and infinities: the largest tensor bounds memory;
3. hashes each file, and the names and digests of all files together.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gated_lpi.checkpoints.types import Checkpoint, LocalListing, WeightFile, WeightsReport
from gated_lpi.errors import CheckpointError, WeightsError

RECORD_NAME = "checkpoint.json"
INDEX_NAME = "model.safetensors.index.json"
_NAME = re.compile(
    r"(?:(?P<stage>stage[-_]?\d+(?:[-_]ingredient[-_]?\d+)?)[-_])?"
    r"(?:step|checkpoint)[-_]?(?P<step>\d+)"
    r"(?:[-_]tokens?[-_]?(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[KMBT]?))?",
    re.IGNORECASE,
)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_ACCEPTED = "step-100, step_100, step100, checkpoint-100, step100-tokens5B or stage1-step100-tokens5B"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_PICKLED_STATE = {"training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"}


def list_local(folder: str | Path) -> list[Checkpoint]:
    """List the checkpoints of `folder`, sorted by stage and then numerically by step.

    Raises CheckpointError as `scan_local` does, and when the folder holds no checkpoint at all.
    """
    listing = scan_local(folder)
    if not listing.checkpoints:
        found = ", ".join(listing.ignored[:8]) or "no sub-folders"
        raise CheckpointError(
            f"{folder} holds no checkpoint folders (found: {found}). "
            f"Expected sub-folders named {_ACCEPTED}. Give the folder that contains them."
        )
    return list(listing.checkpoints)


def scan_local(folder: str | Path) -> LocalListing:
    """Sort the sub-folders of `folder` into checkpoints and others; hidden folders are left out of both.

    Raises CheckpointError if `folder` is no folder, if two sub-folders claim the same step of the same stage,
    or if a `checkpoint.json` cannot be read or contradicts its folder's name.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CheckpointError(
            f"{root} is not a folder. Expected a folder with sub-folders named {_ACCEPTED}; check the path."
        )
    checkpoints, ignored = [], []
    for path in sorted(root.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            ignored.append(path.name)
        else:
            checkpoints.append(_checkpoint(path, match))
    _refuse_rivals(checkpoints)
    checkpoints.sort(key=lambda checkpoint: (checkpoint.stage, checkpoint.step))
    return LocalListing(tuple(checkpoints), tuple(ignored))


def _checkpoint(path: Path, match: re.Match[str]) -> Checkpoint:
    record = _record(path)
    step = int(match["step"])
    if record.get("step", step) != step:
        raise CheckpointError(
            f"{path / RECORD_NAME} says step {record['step']}, but the folder's name says step {step}. "
            "Rename the folder to the step it holds, or remove it from the series."
        )
    tokens = record.get("tokens")
    if tokens is None and match["tokens"] is not None:
        tokens = int(Decimal(match["tokens"]) * _UNITS[match["unit"].upper()])
    stage = record.get("stage") or (match["stage"] or "").lower()
    return Checkpoint(path=path, key=path.name, step=step, tokens=tokens, stage=stage)


def _record(path: Path) -> dict[str, Any]:
    file = path / RECORD_NAME
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read as JSON ({error}). Restore it, or delete it if the folder's name says enough."
        ) from error
    if not (
        isinstance(record, dict)
        and isinstance(record.get("step", 0), int)
        and isinstance(record.get("tokens"), int | None)
        and isinstance(record.get("stage", ""), str)
    ):
        raise CheckpointError(
            f"{file} holds {json.dumps(record)[:200]}. Expected an object with integers step and tokens and "
            "a string stage. Correct it, or delete it if the folder's name says enough."
        )
    return record


def _refuse_rivals(checkpoints: list[Checkpoint]) -> None:
    by_step: dict[tuple[str, int], list[str]] = defaultdict(list)
    for checkpoint in checkpoints:
        by_step[checkpoint.stage, checkpoint.step].append(checkpoint.key)
    for (_, step), keys in by_step.items():
        if len(keys) > 1:
            raise CheckpointError(
                f"{' and '.join(keys)} all claim step {step}. A series has one checkpoint a step: "
                "two copies of one would fake stability. Move those that do not belong to it elsewhere."
            )


def check_weights(folder: str | Path) -> WeightsReport:
    """Read all weights of one checkpoint folder and report their digests, number and dtypes.

    Raises WeightsError if there are no weights, only pickled ones, a file that is cut short or corrupt, a
    missing shard or tensor, or values that are NaN or infinite (the message names the tensors).
    """
    root = Path(folder)
    dtypes: Counter[str] = Counter()
    broken: list[str] = []
    seen: dict[Path, set[str]] = {}
    expected = _expected_tensors(root)
    for path in expected:
        seen[path] = set()
        for name, tensor in _tensors(path):
            seen[path].add(name)
            dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
            broken += _broken_values(name, tensor)
    _refuse_missing(expected, seen)
    if broken:
        more = f" and {len(broken) - 8} more" if len(broken) > 8 else ""
        raise WeightsError(
            f"{root} holds values that are not finite in {len(broken)} tensors: "
            f"{'; '.join(broken[:8])}{more}. "
            "Scores of such weights mean nothing: fetch the checkpoint again, or leave it out of the series."
        )
    files = tuple(_weight_file(path) for path in expected)
    lines = "".join(f"{file.name} {file.sha256}\n" for file in files)
    return WeightsReport(files, hashlib.sha256(lines.encode()).hexdigest(), dtypes.total(), dict(dtypes))


def _expected_tensors(root: Path) -> dict[Path, set[str]]:
    """Map each weight file, in name order, to the tensors its index promises (none without an index)."""
    if not root.is_dir():
        raise WeightsError(f"{root} is not a folder. Expected the folder of one checkpoint; check the path.")
    if (root / INDEX_NAME).is_file():
        return _shards(root)
    files = sorted(path for path in root.glob("*.safetensors") if path.is_file())
    if files:
        return {path: set() for path in files}
    pickles = sorted(
        path.name for path in root.iterdir() if path.suffix in _PICKLES and path.name not in _PICKLED_STATE
    )
    if pickles:
        raise WeightsError(
            f"{root} holds pickled weights only ({', '.join(pickles[:4])}), which can run code when "
            "opened. Expected safetensors. If you trust the source, convert them: load the model with "
            "transformers' from_pretrained and write it with save_pretrained to a new folder."
        )
    raise WeightsError(
        f"{root} holds no weights. Expected model.safetensors, or shards with {INDEX_NAME}. "
        "Finish the download, or give the folder of another checkpoint."
    )


def _shards(root: Path) -> dict[Path, set[str]]:
    index = root / INDEX_NAME
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
        shards: dict[Path, set[str]] = defaultdict(set)
        for tensor, name in placed:
            shards[root / name].add(tensor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{index} cannot be used ({type(error).__name__}: {error}). Expected a JSON object whose "
            "weight_map maps tensor names to shard names; fetch the file again."
        ) from error
    missing = sorted(path.name for path in shards if not path.is_file())
    if missing or not shards:
        raise WeightsError(
            f"{index.name} of {root} names {len(shards)} shards, of which {len(missing)} are missing: "
            f"{', '.join(missing[:8])}. Fetch the missing files into that folder."
        )
    return dict(sorted(shards.items()))


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.offset_keys():
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}); it has {path.stat().st_size} bytes. "
            "It is cut short or corrupt: delete it and fetch it again."
        ) from error


def _broken_values(name: str, tensor: torch.Tensor) -> list[str]:
    if not tensor.is_floating_point():
        return []
    values = tensor.float() if tensor.element_size() == 1 else tensor
    if bool(torch.isfinite(values).all()):
        return []
    return [f"{name} ({int(values.isnan().sum())} NaN, {int(values.isinf().sum())} infinite of {values.numel()})"]


def _refuse_missing(expected: dict[Path, set[str]], seen: dict[Path, set[str]]) -> None:
    absent = [f"{name} in {path.name}" for path, names in expected.items() for name in sorted(names - seen[path])]
    if absent:
        raise WeightsError(
            f"The index promises {len(absent)} tensors that are not in their shard: {', '.join(absent[:8])}. "
            "Index and shards belong to different checkpoints: fetch both again."
        )
    if not any(seen.values()):
        names = ", ".join(path.name for path in expected)
        raise WeightsError(f"{names} holds no tensors. Expected a model's weights; fetch the checkpoint again.")


def _weight_file(path: Path) -> WeightFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return WeightFile(path.name, path.stat().st_size, digest)
