"""What an error in scoring means: the checkpoint's own failure, which is an outcome, or one that ends the run."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gated_lpi._common.exhausted import cause_in_the_machine
from gated_lpi._common.signals import interrupted
from gated_lpi.checkpoints import Fetched
from gated_lpi.errors import CheckpointError, FactsError, FetchError, GatedLPIError, ModelError
from gated_lpi.runs.job import Failure, Job, JobOutcome, labels


def failed(job: Job, error: Exception, fetched: Fetched | None = None) -> JobOutcome:
    """The outcome of a job that ended with an error, if that is a fault of the checkpoint's.

    Args:
        job: which one.
        error: what it ended with.
        fetched: what was downloaded for it and is still on this machine.

    Raises:
        KeyboardInterrupt: the program was interrupted, whatever error came of that.
        Exception: `error`, or the error of the machine behind it, is no fault of the checkpoint's.
    """
    if interrupted():  # C code may turn an interruption into any error
        raise KeyboardInterrupt from error
    machine = None if isinstance(error, FetchError) else cause_in_the_machine(error)
    if machine is not None:
        raise machine
    failure = failure_of(error)
    if failure is None:
        raise error
    return unusable(job, error, failure, fetched)


def failure_of(error: Exception) -> Failure | None:
    """At what a checkpoint failed that met this error; None for an error that says nothing of the checkpoint."""
    if isinstance(error, FetchError):
        return Failure.FETCH
    if isinstance(error, CheckpointError | ModelError):
        return Failure.CHECKPOINT
    if isinstance(error, FactsError):
        return Failure.FACTS
    return None if isinstance(error, GatedLPIError) else Failure.UNFORESEEN


def unusable(job: Job, error: Exception, failure: Failure, fetched: Fetched | None = None) -> JobOutcome:
    """The outcome of a job whose checkpoint cannot be used, with the error as the reason."""
    reason = _what_to_report(error) if failure is Failure.UNFORESEEN else str(error)
    record = quarantine_record(labels(job.checkpoint), error, reason)
    return JobOutcome(job.arm, job.checkpoint.key, None, record, fetched, failure)


def quarantine_record(checkpoint: Mapping[str, Any], error: Exception, reason: str) -> dict[str, Any]:
    """What the quarantine keeps of a checkpoint, given as its `labels`."""
    return {**checkpoint, "quarantined": reason, "error": type(error).__name__}


def _what_to_report(error: Exception) -> str:
    """An error that is none of this package's, with where it arose."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    lines = str(error).strip().splitlines() or ["no message"]
    return (
        f"{type(error).__name__}: {lines[0]} ({Path(place.filename).name}, line {place.lineno}, in {place.name}). This "
        "was not foreseen: see whether the checkpoint's files are whole and fit each other; if they are, report it"
    )
