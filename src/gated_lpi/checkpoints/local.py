"""Checkpoints on this machine's disk: which sub-folders are checkpoints?

A sub-folder is a checkpoint when its whole name reads as one (`gated_lpi.checkpoints.names`). Any other name, such as
`ckpt_003` (an index, not a step) or a side run's `stage2-step100-mix-b`, is left out of the series, and listed as left
out with the reason. A `checkpoint.json` inside the folder, as `gated_lpi.training` writes it, adds tokens and stage.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from gated_lpi.checkpoints.names import ACCEPTED, INDEX_ONLY, Name, parse_name, reason_against, stage_order
from gated_lpi.checkpoints.types import Checkpoint, Excluded, LocalListing
from gated_lpi.errors import CheckpointError

RECORD_NAME = "checkpoint.json"


def list_local(folder: str | Path) -> list[Checkpoint]:
    """List the checkpoints of `folder`, sorted by stage and then numerically by step.

    Raises CheckpointError as `scan_local` does, and when the folder holds no checkpoint at all.
    """
    listing = scan_local(folder)
    if not listing.checkpoints:
        found = ", ".join(listing.ignored[:8]) or "no sub-folders"
        raise CheckpointError(
            f"{folder} holds no checkpoint folders (found: {found}). "
            f"Expected sub-folders named {ACCEPTED}. Give the folder that contains them."
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
            f"{root} is not a folder. Expected a folder with sub-folders named {ACCEPTED}; check the path."
        )
    checkpoints, excluded = [], []
    for path in sorted(root.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        name = parse_name(path.name)
        if name is None:
            excluded.append(Excluded(path.name, reason_against(path.name)))
        elif name.step is None:
            excluded.append(Excluded(path.name, INDEX_ONLY))
        else:
            checkpoints.append(_checkpoint(path, name, name.step))
    _refuse_rivals(checkpoints)
    checkpoints.sort(key=lambda checkpoint: (stage_order(checkpoint.stage), checkpoint.step))
    return LocalListing(tuple(checkpoints), tuple(excluded))


def _checkpoint(path: Path, name: Name, step: int) -> Checkpoint:
    record = _record(path)
    if record.get("step", step) != step:
        raise CheckpointError(
            f"{path / RECORD_NAME} says step {record['step']}, but the folder's name says step {step}. "
            "Rename the folder to the step it holds, or remove it from the series."
        )
    tokens = record.get("tokens")
    return Checkpoint(
        path=path,
        key=path.name,
        step=step,
        tokens=name.tokens if tokens is None else tokens,
        stage=record.get("stage") or name.stage,
    )


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
