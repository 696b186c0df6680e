"""Units that are followed through an arm's checkpoints (`follow.units`): what each writes, serves and resembles.

Which units these are is known once all of an arm's checkpoints are scored. Each is then loaded once more, and what it
says of them (`portraits`) is kept in a store beside the scores, a row for each checkpoint, so that an interrupted run
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gated_lpi.checkpoints import Checkpoint
from gated_lpi.errors import GatedLPIError
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.facts import FactSet
from gated_lpi.options import LPI
from gated_lpi.prompting import encode_facts
from gated_lpi.results.run import Run
from gated_lpi.results.store import ResultStore
from gated_lpi.runs.access import family_of, load_checkpoint, on_this_machine
from gated_lpi.runs.job import labels
from gated_lpi.runs.portraits import portraits
from gated_lpi.runs.progress import Progress
from gated_lpi.runs.scoring import prompting
from gated_lpi.runs.top_units import top_of_each_kind
from gated_lpi.score_schema import LPI as LPI_NAME
from gated_lpi.score_schema import mean_of


def follow_units(
    run: Run, arm: str, checkpoints: Sequence[Checkpoint], facts: FactSet, progress: Progress, storage: StorageSpec
) -> None:
    """Describe an arm's top units at every checkpoint, unless that was done; others than before begin anew.

    Args:
        run: where scores are and descriptions go.
        arm: name of the arm.
        checkpoints: those that have scores, in training order.
        facts: what the models are asked.
        progress: shown how far it is.
        storage: what it is computed on.

    Raises:
        CheckpointError: a checkpoint could not be had again.
        ModelError: a model cannot be loaded, or its units do not account for what it computes.
        RunError: what is there cannot be read, or be added to.
    """
    units = top_of_last(run, arm)
    if not units.size:
        return
    store = run.follow_store(arm)
    if not same_units(store, units):
        progress.note(f"{arm}: other units are the top ones now, which are followed from the first checkpoint on")
        store.clear()
    done, spec = set(store.keys()), run.experiment.follow
    family, asked = family_of(run.experiment, arm), run.experiment.attribution
    with progress.task(f"follow {arm}") as advance:
        for number, checkpoint in enumerate(checkpoints):
            advance(number, len(checkpoints))
            if checkpoint.key in done:
                continue
            with on_this_machine(checkpoint, storage) as local:
                model = load_checkpoint(local, storage, family)
            try:
                encoded = encode_facts(model, facts, prompting(run.experiment), answer="first").prompts
                found = portraits(model, encoded, units, spec, lpi_of(run.experiment), asked.scoring)
            except GatedLPIError as error:
                progress.note(f"{arm}: units are not followed at {checkpoint.key}: {error}")
                continue
            store.append(found, labels(checkpoint))
        advance(len(checkpoints), len(checkpoints))


def lpi_of(experiment: Experiment) -> LPI:
    """How a run computes LPI; as usual where it has none."""
    found = experiment.attribution.asked().get(LPI_NAME)
    return found if isinstance(found, LPI) else LPI()


def top_of_last(run: Run, arm: str) -> NDArray[np.int64]:
    """The units of each kind that have the greatest mean score by the first method at the last checkpoint, [U].

    Raises:
        RunError: scores cannot be read.
    """
    scores = run.scores(arm).isel(checkpoint=-1)
    importance = scores[mean_of(run.methods(arm)[0])].to_numpy()
    top = top_of_each_kind(scores["block"].to_numpy().astype(str), importance, run.experiment.follow.units)
    return np.sort(np.concatenate(list(top.values()))).astype(np.int64)


def same_units(store: ResultStore, units: NDArray[np.int64]) -> bool:
    """Whether a store, if it has any checkpoint, is of these units."""
    return not store.keys() or np.array_equal(store.open()["unit"].to_numpy(), units)


def is_followed(run: Run, arm: str, keys: set[str]) -> bool:
    """Whether units are followed at all of an arm's checkpoints, whose names are `keys`, if they are to be."""
    if not run.experiment.follow.units:
        return True
    store = run.follow_store(arm)
    return keys <= set(store.keys()) and same_units(store, top_of_last(run, arm))
