"""What every metric needs of its arrays: checks, ratios that may be undefined, and Shannon entropy.

Scores come as float32 from a run and are summed in float64. An undefined ratio (nothing to divide by) is NaN,
never an exception, because a checkpoint before training may well have no positive importance.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from gated_lpi.errors import OptionError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def finite(name: str, values: ArrayLike, *, ndim: int | None = None) -> FloatArray:
    """The values [..., N] as float64; the last axis is not empty.

    Raises:
        OptionError: another number of axes than `ndim` (None: one or more), an empty last axis, NaN or infinity.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or (ndim is not None and array.ndim != ndim):
        raise OptionError(
            f"{name} has shape {array.shape}; expected {ndim or 'one or more'} axes. Reshape it and call again."
        )
    if array.shape[-1] == 0:
        raise OptionError(f"{name} has shape {array.shape}; its last axis is empty. Pass at least one entry.")
    require_finite(name, array)
    return array


def require_finite(name: str, array: NDArray[Any]) -> None:
    """Check that `array`, of any shape and precision, holds finite numbers only.

    Raises:
        OptionError: it holds NaN or infinity.
    """
    refuse_not_finite(name, array.size - int(np.count_nonzero(np.isfinite(array))))


def refuse_not_finite(name: str, bad: int) -> None:
    """Refuse an array of which so many values are NaN or infinite.

    Raises:
        OptionError: there are any.
    """
    if bad:
        raise OptionError(
            f"{name} holds {bad} values that are NaN or infinite; expected finite numbers. "
            "Look for the checkpoint or the unit that produced them, or leave it out."
        )


def open_unit_interval(name: str, value: float) -> float:
    """The value, which must lie strictly between 0 and 1.

    Raises:
        OptionError: it does not.
    """
    if not 0.0 < value < 1.0:
        raise OptionError(f"{name} is {value}; expected a number strictly between 0 and 1, such as 0.95.")
    return value


def positive_count(name: str, value: int) -> int:
    """The value, which must be at least 1.

    Raises:
        OptionError: it is 0 or negative.
    """
    if value < 1:
        raise OptionError(f"{name} is {value}; expected a whole number of at least 1.")
    return value


def ratio(part: ArrayLike, whole: ArrayLike) -> FloatArray:
    """Divide part [...] by whole [...] elementwise, neither negative; NaN where `whole` is 0."""
    top, bottom = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    result = np.full(bottom.shape, np.nan)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result


def shares(weights: FloatArray) -> FloatArray:
    """The weights over their sum along the last axis, [..., N]; NaN throughout a row whose sum is 0."""
    return ratio(weights, np.broadcast_to(weights.sum(axis=-1, keepdims=True), weights.shape))


def shannon(probabilities: FloatArray) -> FloatArray:
    """H = −Σ p log p over the last axis of [..., N], [...] in nats, with 0 log 0 = 0; NaN where a row is NaN."""
    return np.asarray(entr(probabilities).sum(axis=-1), dtype=np.float64)


def normalised_entropy(probabilities: FloatArray) -> FloatArray:
    """H / log N over the last axis of [..., N], [...] in [0, 1]; NaN where a row is NaN, or when N is 1 (log N = 0)."""
    entropy, size = shannon(probabilities), probabilities.shape[-1]
    if size == 1:
        return np.full(entropy.shape, np.nan)
    return np.asarray(np.minimum(entropy / np.log(size), 1.0), dtype=np.float64)
