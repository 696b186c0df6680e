"""An ablation beside its null: the chosen heads or units, and as many random ones, on the same facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gated_lpi.ablation.evaluate import target_ranks
from gated_lpi.errors import OptionError
from gated_lpi.facts import EncodedPrompt
from gated_lpi.interventions import silenced
from gated_lpi.metrics import hit_at_k
from gated_lpi.models import Model

Indices = NDArray[np.int64]


class Outcome(NamedTuple):
    """What silencing groups of units costs.

    Attributes:
        hit: HIT@k with the chosen groups silenced, a share.
        random_hits: HIT@k with as many random ones silenced, one value a draw.
    """

    hit: float
    random_hits: tuple[float, ...]


def compare_with_random(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    pool: Sequence[Indices],
    chosen: Indices,
    *,
    k: int = 10,
    draws: int = 10,
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> Outcome:
    """Silence the chosen groups of units, then random ones, and measure HIT@k each time.

    Args:
        model: the model.
        encoded: the facts that it is asked for.
        pool: the groups that there are, each as unit indices [n]: a head's units, or one unit by itself.
        chosen: [m], indices of groups in `pool`.
        k: the k of HIT@k.
        draws: random sets of as many groups, drawn from the whole pool without replacement.
        seed: of the draws.
        progress: called after each evaluation, `1 + draws` times.

    Raises:
        OptionError: nothing is chosen, or more than the pool holds.
    """
    if not 0 < len(chosen) <= len(pool):
        raise OptionError(f"{len(chosen)} groups were chosen of a pool of {len(pool)}; choose at least 1, at most all")
    generator = np.random.default_rng(seed)
    sets = [np.asarray(chosen)] + [generator.choice(len(pool), len(chosen), replace=False) for _ in range(draws)]
    hits = []
    for groups in sets:
        with silenced(model, np.concatenate([pool[group] for group in groups])):
            hits.append(hit_at_k(target_ranks(model, encoded), k))
        if progress is not None:
            progress()
    return Outcome(hits[0], tuple(hits[1:]))
