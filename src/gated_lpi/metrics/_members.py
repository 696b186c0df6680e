"""Sets of units at checkpoints, held as unit numbers: what overlap, survival and backbone are counted from.

A top set is 1% of the units, so T sets are small even where there are a million units. Only units that are in some set
get a column; counts over pairs of checkpoints are one matrix product.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import BoolArray, FloatArray, IntArray, require_finite
from gated_lpi.metrics.topset import set_size, top_set

_COLUMNS = 1 << 18  # of a block of the product: what is held as floats stays below 100 MB for 50 checkpoints


def top_sets(scores: ArrayLike, fraction: float = 0.01) -> IntArray:
    """The top sets of `scores` [T, N]: unit numbers [T, k], ascending in each row, k = ceil(fraction · N).

    Raises:
        OptionError: NaN or infinite scores, no checkpoint or unit, or `fraction` outside (0, 1].
    """
    values = np.asarray(scores)
    if values.ndim != 2 or 0 in values.shape:
        raise OptionError(f"scores has shape {values.shape}; expected [checkpoints, units], at least one of each.")
    require_finite("scores", values)
    sets = np.empty((len(values), set_size(values.shape[1], fraction)), dtype=np.int64)
    for row, at in zip(sets, values, strict=True):  # a row at a time: no copy of all scores in float64
        row[:] = top_set(at, fraction)
    return sets


def members(sets: Sequence[ArrayLike] | ArrayLike, *, units: int | None = None) -> tuple[IntArray, BoolArray]:
    """The units that are in some set [U], ascending, and a mask [T, U] of who is in which.

    Args:
        sets: T arrays of unit numbers, of any lengths.
        units: how many units there are, if known.

    Raises:
        OptionError: no set, something else than unit numbers, a unit twice in one set, or a number outside 0..units−1.
    """
    rows = [np.asarray(row) for row in sets]  # type: ignore[union-attr]
    if not rows:
        raise OptionError("no sets were given; expected the unit numbers of one set per checkpoint.")
    for place, row in enumerate(rows):
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise OptionError(
                f"set {place} has shape {row.shape} and type {row.dtype}; expected a list of unit numbers. "
                "`top_sets` makes them from scores."
            )
    known, column = np.unique(np.concatenate([row.astype(np.int64) for row in rows]), return_inverse=True)
    if known.size and (known[0] < 0 or (units is not None and known[-1] >= units)):
        raise OptionError(
            f"sets hold the units {known[0]} to {known[-1]}; expected numbers from 0 to {units or 'N'} - 1."
        )
    checkpoint = np.repeat(np.arange(len(rows)), [row.size for row in rows])
    inside = np.zeros((len(rows), known.size), dtype=np.bool_)
    inside[checkpoint, column] = True
    if np.count_nonzero(inside) != checkpoint.size:
        raise OptionError("a set holds a unit more than once; expected each of its units once. Pass np.unique(set).")
    return known, inside


def shared_counts(inside: BoolArray) -> FloatArray:
    """How many units each two of the sets share, [T, T] whole numbers; the sizes on the diagonal."""
    counts = np.zeros((len(inside), len(inside)))
    for start in range(0, inside.shape[1], _COLUMNS):
        block = inside[:, start : start + _COLUMNS].astype(np.float32)  # exact: no count reaches 2^24
        counts += block @ block.T
    return counts


def training_order(name: str, tokens: ArrayLike, n: int) -> FloatArray:
    """The tokens [n] of checkpoints, not negative and strictly ascending.

    Raises:
        OptionError: another number of them, NaN or infinity, negative, or not ascending.
    """
    values = np.asarray(tokens, dtype=np.float64)
    if values.shape != (n,):
        raise OptionError(f"{name} has shape {values.shape}; expected one number of tokens for each of {n} entries.")
    require_finite(name, values)
    if (values < 0).any() or (np.diff(values) <= 0).any():
        raise OptionError(
            f"{name} are {values.tolist()[:12]}; expected numbers of at least 0, each above the one before. "
            "Put checkpoints in training order, and leave out those that stand twice."
        )
    return values
