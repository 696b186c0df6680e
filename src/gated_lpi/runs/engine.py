"""Running an experiment in this process: train, attribute every checkpoint, ablate the last, keep the results.

1. The run's folder is claimed for the experiment; a folder of another run is refused.
2. Arms that the experiment trains are trained, all on one corpus and with one tokenizer.
3. Each arm's checkpoints are attributed in order. What is complete in the arm's store is not done again, so an
   interrupted run goes on at the first checkpoint that is missing.
4. At each arm's last checkpoint the top heads and units are ablated, beside random ones.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gated_lpi.checkpoints import Checkpoint, check_weights, list_local, scan_local
from gated_lpi.facts import FactSet, load_facts
from gated_lpi.loading import load_model
from gated_lpi.lpi import attribute
from gated_lpi.models import Model
from gated_lpi.runs.experiment import Arm, Experiment
from gated_lpi.runs.last_checkpoint import study_last_checkpoint
from gated_lpi.runs.progress import Progress, Silent
from gated_lpi.runs.run import Run, create_run
from gated_lpi.training import ArmSpec, Corpus, build_corpus, train_arm, train_tokenizer


def run_experiment(experiment: Experiment, out: str | Path, progress: Progress | None = None) -> Run:
    """Run an experiment into a folder, or take it up where it was left.

    Raises:
        RunExistsError: the folder holds another run.
        GatedLPIError: facts, checkpoints or models that cannot be used; what was computed before is kept.
    """
    progress = Silent() if progress is None else progress
    facts = load_facts(experiment.facts.source)
    run = create_run(out, experiment, facts.sha256)
    for note in facts.notes:
        progress.note(f"facts: {note}")
    series = {
        arm.name: _local_series(arm.name, arm.checkpoints, progress)
        for arm in experiment.arms
        if arm.checkpoints is not None
    }
    series |= _train_arms(run, facts, progress)
    for arm in experiment.arms:
        _attribute_series(run, arm, series[arm.name], facts, progress)
        if run.record(arm.name) is None:
            study_last_checkpoint(run, arm.name, series[arm.name][-1], facts, progress)
    return run


def _local_series(arm: str, folder: str, progress: Progress) -> list[Checkpoint]:
    checkpoints = list_local(folder)
    ignored = scan_local(folder).ignored
    if ignored:
        progress.note(f"{arm}: {len(ignored)} folders of {folder} are no checkpoints: {', '.join(ignored)}")
    return checkpoints


def _train_arms(run: Run, facts: FactSet, progress: Progress) -> dict[str, list[Checkpoint]]:
    trained = [arm for arm in run.experiment.arms if arm.train is not None]
    if not trained:
        return {}
    corpus: Corpus = build_corpus(facts)
    tokenizer = train_tokenizer(corpus, run.experiment.training.size.vocab_size)
    series = {}
    for arm in trained:
        assert arm.train is not None
        folder = run.training_folder(arm.name)
        with progress.task(f"train {arm.name}") as advance:
            spec = ArmSpec(name=arm.name, kind=arm.train)
            train_arm(spec, run.experiment.training, corpus, tokenizer, folder, progress=advance)
        series[arm.name] = list_local(folder)
    return series


def _attribute_series(
    run: Run, arm: Arm, checkpoints: Sequence[Checkpoint], facts: FactSet, progress: Progress
) -> None:
    store = run.store(arm.name)
    complete = set(store.keys())
    with progress.task(f"attribute {arm.name}") as advance:
        for done, checkpoint in enumerate(checkpoints):
            advance(done, len(checkpoints))
            if checkpoint.key not in complete:
                scores, record = attribute_checkpoint(run.experiment, checkpoint, facts)
                store.append(scores, record)
        advance(len(checkpoints), len(checkpoints))


def attribute_checkpoint(
    experiment: Experiment, checkpoint: Checkpoint, facts: FactSet
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Check, load and attribute one checkpoint: its scores by relation and overall, and its provenance.

    Raises:
        WeightsError: its weights are missing, damaged or not finite.
        ReconstructionError: its units do not account for what it computes.
    """
    started = time.monotonic()
    weights = check_weights(checkpoint.path)
    model = load_model(str(checkpoint.path))
    options = experiment.attribution.model_dump()
    scores = attribute(model, facts, templates=experiment.facts.templates, keep="relations", **options)
    record = {
        "key": checkpoint.key,
        "step": checkpoint.step,
        "tokens": checkpoint.tokens,
        "stage": checkpoint.stage,
        "commit": checkpoint.commit,
        "weights_sha256": weights.sha256,
        **_checks(model),
        "seconds": round(time.monotonic() - started, 3),
    }
    return with_overall_means(scores), record


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
    """Add `lpi_mean` (unit), the mean over all prompts, from the means over relations; reduce routing to one."""
    weights = (scores["n_prompts"] / scores["n_prompts"].sum()).astype(np.float64)

    def overall(name: str) -> xr.DataArray:
        variable = scores[name]
        mean = (variable.astype(np.float64) * weights).sum("relation").astype(variable.dtype)
        return mean.assign_attrs(variable.attrs)

    routing = [name for name in ("expert_utilisation", "expert_gate") if name in scores]
    return scores.assign({"lpi_mean": overall("lpi")} | {name: overall(name) for name in routing})
