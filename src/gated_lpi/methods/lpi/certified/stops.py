"""Where the units of a block stop to be certified, and under which envelope: as a sample shows to be cheapest.

Every stop settles some units and so spares them what follows; but units that go on anyway have been certified for
nothing, and the whole vocabulary is summed from its start. With the share of units that are left after each stop known
from a sample, the cheapest choice is found by going through all of them. Costs are counted in multiply-adds for a unit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch

from gated_lpi.methods.lpi.certified import eight_bit
from gated_lpi.methods.lpi.certified import envelope as envelopes
from gated_lpi.methods.lpi.certified.distribution import Distribution
from gated_lpi.methods.lpi.certified.envelope import Envelope
from gated_lpi.methods.lpi.certified.moments import FoldedUnits, MomentSums
from gated_lpi.methods.lpi.certified.parts import Best, Part, climb, pairs_of
from gated_lpi.methods.lpi.certified.prepared import Prepared, Stops
from gated_lpi.methods.problem import BlockProblem

SAMPLE = 16  # one unit in so many is scored first
MAX_SAMPLE = 128
CERTIFYING = 1250  # multiply-adds that take as long as certifying one pair
HOPE = 0.3  # of what uniform envelopes cost above the least possible, this should remain under a fitted one

ROUGH_TILES = 40  # multiply-adds that take as long as turning one product of 8 bits into a square
LEFT_BY_ROUGH = 0.1  # share of units that 8 bits leave to all tokens, about
LEFT_BY_TWO = 0.25  # share of units that two moments over the whole vocabulary leave to four, about


def choose(
    prepared: Prepared, problem: BlockProblem, p: Distribution, dtype: torch.dtype
) -> tuple[tuple[int, ...], Envelope]:
    """Levels to stop at before the last one, and the envelope; what was chosen for a block that was seen before stays.

    Args:
        prepared: of the checkpoint; keeps what is chosen for blocks that have a key.
        problem: the block.
        p: its distributions.
        dtype: of certificates.
    """
    key = problem.key, len(problem.targets).bit_length()
    before = prepared.choices.get(key)
    if before is not None:
        make = envelopes.fitted if before.fitted else envelopes.uniform
        return before.levels, make(prepared.table, p)
    levels, envelope = _cheapest(prepared, problem, p, dtype)
    if problem.key:
        prepared.choices[key] = Stops(levels, fitted=not envelope.of_checkpoint)
    return levels, envelope


def _cheapest(
    prepared: Prepared, problem: BlockProblem, p: Distribution, dtype: torch.dtype
) -> tuple[tuple[int, ...], Envelope]:
    """By a sample of the slab that has most pairs; all levels and no fitting where there are few units."""
    uniform, stops = envelopes.uniform(prepared.table, p), tuple(range(len(p.levels) - 1))
    if not problem.slabs:
        return stops, uniform
    slab = max(problem.slabs, key=lambda slab: slab.coefficients.numel())
    n_prompts, n_units = slab.coefficients.shape
    step = max(SAMPLE, n_units // MAX_SAMPLE, n_units * n_prompts // prepared.room.pairs)
    if n_units < SAMPLE * step:
        return stops, uniform
    costs = Costs(n_prompts, slab.values.shape[1], p.levels, eight_bit.speed(p.log_p.device.type))
    sample = Part.of(slab, slice(0, n_units, step)).into_range(prepared.reach)
    pairs, folded = pairs_of(problem, p, prepared.table, sample, dtype)
    sample = sample._replace(pairs=pairs)
    units = FoldedUnits(folded, sample.prompts)

    def choice(envelope: Envelope) -> Choice:
        under = sample.under(envelope.squares(units.folded))
        best = Best(under.c, prepared.tolerance * problem.share)
        sums = MomentSums(prepared.table, p, envelope, [units])
        *_, left_after = climb([under], sums, [best], stops)
        found = worthwhile(costs, stops, [count / len(units.folded) for count in left_after])
        return found._replace(cost=found.cost + (0.0 if envelope.of_checkpoint else costs.quadratic))

    found = choice(uniform)
    n_all = sum(len(slab.values) for slab in problem.slabs)
    if fitting_pays(costs, found.cost, n_all, envelopes.fitting_cost(p, costs.width)):
        fitted = envelopes.fitted(prepared.table, p)
        other = choice(fitted)
        if other.cost < found.cost:
            return other.levels, fitted
    return found.levels, uniform


class Costs(NamedTuple):
    """What a unit's cost depends on; costs are in multiply-adds.

    Attributes:
        prompts: how many use it.
        width: of the residual stream.
        levels: numbers of tokens of the levels.
        eight_bit: how much faster than those of float32 products of 8 bits are, which what is left goes through before
            all tokens are looked at; 0: it does not.
    """

    prompts: int
    width: int
    levels: Sequence[int]
    eight_bit: float = 0.0

    def stop(self, tokens: int) -> float:
        """The cost of looking at so many tokens more, and certifying."""
        return tokens * (self.width + 2 * self.prompts) + CERTIFYING * self.prompts

    @property
    def last(self) -> float:
        """The cost of what follows the last stop: all tokens, by 8 bits or not."""
        if not self.eight_bit:
            return self.stop(self.levels[-1])
        rough = self.width / self.eight_bit + self.prompts + ROUGH_TILES
        return self.levels[-1] * rough + self.stop(2 * self.levels[1]) + LEFT_BY_ROUGH * self.stop(self.levels[-1])

    @property
    def orders(self) -> int:
        """How many moments over the whole vocabulary to take at first: four, if a second pass would cost more."""
        two, four = (self.width + orders * self.prompts for orders in (2, 4))
        return 4 if four < two + LEFT_BY_TWO * four else 2

    @property
    def least_fitted(self) -> float:
        """The cost under a fitted envelope, if no token has to be looked at."""
        return self.quadratic + self.stop(0)

    @property
    def quadratic(self) -> float:
        """The cost of one quadratic form, of which half is multiplied."""
        return 0.6 * self.width**2


class Choice(NamedTuple):
    """Where to stop, and what that costs.

    Attributes:
        levels: those to stop at before the last one.
        cost: of a unit, in multiply-adds.
    """

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
        return total + share * costs.last

    best = min(choices, key=cost)
    return Choice(best, cost(best))


def fitting_pays(costs: Costs, uniform: float, units: int, fitting: float) -> bool:
    """Whether to fit an envelope.

    Args:
        costs: of a unit.
        uniform: what each unit costs without, in multiply-adds.
        units: how many there are.
        fitting: what it takes once, in multiply-adds.
    """
    return (1 - HOPE) * (uniform - costs.least_fitted) * units > fitting
