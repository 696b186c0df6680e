"""The unit of work of a run: one checkpoint of one arm, from wherever it is to its scores.

A `Job` holds all that scoring needs and an `Outcome` all that comes of it. Both can be pickled, so that an engine may
score a checkpoint in this process or on another machine. A checkpoint that cannot be used is an outcome too.
"""

from __future__ import annotations

import dataclasses
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from gated_lpi.checkpoints import Checkpoint, Fetched, Hub, check_weights, evict, fetch
from gated_lpi.errors import CheckpointError, FactsError, FetchError, GatedLPIError, ModelError
from gated_lpi.exhausted import cause_in_the_machine
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.loading import load_model
from gated_lpi.methods import attribute_asked
from gated_lpi.models import Model
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.runs.identity import identify
from gated_lpi.signals import interrupted
from gated_lpi.weight_files import refuse_changed

SHOWN = 8  # skipped facts that a record names
IDENTITY = ("key", "step", "tokens", "stage", "commit")


@dataclass(frozen=True)
class Storage:
    """Where checkpoints come from, where they are kept and where they are computed on.

    cache_dir: where downloads are kept (environment variables as $NAME), None for huggingface_hub's own cache.
    endpoint: address of the hub, None for the usual one. offline: ask no hub. evict: delete what was downloaded for a
    job once it is scored. device, device_map: as `load_model` takes them.
    """

    cache_dir: str | None = None
    endpoint: str | None = None
    offline: bool = False
    evict: bool = True
    device: str = "auto"
    device_map: str | None = None

    def hub(self) -> Hub:
        """How to reach the hub."""
        folder = None if self.cache_dir is None else os.path.expandvars(self.cache_dir)
        return Hub(endpoint=self.endpoint, cache_dir=folder, offline=self.offline)

    def load(self, checkpoint: Checkpoint) -> Model:
        """Load a checkpoint that is on this machine to where it is computed on."""
        return load_model(str(checkpoint.path), device=self.device, device_map=self.device_map)


@dataclass(frozen=True)
class Job:
    """Everything that scoring one checkpoint needs."""

    arm: str
    checkpoint: Checkpoint
    experiment: Experiment
    facts: FactSet
    storage: Storage = Storage()


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    scores: by relation and overall; None if the checkpoint is quarantined. record: its provenance, or why it is
    quarantined: the reason as "quarantined", the class of the error as "error". fetched: what was downloaded for it
    and is still on this machine; None if nothing is. suspect: it is quarantined for an error that may be no fault of
    its own, if the next checkpoint meets it too: of the facts, or one that nobody foresaw.
    """

    arm: str
    key: str
    scores: xr.Dataset | None
    record: dict[str, Any]
    fetched: Fetched | None = None
    suspect: bool = False


class Engine(Protocol):
    """Scores checkpoints, wherever it likes."""

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield one outcome for each job; the jobs of one arm in their order, arms in any order."""
        ...


def score_checkpoint(job: Job) -> Outcome:
    """Fetch, check, load and attribute one checkpoint.

    A checkpoint that cannot be had or used gives an outcome without scores: CheckpointError, ModelError, FactsError
    (its tokenizer has no token for a target), or whatever else its files bring about. Not so what is no checkpoint's
    fault: options, memory that is used up, a disk that is full or fails. These are raised. With `storage.evict`, what
    this call downloaded is deleted again whether it could be used or not.
    """
    fetched: Fetched | None = None
    checkpoint = job.checkpoint
    try:
        if checkpoint.path is None:
            fetched = fetch(checkpoint, hub=job.storage.hub())
            checkpoint = dataclasses.replace(checkpoint, path=fetched.path)
        scores, record = attribute_checkpoint(job.experiment, checkpoint, job.facts, job.storage)
        outcome = Outcome(job.arm, checkpoint.key, scores, record, fetched)
    except Exception as error:
        outcome = failed(job, error, fetched)
    if fetched is not None and job.storage.evict:
        evict(fetched, hub=job.storage.hub())
        outcome = dataclasses.replace(outcome, fetched=None)
    return outcome


def quarantined(job: Job, error: Exception, fetched: Fetched | None = None) -> Outcome:
    """The outcome of a job whose checkpoint cannot be used, with the error as the reason."""
    record = {**identity(job.checkpoint), "quarantined": str(error), "error": type(error).__name__}
    return Outcome(job.arm, job.checkpoint.key, None, record, fetched)


def failed(job: Job, error: Exception, fetched: Fetched | None = None) -> Outcome:
    """The outcome of a job that ended with an error, which is raised again if it is no fault of the checkpoint's."""
    if interrupted():  # C code may turn an interruption into any error
        raise KeyboardInterrupt from error
    machine = None if isinstance(error, FetchError) else cause_in_the_machine(error)
    if machine is not None:
        raise machine
    if isinstance(error, CheckpointError | ModelError):
        return quarantined(job, error, fetched)
    if isinstance(error, FactsError):
        return dataclasses.replace(quarantined(job, error, fetched), suspect=True)
    if isinstance(error, GatedLPIError):
        raise error
    return _unforeseen(job, error, fetched)


def _unforeseen(job: Job, error: Exception, fetched: Fetched | None) -> Outcome:
    """The outcome of a job that failed in a way that is no error of this package: with what to report."""
    outcome = quarantined(job, error, fetched)
    place = traceback.extract_tb(error.__traceback__)[-1]
    lines = str(error).strip().splitlines() or ["no message"]
    outcome.record["quarantined"] = (
        f"{type(error).__name__}: {lines[0]} ({Path(place.filename).name}, line {place.lineno}, in {place.name}). This "
        "was not foreseen: see whether the checkpoint's files are whole and fit each other; if they are, report it"
    )
    return dataclasses.replace(outcome, suspect=True)


def identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """What every record says of its checkpoint."""
    return {name: getattr(checkpoint, name) for name in IDENTITY}


def attribute_checkpoint(
    experiment: Experiment, checkpoint: Checkpoint, facts: FactSet, storage: Storage = Storage()
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Check, load and attribute one checkpoint on this machine: its scores by relation and overall, its provenance.

    Raises:
        WeightsError: its weights are missing, damaged or not finite.
        ModelError: it cannot be loaded, or its units do not account for what it computes.
        FactsError: its tokenizer has no token of its own for a target.
    """
    started = time.monotonic()
    weights = check_weights(checkpoint.path)
    model = storage.load(checkpoint)
    refuse_changed(str(checkpoint.path), weights.stamp)
    how = prompting(experiment)
    asked = encode_facts(model, facts, how)
    spec = experiment.attribution
    scores = attribute_asked(model, facts, asked, how, spec.method, spec.scoring)
    record = {
        **identity(checkpoint),
        "weights_sha256": weights.sha256,
        **identify(model, asked.prompts, spec.method.target),
        **_checks(model),
        **_account(scores),
        "seconds": round(time.monotonic() - started, 3),
    }
    return with_overall_means(scores), record


def prompting(experiment: Experiment) -> Prompting:
    """How a run's facts are put to its models; their separator is theirs by now."""
    spec = experiment.facts
    return Prompting(templates=spec.templates, on_error=spec.on_error, bos=spec.bos)


def _account(scores: xr.Dataset) -> dict[str, Any]:
    """What was skipped, cannot be told apart or was changed, in as few words as a record has room for."""
    skipped = list(scores.attrs["skipped"])
    return {
        "bos_added": scores.attrs["bos_added"],
        "n_skipped": len(skipped),
        "skipped": skipped[:SHOWN],
        "collisions": list(scores.attrs["collisions"]),
        "notes": list(scores.attrs["notes"]),
    }


def _checks(model: Model) -> dict[str, Any]:
    assert model.reconstruction is not None
    reconstruction = dataclasses.asdict(model.reconstruction)
    return {
        "coverage": model.coverage,
        "reconstruction_error": model.reconstruction.worst,
        "reconstruction": reconstruction,
        "stored_dtype": model.provenance["stored_dtype"],
    }


def with_overall_means(scores: xr.Dataset) -> xr.Dataset:
    """Add `lpi_mean` (unit), the mean over all prompts, from the means over relations; reduce routing to one.

    Scores that were not asked for are not there, nor are their means.
    """
    weights = (scores["n_prompts"] / scores["n_prompts"].sum()).astype(np.float64)

    def overall(name: str) -> xr.DataArray:
        variable = scores[name]
        mean = (variable.astype(np.float64) * weights).sum("relation").astype(variable.dtype)
        return mean.assign_attrs(variable.attrs)

    routing = [name for name in ("expert_utilisation", "expert_gate") if name in scores]
    mean = {"lpi_mean": overall("lpi")} if "lpi" in scores else {}
    return scores.assign(mean | {name: overall(name) for name in routing})
