"""Neurons or routing, over a run: the change between every two checkpoints of an arm, split (`routing.split`).

Asked for by `[routing] split = true`, once all of an arm's checkpoints are scored. A pair costs four scorings, and both
models are loaded. Splits are kept in a store beside the scores, a row for each pair under the later checkpoint's name,
so that an interrupted run goes on where it was. Dense arms have nothing to split.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import xarray as xr

from gated_lpi.checkpoints import Checkpoint
from gated_lpi.errors import GatedLPIError
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.facts import FactSet
from gated_lpi.models import Model
from gated_lpi.options import Explained
from gated_lpi.results.run import Run
from gated_lpi.routing import split_change
from gated_lpi.runs.access import family_of, load_checkpoint, on_this_machine
from gated_lpi.runs.job import labels
from gated_lpi.runs.progress import Progress
from gated_lpi.unit_names import KINDS


def split_changes(
    run: Run, arm: str, checkpoints: Sequence[Checkpoint], facts: FactSet, progress: Progress, storage: StorageSpec
) -> None:
    """Split the change of every unit's score between consecutive checkpoints, unless that was done.

    Args:
        run: where scores are and splits go.
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
    store = run.split_store(arm)
    pairs = list(pairwise(checkpoints))
    family = family_of(run.experiment, arm)
    done = set(store.keys())
    with progress.task(f"split {arm}") as advance:
        for number, (before, after) in enumerate(pairs):
            advance(number, len(pairs))
            if after.key in done:
                continue
            with on_this_machine(before, storage) as first, on_this_machine(after, storage) as last:
                models = load_checkpoint(first, storage, family), load_checkpoint(last, storage, family)
            if not any(models[1].routed()):
                return
            try:
                split = split_pair(run.experiment, *models, facts, split_method(run.experiment)[1])
            except GatedLPIError as error:
                progress.note(f"{arm}: the change from {before.key} to {after.key} is not split: {error}")
                continue
            store.append(split, {**labels(after), "before": before.key})
        advance(len(pairs), len(pairs))


def split_method(experiment: Experiment) -> tuple[str, Explained]:
    """By which method a run splits changes: the first that explains something, by its name in results."""
    return next((name, one) for name, one in experiment.attribution.asked().items() if isinstance(one, Explained))


def split_pair(experiment: Experiment, before: Model, after: Model, facts: FactSet, method: Explained) -> xr.Dataset:
    """The split of the change between two models by a method, of the units that an experiment scores.

    Raises:
        GatedLPIError: see `split_change`.
    """
    spec, asked = experiment.attribution, experiment.facts
    split = split_change(
        before,
        after,
        facts,
        method=method,
        templates=asked.templates,
        bos=asked.bos,
        on_error=asked.on_error,
        units=[kind for kind in KINDS if kind in spec.scoring.units],
        batch_size=spec.scoring.batch_size,
        memory=spec.scoring.memory,
    )
    return split.drop_attrs()
