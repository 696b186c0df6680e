"""Some rows of a long order: those that a page shows, without ordering what it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def rows_of(values: NDArray[Any], among: Ints, first: int, count: int, *, descending: bool) -> Ints:
    """The rows first … first + count − 1 of units ordered by a value; NaN last, ties by unit order.

    Args:
        values: [N].
        among: [n], ascending, the units that are ordered.
        first, count: which of their places.
        descending: whether the greatest come first.

    Returns:
        Units, [count], or fewer at the end.
    """
    key = values[among].astype(np.float64)
    key = np.where(np.isnan(key), np.inf, -key if descending else key)
    end = first + count
    candidates = np.arange(key.size)
    if end < key.size:
        candidates = np.flatnonzero(key <= np.partition(key, end - 1)[end - 1])
    order = candidates[np.argsort(key[candidates], kind="stable")]
    return np.asarray(among[order[first:end]], dtype=np.int64)
