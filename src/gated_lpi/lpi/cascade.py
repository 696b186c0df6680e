"""One block being scored: units go through steps of growing cost, each taking those that the one before left.

The steps are those of `fast`. What is left waits until there is much of it: products over the whole vocabulary are the
more efficient the more units share them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gated_lpi.lpi import envelope as envelopes
from gated_lpi.lpi import reach
from gated_lpi.lpi.certificate import certify
from gated_lpi.lpi.climb import Best, Part, climb
from gated_lpi.lpi.distribution import Distribution
from gated_lpi.lpi.envelope import Envelope
from gated_lpi.lpi.leftover import LeftOver
from gated_lpi.lpi.moments import MomentSums, Units, everything, region
from gated_lpi.lpi.problem import BlockProblem, BlockScores, Tier
from gated_lpi.lpi.reach import Bounds, Reach
from gated_lpi.lpi.rounding import unit_roundoff
from gated_lpi.lpi.stages import Choice, Costs, fitting_pays, worthwhile
from gated_lpi.lpi.unembedding import Unembedding
from gated_lpi.trace import Slab

SAMPLE = 16  # one unit in so many is scored first, to see which stages are worth it
MAX_SAMPLE = 256
REACH_SAMPLE = 128  # units that show whether bounds on u are worth having
FEW = 64
FINE = 1e-4  # nats: a smaller tolerance is not left to certificates in float32
REACH_WORTH = 0.65  # share of units that may be left after it


class Prepared(Protocol):
    """What is known of a checkpoint, and how the work is to be cut."""

    tolerance: float
    max_pairs: int
    max_numbers: int
    choices: dict[tuple[str, int, int], Stops]

    @property
    def table(self) -> Unembedding:
        """Of the unembedding."""
        ...

    @property
    def reach(self) -> Reach:
        """Of its rows in 8 bits."""
        ...

    def squares(self, problem: BlockProblem, part: Part, folded: Tensor, envelope: Envelope) -> Tensor:
        """Σ_j q_j·u_j² of units that follow each other, [n]."""
        ...


class Stops(NamedTuple):
    """Levels at which units of a block are certified, and whether under a fitted envelope."""

    levels: tuple[int, ...]
    fitted: bool


class _Step(enum.Enum):
    """What units wait for."""

    REACH = enum.auto()
    TWO_MOMENTS = enum.auto()
    FOUR_MOMENTS = enum.auto()


class Cascade:
    """Steps 2 to 5 for one block.

    Args:
        prepared: of the checkpoint.
        problem: the block.
        p: its distributions (step 1).
    """

    def __init__(self, prepared: Prepared, problem: BlockProblem, p: Distribution) -> None:
        n_prompts, device = len(problem.targets), problem.base.device
        self._prepared, self._problem, self._p, self._table = prepared, problem, p, prepared.table
        self._envelope = envelopes.uniform(self._table, p)
        fine = problem.base.dtype == torch.float64 or prepared.tolerance < FINE
        self._dtype = torch.float64 if fine else torch.float32  # of the certificates
        self._tolerance = prepared.tolerance * (1 - 4 * unit_roundoff(self._dtype))  # as it is compared in that dtype
        self._units_to_come = sum(len(slab.values) for slab in problem.slabs)
        self._reach_pays = reach.supported(device.type)
        self._waiting: dict[_Step, list[Part]] = {step: [] for step in _Step}
        self._left = LeftOver()
        self._found = BlockScores(
            torch.zeros(n_prompts, problem.n_units, dtype=problem.base.dtype, device=device),
            torch.zeros(n_prompts, dtype=torch.float64, device=device),
            torch.zeros(n_prompts, len(Tier), dtype=torch.long, device=device),
        )

    def score(self) -> BlockScores:
        """Score every unit that some prompt uses."""
        for slab in self._problem.slabs:
            if slab.coefficients.numel():
                self._score_slab(slab)
            self._units_to_come -= len(slab.values)
        for step in _Step:
            self._take(step)
        self._left.settle(self._problem, self._p, self._found, self._tolerance, self._prepared.max_numbers)
        return self._found

    def _score_slab(self, slab: Slab) -> None:
        """Steps 2 and 3, the likeliest tokens."""
        levels = self._levels(slab)
        n_prompts, n_units = slab.coefficients.shape
        size = max(1, self._prepared.max_pairs // n_prompts)
        for start in range(0, n_units, size):
            part, folded = self._with_pairs(Part.of(slab, slice(start, start + size)))
            squares = self._prepared.squares(self._problem, part, folded, self._envelope)
            self._wait(_Step.REACH, [self._climb(part, folded, squares, levels)])

    def _with_pairs(self, part: Part) -> tuple[Part, Tensor]:
        """Units with the linear terms of their pairs, and their value vectors folded, in the weights' dtype."""
        wide = self._problem.readout.fold(part.values.double())
        return part.with_pairs(self._problem, self._p, self._table, wide, self._dtype), wide.to(part.values.dtype)

    def _climb(
        self, part: Part, folded: Tensor, squares: Tensor, levels: Sequence[int], outside: Bounds | None = None
    ) -> Part:
        """Certify units level by level; returns those that are left."""
        pairs = part.pairs_under(squares)
        best = Best(pairs.c, self._tolerance)
        sums = MomentSums(self._table, self._p, self._envelope, Units(folded, part.prompts), outside)
        left, _ = climb(pairs, sums, best, levels)
        done = torch.ones(len(folded), dtype=torch.bool, device=left.device).index_fill_(0, left, value=False)
        self._record(part, best, done)
        return part.some(left)

    def _levels(self, slab: Slab) -> tuple[int, ...]:
        """Where to stop for the units of a slab: as was chosen for a slab of the block that had about its size."""
        n_prompts, n_units = slab.coefficients.shape
        key = self._problem.key, n_units, n_prompts.bit_length()
        before = self._prepared.choices.get(key)
        if before is None or not self._problem.key:
            levels = self._choose(slab)
            self._prepared.choices[key] = Stops(levels, fitted=not self._envelope.of_checkpoint)
            return levels
        if before.fitted and self._envelope.of_checkpoint:
            self._envelope = envelopes.fitted(self._table, self._p)
        return before.levels

    def _choose(self, slab: Slab) -> tuple[int, ...]:
        """The stops that a sample of a slab's units shows to be cheapest; fits the envelope if that pays."""
        n_prompts, n_units = slab.coefficients.shape
        step = max(SAMPLE, n_units // MAX_SAMPLE, n_units * n_prompts // self._prepared.max_pairs)
        if n_units < SAMPLE * step:
            return self._stops
        costs = Costs(n_prompts, slab.values.shape[1], self._p.levels)
        sample = Part.of(slab, slice(0, n_units, step))
        choice = self._choice(sample, costs)
        fitting = envelopes.fitting_cost(self._p, costs.width)
        if self._envelope.of_checkpoint and fitting_pays(costs, choice.cost, self._units_to_come, fitting):
            uniform = self._envelope
            self._envelope = envelopes.fitted(self._table, self._p)
            other = self._choice(sample, costs)
            if other.cost < choice.cost:
                return other.levels
            self._envelope = uniform
        return choice.levels

    @property
    def _stops(self) -> tuple[int, ...]:
        """All levels below the last."""
        return tuple(range(len(self._p.levels) - 1))

    def _choice(self, sample: Part, costs: Costs) -> Choice:
        """The cheapest stops for units like those of the sample, under the envelope as it is."""
        part, folded = self._with_pairs(sample)
        pairs = part.pairs_under(self._envelope.squares(folded))
        sums = MomentSums(self._table, self._p, self._envelope, Units(folded, sample.prompts))
        _, left_after = climb(pairs, sums, Best(pairs.c, self._tolerance), self._stops)
        choice = worthwhile(costs, self._stops, [count / len(folded) for count in left_after])
        return choice._replace(cost=choice.cost + (0.0 if self._envelope.of_checkpoint else costs.quadratic))

    def _wait(self, step: _Step, parts: Sequence[Part]) -> None:
        """Keep units for a step, and take it when there are enough."""
        waiting = self._waiting[step]
        waiting += [part for part in parts if len(part.units)]
        if sum(part.coefficients.numel() for part in waiting) >= self._prepared.max_pairs:
            self._take(step)

    def _take(self, step: _Step) -> None:
        """Take a step with the units that wait for it."""
        parts, self._waiting[step] = self._waiting[step], []
        if parts and step is _Step.REACH:
            self._score_within_reach(parts)
        elif parts:
            self._score_everywhere(parts, 4 if step is _Step.FOUR_MOMENTS else self._orders(parts))

    def _score_within_reach(self, parts: list[Part]) -> None:
        """Step 3 again, with bounds on u over the other tokens; the first few units show whether it pays."""
        for group in first_few(parts, REACH_SAMPLE):
            left = self._certify_within_reach(group) if group and self._reach_pays else group
            self._reach_pays &= _units(left) <= REACH_WORTH * _units(group)
            self._wait(_Step.TWO_MOMENTS, left)

    def _certify_within_reach(self, parts: Sequence[Part]) -> list[Part]:
        """At the largest level below the last; returns the units that are left."""
        folded = [self._fold(part) for part in parts]
        counts = [len(part.units) for part in parts]
        likeliest = self._p.order[: self._p.levels[-2]]
        bounds = self._prepared.reach(torch.cat(folded), likeliest)
        return [
            self._climb(part, some, self._envelope.squares(some), self._stops[-1:], outside)
            for part, some, outside in zip(parts, folded, bounds.split(counts), strict=True)
        ]

    def _orders(self, parts: Sequence[Part]) -> int:
        """How many moments to take of these units; of few, four cost little more than two."""
        prompts = sum(part.coefficients.numel() for part in parts) // _units(parts)
        return 4 if _units(parts) <= FEW else Costs(prompts, parts[0].values.shape[1], self._p.levels).orders

    def _score_everywhere(self, parts: Sequence[Part], orders: int) -> None:
        """Step 4: moments over all tokens, two, then four of the few units that are left."""
        units = [Units(self._fold(part), part.prompts) for part in parts]
        found = everything(self._table, self._p, units, orders)
        last = len(self._p.levels) - 1
        for part, moments in zip(parts, found, strict=True):
            pairs = part.pairs_under(moments.squares)  # nothing is outside
            whole = region(self._table, self._p, self._envelope, part.prompts, last)
            best = Best(pairs.c, self._tolerance)
            left = best.take(certify(pairs, moments, whole, self._tolerance), part.units, Tier.MOMENTS)
            if orders == 2:
                self._record(part, best, ~left)
                self._wait(_Step.FOUR_MOMENTS, [part.some(left)])
            else:
                self._record(part, best, torch.ones_like(left))
                self._left.add(self._problem, part, best.settled)

    def _fold(self, part: Part) -> Tensor:
        """Value vectors folded in float64, in the weights' dtype."""
        return self._problem.readout.fold(part.values.double()).to(part.values.dtype)

    def _record(self, part: Part, best: Best, done: Tensor) -> None:
        """Write the scores of the units that are done, [n] as a mask; pairs that are not settled get theirs later."""
        found, prompts = self._found, self._problem.prompts(part)
        found.scores[prompts.unsqueeze(-1), part.units[done]] = best.score[:, done].to(found.scores.dtype)
        settled = torch.where(best.settled & done, best.bound, 0.0)
        found.error_bound[prompts] = torch.maximum(found.error_bound[prompts], settled.amax(dim=1).double())
        found.tiers[prompts] += torch.stack([((best.tier == tier) & done).sum(dim=1) for tier in Tier], dim=1)


def _units(parts: Sequence[Part]) -> int:
    return sum(len(part.units) for part in parts)


def first_few(parts: Sequence[Part], count: int) -> tuple[list[Part], list[Part]]:
    """Parts with `count` units, or as many as there are, and the others; no part is empty."""
    few: list[Part] = []
    for number, part in enumerate(parts):
        missing = count - _units(few)
        if not missing:
            return few, list(parts[number:])
        if len(part.units) > missing:
            chosen = torch.arange(len(part.units), device=part.units.device)
            few.append(part.some(chosen[:missing]))
            return few, [part.some(chosen[missing:]), *parts[number + 1 :]]
        few.append(part)
    return few, []
