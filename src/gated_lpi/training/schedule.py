"""When to keep a checkpoint, and how fast to learn at each step.

Checkpoints are kept at step 0, then evenly on a logarithmic scale up to the last step, since most of what
happens to importance happens early. Rounding a geometric sequence to whole steps gives repeats near step 1, so
each step is moved up to at least one more than the one before it.

The learning rate rises linearly in the warm-up, then falls to zero. It is positive at every step, the first one
included: a schedule that starts at 0, as is usual, makes the checkpoint of step 1 a copy of step 0.
"""

import math
from typing import Literal

import numpy as np

from gated_lpi.errors import OptionError

Decay = Literal["linear", "cosine", "constant"]


def checkpoint_steps(steps: int, count: int) -> tuple[int, ...]:
    """Strictly increasing steps, log-spaced, at which checkpoints are kept.

    Args:
        steps: training steps; the last one is kept.
        count: how many to keep, step 0 (the initial weights) and the last among them.

    Raises:
        OptionError: `count` is less than 2 or more than `steps` + 1.
    """
    refuse_count(steps, count)
    chosen = [0]
    if count > 2:
        for ideal in np.geomspace(1, steps, count - 1)[:-1]:
            chosen.append(max(round(float(ideal)), chosen[-1] + 1))
    return (*chosen, steps)


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
