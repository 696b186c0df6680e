"""Two arms by their replicates: difference, p-values, effect size; what a design could have seen, and what it takes.

1. **Difference** of the means, with Welch's interval and p-value (variances may differ), or those of pairs.
2. **Permutation.** p of the difference of means over all ways to deal the replicates out to two groups of these sizes
   (of pairs: over all signs), exact while there are no more than 10,000, else over as many random ones. It assumes no
   distribution, but can be no smaller than `smallest_p`: 3 against 3 replicates never reach 0.05.
3. **Hedges' g**: the difference over the pooled standard deviation (of pairs: over that of the differences), less its
   bias, with the exact interval of normal data by the noncentral t distribution.
4. **Holm** (1979): of a family of m comparisons, sorted p_(i) times (m − i + 1), made monotone. Below alpha all errors
   together have a chance of alpha at most, whatever depends on what.
5. **Power** of the two-sided t test for a true difference, by the noncentral t distribution, variances alike. With m
   comparisons alpha/m is taken: what Holm asks of the first, so the power of later ones is greater.
"""

from collections.abc import Callable
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import gammaln
from scipy.stats import nct, permutation_test
from scipy.stats import t as student

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, open_unit_interval, positive_count
from gated_lpi.metrics.statistics import tails

_PERMUTATIONS = 10_000


class GroupDifference(NamedTuple):
    """The difference of two groups of replicates, a less b. NaN where it takes more replicates or some variance.

    Attributes:
        difference: of the means.
        low, high: Welch's interval, or that of pairs.
        sd: the pooled standard deviation of replicates; of pairs, that of the differences.
        df: degrees of freedom of the interval.
        p_value: of Welch's or the paired t test, two-sided.
        p_permutation: of the permutation test, two-sided.
        smallest_p: the least value that `p_permutation` can take with so many replicates.
        effect: Hedges' g.
        effect_low, effect_high: its interval.
        replicates: how many in each group; of pairs, how many pairs.
    """

    difference: float
    low: float
    high: float
    sd: float
    df: float
    p_value: float
    p_permutation: float
    smallest_p: float
    effect: float
    effect_low: float
    effect_high: float
    replicates: tuple[int, ...]


def compare_groups(
    a: ArrayLike, b: ArrayLike, *, paired: bool = False, level: float = 0.95, seed: int = 0
) -> GroupDifference:
    """Two arms by a number for each of their replicates.

    Args:
        a, b: [n] and [m], such as `replicate_values`. NaN, where the number is undefined, is left out (with its
            partner).
        paired: replicate i of both shares seed and order of data.
        level: of the intervals.
        seed: of the permutations, where there are too many for all.

    Raises:
        OptionError: infinite values, something else than lists, pairs of lists of different lengths, no replicate left,
            or `level` outside (0, 1).
    """
    probabilities = tails(level)
    first, second = (np.asarray(values, dtype=np.float64) for values in (a, b))
    if first.ndim != 1 or second.ndim != 1 or (paired and first.shape != second.shape):
        raise OptionError(
            f"a has shape {first.shape} and b {second.shape}; expected a list of replicates' numbers each"
            f"{', of one length, as they are pairs' if paired else ''}."
        )
    if np.isinf(first).any() or np.isinf(second).any():
        raise OptionError("a or b holds infinite values; expected numbers, or NaN for what is undefined.")
    if paired:
        kept = ~(np.isnan(first) | np.isnan(second))
        groups: tuple[FloatArray, ...] = (first[kept] - second[kept],)
    else:
        groups = (first[~np.isnan(first)], second[~np.isnan(second)])
    sizes = tuple(group.size for group in groups)
    if min(sizes) == 0:
        raise OptionError(f"{sizes} replicates are defined; expected at least one in each group.")
    difference = float(groups[0].mean() - (0.0 if paired else groups[1].mean()))
    nan = float("nan")
    if min(sizes) < 2:
        return GroupDifference(difference, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, sizes)
    variances = [float(group.var(ddof=1)) for group in groups]
    of_means = [variance / size for variance, size in zip(variances, sizes, strict=True)]
    pooled_df = sum(sizes) - len(sizes)
    sd = float(np.sqrt(sum(v * (size - 1) for v, size in zip(variances, sizes, strict=True)) / pooled_df))
    smallest = _smallest_p(sizes)
    p_permutation = _permutation_p(groups, seed)
    if sd == 0.0:
        return GroupDifference(difference, nan, nan, sd, nan, nan, p_permutation, smallest, nan, nan, nan, sizes)
    error = float(np.sqrt(sum(of_means)))
    df = sum(of_means) ** 2 / sum(v**2 / (size - 1) for v, size in zip(of_means, sizes, strict=True))
    half = float(student.ppf(probabilities[1], df)) * error
    scale = float(np.sqrt(sum(1.0 / size for size in sizes)))  # of the pooled t: t = difference / (sd · scale)
    correction = float(np.exp(gammaln(pooled_df / 2) - gammaln((pooled_df - 1) / 2)) / np.sqrt(pooled_df / 2))
    if pooled_df == 1:
        correction = nan  # one degree of freedom has no unbiased effect size
    low, high = (scale * nc for nc in _noncentrality(difference / (sd * scale), pooled_df, probabilities))
    return GroupDifference(
        difference=difference,
        low=difference - half,
        high=difference + half,
        sd=sd,
        df=float(df),
        p_value=float(2.0 * student.sf(abs(difference) / error, df)),
        p_permutation=p_permutation,
        smallest_p=smallest,
        effect=correction * difference / sd,
        effect_low=low,
        effect_high=high,
        replicates=sizes,
    )


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's adjusted p-values of a family, in the same order; NaN stays NaN and is not one of the family.

    Args:
        p_values: [m].

    Raises:
        OptionError: not a list, or a value outside 0..1.
    """
    given = np.asarray(p_values, dtype=np.float64)
    known = given[~np.isnan(given)]
    if given.ndim != 1 or (known < 0).any() or (known > 1).any():
        raise OptionError(
            f"p_values has shape {given.shape}, from {known.min(initial=0)} to {known.max(initial=0)}; expected a list "
            "of numbers from 0 to 1."
        )
    order = np.argsort(known, kind="stable")
    steps = np.minimum(np.maximum.accumulate(known[order] * np.arange(known.size, 0, -1)), 1.0)
    adjusted = np.empty(known.size)
    adjusted[order] = steps
    result = np.full(given.shape, np.nan)
    result[~np.isnan(given)] = adjusted
    return result


def power(
    difference: float, sd: float, replicates: tuple[int, ...], *, alpha: float = 0.05, comparisons: int = 1
) -> float:
    """The chance that a design finds a true difference: power of the two-sided t test.

    Args:
        difference: between the arms.
        sd: standard deviation of replicates within an arm; of pairs, that of their differences.
        replicates: (n, m) of two groups, or (n,) pairs.
        alpha: what the p-value must be below.
        comparisons: in the family; alpha is divided by it.

    Raises:
        OptionError: `sd` not above 0, fewer than two replicates in a group, or another argument outside what it may be.
    """
    _design(sd, replicates, alpha, comparisons)
    return _power(abs(difference) / sd, replicates, alpha / comparisons)


def smallest_detectable(
    sd: float, replicates: tuple[int, ...], *, alpha: float = 0.05, comparisons: int = 1, power: float = 0.8
) -> float:
    """The smallest true difference that a design finds with so much power, in the unit of `sd`.

    Args:
        sd, replicates, alpha, comparisons: as in `power`.
        power: the chance with which it is found.

    Raises:
        OptionError: as in `power`, or a power not above alpha or not below 1.
    """
    _design(sd, replicates, alpha, comparisons)
    _wanted(power, alpha)
    return sd * _solved(lambda effect: _power(effect, replicates, alpha / comparisons) - power)


def replicates_needed(
    difference: float,
    sd: float,
    *,
    paired: bool = False,
    alpha: float = 0.05,
    comparisons: int = 1,
    power: float = 0.8,
    most: int = 10_000,
) -> int | None:
    """How many replicates in each arm (or pairs) find a true difference with so much power; None if more than `most`.

    A difference and a standard deviation that were themselves measured on a few replicates are uncertain, and with them
    this number; it is where to start, not a promise.

    Args:
        difference: between the arms.
        sd: standard deviation of replicates within an arm; of pairs, that of their differences.
        paired: whether replicates come in pairs.
        alpha, comparisons: as in `power`.
        power: the chance with which it is found.
        most: where to stop.

    Raises:
        OptionError: as in `smallest_detectable`.
    """
    _design(sd, (2,), alpha, comparisons)
    _wanted(power, alpha)
    positive_count("most", most)

    def enough(n: int) -> bool:
        return _power(abs(difference) / sd, (n,) if paired else (n, n), alpha / comparisons) >= power

    if not enough(max(most, 2)):
        return None
    low, high = 1, max(most, 2)  # not enough, enough
    doubling = 2
    while doubling < high and not enough(doubling):
        low, doubling = doubling, 2 * doubling
    high = min(high, doubling)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _power(effect: float, replicates: tuple[int, ...], alpha: float) -> float:
    df = sum(replicates) - len(replicates)
    shift = effect / float(np.sqrt(sum(1.0 / n for n in replicates)))
    bound = float(student.ppf(1.0 - alpha / 2.0, df))
    return _above(bound, df, shift) + _above(bound, df, -shift)


def _above(bound: float, df: float, shift: float) -> float:
    """P(t > bound) of the noncentral t distribution."""
    with np.errstate(all="ignore"):  # far from the bound its series underflows, to the 0 or 1 that is meant
        found = float(nct.sf(bound, df, shift))
    return found if np.isfinite(found) else float(shift > bound)


def _noncentrality(t: float, df: float, probabilities: tuple[float, float]) -> tuple[float, float]:
    """The noncentrality parameters of which t is the upper and the lower quantile: their exact interval."""
    if t < 0:
        low, high = _noncentrality(-t, df, probabilities)
        return -high, -low
    ends = []
    for probability in probabilities:  # P(T > t) grows with the parameter
        reach = 10.0
        while _above(t, df, t + reach) < probability or _above(t, df, t - reach) > probability:
            reach *= 2.0
        ends.append(float(brentq(lambda nc, p=probability: _above(t, df, nc) - p, t - reach, t + reach)))
    return ends[0], ends[1]


def _solved(excess: Callable[[float], float]) -> float:
    high = 1.0
    while excess(high) < 0:
        high *= 2.0
    return float(brentq(excess, 0.0, high))


def _smallest_p(sizes: tuple[int, ...]) -> float:
    ways = 2 ** sizes[0] if len(sizes) == 1 else comb(sum(sizes), sizes[0])
    return 2.0 / ways if ways <= _PERMUTATIONS else 2.0 / (_PERMUTATIONS + 1)


def _permutation_p(groups: tuple[FloatArray, ...], seed: int) -> float:
    paired = len(groups) == 1

    def difference(*samples: FloatArray, axis: int = -1) -> FloatArray:
        means = [sample.mean(axis=axis) for sample in samples]
        return np.asarray(means[0] - means[1] if len(means) == 2 else means[0])

    found = permutation_test(
        groups,
        difference,
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        random_state=np.random.default_rng(seed),  # named rng only in later versions
    )
    return float(found.pvalue)


def _design(sd: float, replicates: tuple[int, ...], alpha: float, comparisons: int) -> None:
    open_unit_interval("alpha", alpha)
    positive_count("comparisons", comparisons)
    if not sd > 0 or not np.isfinite(sd):
        raise OptionError(f"sd is {sd}; expected the standard deviation of replicates, above 0.")
    if len(replicates) not in (1, 2) or min(replicates) < 2:
        raise OptionError(f"replicates is {replicates}; expected (n, m) of two groups or (n,) pairs, each 2 or more.")


def _wanted(power: float, alpha: float) -> None:
    if not alpha < open_unit_interval("power", power):
        raise OptionError(f"power is {power} and alpha {alpha}; expected a power above alpha, such as 0.8.")
