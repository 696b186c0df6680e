"""Consolidation: when in training a measure settles for good."""

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError


def consolidation_step(series: ArrayLike, steps: ArrayLike, threshold: float) -> int | None:
    """The first step from which a series stays at or above a threshold to its end; None if it does not.

    Args:
        series: [n]. NaN counts as below the threshold.
        steps: [n], the training step of each entry, in training order. For J_stab, entry i belongs to the earlier
            checkpoint of its pair: from there on, top sets change little.
        threshold: in the unit of the series.

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
