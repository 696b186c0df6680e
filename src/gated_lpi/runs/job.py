"""What engines are given and give back: jobs and their outcomes, as data.

A `Job` holds all that scoring one checkpoint needs and a `JobOutcome` all that comes of it. Both can be pickled, so
that an engine may score a checkpoint in this process or on another machine (`scoring`). A checkpoint that cannot be
used is an outcome too (`failures`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import xarray as xr

from gated_lpi.checkpoints import Checkpoint, Fetched
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.facts import FactSet

LABELS = ("key", "step", "step_unit", "tokens", "stage", "commit")


@dataclass(frozen=True)
class Job:
    """Everything that scoring one checkpoint needs.

    Attributes:
        arm: name of its arm.
        checkpoint: which one.
        experiment: how it is attributed.
        facts: what the model is asked.
        storage: where it is from, kept and computed on.
        known_last: whether the fact of each prompt is known to the arm's last checkpoint; None: that is not asked for,
            or nobody knows.
    """

    arm: str
    checkpoint: Checkpoint
    experiment: Experiment
    facts: FactSet
    storage: StorageSpec = field(default_factory=StorageSpec)
    known_last: tuple[bool, ...] | None = None


class Failure(Enum):
    """At what a checkpoint failed that has no scores.

    Attributes:
        FETCH: it could not be brought here, and may be as good as any.
        CHECKPOINT: its files or its model cannot be used.
        FACTS: its tokenizer does not go with the facts.
        UNFORESEEN: an error that is none of this package's.
        WORKER: the process or machine that scored it died, each time.
    """

    FETCH = "fetch"
    CHECKPOINT = "checkpoint"
    FACTS = "facts"
    UNFORESEEN = "unforeseen"
    WORKER = "worker"

    @property
    def may_be_common(self) -> bool:
        """Whether the cause may lie in the facts, the options or the program, so that the next one meets it too."""
        return self in (Failure.FACTS, Failure.UNFORESEEN)


@dataclass(frozen=True)
class JobOutcome:
    """What came of a job.

    Attributes:
        arm: name of the checkpoint's arm.
        key: name of the checkpoint.
        scores: by relation and overall; None if the checkpoint is quarantined.
        record: its provenance, or why it is quarantined: the reason as "quarantined", the class of the error as
            "error".
        fetched: what was downloaded for it and is still on this machine; None if nothing is.
        failure: at what it failed; None if it has scores.
    """

    arm: str
    key: str
    scores: xr.Dataset | None
    record: dict[str, Any]
    fetched: Fetched | None = None
    failure: Failure | None = None


class Engine(Protocol):
    """Scores checkpoints, wherever it likes."""

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[JobOutcome]:
        """Yield one outcome for each job; the jobs of one arm in their order, arms in any order."""
        ...


def labels(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which checkpoint a record is of, in the keys that every record has."""
    return {name: getattr(checkpoint, name) for name in LABELS}
