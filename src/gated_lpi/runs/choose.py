"""Which checkpoints each arm has: a folder's, what the run trained, or a choice from a suite, repository or folder.

What was chosen from a hub is kept in the run, commits and all, so that a run that is taken up again has the same
checkpoints whatever was added to or moved in the repository since, and needs no listing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from gated_lpi._common.folders import Folder
from gated_lpi.checkpoints import Checkpoint, Hub, align, inspect_series, list_local, list_series, scan_local, select
from gated_lpi.checkpoints.series import Series
from gated_lpi.checkpoints.suites import suite_holding
from gated_lpi.errors import GatedLPIError, OptionError
from gated_lpi.experiments.experiment import Arm, Experiment
from gated_lpi.results.choices import keep_choice, kept_choice

Checkpoints = list[Checkpoint]
Note = Callable[[str, str], None]
"""Takes an arm's name and what is to be said of it."""


def choose_checkpoints(
    experiment: Experiment, trained: dict[str, Checkpoints], hub: Hub, note: Note, kept: Folder | None = None
) -> dict[str, Checkpoints]:
    """List the checkpoints of every arm.

    Args:
        experiment: whose arms.
        trained: checkpoints of arms that the run trains.
        hub: how to reach the hub.
        note: told, by arm, of mismatches, what is left out and what is known to be wrong.
        kept: folder of choices that were made before; new ones are added to it. None: choose anew, keep nothing.

    Raises:
        CheckpointError: a series that is not there.
        OptionError: a choice that cannot be made from it, or a series whose models cannot be run.
        RunError: choices that were made before cannot be read, or new ones not be written.
    """
    chosen = dict(trained)
    for arm in sorted(experiment.arms, key=lambda arm: arm.tokens_aligned_with is not None):
        if arm.checkpoints is not None:
            chosen[arm.name] = _folder(arm.name, arm.checkpoints, note)
        elif arm.series is not None:
            before = None if kept is None else kept_choice(kept, arm.name)
            chosen[arm.name] = _from_series(arm, chosen, hub, note) if before is None else before
            if kept is not None and before is None and all(c.path is None for c in chosen[arm.name]):
                keep_choice(kept, arm.name, chosen[arm.name])
        if arm.name in chosen and (arm.tokenizer or arm.trust_remote_code):
            elsewhere, code = arm.tokenizer or "", arm.trust_remote_code
            chosen[arm.name] = [dataclasses.replace(c, tokenizer=elsewhere, remote_code=code) for c in chosen[arm.name]]
        if arm.name in chosen and arm.trust_remote_code:
            note(arm.name, "code that comes with its checkpoints is run (trust_remote_code)")
    return {arm.name: chosen[arm.name] for arm in experiment.arms if arm.name in chosen}


def _folder(arm: str, folder: str, note: Note) -> Checkpoints:
    checkpoints = list_local(folder)
    for line in scan_local(folder).left_out:
        note(arm, line)
    return checkpoints


def _from_series(arm: Arm, others: dict[str, Checkpoints], hub: Hub, note: Note) -> Checkpoints:
    assert arm.series is not None
    _refuse_what_cannot_run(arm)
    series = list_series(arm.series, hub=hub)
    try:
        checkpoints = _selected(arm, series, others, note)
    except OptionError as error:
        raise OptionError(f"arm {arm.name!r}: {error}") from error
    for line in (*series.notes, *series.left_out):
        note(arm.name, line)
    for defect in series.known:
        keys = [c.key for c in checkpoints if defect.afflicts(c)]
        if keys:
            note(arm.name, f"known of {', '.join(keys)}: {defect.what} ({defect.source})")
    _note_integrity(arm.name, series, checkpoints, hub, note)
    return checkpoints


def _refuse_what_cannot_run(arm: Arm) -> None:
    """Refuse an arm whose suite says that its models cannot be run, before anything is listed or downloaded."""
    sources = [arm.series] if isinstance(arm.series, str) else arm.series or ()
    for source in sources:
        suite = suite_holding(source)
        if suite is not None and suite.runs == "not" and not Path(source).is_dir():
            raise OptionError(
                f"arm {arm.name!r} has series = {source!r}, of the suite {suite.name}, whose models {suite.obstacle}. "
                "Choose another series; `gated-lpi checkpoints` lists them, and says which can be run"
            )


def _selected(arm: Arm, series: Series, others: dict[str, Checkpoints], note: Note) -> Checkpoints:
    if arm.tokens_aligned_with is not None:
        candidates = select(series, stages=arm.stages)
        alignment = align(others[arm.tokens_aligned_with], candidates, on="tokens")
        if not alignment.pairs:
            raise OptionError(
                f"no checkpoint of {series.source} is within 10% of the training tokens of any of "
                f"{arm.tokens_aligned_with!r}. Choose with `tokens` instead."
            )
        for pair in alignment.pairs:
            if pair.difference:
                note(arm.name, f"{pair.b.key} is {pair.difference:+,} tokens from {pair.a.key} ({pair.relative:.1%})")
        for alone in alignment.unmatched_a:
            note(arm.name, f"no checkpoint is near {alone.key} of {arm.tokens_aligned_with} in tokens")
        return [pair.b for pair in alignment.pairs]
    selection = select(
        series,
        steps=arm.steps,
        tokens=arm.tokens,
        words=arm.words,
        bytes=arm.bytes,
        count=arm.count,
        spacing=arm.spacing,
        every=arm.every,
        stages=arm.stages,
    )
    for match in selection.mismatches:
        asked = f"asked for {match.asked:,} {match.axis}"
        note(arm.name, f"{asked}, nearest is {match.found:,} ({match.key}, {match.mismatch:+,})")
    if selection.unmet:
        unit = selection.matches[0].axis
        note(arm.name, f"{selection.unmet} multiples of {arm.every:,} {unit} have no checkpoint near them")
    return list(selection.checkpoints)


def _note_integrity(arm: str, series: Series, checkpoints: Sequence[Checkpoint], hub: Hub, note: Note) -> None:
    """Say before any download which chosen checkpoints of a hub are duplicates of each other, or incomplete."""
    if any(c.path is not None for c in checkpoints):
        return
    try:
        report = inspect_series(dataclasses.replace(series, main=None), checkpoints, hub=hub)
    except GatedLPIError as error:
        note(arm, f"the files could not be compared before download: {error}")
        return
    for group in report.duplicates:
        note(arm, f"identical weights: {', '.join(group)}; stability between them is refused")
    for shared in report.shared:
        note(arm, f"identical files {', '.join(shared.files)} in {', '.join(shared.keys)}")
    for key, reason in report.unusable.items():
        note(arm, f"{key}: {reason}")
