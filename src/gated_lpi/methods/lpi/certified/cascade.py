"""One block being scored: units go through steps of growing cost, each taking those that the one before left.

The steps are those of `fast`. What is left waits until there is much of it: products over the whole vocabulary are the
more efficient the more units share them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import torch
from torch import Tensor

from gated_lpi.methods.contract import BlockScores, Tier
from gated_lpi.methods.lpi.certified import eight_bit
from gated_lpi.methods.lpi.certified.certificate import certify
from gated_lpi.methods.lpi.certified.distribution import Distribution
from gated_lpi.methods.lpi.certified.eight_bit import Tail
from gated_lpi.methods.lpi.certified.envelope import Envelope
from gated_lpi.methods.lpi.certified.exact_pairs import exact_pairs
from gated_lpi.methods.lpi.certified.moments import FoldedUnits, MomentSums, everything, outside_by_eight_bit, region
from gated_lpi.methods.lpi.certified.parts import Best, Part, climb, fold, pairs_of
from gated_lpi.methods.lpi.certified.prepared import LaidOut, Prepared, arithmetic
from gated_lpi.methods.lpi.certified.stops import Costs
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.methods.rounding import unit_roundoff
from gated_lpi.trace import Slab

EIGHT_BIT_SAMPLE = 128  # units that show whether bounds on u are worth having
FEW = 64
EIGHT_BIT_WORTH = 0.65  # share of units that may be left after it


class _Queue(enum.Enum):
    """What units wait for."""

    EIGHT_BIT = enum.auto()
    TWO_MOMENTS = enum.auto()
    FOUR_MOMENTS = enum.auto()


class Cascade:
    """Steps 2 to 5 for one block.

    Args:
        prepared: of the checkpoint.
        problem: the block.
        laid: what step 1 made of it.
    """

    def __init__(self, prepared: Prepared, problem: BlockProblem, laid: LaidOut) -> None:
        n_prompts, device = len(problem.targets), problem.base.device
        self._prepared, self._problem, self._p, self._table = prepared, problem, laid.p, prepared.table
        self._dtype = arithmetic(problem, laid.tolerance)  # of the certificates
        self._tolerance = laid.tolerance * (1 - 4 * unit_roundoff(self._dtype))  # as it is compared in that dtype
        self._levels, self._envelope = laid.levels, laid.envelope
        self._eight_bit_pays = eight_bit.supported(device.type)
        self._rough_level = max(self._levels[-1] if self._levels else 0, min(1, len(laid.p.levels) - 2))
        self._waiting: dict[_Queue, list[Part]] = {queue: [] for queue in _Queue}
        self._left = _LeftOver()
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
        for queue in _Queue:
            self._take(queue)
        self._left.settle(self._problem, self._p, self._found, self._tolerance, self._prepared.room.numbers)
        return self._found

    def _score_slab(self, slab: Slab) -> None:
        """Steps 2 and 3, the likeliest tokens."""
        n_prompts, n_units = slab.coefficients.shape
        size = max(1, self._prepared.room.pairs // n_prompts)
        for start in range(0, n_units, size):
            part = Part.of(slab, slice(start, start + size)).into_range(self._prepared.reach)
            pairs, folded = pairs_of(self._problem, self._p, self._table, part, self._dtype)
            squares = self._prepared.squares(self._problem, int(part.units[0]), folded, self._envelope)
            part = part._replace(pairs=pairs._replace(squares=squares))
            self._wait(_Queue.EIGHT_BIT, self._climb([part], [folded], self._levels, self._envelope))

    def _climb(
        self,
        parts: Sequence[Part],
        folded: Sequence[Tensor],
        levels: Sequence[int],
        envelope: Envelope,
        outside: Sequence[Tail] | None = None,
    ) -> list[Part]:
        """Certify units level by level; returns those that are left."""
        pairs = [part.pairs for part in parts if part.pairs is not None]
        best = [Best(some.c, self._tolerance) for some in pairs]
        units = [FoldedUnits(values, part.prompts) for part, values in zip(parts, folded, strict=True)]
        seen = [part.moments for part in parts if part.moments is not None]
        before = self._levels[-1] if seen else 0
        orders = 2 if outside is None else 4
        sums = MomentSums(self._table, self._p, envelope, units, outside, seen or None, before, orders)
        left, sums, _ = climb(pairs, sums, best, levels)
        for part, found, kept in zip(parts, best, left, strict=True):
            done = torch.ones(len(part.units), dtype=torch.bool, device=kept.device).index_fill_(0, kept, value=False)
            self._record(part, found, done)
        further = any(levels) and outside is None  # whether tokens are added to these moments later
        return [
            part.some(kept)._replace(moments=moments if further else None)
            for part, kept, moments in zip(parts, left, sums.moments, strict=True)
        ]

    def _wait(self, queue: _Queue, parts: Sequence[Part]) -> None:
        """Keep units in a queue, and take it when there are enough."""
        waiting = self._waiting[queue]
        waiting += [part for part in parts if len(part.units)]
        if sum(part.coefficients.numel() for part in waiting) >= self._prepared.room.pairs:
            self._take(queue)

    def _take(self, queue: _Queue) -> None:
        """Take the units that wait in a queue."""
        parts, self._waiting[queue] = self._waiting[queue], []
        if parts and queue is _Queue.EIGHT_BIT:
            self._score_by_eight_bit(parts)
        elif parts:
            self._score_everywhere(parts, 4 if queue is _Queue.FOUR_MOMENTS else self._orders(parts))

    def _score_by_eight_bit(self, parts: list[Part]) -> None:
        """Step 3 again, with bounds on u over the other tokens; the first few units show whether it pays."""
        for group in first_few(parts, EIGHT_BIT_SAMPLE):
            left = self._certify_by_eight_bit(group) if group and self._eight_bit_pays else group
            self._eight_bit_pays &= _units(left) <= EIGHT_BIT_WORTH * _units(group)
            self._wait(_Queue.TWO_MOMENTS, left)

    def _certify_by_eight_bit(self, parts: Sequence[Part]) -> list[Part]:
        """At the last level that was stopped at, or the first with tokens; returns the units that are left."""
        folded, level = fold(self._problem.readout, parts), self._rough_level
        units = [FoldedUnits(values, part.prompts) for part, values in zip(parts, folded, strict=True)]
        outside = outside_by_eight_bit(self._prepared.eight_bit, self._p, units, level)
        return self._climb([part._replace(moments=None) for part in parts], folded, [level], self._envelope, outside)

    def _orders(self, parts: Sequence[Part]) -> int:
        """How many moments to take of these units; of few, four cost little more than two."""
        prompts = sum(part.coefficients.numel() for part in parts) // _units(parts)
        return 4 if _units(parts) <= FEW else Costs(prompts, parts[0].values.shape[1], self._p.levels).orders

    def _score_everywhere(self, parts: Sequence[Part], orders: int) -> None:
        """Step 4: moments over all tokens, two, then four of the few units that are left."""
        folded = fold(self._problem.readout, parts)
        units = [FoldedUnits(values, part.prompts) for part, values in zip(parts, folded, strict=True)]
        found = everything(self._table, self._p, units, orders)
        last = len(self._p.levels) - 1
        for part, moments in zip(parts, found, strict=True):
            pairs = part.under(moments.squares)  # nothing is outside
            whole = region(self._table, self._p, self._envelope, part.prompts, last)
            best = Best(pairs.c, self._tolerance)
            left = best.take(certify(pairs, moments, whole, self._tolerance), part.units, Tier.MOMENTS)
            if orders == 2:
                self._record(part, best, ~left)
                self._wait(_Queue.FOUR_MOMENTS, [part.some(left)])
            else:
                self._record(part, best, torch.ones_like(left))
                self._left.add(self._problem, part, best.settled)

    def _record(self, part: Part, best: Best, done: Tensor) -> None:
        """Write the scores of the units that are done, [n] as a mask; pairs that are not settled get theirs later."""
        found, prompts = self._found, self._problem.prompts(part)
        found.scores[prompts.unsqueeze(-1), part.units[done]] = best.score[:, done].to(found.scores.dtype)
        settled = torch.where(best.settled & done, best.bound, 0.0)
        found.error_bound[prompts] = torch.maximum(found.error_bound[prompts], settled.amax(dim=1).double())
        found.tiers[prompts] += torch.stack([((best.tier == tier) & done).sum(dim=1) for tier in Tier], dim=1)


class _LeftOver:
    """The pairs of a block that no moments settle, of all its slabs, to be summed exactly; settled once."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._count = 0

    def add(self, problem: BlockProblem, part: Part, settled: Tensor) -> None:
        """Take the pairs of some units that are not settled, [P', n]."""
        rows, columns = (~settled).nonzero(as_tuple=True)
        if not len(rows):
            return
        units, which = columns.unique(return_inverse=True)
        prompts = problem.prompts(part)[rows]
        c = part.coefficients[rows, columns] * problem.base_logits.inverse_scale[prompts]
        self._values.append(part.values[units])
        self._parts.append((c, prompts, which + self._count, part.units[columns]))
        self._count += len(units)

    def settle(
        self, problem: BlockProblem, p: Distribution, found: BlockScores, tolerance: float, numbers: int
    ) -> None:
        """Sum the pairs exactly, into the block's scores and bounds."""
        if not self._parts:
            return
        c, prompts, which, units = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        score, bound = exact_pairs(
            problem, p, torch.cat(self._values), c, prompts, which, tolerance=tolerance, numbers=numbers
        )
        found.scores[prompts, units] = score.to(found.scores.dtype)
        found.error_bound.scatter_reduce_(0, prompts, bound, "amax")


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
