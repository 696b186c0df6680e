"""How sure a summary is: a bootstrap over relations, and what a random set of units would have scored.

**Bootstrap.** Prompts of one relation share a template and much of their vocabulary, so they are no
independent draws; relations are (a cluster bootstrap: Davison & Hinkley, *Bootstrap Methods and their
Application*, 1997, §3.8).
1. Draw R relations with replacement; count[r] is how often relation r came up.
2. The resampled mean over prompts is Σ_r w_r·count[r]·data[r] / Σ_r w_r·count[r], with w_r the prompts of
   relation r.
3. Apply the statistic to it. The interval runs between percentiles of the statistic over the draws. A top set
   is no linear function of the mean, and resampled means repeat relations: the interval need not be centred
   on the estimate.

**Random set.** A random set of k of N units holds k/N of any total on average; how far single sets stray from
that depends on how concentrated the total is, and is found by drawing sets.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, IntArray, finite, open_unit_interval, positive_count, ratio
from gated_lpi.metrics.topset import set_size


class Bounds(NamedTuple):
    """The two ends of an interval of one number.

    Attributes:
        low: the lower end.
        high: the upper end.
    """

    low: float
    high: float


class Interval(NamedTuple):
    """A statistic and its bootstrap interval; every field has the shape of the statistic.

    Attributes:
        estimate: the statistic itself.
        low, high: the interval's ends, over the draws in which the statistic was defined.
        draws: how many draws that were, in which it was not NaN.
    """

    estimate: FloatArray
    low: FloatArray
    high: FloatArray
    draws: IntArray


class Chance(NamedTuple):
    """A share under chance; every field has shape [...].

    Attributes:
        mean: its exact mean.
        low, high: ends of its interval over random sets.
    """

    mean: FloatArray
    low: FloatArray
    high: FloatArray


def tails(level: float) -> tuple[float, float]:
    """The two probabilities that leave `level` between them: 0.95 gives 0.025 and 0.975.

    Raises:
        OptionError: `level` not strictly between 0 and 1.
    """
    outside = (1.0 - open_unit_interval("level", level)) / 2.0
    return outside, 1.0 - outside


def bootstrap(
    statistic: Callable[[NDArray[Any]], ArrayLike],
    data: ArrayLike,
    weights: ArrayLike,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The statistic of the weighted mean over relations, with its interval over resampled relations.

    With a single relation every draw is that relation, and the interval has no width.

    Args:
        statistic: takes a mean of shape [...] and returns a number or an array, of the same shape every time.
        data: [R, ...], the mean over the prompts of each relation. float32 stays float32.
        weights: [R], the number of prompts of each relation.
        draws: number of resamples.
        level: share of the draws that lies inside the interval.
        seed: of the random generator; the same seed gives the same interval.

    Raises:
        OptionError: `weights` not [R] or not positive, no relation, no draws, or `level` outside (0, 1).
    """
    array = np.asarray(data)
    array = array if array.dtype == np.float32 else array.astype(np.float64)
    prompts = finite("weights", weights, ndim=1)
    if array.ndim == 0 or array.shape[0] != prompts.size or not (prompts > 0).all():
        raise OptionError(
            f"data has shape {array.shape} and weights are {prompts.tolist()}; expected data [R, ...] and "
            "one positive weight, the number of prompts, per relation. Leave out relations without prompts."
        )
    quantiles = tails(level)
    relations = prompts.size
    flat = np.ascontiguousarray(array.reshape(relations, -1))

    def at(counts: NDArray[Any]) -> FloatArray:
        share = (prompts * counts / (prompts * counts).sum()).astype(flat.dtype)
        return np.asarray(statistic((share @ flat).reshape(array.shape[1:])), dtype=np.float64)

    estimate = at(np.ones(relations))
    resamples = np.random.default_rng(seed).multinomial(
        relations, np.full(relations, 1.0 / relations), size=positive_count("draws", draws)
    )
    samples = np.stack([at(counts) for counts in resamples])
    low, high = quantiles_of_defined(samples, quantiles)
    return Interval(estimate, low, high, np.asarray((~np.isnan(samples)).sum(axis=0), dtype=np.int64))


def random_share_chance(
    values: ArrayLike, fraction: float = 0.01, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Chance:
    """The share of Σ max(values, 0) that a random set of ceil(fraction · N) units would hold.

    The same random sets serve all leading axes. A set that was chosen by the very values it is scored on (the units of
    greatest gain, the top set's importance) exceeds this by construction: read the chance as a floor, not a test.

    Args:
        values: [..., N], importances or gains.
        fraction: share of the units in a set.
        draws: number of random sets.
        level: share of the sets that lies inside the interval.
        seed: of the random generator.

    Returns:
        Mean and interval, each of shape [...]; NaN where nothing is positive.

    Raises:
        OptionError: NaN or infinite values, `fraction` outside (0, 1], no draws, or `level` outside (0, 1).
    """
    positive = np.maximum(finite("values", values), 0.0)
    quantiles = tails(level)
    n = positive.shape[-1]
    k = set_size(n, fraction)
    total = positive.sum(axis=-1)
    generator = np.random.default_rng(seed)
    samples = np.stack(
        [
            ratio(positive[..., generator.choice(n, k, replace=False, shuffle=False)].sum(axis=-1), total)
            for _ in range(positive_count("draws", draws))
        ]
    )
    low, high = quantiles_of_defined(samples, quantiles)
    return Chance(ratio(total * (k / n), total), low, high)


def quantiles_of_defined(samples: FloatArray, probabilities: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """Quantiles over the first axis among the samples that are not NaN; NaN where all of them are."""
    if not np.isnan(samples).any():
        low, high = np.quantile(samples, probabilities, axis=0)
        return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    shape = samples.shape[1:]
    low, high = np.full(shape, np.nan), np.full(shape, np.nan)
    for place in np.ndindex(shape):
        column = samples[(slice(None), *place)]
        defined = column[~np.isnan(column)]
        if defined.size:
            low[place], high[place] = np.quantile(defined, probabilities)
    return low, high
