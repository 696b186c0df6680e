"""Scoring one checkpoint: from wherever it is to its scores, in this process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import xarray as xr

from gated_lpi._common.weight_files import refuse_changed
from gated_lpi.checkpoints import Checkpoint, Fetched, check_weights, evict, fetch
from gated_lpi.errors import FactsError
from gated_lpi.experiments.experiment import BLOCK_BY_BLOCK, SUMMARISED, AttributionSpec, Experiment
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.facts import Encoded, FactSet
from gated_lpi.methods import attribute_asked
from gated_lpi.methods.collect import KnownFacts
from gated_lpi.metrics.relations import over_relations
from gated_lpi.models import Model
from gated_lpi.options import LPI, DirectEffect, MethodOptions, Rollout, Scoring
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.runs.access import family_of, fetched_to, hub_of, load_checkpoint
from gated_lpi.runs.failures import failed
from gated_lpi.runs.identify import identify
from gated_lpi.runs.job import Job, JobOutcome, labels
from gated_lpi.score_schema import KNOWN_K, TARGET_RANK, WhichFacts, contrast_of, mean_of, over_facts
from gated_lpi.unit_names import KINDS

SHOWN = 8  # skipped facts that a record names


def score_checkpoint(job: Job) -> JobOutcome:
    """Fetch, check, load and attribute one checkpoint.

    Unless `storage.keep_downloads`, what this call downloaded is deleted again whether it could be used or not.

    Returns:
        Its scores; or an outcome without scores where the checkpoint cannot be had or used: CheckpointError,
            ModelError, FactsError (its tokenizer has no token for a target), or whatever else its files bring about.

    Raises:
        OptionError: options that cannot be used.
        Exception: what else is no checkpoint's fault: memory that is used up, a disk that is full or fails.
    """
    fetched: Fetched | None = None
    checkpoint = job.checkpoint
    try:
        if checkpoint.path is None:
            fetched = fetch(checkpoint, hub=hub_of(job.storage))
            checkpoint = fetched_to(checkpoint, fetched)
        scores, record = attribute_checkpoint(
            job.experiment, checkpoint, job.facts, job.storage, job.known_last, job.arm
        )
        outcome = JobOutcome(job.arm, checkpoint.key, scores, record, fetched)
    except Exception as error:
        outcome = failed(job, error, fetched)
    if fetched is not None and not job.storage.keep_downloads:
        evict(fetched, hub=hub_of(job.storage))
        outcome = dataclasses.replace(outcome, fetched=None)
    return outcome


def attribute_checkpoint(
    experiment: Experiment,
    checkpoint: Checkpoint,
    facts: FactSet,
    storage: StorageSpec | None = None,
    known_last: Sequence[bool] | None = None,
    arm: str | None = None,
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Check, load and attribute one checkpoint on this machine.

    Args:
        experiment: how it is attributed.
        checkpoint: one that is on this machine.
        facts: those of the experiment.
        storage: where it is computed on; None: as the experiment says.
        known_last: whether the fact of each prompt is known to the arm's last checkpoint, if `attribution.known` is
            set; None: scores over these facts are left out.
        arm: the arm that it is of, whose `family_row` it is read by; None: by none.

    Returns:
        Its scores by relation and overall, and its provenance.

    Raises:
        WeightsError: its weights are missing, damaged or not finite.
        ModelError: it cannot be loaded, or its units do not account for what it computes.
        FactsError: its tokenizer has no token of its own for a target.
        OptionError: options that cannot be used, such as a device that is not there.
    """
    started = time.monotonic()
    weights = check_weights(checkpoint.path)
    family = None if arm is None else family_of(experiment, arm)
    model = load_checkpoint(checkpoint, experiment.storage if storage is None else storage, family)
    refuse_changed(str(checkpoint.path), weights.stamp)
    scores, said = score_model(model, facts, experiment, known_last)
    record = {
        **labels(checkpoint),
        "weights_sha256": weights.sha256,
        **said,
        "seconds": round(time.monotonic() - started, 3),
    }
    return scores, record


def score_model(
    model: Model, facts: FactSet, experiment: Experiment, known_last: Sequence[bool] | None = None
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Attribute a model that is in memory.

    Args:
        model: from `load_model`, `wrap_model` or `borrow_model`.
        facts: those of the experiment.
        experiment: how it is attributed.
        known_last: as for `attribute_checkpoint`.

    Returns:
        Its scores by relation and overall; and what a record has of it beside labels, digest and duration.

    Raises:
        ModelError: a block's scores are not finite.
        FactsError: its tokenizer has no token of its own for a target.
        OptionError: options that cannot be used.
    """
    how, spec = prompting(experiment), experiment.attribution
    asked = encode_facts(model, facts, how, answer=spec.answer)
    known = _known_facts(asked, known_last) if spec.known else None
    scores = _scored(model, facts, asked, how, spec, known)
    record = {**identify(model, asked.prompts, spec.target), **_checks(model), **_account(scores)}
    return with_overall_means(scores), record


def _known_facts(asked: Encoded, known_last: Sequence[bool] | None) -> KnownFacts:
    if known_last is not None and len(known_last) != len(asked.prompts):
        raise FactsError(
            f"this checkpoint is asked {len(asked.prompts)} prompts, and of the arm's last one it is known which of "
            f"{len(known_last)} it knows; expected the same prompts at all checkpoints of an arm. Mend its tokenizer, "
            "or put this one into an arm of its own"
        )
    return KnownFacts(at_end=None if known_last is None else np.array(known_last, dtype=np.bool_))


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
        **({"products": scores.attrs["products"]} if "products" in scores.attrs else {}),
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


def _scored(
    model: Model, facts: FactSet, asked: Encoded, how: Prompting, spec: AttributionSpec, known: KnownFacts | None
) -> xr.Dataset:
    """Scores by every method in one dataset: all that the first one gives, and of others what they alone have.

    Which facts are known is by the ranks that the first one gives, for all of them.
    """
    found: xr.Dataset | None = None
    notes = [f"left out: {line}" for line in spec.unheeded]
    recording = next((name for name in BLOCK_BY_BLOCK if name in spec.methods), None)
    for name, options in spec.asked().items():
        method, scoring, said = _suited(model, options, spec.scoring)
        notes += [note for note in said if note not in notes]
        if scoring is not None and found is not None and name != recording:  # which has routing, and lpi groups, too
            scoring = _of_units(scoring, method)
        if scoring is None:
            continue
        scores = attribute_asked(model, facts, asked, how, method, scoring, known=known)
        plain = str(scores.attrs["method"])
        if name == contrast_of(plain):
            names = {over_facts(plain, some): over_facts(name, some) for some in get_args(WhichFacts)}
            names = {former: new for former, new in names.items() if former in scores}
            scores = scores[list(names)].rename(names)
        if found is None:
            found = scores
            if known is not None:
                known = dataclasses.replace(known, now=scores[TARGET_RANK].to_numpy() < KNOWN_K)
        else:
            new = [str(variable) for variable in scores.data_vars if variable not in found]
            found = xr.merge([found, scores[new]], join="exact", compat="identical", combine_attrs="override")
    assert found is not None  # a method that scores every unit is among them
    found.attrs["notes"] = [*found.attrs["notes"], *notes]
    return found


def _of_units(scoring: Scoring, method: MethodOptions) -> Scoring | None:
    """What a further method is asked for: scores of units, or of heads where it has no others; None if of nothing."""
    wanted = ("heads",) if isinstance(method, Rollout) else KINDS
    units = tuple(unit for unit in scoring.units if unit in wanted)
    return scoring.model_copy(update={"units": units, "routing": "last", "positions": "summed"}) if units else None


def with_overall_means(scores: xr.Dataset) -> xr.Dataset:
    """Add `lpi_mean` (unit), the mean over all prompts, from the means over relations; so for each method of units."""
    means = {mean_of(name): over_relations(scores, name) for name in SUMMARISED if name in scores}
    return scores.assign(means)


def _suited(model: Model, method: MethodOptions, scoring: Scoring) -> tuple[MethodOptions, Scoring | None, list[str]]:
    """What is asked of a model by a method, and a note if it is less than of others; no scoring if it has none.

    A dense arm has no routing to be asked of; methods that run the model themselves have no source positions and record
    no routing; and one that scores heads or units is left out where these are not asked for.
    """
    notes = []
    if not any(model.routed()):
        changes = {"gate": "gated"} if getattr(method, "gate", "gated") != "gated" else {}
        given = [f"gate = {getattr(method, name)!r}" for name in changes]
        method = method.model_copy(update=changes)
        if scoring.routing != "last":
            given.append(f"routing = {scoring.routing!r}")
            scoring = scoring.model_copy(update={"routing": "last"})
        if given:
            notes.append(f"{' and '.join(given)}: left out, since this {model.family.name} model has no routed experts")
    if scoring.by_position and not any(block.kind == "attention" for block in model.blocks):
        scoring = scoring.model_copy(update={"positions": "summed"})
        notes.append(f"positions = 'resolved': left out, since this {model.family.name} model has no attention")
    if not isinstance(method, LPI | DirectEffect):
        scoring = scoring.model_copy(update={"positions": "summed", "routing": "last"})
    needed = {"heads"} if isinstance(method, Rollout) else set(KINDS)
    if not isinstance(method, LPI) and needed.isdisjoint(scoring.units):
        return method, None, [f"{type(method).__name__} is left out: attribution.units has none of its units"]
    return method, scoring, notes
