"""When to keep a checkpoint, and how fast to learn at each step.

Checkpoints are kept at step 0, then up to the last step evenly on a logarithmic scale ("log"), since most of what
happens to importance happens early; evenly in steps ("linear"); or half of them by the one up to a tenth of the steps,
and half by the other from there on ("mixed"). Rounding to whole steps gives repeats, so each step is moved up to at
least one more than the one before it.

The learning rate rises linearly in the warm-up, then falls to zero. It is positive at every step, the first one
included: a schedule that starts at 0, as is usual, makes the checkpoint of step 1 a copy of step 0.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gated_lpi.errors import OptionError

Decay = Literal["linear", "cosine", "constant"]
CheckpointSpacing = Literal["log", "linear", "mixed"]


def checkpoint_steps(steps: int, count: int, spacing: CheckpointSpacing = "log") -> tuple[int, ...]:
    """Strictly increasing steps at which checkpoints are kept.

    Args:
        steps: training steps; the last one is kept.
        count: how many to keep, step 0 (the initial weights) and the last among them.
        spacing: "log", "linear", or "mixed": half of them log-spaced up to a tenth of the steps, the rest even.

    Raises:
        OptionError: `count` is less than 2 or more than `steps` + 1.
    """
    refuse_count(steps, count)
    n = count - 1
    if spacing == "linear":
        return _whole([0], np.linspace(0, steps, count)[1:])
    if spacing == "mixed":
        tenth = max(1, round(steps / 10))
        early = min(n - 1, max(min(n // 2, tenth), n - (steps - tenth)))
        if early:
            first = _whole([0], np.geomspace(1, tenth, early)) if early > 1 else (0, tenth)
            return _whole(first, np.linspace(tenth, steps, n - early + 1)[1:])
    return _whole([0], np.geomspace(1, steps, n)) if n > 1 else (0, steps)


def _whole(before: Sequence[int], ideal: NDArray[np.float64]) -> tuple[int, ...]:
    """Those steps and after them the whole numbers near the ideal ones, each more than the one before it."""
    chosen = list(before)
    last = round(float(ideal[-1]))
    for left, one in zip(range(len(ideal) - 1, -1, -1), ideal, strict=True):
        chosen.append(min(max(round(float(one)), chosen[-1] + 1), last - left))
    return tuple(chosen)


def refuse_count(steps: int, count: int) -> None:
    """Refuse a number of checkpoints that so many training steps cannot give.

    Raises:
        OptionError: `count` is less than 2 or more than `steps` + 1.
    """
    if not 2 <= count <= steps + 1:
        raise OptionError(
            f"{count} checkpoints asked of {steps} training steps. Expected between 2 (first and last) and "
            f"{steps + 1} (every step): change the number of checkpoints or of steps."
        )


def learning_rate_factor(done: int, steps: int, warmup: int, decay: Decay) -> float:
    """The share of the peak learning rate, in (0, 1], for the step after `done` steps; 0 from the end on."""
    if done >= steps:
        return 0.0
    if done < warmup:
        return (done + 1) / (warmup + 1)
    if decay == "constant":
        return 1.0
    left = (steps - done) / max(steps - warmup, 1)
    return left if decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))
