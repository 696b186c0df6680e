"""The forward pass that is being made, for whoever acts inside it: which items of its batch are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gated_lpi.models import Model
from gated_lpi.trace.batches import Batch

_running: ContextVar[Batch | None] = ContextVar("running", default=None)


def run(model: Model, batch: Batch) -> None:
    """Make a forward pass up to the final norm, of which hooks see what they are after."""
    with running(batch):
        model.module.base_model(**batch.arguments())


@contextmanager
def running(batch: Batch) -> Iterator[None]:
    """Say, inside the `with` block, that a forward pass over a batch, or a part of one, is being made."""
    token = _running.set(batch)
    try:
        yield
    finally:
        _running.reset(token)


def running_batch() -> Batch | None:
    """The batch whose forward pass is being made; None outside of one that says so."""
    return _running.get()
