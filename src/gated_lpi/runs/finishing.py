"""What is done with an arm once its checkpoints are scored: changes are split, units followed, the last one ablated."""

from __future__ import annotations

from collections.abc import Sequence

from gated_lpi.checkpoints import Checkpoint
from gated_lpi.errors import RunError
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.facts import FactSet
from gated_lpi.results.run import Run
from gated_lpi.runs.ablations import study_last_checkpoint
from gated_lpi.runs.access import fetched_to, on_this_machine
from gated_lpi.runs.following import follow_units, is_followed
from gated_lpi.runs.job import JobOutcome
from gated_lpi.runs.progress import Progress
from gated_lpi.runs.splits import split_changes


def finish_arm(
    run: Run,
    arm: str,
    chosen: Sequence[Checkpoint],
    facts: FactSet,
    storage: StorageSpec,
    latest: JobOutcome | None,
    progress: Progress,
) -> None:
    """Split an arm's changes and follow its units if that is asked for; ablate and describe its last checkpoint.

    What was done is not done again.

    Args:
        run: where scores are and results go.
        arm: its name.
        chosen: its checkpoints.
        facts: what the models are asked.
        storage: where they are from, and what is computed on.
        latest: what came last of its checkpoints, which may be on this machine still.
        progress: shown how far it is.

    Raises:
        CheckpointError: a checkpoint could not be had again.
        ModelError: a model cannot be loaded, or its units do not account for what it computes.
        RunError: scores cannot be read, or results not be written.
    """
    scored = set(run.store(arm).keys())
    last = next((checkpoint for checkpoint in reversed(chosen) if checkpoint.key in scored), None)
    if last is None:
        count = len(run.quarantine(arm).keys())
        progress.note(f"{arm}: none of its checkpoints could be used, {count} are quarantined: no results")
        return
    used = [checkpoint for checkpoint in chosen if checkpoint.key in scored]
    if run.experiment.routing.split:
        split_changes(run, arm, used, facts, progress, storage)
    if run.experiment.follow.units:
        follow_units(run, arm, used, facts, progress, storage)
    try:
        record = run.record(arm)
    except RunError as error:  # a damaged file, which is written anew
        progress.note(f"{arm}: the last checkpoint is ablated again: {error}")
        record = None
    if record is not None and record.ablation.checkpoint == last.key:
        return
    if latest is not None and latest.key == last.key and latest.fetched is not None:
        last = fetched_to(last, latest.fetched)  # it is here still
    with on_this_machine(last, storage) as local:
        study_last_checkpoint(run, arm, local, facts, progress, storage)


def is_finished(run: Run, arm: str, chosen: Sequence[Checkpoint]) -> bool:
    """Whether `finish_arm` has nothing left to do for an arm, as far as can be told from what is kept."""
    scored = set(run.store(arm).keys())
    last = next((checkpoint.key for checkpoint in reversed(chosen) if checkpoint.key in scored), None)
    split = set(run.split_store(arm).keys()) if run.experiment.routing.split else {last}
    if last is None or last not in split or not is_followed(run, arm, scored):
        return False
    try:
        record = run.record(arm)
    except RunError:
        return False
    return record is not None and record.ablation.checkpoint == last
