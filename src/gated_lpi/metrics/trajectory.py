"""A whole trajectory as one number, so that replicates and arms can be compared: area, settling, peak.

The axis is log tokens unless said otherwise: much happens early, and checkpoints are saved accordingly. Areas are
divided by the length of the axis, so they are means in the unit of the measure and do not depend on how long training
was.

**NaN.** A measure may be undefined at a checkpoint (no importance before training). Such entries are left out: inside
the trajectory its neighbours are joined by a straight line, at its ends the axis is shortened, and `covered` says what
share of it is left. On a log axis the same happens to a checkpoint at 0 tokens, which is not on it; that one does not
count as lost.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray
from gated_lpi.metrics._members import training_order
from gated_lpi.metrics.consolidation import consolidation_step


class TrajectoryArea(NamedTuple):
    """The mean of a measure over its axis; both fields have the leading shape [...] of the series.

    Attributes:
        mean: area under the series over the length of the axis, in the unit of the series; NaN with fewer than two
            defined entries.
        covered: the share of the axis that lies between the first and the last defined entry.
    """

    mean: FloatArray
    covered: FloatArray


class Peak(NamedTuple):
    """The greatest value of a series.

    Attributes:
        value: NaN if the series has no defined entry.
        tokens: of the checkpoint where it is reached first; NaN likewise.
        checkpoint: the index of that checkpoint; −1 likewise.
        at_edge: whether it is the first or last defined entry, so that the real peak may lie outside.
    """

    value: float
    tokens: float
    checkpoint: int
    at_edge: bool


def trajectory_area(series: ArrayLike, tokens: ArrayLike, *, axis: Literal["log", "linear"] = "log") -> TrajectoryArea:
    """The area under a measure over (log) tokens by trapezoids, divided by the length of the axis.

    Args:
        series: [..., n], a measure at n checkpoints; NaN where it is undefined. One over pairs of checkpoints, such as
            R_t, takes the tokens of the later one.
        tokens: [n], strictly ascending.
        axis: log tokens, or tokens.

    Raises:
        OptionError: tokens that do not ascend or are not one for each entry, infinite values, or another axis.
    """
    values, at = _series(series, tokens)
    if axis not in ("log", "linear"):
        raise OptionError(f"axis is {axis!r}; expected 'log' or 'linear'.")
    if axis == "log":
        values, at = values[..., at > 0], np.log(at[at > 0])
    mean, covered = np.full(values.shape[:-1], np.nan), np.zeros(values.shape[:-1])
    if at.size < 2:
        return TrajectoryArea(mean, covered)
    for place in np.ndindex(values.shape[:-1]):
        defined = ~np.isnan(values[place])
        here = at[defined]
        if here.size > 1:
            mean[place] = np.trapezoid(values[place][defined], here) / (here[-1] - here[0])
            covered[place] = (here[-1] - here[0]) / (at[-1] - at[0])
    return TrajectoryArea(mean, covered)


def time_to_consolidation(series: ArrayLike, tokens: ArrayLike, threshold: float) -> float:
    """The tokens from which a measure stays at or above a threshold to its end; NaN if it does not.

    That is the first checkpoint of the stretch, so it is late by up to the distance to the one before. NaN is "not
    within this training", not "never": a mean over replicates must not leave it out silently.

    Args:
        series: [n]; NaN counts as below. For J_stab, entry i has the tokens of the earlier checkpoint of its pair.
        tokens: [n], strictly ascending.
        threshold: in the unit of the series.

    Raises:
        OptionError: tokens that do not ascend or are not one for each entry, infinite values, or a threshold of NaN.
    """
    values, at = _series(series, tokens, ndim=1)
    first = consolidation_step(values, np.arange(at.size), threshold)
    return float("nan") if first is None else float(at[first])


def peak(series: ArrayLike, tokens: ArrayLike) -> Peak:
    """The greatest value of a measure [n] and the tokens [n] at which it is first reached; NaN entries are left out.

    Raises:
        OptionError: tokens that do not ascend or are not one for each entry, or infinite values.
    """
    values, at = _series(series, tokens, ndim=1)
    defined = np.flatnonzero(~np.isnan(values))
    if not defined.size:
        return Peak(float("nan"), float("nan"), -1, False)
    index = int(defined[np.argmax(values[defined])])
    return Peak(float(values[index]), float(at[index]), index, index in (defined[0], defined[-1]))


def _series(series: ArrayLike, tokens: ArrayLike, *, ndim: int | None = None) -> tuple[FloatArray, FloatArray]:
    values = np.asarray(series, dtype=np.float64)
    if values.ndim == 0 or (ndim is not None and values.ndim != ndim) or np.isinf(values).any():
        raise OptionError(
            f"series has shape {values.shape} and {int(np.isinf(values).sum())} infinite values; expected "
            f"{'one axis' if ndim == 1 else 'checkpoints on the last axis'}, and numbers or NaN."
        )
    return values, training_order("tokens", tokens, values.shape[-1])
