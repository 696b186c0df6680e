"""The folder of one arm, written so that it can be trusted whenever the run is stopped.

    arm.json     what is trained here; another arm, spec, corpus or tokenizer is refused
    step-N/      one checkpoint: config, safetensors weights, tokenizer and checkpoint.json
    .trainer/    the Trainer's own state (optimizer, schedule, generators); removed once the arm is finished

1. A checkpoint is written to a hidden folder, synced to the disk, then renamed: a folder that exists is complete. Its
   checkpoint.json has the digest of each of its files, and of itself.
2. The Trainer's state of step N is written before step-N is published, and older states are removed after.
   So the newest published step whose state is there is where a stopped run continues.
3. The state's weights are written again under their names in the model. The Trainer saves experts one by one
   but does not join them when it resumes: it would continue with new experts, and say so in a log line only.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from gated_lpi._common.flatten import flatten
from gated_lpi._common.folders import sync
from gated_lpi._common.foreign import ForeignTextError, parse_json
from gated_lpi.errors import RunExistsError

RECORD = "arm.json"
CHECKPOINT = "checkpoint.json"
STATE = ".trainer"


def claim(out: Path, identity: Mapping[str, Any]) -> None:
    """Make `out` the folder of the run that `identity` describes, or check that it is already.

    Raises:
        RunExistsError: the folder holds another run, or other files, or a record that cannot be read; names what
            differs.
    """
    identity = json.loads(json.dumps(identity))
    record = out / RECORD
    if record.is_file():
        _refuse_difference(out, _read_record(record), flatten(identity))
        return
    if out.exists() and (not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir())):
        raise RunExistsError(
            f"{out} exists and holds no {RECORD}, so it is not the folder of an arm. "
            "Expected a new or empty folder: give another one."
        )
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / f".{RECORD}", identity)
    (out / f".{RECORD}").replace(record)


def publish(folder: Path, save: Callable[[Path], None], record: Mapping[str, Any]) -> None:
    """Write one checkpoint folder in a single step; one that exists is complete and is left as it is.

    Args:
        folder: the checkpoint's.
        save: writes model and tokenizer into the folder that it is given.
        record: what checkpoint.json says.
    """
    if folder.exists():
        return
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    save(draft)
    files = {path.name: _sha256(path) for path in sorted(draft.iterdir()) if path.is_file()}
    content = {**record, "files": files}
    _write_json(draft / CHECKPOINT, {**content, "sha256": _digest(content)})
    sync(draft)
    draft.replace(folder)
    sync(folder.parent, [])


def damaged_checkpoints(out: Path) -> Iterator[tuple[Path, str]]:
    """The checkpoints of an arm's folder that are not what was written, and why; none where there is no such folder.

    Nothing is said of one that an earlier version wrote, which has no digests.
    """
    for record in sorted(out.glob(f"step-*/{CHECKPOINT}")):
        try:
            content = parse_json(record.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ForeignTextError("it holds no object")
            files = content.get("files")
            if files is None:
                continue
            if content.pop("sha256", None) != _digest(content):
                raise ForeignTextError("its digest is not that of its content")
            for name, digest in files.items():
                if _sha256(record.parent / name) != digest:
                    raise ForeignTextError(f"{name} is not what was written")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            yield record.parent, str(error)
    for folder in sorted(out.glob("step-*")):
        if folder.is_dir() and not (folder / CHECKPOINT).exists():
            yield folder, f"{CHECKPOINT} is missing"


def remove_checkpoint(folder: Path) -> None:
    """Take a checkpoint away, in one step, so that it is trained again."""
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    folder.replace(draft)
    shutil.rmtree(draft)


def keep_state(out: Path, step: int, save_weights: Callable[[Path], None]) -> None:
    """Make the state that the Trainer has just saved one that it can load; to be called before `publish`.

    Args:
        out: the arm's folder.
        step: of the state.
        save_weights: writes the weights, under their names in the model, to the file that it is given.
    """
    folder = out / STATE / f"checkpoint-{step}"
    save_weights(folder / "model.safetensors")
    sync(folder)


def newest_state(out: Path, steps: Sequence[int]) -> Path | None:
    """The Trainer's state at the newest step up to which all is published; None if there is none such.

    States that are newer than that may be incomplete, or have published steps missing before them; they are removed.
    """
    published = list(takewhile(lambda step: (out / f"step-{step}").is_dir(), steps))
    states = {f"checkpoint-{step}": step for step in published}
    found = []
    for path in (out / STATE).glob("checkpoint-*"):
        if path.name in states:
            found.append((states[path.name], path))
        else:
            shutil.rmtree(path)
    return max(found)[1] if found else None


def remove_older_states(out: Path, step: int) -> None:
    """Remove the Trainer's states of all steps but `step`."""
    for path in (out / STATE).glob("checkpoint-*"):
        if path.name != f"checkpoint-{step}":
            shutil.rmtree(path)


def _read_record(record: Path) -> dict[str, Any]:
    """The content of arm.json, flat."""
    try:
        content = parse_json(record.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ForeignTextError(f"it holds {type(content).__name__}, where an object was expected")
        return flatten(content)
    except (OSError, ValueError, RecursionError) as error:
        raise RunExistsError(
            f"{record} cannot be read as JSON ({error}), so what its folder holds is unknown. "
            "Give another folder, or delete this one."
        ) from error


def _refuse_difference(out: Path, there: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    keys = sorted(there.keys() | given.keys())
    differing = [
        f"{key} is {there.get(key)} in the folder, {given.get(key)} given"
        for key in keys
        if there.get(key) != given.get(key)
    ]
    if differing:
        raise RunExistsError(
            f"{out} holds another run: {'; '.join(differing)}. "
            "Expected the same settings, to continue it: give another folder, or delete this one."
        )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
