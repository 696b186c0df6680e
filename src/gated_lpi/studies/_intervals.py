"""Intervals over replicates: the one place where studies make them.

A mean has Student's interval, a difference of two means Welch's, both by `metrics.hierarchical` over replicates alone:
a study has one number of each replicate, in which what varies below replicates is already. `metrics.compare_groups`
has Welch's interval too, but none where replicates do not vary at all, and a permutation test with each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gated_lpi.metrics import HierarchicalInterval, hierarchical_difference, hierarchical_interval

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
    if not given.size:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return _estimate(hierarchical_interval(given[:, None], relations="own", draws=1, level=LEVEL))


def difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of `a` less that of `b`, values of different replicates; those that are NaN are left out."""
    first, second = _finite(a), _finite(b)
    if not first.size or not second.size:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return _estimate(hierarchical_difference(first[:, None], second[:, None], relations="own", draws=1, level=LEVEL))


def _estimate(found: HierarchicalInterval) -> Estimate:
    """What was found; `draws` is 1 above, since one value a replicate leaves nothing to draw but for percentiles."""
    return Estimate(float(found.estimate), float(found.low), float(found.high), min(found.replicates))


def _finite(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    given = np.asarray(values, dtype=np.float64).reshape(-1)
    return given[np.isfinite(given)]
