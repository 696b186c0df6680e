"""How well a ranking says which units a model needs: areas under curves of what is silenced, and drops at equal damage.

**CPR and CMD** (MIB benchmark, arXiv 2504.13151). Let m(k) be the performance (log p, margin, …; mean over prompts)
when all units but the top share k are silenced, m(0) with all of them silenced and m(1) the intact model's.

    f(k) = (m(k) − m(0)) / (m(1) − m(0))
    CPR  = ∫₀¹ f(k) dk              how much of the performance the top units bring back; the higher the better
    CMD  = ∫₀¹ |1 − f(k)| dk        how far the rest is from the model's own; the lower the better

by the trapezoidal rule over the shares that were measured and the ends, f(0) = 0 and f(1) = 1. f is a ratio of means
over prompts, not a mean of ratios, of which one prompt with m(1) ≈ m(0) would make anything.

**Drop at equal damage.** Two rankings are compared where they do the same harm to all else: along the curve of a
ranking, from no damage and no drop on, the drop at the point where the damage first reaches a value, linear between
the points that were measured. Beyond the greatest damage that was measured there is none: NaN.

Intervals are bootstraps over prompts, with the damage as it was measured.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, finite
from gated_lpi.metrics.statistics import Interval, bootstrap


class Areas(NamedTuple):
    """Areas of a faithfulness curve; NaN where silencing everything costs nothing.

    Attributes:
        cpr: ∫ f, the circuit performance ratio.
        cmd: ∫ |1 − f|, the distance from the model's own performance.
    """

    cpr: float
    cmd: float


class AreaIntervals(NamedTuple):
    """Both areas with their intervals over prompts.

    Attributes:
        cpr, cmd: each with single numbers as `estimate`, `low` and `high`.
    """

    cpr: Interval
    cmd: Interval


def faithfulness_areas(share: ArrayLike, performance: ArrayLike, whole: float, empty: float) -> Areas:
    """CPR and CMD of one curve.

    Args:
        share: [K], ascending, each in [0, 1]: the share of units that is left.
        performance: [K], with all other units silenced.
        whole: that of the intact model.
        empty: with all of the units silenced.

    Raises:
        OptionError: shares that do not ascend within [0, 1], shapes that differ, or NaN or infinite values.
    """
    shares, values = _curve(share, performance)
    span = float(whole) - float(empty)
    if span == 0:
        return Areas(float("nan"), float("nan"))
    inside = (shares > 0) & (shares < 1)
    x = np.concatenate([[0.0], shares[inside], [1.0]])
    f = np.concatenate([[0.0], (values[inside] - empty) / span, [1.0]])
    return Areas(_area(x, f), _distance(x, f))


def faithfulness_intervals(
    share: ArrayLike,
    performance: ArrayLike,
    whole: ArrayLike,
    empty: ArrayLike,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> AreaIntervals:
    """CPR and CMD with intervals over prompts.

    Args:
        share: [K], ascending: the share of units that is left.
        performance: [P, K], of each prompt with all other units silenced.
        whole: [P], of the intact model.
        empty: [P], with all of the units silenced.
        draws: number of resamples of prompts.
        level: share of the draws that lies inside the interval.
        seed: of the draws.

    Raises:
        OptionError: as `faithfulness_areas`, no draws, or `level` outside (0, 1).
    """
    values = finite("performance", performance, ndim=2)
    ends = [finite("whole", whole, ndim=1), finite("empty", empty, ndim=1)]
    if any(len(end) != len(values) for end in ends):
        raise OptionError(
            f"performance is of {len(values)} prompts, whole of {len(ends[0])} and empty of {len(ends[1])}; expected "
            "values of the same prompts"
        )
    found = bootstrap(
        lambda mean: np.array(faithfulness_areas(share, mean[:-2], mean[-2], mean[-1])),
        np.column_stack([values, *ends]),
        np.ones(len(values)),
        draws=draws,
        level=level,
        seed=seed,
    )
    return AreaIntervals(*(Interval(*(part[i] for part in found)) for i in range(2)))


def curve_area(share: ArrayLike, value: ArrayLike) -> float:
    """Mean height of a curve [K] over shares [K]: its area by the trapezoidal rule over the width; NaN for one point.

    Raises:
        OptionError: shares that do not ascend within [0, 1], shapes that differ, or NaN or infinite values.
    """
    shares, values = _curve(share, value)
    width = float(shares[-1] - shares[0])
    return _area(shares, values) / width if width else float("nan")


def drop_at_damage(damage: ArrayLike, drop: ArrayLike, at: ArrayLike) -> FloatArray:
    """The drop where the damage first reaches `at` along a curve.

    Args:
        damage: [K], in the order of the curve; it begins at no damage and no drop, which need not be given.
        drop: [K], at the same points.
        at: [...], damages, 0 or more.

    Returns:
        [...]; NaN where the curve does not reach that damage.

    Raises:
        OptionError: shapes that differ, NaN or infinite values, or a negative `at`.
    """
    harm, lost = finite("damage", damage, ndim=1), finite("drop", drop, ndim=1)
    if harm.shape != lost.shape:
        raise OptionError(f"damage has shape {harm.shape} and drop {lost.shape}; expected both at the same points")
    wanted = np.asarray(at, dtype=np.float64)
    if not (wanted >= 0).all():
        raise OptionError(f"at goes down to {wanted.min()}; expected damages of 0 or more")
    harm, lost = np.concatenate([[0.0], harm]), np.concatenate([[0.0], lost])
    reached = np.maximum.accumulate(harm)
    found = np.searchsorted(reached, wanted, side="left")
    after = np.clip(found, 1, len(harm) - 1)
    rise = harm[after] - harm[after - 1]
    part = np.divide(wanted - harm[after - 1], rise, out=np.zeros(wanted.shape), where=rise > 0)
    between = lost[after - 1] + part * (lost[after] - lost[after - 1])
    return np.asarray(np.where(found < len(harm), between, np.nan), dtype=np.float64)


def drop_at_damage_interval(
    damage: ArrayLike, drop: ArrayLike, at: ArrayLike, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """`drop_at_damage` of the mean over prompts, with its interval over prompts.

    Args:
        damage: [K], in the order of the curve.
        drop: [P, K], of each prompt.
        at: [...], damages, 0 or more.
        draws: number of resamples of prompts.
        level: share of the draws that lies inside the interval.
        seed: of the draws.

    Raises:
        OptionError: as `drop_at_damage`, no draws, or `level` outside (0, 1).
    """
    lost = finite("drop", drop, ndim=2)
    return bootstrap(
        lambda mean: drop_at_damage(damage, mean, at), lost, np.ones(len(lost)), draws=draws, level=level, seed=seed
    )


def _curve(share: ArrayLike, value: ArrayLike) -> tuple[FloatArray, FloatArray]:
    shares, values = finite("share", share, ndim=1), finite("the curve", value, ndim=1)
    if shares.shape != values.shape:
        raise OptionError(
            f"share has shape {shares.shape} and the curve {values.shape}; expected a value at each share"
        )
    if (np.diff(shares) <= 0).any() or shares[0] < 0 or shares[-1] > 1:
        raise OptionError(f"share is {shares.tolist()}; expected shares from 0 to 1 that ascend, each once")
    return shares, values


def _area(x: FloatArray, y: FloatArray) -> float:
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2)


def _distance(x: FloatArray, f: FloatArray) -> float:
    """∫ |1 − f| of a curve that is linear between its points, also where it crosses 1."""
    gap = 1 - f
    left, right, width = np.abs(gap[:-1]), np.abs(gap[1:]), np.diff(x)
    total = left + right
    crossing = gap[:-1] * gap[1:] < 0
    squares = np.divide(left * left + right * right, total, out=np.zeros(total.shape), where=total > 0)
    return float((width * np.where(crossing, squares, total)).sum() / 2)
