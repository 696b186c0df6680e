"""Axes of training in words: a series may count words or bytes instead of steps, and its axis says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from gated_lpi.score_schema import STEPS, step_unit

Clock = Literal["step", "tokens"]
_LABELS = {
    STEPS: "training step",
    "words": "training words",
    "bytes": "training bytes",
    "billion tokens": "training tokens, billions",
    "index": "number of the checkpoint",
}


def clock_label(clock: Clock, counted: Iterable[Mapping[str, Any]]) -> str:
    """The label of an axis of training.

    Args:
        clock: the coordinate that is drawn.
        counted: the attributes of the scores or summaries whose coordinate it is.
    """
    if clock == "tokens":
        return "training tokens"
    units = dict.fromkeys(map(step_unit, counted)) or {STEPS: None}
    return " or ".join(_LABELS.get(unit, unit) for unit in units)


def clock_name(clock: Clock, counted: Mapping[str, Any]) -> str:
    """What one point of an axis is called before its number: "step", "tokens" or "words"."""
    unit = step_unit(counted)
    return clock if clock == "tokens" or unit == STEPS else unit


def at_step(step: float, counted: Mapping[str, Any]) -> str:
    """A point of training: "step 500", "10,000,000 words"."""
    unit = step_unit(counted)
    return f"step {int(step):,}" if unit == STEPS else f"{int(step):,} {unit}"
