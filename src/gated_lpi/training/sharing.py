"""Arms that were trained before: the checkpoints of an arm that another run has, in place of training it again.

Checkpoints never change once they are published, so files are linked (copied where the disk cannot). The arm is the
same if its arm.json is, but for its name: one kind, training, corpus and tokenizer. checkpoint.json is written anew
with the name and the digests of what was linked, and a source whose files are not what was written is not used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gated_lpi._common.foreign import parse_json
from gated_lpi.training import folder
from gated_lpi.training.schedule import checkpoint_steps


def adopt(out: Path, identity: Mapping[str, Any], others: Iterable[Path]) -> Path | None:
    """Take the checkpoints of a finished arm that was trained alike, unless `out` has its own, or began with them.

    Args:
        out: the arm's folder.
        identity: what its arm.json is to say.
        others: folders of arms, of other runs.

    Returns:
        Whose checkpoints they are; None where there is no such arm.

    Raises:
        OSError: they could not be written.
    """
    steps = checkpoint_steps(identity["spec"]["steps"], identity["spec"]["checkpoints"])
    if (out / folder.STATE).exists() or all((out / f"step-{step}").is_dir() for step in steps):
        return None
    wanted = _without_name(identity)
    for other in others:
        if other.resolve() == out.resolve() or _identity(other) != wanted:
            continue
        found = [other / f"step-{step}" for step in steps]
        if all(path.is_dir() for path in found) and not list(folder.damaged_checkpoints(other)):
            folder.claim(out, identity)
            for path in found:
                _link(path, out / path.name, identity["arm"]["name"])
            return other
    return None


def _without_name(identity: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(identity))
    del content["arm"]["name"]
    return content


def _identity(arm: Path) -> dict[str, Any] | None:
    """What an arm's folder says it is, without its name; None where it says nothing that can be read."""
    try:
        return _without_name(parse_json((arm / folder.RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _link(source: Path, target: Path, name: str) -> None:
    record = parse_json((source / folder.CHECKPOINT).read_text(encoding="utf-8"))
    assert isinstance(record, dict)  # it was verified
    kept = {key: value for key, value in record.items() if key not in ("files", "sha256")}

    def save(draft: Path) -> None:
        draft.mkdir(parents=True)
        for file in source.iterdir():
            if file.name != folder.CHECKPOINT:
                _link_or_copy(file, draft / file.name)

    folder.publish(target, save, kept | {"arm": name})


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
