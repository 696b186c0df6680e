"""Facts known at the end: an arm's last checkpoint is asked for its answers before any is scored.

1. A forward pass of the last chosen checkpoint over the prompts gives the rank of every target; a fact is known where
   it is among the ten likeliest tokens, as at the checkpoints themselves.
2. The answer is kept in the run (`results.known`), so that a run that is taken up scores with the same facts.
3. A last checkpoint that cannot be had or used leaves scores over these facts out, for the whole arm; that is said.
"""

from __future__ import annotations

from gated_lpi._common.folders import make
from gated_lpi.ablation import recall
from gated_lpi.checkpoints import Checkpoint, check_weights
from gated_lpi.errors import RunError
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.facts import FactSet
from gated_lpi.prompting import encode_facts
from gated_lpi.results.known import KnownAtEnd, read_known, write_known
from gated_lpi.results.run import Run
from gated_lpi.runs.access import family_of, load_checkpoint, on_this_machine
from gated_lpi.runs.failures import failed
from gated_lpi.runs.job import Job
from gated_lpi.runs.progress import Progress
from gated_lpi.runs.scoring import prompting
from gated_lpi.score_schema import KNOWN_K


def known_at_end(
    run: Run, arm: str, last: Checkpoint, facts: FactSet, progress: Progress, storage: StorageSpec
) -> tuple[bool, ...] | None:
    """Whether the fact of each prompt is known to an arm's last checkpoint; None where that cannot be used.

    Args:
        run: where it is kept.
        arm: its name.
        last: its last chosen checkpoint.
        facts: what it is asked.
        progress: shown how far it is, and told where it is left out.
        storage: where checkpoints are from, and are computed on.

    Raises:
        OptionError: options that cannot be used.
        WriteError: it could not be kept.
        Exception: what else is no checkpoint's fault.
    """
    file = run.known_file(arm)
    try:
        kept = read_known(file)
    except RunError as error:
        progress.note(f"{arm}: its last checkpoint is asked again for what it knows: {error}")
        kept = None
    if kept is None or kept.checkpoint != last.key:
        kept = _asked(run, arm, last, facts, progress, storage)
        make(file.parent)
        write_known(file, kept)
    if kept.known is None:
        progress.note(
            f"{arm}: scores over facts known at the end are left out, as its last checkpoint {kept.checkpoint} cannot "
            f"be used: {kept.left_out}"
        )
        return None
    return tuple(kept.known)


def _asked(
    run: Run, arm: str, last: Checkpoint, facts: FactSet, progress: Progress, storage: StorageSpec
) -> KnownAtEnd:
    answer = run.experiment.attribution.answer
    try:
        with on_this_machine(last, storage) as local, progress.task(f"what {last.key} of {arm} knows") as advance:
            check_weights(local.path)
            model = load_checkpoint(local, storage, family_of(run.experiment, arm))
            asked = encode_facts(model, facts, prompting(run.experiment), answer=answer)
            ranks = recall(model, asked.prompts, answer, progress=advance).ranks
    except Exception as error:  # what is no fault of the checkpoint's is raised again
        outcome = failed(Job(arm, last, run.experiment, facts, storage), error)
        return KnownAtEnd(checkpoint=last.key, left_out=str(outcome.record["quarantined"]))
    return KnownAtEnd(checkpoint=last.key, known=[bool(rank < KNOWN_K) for rank in ranks])
