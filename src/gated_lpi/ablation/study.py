"""An ablation beside its null: the chosen heads or units, and as many random ones, on the same facts and text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gated_lpi.ablation.damage import text_loss
from gated_lpi.ablation.recall import recall
from gated_lpi.errors import OptionError
from gated_lpi.facts import EncodedPrompt
from gated_lpi.interventions import silenced
from gated_lpi.metrics import hit_at_k
from gated_lpi.models import Model
from gated_lpi.options import Answer

Indices = NDArray[np.int64]


class Outcome(NamedTuple):
    """What silencing groups of units costs.

    Attributes:
        hit: HIT@k with the chosen groups silenced, a share.
        random_hits: HIT@k with as many random ones silenced, one value a draw.
        text_loss: loss on the given text with the chosen groups silenced, nats per token; None without a text.
        random_text_losses: the same with the random ones.
        by_relation: HIT@k of each relation with the chosen groups silenced.
        random_by_relation: the same with the random ones, mean over the draws.
    """

    hit: float
    random_hits: tuple[float, ...]
    text_loss: float | None = None
    random_text_losses: tuple[float, ...] = ()
    by_relation: Mapping[str, float] = {}
    random_by_relation: Mapping[str, float] = {}


class _Measured(NamedTuple):
    hit: float
    text_loss: float | None
    by_relation: Mapping[str, float]


Known = dict[tuple[int, int], list[_Measured]]
"""What random sets cost, by the size of the pool and of the set: the same for whatever was chosen."""


def compare_with_random(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    pool: Sequence[Indices],
    chosen: Indices,
    *,
    k: int = 10,
    draws: int = 10,
    seed: int = 0,
    answer: Answer = "first",
    text: Sequence[Sequence[int]] = (),
    known: Known | None = None,
    progress: Callable[[], None] | None = None,
) -> Outcome:
    """Silence the chosen groups of units, then random ones, and measure HIT@k each time, and the loss on a text.

    Args:
        model: the model.
        encoded: the facts that it is asked for.
        pool: the groups that there are, each as unit indices [n]: a head's units, or one unit by itself.
        chosen: [m], indices of groups in `pool`.
        k: the k of HIT@k.
        draws: random sets of as many groups, drawn from the whole pool without replacement.
        seed: of the draws.
        answer: whose rank counts: the "first" token of the answer, or the worst of "all" of them.
        text: windows of a text, from `text_windows`, on which the damage to all else is measured; empty: it is not.
        known: kept between calls on one model, pool, text and seed, so that random sets of one size are measured once.
        progress: called after each evaluation, `1 + draws` times.

    Raises:
        OptionError: nothing is chosen, or more than the pool holds.
    """
    if not 0 < len(chosen) <= len(pool):
        raise OptionError(f"{len(chosen)} groups were chosen of a pool of {len(pool)}; choose at least 1, at most all")
    generator = np.random.default_rng(seed)
    sets = [np.asarray(chosen)] + [generator.choice(len(pool), len(chosen), replace=False) for _ in range(draws)]

    def measure(groups: Indices) -> _Measured:
        with silenced(model, np.concatenate([pool[group] for group in groups])):
            ranks = recall(model, encoded, answer).ranks
            damage = text_loss(model, text) if text else None
        found = _Measured(hit_at_k(ranks, k), damage, hit_by_relation(ranks, encoded, k))
        if progress is not None:
            progress()
        return found

    best = measure(sets[0])
    kept = {} if known is None else known
    key = len(pool), len(chosen)
    if key not in kept:
        kept[key] = [measure(groups) for groups in sets[1:]]
    elif progress is not None:
        for _ in kept[key]:
            progress()
    losses = tuple(one.text_loss for one in kept[key] if one.text_loss is not None)
    random = {name: float(np.mean([one.by_relation[name] for one in kept[key]])) for name in best.by_relation}
    hits = tuple(one.hit for one in kept[key])
    return Outcome(best.hit, hits, best.text_loss, losses, best.by_relation, random)


def hit_by_relation(ranks: Indices, encoded: Sequence[EncodedPrompt], k: int) -> dict[str, float]:
    """HIT@k of each relation, in the order in which they come.

    Args:
        ranks: [P], of the targets.
        encoded: the P prompts.
        k: the k of HIT@k.
    """
    relations = np.array([item.prompt.relation for item in encoded])
    return {str(name): hit_at_k(ranks[relations == name], k) for name in dict.fromkeys(relations.tolist())}
