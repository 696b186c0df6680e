"""How much of a change between two checkpoints its routing explains.

A unit's change is split into a part of the routing and a part of the neurons, which add up to it
(`gated_lpi.routing.split_change`). With both parts meant over prompts,

    share = Σ_u |routing_u| / (Σ_u |routing_u| + Σ_u |neurons_u|)

is 1 if nothing but the routing changed, 0 if nothing but the neurons did. Parts of opposite sign do not cancel in it: a
unit that gains by its neurons what it loses by its routing counts as half and half.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, finite, ratio
from gated_lpi.metrics.statistics import Interval, bootstrap


def routing_share(
    routing: ArrayLike,
    neurons: ArrayLike,
    weights: ArrayLike,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The share of the change of N units that routing explains, with a bootstrap interval over relations.

    Args:
        routing, neurons: [R, N], the two parts of each unit's change, means over the prompts of each relation, nats.
        weights: [R], the number of prompts of each relation.
        draws: number of resamples.
        level: share of the draws that lies inside the interval.
        seed: of the draws.

    Returns:
        Numbers of shape []; NaN where nothing changed.

    Raises:
        OptionError: parts of different shapes, NaN or infinite ones, or what `bootstrap` refuses.
    """
    parts = finite("routing", routing, ndim=2), finite("neurons", neurons, ndim=2)
    if parts[0].shape != parts[1].shape:
        raise OptionError(
            f"routing has shape {parts[0].shape} and neurons {parts[1].shape}; expected [R, N] of both, the two parts "
            "of the same units on the same relations."
        )
    return bootstrap(_share, np.stack(parts, axis=1), weights, draws=draws, level=level, seed=seed)


def _share(parts: NDArray[Any]) -> FloatArray:
    """The share of parts [2, N], routing first."""
    routing, neurons = np.abs(parts).sum(axis=-1, dtype=np.float64)
    return ratio(routing, routing + neurons)
