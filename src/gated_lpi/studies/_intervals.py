"""Intervals over replicates: the one place where studies make them.

For now the mean with Student's interval, and Welch's for a difference. A hierarchical bootstrap (replicates, then
relations, then facts) takes the place of both functions' bodies once `metrics` has one; their callers stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean over replicates.

    Attributes:
        value: the mean; NaN over none.
        low, high: its 95% interval; NaN where fewer than two replicates say nothing of their spread.
        n: replicates that it is over.
    """

    value: float
    low: float
    high: float
    n: int


def over_replicates(values: Sequence[float]) -> Estimate:
    """The mean of one value a replicate; those that are NaN are left out."""
    given = _finite(values)
    if given.size < 2:
        return Estimate(float(given.mean()) if given.size else math.nan, math.nan, math.nan, given.size)
    return _interval(float(given.mean()), float(given.var(ddof=1) / given.size), given.size - 1, given.size)


def difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of `a` less that of `b`, values of different replicates; those that are NaN are left out."""
    first, second = _finite(a), _finite(b)
    n = min(first.size, second.size)
    value = float(first.mean() - second.mean()) if n else math.nan
    if n < 2:
        return Estimate(value, math.nan, math.nan, n)
    parts = [float(one.var(ddof=1) / one.size) for one in (first, second)]
    total = sum(parts)
    below = sum(part**2 / (one.size - 1) for part, one in zip(parts, (first, second), strict=True))
    return _interval(value, total, total**2 / below if below else first.size + second.size - 2, n)


def _interval(value: float, variance: float, freedom: float, n: int) -> Estimate:
    half = float(student.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
    return Estimate(value, value - half, value + half, n)


def _finite(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    given = np.asarray(values, dtype=np.float64).reshape(-1)
    return given[np.isfinite(given)]
