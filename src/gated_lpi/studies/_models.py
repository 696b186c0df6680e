"""The models of a run's checkpoints, and its facts as they are put to them, for analyses that ask models anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from gated_lpi.checkpoints import Checkpoint
from gated_lpi.errors import RunError
from gated_lpi.experiments import Experiment
from gated_lpi.facts import EncodedPrompt, FactSet
from gated_lpi.models import Model
from gated_lpi.prompting import encode_facts
from gated_lpi.results import Run
from gated_lpi.runs.access import load_checkpoint, on_this_machine
from gated_lpi.runs.scoring import prompting
from gated_lpi.studies._runs import checkpoints_of

T = TypeVar("T")


def scored_checkpoints(run: Run) -> dict[str, list[Checkpoint]]:
    """The checkpoints of every arm that have scores, in training order.

    Raises:
        CheckpointError: a series that is not there any more.
    """
    found = {}
    for arm, by_key in checkpoints_of(run).items():
        scored = set(run.store(arm).keys())
        found[arm] = [checkpoint for key, checkpoint in by_key.items() if key in scored]
    return found


def facts_of(run: Run) -> FactSet:
    """The facts that a run asks its models.

    Raises:
        FactsError: they cannot be read.
        RunError: they are others than those that it was run on.
    """
    facts = run.experiment.asked(run.experiment.facts.load())
    known = run.info.get("facts_sha256")
    if known is not None and facts.sha256 != known:
        raise RunError(
            f"the facts of {run.experiment.facts.source} are others than those that {run.path} was run on; restore "
            "them, or run into a new folder"
        )
    return facts


@contextmanager
def loaded(experiment: Experiment, checkpoint: Checkpoint) -> Iterator[Model]:
    """The model of a checkpoint, whose files are here as long as the `with` block runs.

    Raises:
        CheckpointError, ModelError: it cannot be had or loaded.
    """
    with on_this_machine(checkpoint, experiment.storage) as local:
        yield load_checkpoint(local, experiment.storage)


def asked_of(experiment: Experiment, facts: FactSet, model: Model) -> tuple[EncodedPrompt, ...]:
    """The facts as an experiment puts them to its models."""
    return tuple(encode_facts(model, facts, prompting(experiment), answer=experiment.attribution.answer).prompts)


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of some items, evenly over them, the last always and the first if there are two."""
    if len(items) <= most:
        return list(items)
    places = np.linspace(0, len(items) - 1, most) if most > 1 else np.array([len(items) - 1])
    return [items[place] for place in sorted(set(places.round().astype(int).tolist()))]


def at_shares(items: Sequence[T], steps: Sequence[int], shares: Sequence[float]) -> list[T]:
    """For each share of the last step, the item whose step is nearest to it; each item once, in order.

    Args:
        items: checkpoints, in training order.
        steps: of each.
        shares: of the last step, 0 to 1.
    """
    places = {int(np.abs(np.asarray(steps) - share * steps[-1]).argmin()) for share in shares}
    return [items[place] for place in sorted(places)]
