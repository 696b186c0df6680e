"""A group's mean over training with a pointwise interval, to be drawn: over replicates, else over relations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from gated_lpi.claims.judge import LEVEL
from gated_lpi.claims.series import ArmSeries, Clock, FloatArray, align


class Curve(NamedTuple):
    """A group's mean, [K] each.

    Attributes:
        clock: what `at` counts.
        at: the axis.
        steps: NaN where arms have no steps in common.
        mean: over the arms.
        low, high: its pointwise 95% interval; NaN where there is none.
    """

    clock: Clock
    at: FloatArray
    steps: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray


def curve(arms: Sequence[ArmSeries], name: str) -> Curve | None:
    """The mean of a series over a group's arms; None where they have no points in common, or no such series."""
    if any(name not in arm.series or not arm.series[name].shape[1] for arm in arms):
        return None
    aligned = align(arms, name)
    if aligned is None:
        return None
    own = np.stack([rows[0] for rows in aligned.values])
    mean, error = mean_and_error(own)
    df = len(own) - 1.0
    if len(own) == 1 and len(aligned.values[0]) > 2 and arms[0].relations >= 2:
        error = mean_and_error(aligned.values[0][1:])[1] * np.sqrt(len(aligned.values[0]) - 1.0)
        df = arms[0].relations - 1.0
    half = stdtrit(df, (1.0 + LEVEL) / 2.0) * error if df > 0 else np.full(mean.shape, np.nan)
    return Curve(aligned.clock, aligned.at, aligned.steps, mean, mean - half, mean + half)


def mean_and_error(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The mean over the first axis of what is defined, and its standard error; NaN where too few are."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    filled = np.where(known, values, 0.0)
    mean = np.divide(filled.sum(axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)
    squares = np.where(known, (filled - mean) ** 2, 0.0).sum(axis=0)
    variance = np.divide(squares, count * (count - 1), out=np.full(count.shape, np.nan), where=count > 1)
    return mean, np.sqrt(variance)
