"""Routing: how evenly a router spreads prompts over experts, and how much that changes between checkpoints.

Utilisation u(e) is the share of prompts routed to expert e of one layer. With k experts per token a row sums
to k, so every measure but the imbalance works on p = u / Σu. The last axis is experts; layers may be any
leading axes.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, finite, normalised_entropy, ratio, shares


def utilisation_entropy(utilisation: ArrayLike) -> FloatArray:
    """H(p) / log E of `utilisation` [..., E], shape [...]: 1 if even, 0 if one expert takes all.

    NaN for a layer that routed nothing, or with a single expert.

    Raises:
        OptionError: NaN, infinite or negative utilisation.
    """
    return normalised_entropy(shares(_utilisation(utilisation)))


def load_imbalance(utilisation: ArrayLike) -> FloatArray:
    """Max / mean of `utilisation` [..., E] over experts, shape [...]: 1 if even, E if one takes all.

    NaN for a layer that routed nothing.

    Raises:
        OptionError: NaN, infinite or negative utilisation.
    """
    values = _utilisation(utilisation)
    return ratio(values.max(axis=-1), values.mean(axis=-1))


def routing_stability(utilisation: ArrayLike) -> FloatArray:
    """The Jensen-Shannon distance of consecutive checkpoints of `utilisation` [T, ..., E], [T−1, ...].

    With m = (p + q) / 2 it is sqrt((KL(p‖m) + KL(q‖m)) / 2) in base 2: 0 when the spread over experts did not
    change, 1 when the two checkpoints use different experts. NaN where either routed nothing.

    Raises:
        OptionError: NaN, infinite or negative utilisation, or no axis of checkpoints.
    """
    values = _utilisation(utilisation)
    if values.ndim < 2:
        raise OptionError(f"utilisation has shape {values.shape}; expected [T, ..., E], checkpoints first.")
    probabilities = shares(values)
    before, after = probabilities[:-1], probabilities[1:]
    middle = (before + after) / 2.0
    divergence = (rel_entr(before, middle) + rel_entr(after, middle)).sum(axis=-1) / (2.0 * np.log(2.0))
    return np.asarray(np.sqrt(np.clip(divergence, 0.0, 1.0)), dtype=np.float64)


def _utilisation(utilisation: ArrayLike) -> FloatArray:
    values = finite("utilisation", utilisation)
    if values.size and values.min() < 0:
        raise OptionError(f"utilisation goes down to {values.min()}; expected shares of prompts, 0 or more.")
    return values
