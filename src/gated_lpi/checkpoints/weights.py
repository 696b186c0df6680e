"""Can the weights of a checkpoint folder be trusted?

Weights are read from safetensors files only, since unpickling runs code of whoever wrote the file.
`check_weights`
1. finds the files: the shards named in the index, else every safetensors file of the folder;
2. reads one tensor at a time and counts its values, NaN and infinities: the largest tensor bounds memory;
3. hashes each file, and the names and digests of all files together.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from gated_lpi.checkpoints.types import WeightFile, WeightsReport
from gated_lpi.errors import WeightsError

if TYPE_CHECKING:
    import torch

INDEX_NAME = "model.safetensors.index.json"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
PICKLED_STATE = {"training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"}


def check_weights(folder: str | Path | None) -> WeightsReport:
    """Read all weights of one checkpoint folder and report their digests, number and dtypes.

    Raises WeightsError if there is no folder (the path of a checkpoint that was not fetched), no weights, only pickled
    ones, a file that is cut short or corrupt, a missing shard or tensor, or values that are NaN or infinite (the
    message names the tensors).
    """
    if folder is None:
        raise WeightsError("The checkpoint is not on this machine yet. Fetch it first, then check the folder it is in.")
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
    files = tuple(WeightFile(path.name, path.stat().st_size, file_sha256(path)) for path in expected)
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
    pickles = sorted(path.name for path in root.iterdir() if path.suffix in PICKLES and path.name not in PICKLED_STATE)
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
    if bool(values.isfinite().all()):
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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
