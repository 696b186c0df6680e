"""Which sets of tokens the fast estimator stops at, and under which envelope, as a sample of units shows to pay.

Every stop settles some units and so spares them what follows; but units that go on anyway have been certified for
nothing, and the whole vocabulary is summed from its start. With the share of units that are left after each stop known
from a sample, the cheapest choice is found by going through all of them. Costs are counted in multiply-adds for a unit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

CERTIFYING = 1250  # multiply-adds that take as long as certifying one pair
HOPE = 0.3  # of what uniform stages cost above the least possible, this is expected to remain under a fitted envelope

LEFT_BY_TWO = 0.25  # share of units that two moments over the whole vocabulary leave to four, about


class Costs(NamedTuple):
    """What a unit costs: `prompts` that use it, `width` of the residual stream, numbers of tokens of the `levels`."""

    prompts: int
    width: int
    levels: Sequence[int]

    def stop(self, tokens: int) -> float:
        """Look at so many tokens more, and certify."""
        return tokens * (self.width + 2 * self.prompts) + CERTIFYING * self.prompts

    @property
    def orders(self) -> int:
        """How many moments over the whole vocabulary to take at first: four, if a second pass would cost more."""
        two, four = (self.width + orders * self.prompts for orders in (2, 4))
        return 4 if four < two + LEFT_BY_TWO * four else 2

    @property
    def least_fitted(self) -> float:
        """Under a fitted envelope, if no token has to be looked at."""
        return self.quadratic + self.stop(0)

    @property
    def quadratic(self) -> float:
        """One quadratic form, of which half is multiplied."""
        return 0.6 * self.width**2


class Choice(NamedTuple):
    """Levels to stop at before the last one, and what a unit costs then."""

    levels: tuple[int, ...]
    cost: float


def worthwhile(costs: Costs, candidates: Sequence[int], left_after: Sequence[float]) -> Choice:
    """The cheapest of all choices of stops.

    Args:
        costs: of a unit.
        candidates: levels below the last, ascending.
        left_after: share of units that go on after each of them, if none is left out.
    """
    left = dict(zip(candidates, left_after, strict=True))
    choices = itertools.chain.from_iterable(itertools.combinations(candidates, n) for n in range(len(candidates) + 1))

    def cost(chosen: tuple[int, ...]) -> float:
        total, share, summed = 0.0, 1.0, 0
        for level in chosen:
            total += share * costs.stop(costs.levels[level] - summed)
            share, summed = left[level], costs.levels[level]
        return total + share * costs.stop(costs.levels[-1])

    best = min(choices, key=cost)
    return Choice(best, cost(best))


def fitting_pays(costs: Costs, uniform: float, units: int, fitting: float) -> bool:
    """Whether to fit an envelope: `uniform` is what each of `units` costs without, `fitting` what it takes once."""
    return (1 - HOPE) * (uniform - costs.least_fitted) * units > fitting
