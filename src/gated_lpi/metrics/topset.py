"""The top set: the units of greatest importance at one checkpoint.

1. Its size is k = ceil(fraction · N). The product is taken in exact arithmetic on the decimal number that was
   written: in binary floats 0.07 · 100 is 7.000000000000001, whose ceiling is 8.
2. Its members are the k greatest scores. Among equal scores the lower unit index wins, so the set is the same
   on every machine. Ties are no rarity: the units of an expert that no prompt was routed to all score 0.
3. Of many units few are in it. A sample's quantile, taken somewhat low, leaves a few times k candidates to be
   partitioned; where the sample misled, all units are. Either way the set is the same.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import BoolArray, IntArray, finite, positive_count

STRIDE = 61  # every so manieth unit is in the sample of step 3; prime, so as not to keep time with experts
FEW = 64 * STRIDE  # with fewer units there is nothing to be saved


def set_size(n: int, fraction: float = 0.01) -> int:
    """The size of a top set, k = ceil(fraction · n), at least 1, for n units.

    Raises:
        OptionError: `fraction` outside (0, 1], or no units.
    """
    positive_count("the number of units", n)
    if not 0.0 < fraction <= 1.0:
        raise OptionError(
            f"fraction is {fraction}; expected a share of the units above 0 and up to 1. Use 0.01 for the top 1%."
        )
    return math.ceil(Fraction(str(float(fraction))) * n)


def top_mask(scores: ArrayLike, fraction: float = 0.01) -> BoolArray:
    """A mask of shape [..., N], true for the top set along the last axis of `scores` [..., N].

    Raises:
        OptionError: NaN or infinite scores, no units, or `fraction` outside (0, 1].
    """
    values = finite("scores", scores)
    n = values.shape[-1]
    k = set_size(n, fraction)
    smallest = np.partition(values, n - k, axis=-1)[..., n - k, None]
    above, tied = values > smallest, values == smallest
    places = k - above.sum(axis=-1, keepdims=True)
    return np.asarray(above | (tied & (np.cumsum(tied, axis=-1) <= places)), dtype=np.bool_)


def greatest(values: NDArray[np.floating], k: int) -> IntArray:
    """The indices [k], ascending, of the k greatest of `values` [N], ties by unit order; NaN is not looked for."""
    n = values.size
    candidates = np.flatnonzero(values >= _low_quantile(values[::STRIDE], k / n)) if n >= FEW else np.arange(n)
    if candidates.size < k:
        candidates = np.arange(n)
    among = values[candidates]
    smallest = np.partition(among, among.size - k)[among.size - k]
    inside = among > smallest
    inside[np.flatnonzero(among == smallest)[: k - np.count_nonzero(inside)]] = True
    return np.asarray(candidates[inside], dtype=np.int64)


def _low_quantile(sample: NDArray[np.floating], share: float) -> float:
    """A value that, going by a sample [m], more than this share of all reach."""
    expected = share * sample.size
    rank = min(sample.size, math.ceil(1.2 * expected + 5.0 * math.sqrt(expected) + 8.0))
    return float(np.partition(sample, sample.size - rank)[sample.size - rank])


def top_set(scores: ArrayLike, fraction: float = 0.01) -> IntArray:
    """The indices [k], ascending, of the ceil(fraction · N) greatest of `scores` [N].

    Raises:
        OptionError: NaN or infinite scores, no units, more than one axis, or `fraction` outside (0, 1].
    """
    return np.flatnonzero(top_mask(finite("scores", scores, ndim=1), fraction)).astype(np.int64)


def top_set_ties(scores: ArrayLike, fraction: float = 0.01) -> int:
    """How many units of `scores` [N] lie outside the top set and tie with its smallest score.

    Above 0, unit order decided part of the set.

    Raises:
        OptionError: NaN or infinite scores, no units, more than one axis, or `fraction` outside (0, 1].
    """
    values = finite("scores", scores, ndim=1)
    inside = top_mask(values, fraction)
    return int(np.count_nonzero(values[~inside] == values[inside].min()))


def top_set_undecided(scores: ArrayLike, errors: ArrayLike, fraction: float = 0.01) -> int:
    """How many units outside the top set could belong to it, by the error bounds of the scores.

    A unit outside could belong where its score plus its bound reaches some member's score less that one's bound.

    Args:
        scores: [N].
        errors: [N], no score is off by more; 0 gives `top_set_ties`.
        fraction: share of the units in the top set.

    Raises:
        OptionError: NaN or infinite scores, no units, more than one axis, `fraction` outside (0, 1], or `errors` has
            another shape or a negative value.
    """
    values, bounds = finite("scores", scores, ndim=1), finite("errors", errors, ndim=1)
    if bounds.shape != values.shape or (bounds < 0).any():
        raise OptionError(
            f"errors has shape {bounds.shape} and least value {bounds.min(initial=0.0):g}; expected one bound of at "
            f"least 0 for each of {values.size} scores"
        )
    inside = top_mask(values, fraction)
    return int(np.count_nonzero((values + bounds)[~inside] >= (values - bounds)[inside].min()))
