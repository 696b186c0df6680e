"""Checkpoints on this machine's disk: which sub-folders are checkpoints?

A sub-folder is a checkpoint when its whole name reads as one (`gated_lpi.checkpoints.names`). Any other name, such as
`ckpt_003` (an index, not a step) or a side run's `stage2-step100-mix-b`, is left out of the series, and listed as left
out with the reason; so are files, and links that lead nowhere. A `checkpoint.json` inside the folder, as
`gated_lpi.training` writes it, adds tokens and stage; one that cannot be used, or contradicts the name, puts its folder
among what is left out: which of the two is right cannot be told.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from pathlib import Path
from typing import Any

from gated_lpi._common.entries import LARGEST, is_count, quoted
from gated_lpi._common.foreign import ForeignTextError, parse_json
from gated_lpi.checkpoints.names import ACCEPTED, INDEX_ONLY, Name, parse_name, reason_against, stage_order
from gated_lpi.checkpoints.types import SHOWN, Checkpoint, Excluded, LocalListing, of_one_unit
from gated_lpi.errors import CheckpointError

RECORD_NAME = "checkpoint.json"
FOLDER, FILE = "a folder", "a file"
_CORRECT = "correct it, or delete it if the folder's name says enough"


def list_local(folder: str | Path) -> list[Checkpoint]:
    """List the checkpoints of `folder`, sorted by stage and then numerically by step.

    What is left out is not told here: `scan_local` lists it.

    Raises:
        CheckpointError: `folder` is no folder, cannot be read or holds no checkpoint at all, or two sub-folders claim
            the same step of the same stage.
    """
    return list(checkpoints_in(folder).checkpoints)


def checkpoints_in(folder: str | Path) -> LocalListing:
    """Sort what is in a folder into checkpoints, of which there is one at least, and all else, listed with the reason.

    Raises:
        CheckpointError: `folder` is no folder, cannot be read or holds no checkpoint at all, or two sub-folders claim
            the same step of the same stage.
    """
    listing = scan_local(folder)
    if not listing.checkpoints:
        found = "; ".join(f"{item.name} ({item.reason})" for item in listing.excluded[:SHOWN]) or "nothing"
        raise CheckpointError(
            f"{folder} holds no checkpoint folders (found: {found}). "
            f"Expected sub-folders named {ACCEPTED}. Give the folder that contains them."
        )
    return listing


def scan_local(folder: str | Path) -> LocalListing:
    """Sort what is in `folder` into checkpoints and all else, which is listed with the reason.

    Files and links that lead nowhere are listed as left out, whatever their names. Hidden entries, whose names begin
    with a dot, are left out of both lists: programs keep their own things and drafts there.

    Raises:
        CheckpointError: `folder` is no folder or cannot be read, or two sub-folders claim the same step of the same
            stage.
    """
    root = Path(folder)
    try:
        paths = sorted(root.iterdir()) if root.is_dir() else None
    except OSError as error:
        raise CheckpointError(f"{root} cannot be read ({error}). Make it readable, and check the disk.") from error
    if paths is None:
        raise CheckpointError(
            f"{root} is not a folder. Expected a folder with sub-folders named {ACCEPTED}; check the path."
        )
    found = [_entry(path) for path in paths if not path.name.startswith(".")]
    checkpoints, others = of_one_unit([item for item in found if isinstance(item, Checkpoint)])
    _refuse_rivals(checkpoints)
    checkpoints.sort(key=lambda checkpoint: (stage_order(checkpoint.stage), checkpoint.step))
    return LocalListing(tuple(checkpoints), (*(item for item in found if isinstance(item, Excluded)), *others))


def _entry(path: Path) -> Checkpoint | Excluded:
    kind = _kind(path)
    if kind != FOLDER:
        return Excluded(path.name, f"{kind}, not a folder" if kind == FILE else kind)
    name = parse_name(path.name)
    if name is None:
        return Excluded(path.name, reason_against(path.name))
    if name.step is None:
        return Excluded(path.name, INDEX_ONLY)
    try:
        return _checkpoint(path, name, name.step)
    except ForeignTextError as error:
        return Excluded(path.name, f"its {RECORD_NAME} {error}; {_CORRECT}")


def _kind(path: Path) -> str:
    """What an entry of a folder is, links followed, in words; `FOLDER` and `FILE` are the sound ones."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads back to itself"
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and path.is_symlink():
            return "a link to nothing"
        return f"cannot be looked at ({error.strerror})"
    if stat.S_ISDIR(mode):
        return FOLDER
    return FILE if stat.S_ISREG(mode) else "neither a file nor a folder"


def _checkpoint(path: Path, name: Name, step: int) -> Checkpoint:
    record = _record(path / RECORD_NAME)
    if record.get("step", step) != step:
        raise ForeignTextError(f"says step {record['step']}, but the folder's name says step {step}")
    tokens = record.get("tokens")
    return Checkpoint(
        path=path,
        key=path.name,
        step=step,
        tokens=name.tokens if tokens is None else tokens,
        stage=record.get("stage") or name.stage,
        step_unit=name.counts,
    )


def _record(file: Path) -> dict[str, Any]:
    """What a folder's record says, {} without one.

    Raises:
        ForeignTextError: it cannot be used.
    """
    if not os.path.lexists(file):
        return {}
    kind = _kind(file)
    if kind != FILE:
        raise ForeignTextError(f"is {kind}")
    try:
        record = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ForeignTextError(f"cannot be read as JSON ({error})") from error
    if not isinstance(record, dict):
        raise ForeignTextError(f"holds {quoted(record)}. Expected an object")
    tokens, stage = record.get("tokens"), record.get("stage", "")
    for key, value, sound in (
        ("step", record.get("step"), "step" not in record or is_count(record["step"])),
        ("tokens", tokens, tokens is None or is_count(tokens)),
    ):
        if not sound:
            raise ForeignTextError(f"has {key} {quoted(value)}. Expected an object whose {key} is 0 to {LARGEST:,}")
    if not isinstance(stage, str) or not stage.isprintable():
        raise ForeignTextError(f"has stage {quoted(stage)}. Expected an object whose stage is printable text")
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
