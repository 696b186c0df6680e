"""The models of a run's checkpoints, and its facts as they are put to them, for analyses that ask models anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from gated_lpi.checkpoints import Checkpoint, list_local
from gated_lpi.facts import EncodedPrompt
from gated_lpi.models import Model
from gated_lpi.prompting import encode_facts
from gated_lpi.results import Run
from gated_lpi.runs.access import hub_of, load_checkpoint, on_this_machine
from gated_lpi.runs.choose import choose_checkpoints
from gated_lpi.runs.progress import Progress
from gated_lpi.runs.scoring import prompting

T = TypeVar("T")


class Models:
    """The checkpoints of a run that have scores, by arm, and their models.

    Attributes:
        facts: what the run asks its models.
    """

    def __init__(self, run: Run, progress: Progress) -> None:
        """List the checkpoints of every arm.

        Args:
            run: whose.
            progress: told of what is left out of folders.

        Raises:
            CheckpointError: a series that is not there any more.
        """
        experiment = run.experiment
        folders = {arm.name: run.training_folder(arm.name) for arm in experiment.arms if arm.train is not None}
        trained = {name: list_local(folder) for name, folder in folders.items() if folder.is_dir()}
        self._run = run
        self.facts = experiment.facts.load()
        self._chosen = choose_checkpoints(
            experiment,
            trained,
            hub_of(experiment.storage),
            lambda arm, text: progress.note(f"{arm}: {text}"),
            run.path / "series",
        )

    def checkpoints(self, arm: str) -> list[Checkpoint]:
        """Those of an arm that have scores and can be loaded, in training order."""
        scored = set(self._run.store(arm).keys())
        return [checkpoint for checkpoint in self._chosen.get(arm, []) if checkpoint.key in scored]

    @contextmanager
    def load(self, checkpoint: Checkpoint) -> Iterator[Model]:
        """The model of a checkpoint, whose files are here as long as the `with` block runs.

        Raises:
            CheckpointError, ModelError: it cannot be had or loaded.
        """
        storage = self._run.experiment.storage
        with on_this_machine(checkpoint, storage) as local:
            yield load_checkpoint(local, storage)

    def asked(self, model: Model) -> tuple[EncodedPrompt, ...]:
        """The run's facts as it puts them to its models."""
        answer = self._run.experiment.attribution.answer
        return tuple(encode_facts(model, self.facts, prompting(self._run.experiment), answer=answer).prompts)


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
