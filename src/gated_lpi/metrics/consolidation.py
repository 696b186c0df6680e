"""Consolidation: when in training a measure settles for good."""

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError


def consolidation_step(series: ArrayLike, steps: ArrayLike, threshold: float) -> int | None:
    """Return the first step from which `series` [n] stays at or above `threshold` to its end, or None.

    `steps` [n] is the training step of each entry, in training order. For J_stab, entry i belongs to the
    earlier checkpoint of its pair: from there on, top sets change little. NaN counts as below the threshold.

    Raises:
        OptionError: `series` and `steps` are not two lists of one length, or `threshold` is NaN.
    """
    values, labels = np.asarray(series, dtype=np.float64), np.asarray(steps)
    if values.ndim != 1 or values.shape != labels.shape:
        raise OptionError(
            f"series has shape {values.shape} and steps {labels.shape}; expected one step for each entry. "
            "A series over pairs of checkpoints takes the steps of all checkpoints but the last."
        )
    if np.isnan(threshold):
        raise OptionError("threshold is NaN; expected a number that the series can be compared with.")
    below = np.flatnonzero(~(values >= threshold))
    first = int(below[-1]) + 1 if below.size else 0
    return int(labels[first]) if first < values.size else None
