"""Which sets of tokens the fast estimator stops at: those that a sample of units shows to be worth it.

Every stop settles some units and so spares them what follows; but units that go on anyway have been certified for
nothing, and the last set is summed from its start. With the share of units that are left after each stage known from
a sample, the cheapest choice of stages is found by going through all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

CERTIFYING = 300  # what certifying a unit's pairs costs, in tokens that could be summed instead


class Stage(NamedTuple):
    """A set of tokens, as an index into the levels, and how many moments over it."""

    level: int
    orders: int


def all_stages(levels: Sequence[int], n_prompts: int, width: int) -> tuple[Stage, ...]:
    """Every level with two moments, the last with four besides.

    With few prompts the products that give u cost more than the moments of it; then the last level has four at once.
    """
    last = len(levels) - 1
    many_prompts = 4 * n_prompts > width
    final = [Stage(last, 2), Stage(last, 4)] if many_prompts else [Stage(last, 4)]
    return (*(Stage(level, 2) for level in range(last)), *final)


def worthwhile(stages: Sequence[Stage], levels: Sequence[int], left_after: Sequence[float]) -> tuple[Stage, ...]:
    """The cheapest of the stages, those at the last level always among them.

    Args:
        stages: from `all_stages`.
        levels: numbers of tokens.
        left_after: share of units that go on after each stage, if none is left out.
    """
    last = len(levels) - 1
    optional = [i for i, stage in enumerate(stages) if stage.level < last]
    choices = itertools.chain.from_iterable(itertools.combinations(optional, n) for n in range(len(optional) + 1))
    final = next(levels[stage.level] for stage in stages if stage.level == last)

    def cost(chosen: tuple[int, ...]) -> float:
        total, share, summed = 0.0, 1.0, 0
        for i in chosen:
            total += share * (levels[stages[i].level] - summed + CERTIFYING)
            share, summed = left_after[i], levels[stages[i].level]
        return total + share * (final + CERTIFYING)

    best = min(choices, key=cost)
    return tuple(stage for i, stage in enumerate(stages) if i in best or stage.level == last)
