"""Whether a run's folder holds what was written there: `verify_run` lists what does not, `leave_out_damaged` mends it.

Every file that the tool reads again has a digest: chunks of scores (`commit`), the small JSON files (`files`), trained
checkpoints (`training.folder`), and what makes the report (report.sha256). Of a store that an earlier version wrote
(format 1) nothing can be said until its next checkpoint is appended, with which what is there is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from gated_lpi._common.folders import Folder, is_remote, read_bytes, read_text
from gated_lpi.errors import RunError
from gated_lpi.results.choices import kept_choice
from gated_lpi.results.frequencies import REMEDY
from gated_lpi.results.known import read_known
from gated_lpi.results.run import Run
from gated_lpi.training.folder import damaged_checkpoints, remove_checkpoint

REPORT_DIGESTS = "report.sha256"


@dataclass(frozen=True)
class Finding:
    """What was found of one part of a run.

    Attributes:
        status: "damaged", or "unsealed" where there is nothing to compare with.
        what: the part: an arm's name, "corpus", "report".
        why: in words, with the file.
        remedy: what to do.
    """

    status: Literal["damaged", "unsealed"]
    what: str
    why: str
    remedy: str


AGAIN = "run the same experiment again: this is computed again"


def verify_run(run: Run, advance: Callable[[int, int], None] = lambda _done, _total: None) -> list[Finding]:
    """Read every byte of a run that has a digest, and compare.

    Args:
        run: from `open_run`, which has checked run.json.
        advance: called with (done, total) arms.

    Returns:
        What does not verify, and what cannot be; empty if all is what was written.
    """
    found: list[Finding] = []
    for done, arm in enumerate(run.arms):
        advance(done, len(run.arms))
        found += _arm(run, arm)
    advance(len(run.arms), len(run.arms))
    try:
        run.frequencies()
    except RunError as error:
        found.append(Finding("damaged", "corpus", str(error), REMEDY))
    return [*found, *_report(run.path)]


def leave_out_damaged(run: Run) -> Iterator[str]:
    """Remove from a run what does not verify, so that carrying on makes it again.

    At an address only sizes are compared, as reading would be a download of all scores; `verify_run` reads them.

    Returns:
        What each is that was removed, and why, in words.

    Raises:
        RunError: what is damaged cannot be made again from what is there.
        WriteError: it could not be written.
    """
    for arm in run.arms:
        for store in run.stores(arm):
            damage = store.damage(whole=not is_remote(run.path))
            lines = list(damage.lines())
            lost = store.heal(damage)
            yield from (f"{arm}: {line}" for line in lines)
            if lost and damage.axes and not damage.rows:
                yield f"{arm}: {lost[0]}, with which what all checkpoints share is written anew"
        yield from leave_out_damaged_training(run, arm)


def leave_out_damaged_training(run: Run, arm: str) -> Iterator[str]:
    """Remove checkpoints that the run trained and that do not verify; says of each which, and why."""
    for checkpoint, reason in damaged_checkpoints(run.training_folder(arm)):
        remove_checkpoint(checkpoint)
        yield f"{arm}: {checkpoint}: {reason}"


def _arm(run: Run, arm: str) -> Iterator[Finding]:
    for store in run.stores(arm):
        try:
            damage = store.damage()
        except RunError as error:
            yield Finding("damaged", arm, str(error), "restore the folder, or delete it and run again")
            continue
        yield from (Finding("damaged", arm, line, AGAIN) for line in damage.lines())
        if damage.unsealed:
            why = f"{damage.unsealed} checkpoints were written before there were digests"
            yield Finding("unsealed", arm, why, "with the next checkpoint that is added they get theirs, as they are")
    readers: dict[str, Callable[[], object]] = {
        AGAIN: lambda: run.record(arm),
        "delete it, and those checkpoints are tried again": lambda: run.quarantined(arm),
        "delete it, and the arm's last checkpoint is asked again": lambda: read_known(run.known_file(arm)),
        "delete it, and checkpoints are chosen anew": lambda: kept_choice(run.path / "series", arm),
    }
    for remedy, reader in readers.items():
        try:
            reader()
        except RunError as error:
            yield Finding("damaged", arm, str(error), remedy)
    for checkpoint, reason in damaged_checkpoints(run.training_folder(arm)):
        yield Finding("damaged", arm, f"{checkpoint}: {reason}", "run the same experiment again: it is trained again")


def _report(folder: Folder) -> Iterator[Finding]:
    remedy = f"write it again: gated-lpi report {folder}"
    try:
        text = read_text(folder / REPORT_DIGESTS)
        for line in (text or "").splitlines():
            digest, _, name = line.partition("  ")
            content = read_bytes(folder / name)
            if content is None:
                yield Finding("damaged", "report", f"{folder / name} is missing", remedy)
            elif sha256(content).hexdigest() != digest:
                yield Finding("damaged", "report", f"{folder / name} is not what was written", remedy)
    except (OSError, ValueError) as error:
        yield Finding("damaged", "report", f"{folder / REPORT_DIGESTS} cannot be read ({error})", remedy)
