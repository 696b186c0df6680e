"""How few units carry the importance, and how few gain it.

1. **Positive-gain concentration** (arXiv 2601.08383): with gain g(u) = max(I_t(u) − I_{t−1}(u), 0),
   R_t = Σ_{u∈S_t} g(u) / Σ_u g(u), S_t the top set of checkpoint t. The source can also be read as the top
   units *by gain*, so that variant is computed beside it; R_t is never above it.
2. **Importance share**: the top set's share of Σ_u max(I_t(u), 0), with no difference in time.
3. **Entropy of importance**: p(u) = max(I_t(u), 0) / Σ; H = −Σ p log p. H / log N is 1 when all units carry
   the same, 0 when one carries all; exp(H) is the effective number of units; the Gini coefficient is
   Σ_i (2i − N − 1) x_i / (N Σ x), x ascending.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import (
    BoolArray,
    FloatArray,
    finite,
    normalised_entropy,
    ratio,
    shannon,
    shares,
)
from gated_lpi.metrics.topset import top_mask


class GainConcentration(NamedTuple):
    """Positive-gain concentration between two checkpoints; fields have the leading shape [...] of the scores.

    Attributes:
        top_set: R_t, the share of all positive gain that falls to the top set of the later checkpoint.
        top_by_gain: the share that falls to as many units of greatest gain.
        positive_gain: what both are shares of, Σ_u max(I_t(u) − I_{t−1}(u), 0), in the unit of the scores.
    """

    top_set: FloatArray
    top_by_gain: FloatArray
    positive_gain: FloatArray


class Entropy(NamedTuple):
    """How evenly positive importance is spread over units; fields have the leading shape [...] of the scores.

    Attributes:
        normalised: H / log N, in [0, 1], NaN for a single unit.
        effective_units: exp(H), in [1, N].
        gini: the Gini coefficient of max(I, 0), in [0, 1 − 1/N].
    """

    normalised: FloatArray
    effective_units: FloatArray
    gini: FloatArray


def gain_concentration(previous: ArrayLike, current: ArrayLike, fraction: float = 0.01) -> GainConcentration:
    """How concentrated the gain from `previous` [..., N] to `current` [..., N] is.

    Both shares are NaN where no unit gained.

    Raises:
        OptionError: shapes that differ, NaN or infinite scores, or `fraction` outside (0, 1].
    """
    before, after = finite("previous", previous), finite("current", current)
    if before.shape != after.shape:
        raise OptionError(
            f"previous has shape {before.shape} and current {after.shape}; expected the same units in both. "
            "Compare checkpoints of one series."
        )
    gain = np.maximum(after - before, 0.0)
    return GainConcentration(
        _share_inside(gain, top_mask(after, fraction)),
        _share_inside(gain, top_mask(gain, fraction)),
        np.asarray(gain.sum(axis=-1), dtype=np.float64),
    )


def importance_share(scores: ArrayLike, fraction: float = 0.01) -> FloatArray:
    """The top set's share [...] of the positive importance of `scores` [..., N].

    NaN where no score is positive.

    Raises:
        OptionError: NaN or infinite scores, or `fraction` outside (0, 1].
    """
    values = finite("scores", scores)
    return _share_inside(np.maximum(values, 0.0), top_mask(values, fraction))


def entropy(scores: ArrayLike) -> Entropy:
    """Entropy, effective number and Gini coefficient of the positive part of `scores` [..., N].

    All three are NaN where no score is positive.

    Raises:
        OptionError: NaN or infinite scores, or no units.
    """
    positive = np.maximum(finite("scores", scores), 0.0)
    probabilities = shares(positive)
    n = positive.shape[-1]
    rank = 2.0 * np.arange(1, n + 1) - n - 1.0
    gini = (np.sort(probabilities, axis=-1) * rank).sum(axis=-1) / n
    return Entropy(
        normalised_entropy(probabilities),
        np.minimum(np.exp(shannon(probabilities)), float(n)),
        np.asarray(np.maximum(gini, 0.0), dtype=np.float64),
    )


def _share_inside(values: FloatArray, inside: BoolArray) -> FloatArray:
    """Share of Σ values (none negative) over the mask; at most 1 in spite of rounding."""
    return np.minimum(ratio(np.where(inside, values, 0.0).sum(axis=-1), values.sum(axis=-1)), 1.0)
