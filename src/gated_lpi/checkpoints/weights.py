"""Can the weights of a checkpoint folder be trusted?

Weights are read from safetensors files only, since unpickling runs code of whoever wrote the file.
`check_weights`
1. finds the files that transformers would load (`gated_lpi._common.weight_files`), and no others;
2. reads one tensor at a time, a part of it after the other, and counts its values, NaN and infinities;
3. hashes each file, and the names and digests of all files together.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from gated_lpi._common.entries import writable
from gated_lpi._common.weight_files import refuse_long_headers, weight_files
from gated_lpi.checkpoints.types import WeightFile, WeightsReport
from gated_lpi.errors import WeightsError

if TYPE_CHECKING:
    import torch


_PART = 1 << 24  # values that are looked at together, which bounds memory whatever the largest tensor is


def check_weights(folder: str | Path | None) -> WeightsReport:
    """Read the weights that transformers would load of one checkpoint folder.

    Args:
        folder: the checkpoint's; None is the path of one that was not fetched.

    Returns:
        Their digests, number and dtypes.

    Raises:
        WeightsError: there is no folder, no weights, only pickled ones or files that transformers does not look for, a
            file that is cut short or corrupt, a missing shard or tensor, or there are values that are NaN or infinite
            (the message names the tensors).
    """
    if folder is None:
        raise WeightsError("The checkpoint is not on this machine yet. Fetch it first, then check the folder it is in.")
    root = Path(folder)
    dtypes: Counter[str] = Counter()
    broken: list[str] = []
    seen: dict[Path, set[str]] = {}
    chosen = weight_files(root)
    stamp = chosen.stamp
    refuse_long_headers(chosen.paths)
    for path in chosen.paths:
        seen[path] = set()
        for name, tensor in tensors_of(path):
            seen[path].add(name)
            dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
            broken += _broken_values(path, name, tensor)
    _refuse_missing(chosen.promised, seen)
    if broken:
        more = f" and {len(broken) - 8} more" if len(broken) > 8 else ""
        raise WeightsError(
            f"{root} holds values that are not finite in {len(broken)} tensors: "
            f"{'; '.join(broken[:8])}{more}. "
            "Scores of such weights mean nothing: fetch the checkpoint again, or leave it out of the series."
        )
    files = tuple(WeightFile(path.name, path.stat().st_size, file_sha256(path)) for path in chosen.paths)
    lines = "".join(f"{file.name} {file.sha256}\n" for file in files)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    return WeightsReport(files, digest, dtypes.total(), dict(dtypes), chosen.aside, stamp)


def tensors_of(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a safetensors file with its name, one at a time.

    Raises:
        WeightsError: the file is cut short or corrupt.
    """
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.offset_keys():
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}); it has {path.stat().st_size} bytes. "
            "It is cut short or corrupt: delete it and fetch it again."
        ) from error


def _broken_values(path: Path, name: str, tensor: torch.Tensor) -> list[str]:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return []
    parts = tensor.reshape(-1).split(_PART)
    nan = infinite = 0
    try:
        for part in parts:
            values = part.float() if part.element_size() == 1 else part
            if not bool(values.isfinite().all()):
                nan, infinite = nan + int(values.isnan().sum()), infinite + int(values.isinf().sum())
    except RuntimeError as error:  # torch holds some packed dtypes without being able to look at their values
        raise WeightsError(
            f"{path} holds {name} as {tensor.dtype}, whose values cannot be checked. Expected float32, bfloat16 or "
            "another plain dtype: convert the weights."
        ) from error
    return [f"{name} ({nan} NaN, {infinite} infinite of {tensor.numel()})"] if nan or infinite else []


def _refuse_missing(expected: Mapping[Path, frozenset[str]], seen: dict[Path, set[str]]) -> None:
    absent = [
        f"{writable(name)} in {path.name}" for path, names in expected.items() for name in sorted(names - seen[path])
    ]
    if absent:
        raise WeightsError(
            f"The index promises {len(absent)} tensors that are not in their shard: {', '.join(absent[:8])}. "
            "Index and shards belong to different checkpoints: fetch both again."
        )
    if not any(seen.values()):
        names = ", ".join(path.name for path in expected)
        raise WeightsError(f"{names} holds no tensors. Expected a model's weights; fetch the checkpoint again.")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        WeightsError: they cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error}). Make it readable, and check the disk.") from error
