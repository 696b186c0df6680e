"""Reaching checkpoints as `[storage]` says: the hub that they come from, their files on this machine, their model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from gated_lpi.checkpoints import Checkpoint, Fetched, Hub, evict, fetch
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.loading import load_model, tokenizer_elsewhere
from gated_lpi.models import Family, Model, row_of


def hub_of(storage: StorageSpec) -> Hub:
    """How to reach the hub; environment variables in `cache_dir` ($NAME) are those of this machine."""
    folder = None if storage.cache_dir is None else os.path.expandvars(storage.cache_dir)
    return Hub(endpoint=storage.endpoint, cache_dir=folder, offline=storage.offline)


def family_of(experiment: Experiment, arm: str) -> Family | None:
    """The row that an arm's models are read by; None: that of their type, or one read off them.

    Raises:
        OptionError: a key or value that no row has.
    """
    row = experiment.arm(arm).family_row
    return None if row is None else row_of({"name": arm, **row}, f"family_row of arm {arm!r}")


def load_checkpoint(checkpoint: Checkpoint, storage: StorageSpec, family: Family | None = None) -> Model:
    """Load a checkpoint that is on this machine to where it is computed on, with the tokenizer that its arm names.

    Where neither its arm nor its folder has one, that of its repository's branch main is taken, and the model says so.

    Args:
        checkpoint: which one.
        storage: says where it is computed on.
        family: the row to read it by, as `family_of` its arm gives it.

    Raises:
        CheckpointError: a tokenizer that lives elsewhere could not be had.
        UnknownFamilyError: the model's family has no row in the table.
        ReconstructionError: its units do not account for what it computes.
        WeightsError: weights missing, damaged, incomplete or not finite.
        ModelError: not a model that transformers can load.
        OptionError: an unknown device or device map, or a device beside a device map.
    """
    assert checkpoint.path is not None
    hub = hub_of(storage)
    apart = tokenizer_elsewhere(checkpoint.path, checkpoint.tokenizer, checkpoint.repo, hub, checkpoint.remote_code)
    model = load_model(
        str(checkpoint.path),
        device=storage.device,
        device_map=storage.device_map,
        family=family,
        trust_remote_code=checkpoint.remote_code,
        tokenizer=None if apart is None else str(apart.folder),
    )
    if apart is None:
        return model
    notes = tuple(apart.note if note.startswith("the tokenizer is that of") else note for note in model.notes)
    return replace(model, notes=notes, provenance={**model.provenance, "tokenizer_source": apart.source})


@contextmanager
def on_this_machine(checkpoint: Checkpoint, storage: StorageSpec) -> Iterator[Checkpoint]:
    """Bring a checkpoint here for as long as the `with` block runs; a download goes again unless it is to be kept.

    Raises:
        CheckpointError: it could not be had.
    """
    if checkpoint.path is not None:
        yield checkpoint
        return
    fetched = fetch(checkpoint, hub=hub_of(storage))
    try:
        yield fetched_to(checkpoint, fetched)
    finally:
        if not storage.keep_downloads:
            evict(fetched, hub=hub_of(storage))


def fetched_to(checkpoint: Checkpoint, fetched: Fetched) -> Checkpoint:
    """A checkpoint of a hub as the folder that it was fetched to."""
    return replace(checkpoint, path=fetched.path)
