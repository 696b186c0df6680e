"""The forward pass that is being made, for whoever acts inside it: which items of its batch are read."""

from __future__ import annotations

from contextvars import ContextVar

from gated_lpi.models import Model
from gated_lpi.trace.batches import Batch

_running: ContextVar[Batch | None] = ContextVar("running", default=None)


def run(model: Model, batch: Batch) -> None:
    """Make a forward pass up to the final norm, of which hooks see what they are after."""
    token = _running.set(batch)
    try:
        model.module.base_model(**batch.arguments())
    finally:
        _running.reset(token)


def running_batch() -> Batch | None:
    """The batch whose forward pass `run` is making; None outside of it."""
    return _running.get()
