"""Top-set stability: how much of the top set survives from one checkpoint to the next.

J_stab(t_i) = |S_i ∩ S_{i+1}| / |S_i ∪ S_{i+1}|, the Jaccard index of consecutive top sets (arXiv 2601.08383).

Chance: two independent uniform random sets of k of n units share X units, X hypergeometric, and J = X / (2k −
X). That is increasing in X, so the quantiles of J are those of X. Its mean is near k / (2n − k), but not
equal to it.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import hypergeom

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, finite
from gated_lpi.metrics.statistics import Bounds, tails
from gated_lpi.metrics.topset import top_mask


def jaccard(a: ArrayLike, b: ArrayLike) -> float:
    """|a ∩ b| / |a ∪ b| of two sets of unit indices, [m] and [n], in [0, 1]; 1 for two empty sets."""
    left, right = np.unique(np.asarray(a)), np.unique(np.asarray(b))
    shared = np.intersect1d(left, right, assume_unique=True).size
    united = left.size + right.size - shared
    return shared / united if united else 1.0


def top_set_stability(scores: ArrayLike, fraction: float = 0.01) -> FloatArray:
    """J_stab [T−1]: the Jaccard index of the top sets of consecutive checkpoints of `scores` [T, N].

    Entry i compares checkpoints i and i+1; a single checkpoint gives an empty array.

    Raises:
        OptionError: NaN or infinite scores, or `fraction` outside (0, 1].
    """
    inside = top_mask(finite("scores", scores, ndim=2), fraction)
    shared = (inside[:-1] & inside[1:]).sum(axis=-1)
    united = (inside[:-1] | inside[1:]).sum(axis=-1)
    return np.asarray(shared / united, dtype=np.float64)


def jaccard_chance(n: int, k: int) -> float:
    """The exact mean of the Jaccard index of two independent uniform random k-subsets of n units.

    Raises:
        OptionError: k outside 1..n.
    """
    index, probability = _chance_distribution(n, k)
    return float(index @ probability)


def jaccard_chance_interval(n: int, k: int, level: float = 0.95) -> Bounds:
    """The central interval of the Jaccard index of two random k-subsets of n units.

    Each end is a value that the index takes; as it is discrete, the interval holds at least `level`.

    Raises:
        OptionError: k outside 1..n, or `level` outside (0, 1).
    """
    index, probability = _chance_distribution(n, k)
    ends = np.searchsorted(np.cumsum(probability), tails(level))
    low, high = index[np.minimum(ends, index.size - 1)]
    return Bounds(float(low), float(high))


def _chance_distribution(n: int, k: int) -> tuple[FloatArray, FloatArray]:
    """Values of J and their probabilities, by way of logarithms so that a million units do not underflow."""
    if not 1 <= k <= n:
        raise OptionError(f"k is {k} and n is {n}; expected a set of 1 to n units.")
    shared = np.arange(max(0, 2 * k - n), k + 1)
    log_probability = hypergeom.logpmf(shared, n, k, k)
    probability = np.exp(log_probability - log_probability.max())
    return shared / (2.0 * k - shared), probability / probability.sum()
