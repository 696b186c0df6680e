"""The certified fast estimator: most scores from a few moments, each with a proven bound, the rest from the whole sum.

Under the frozen norm I = c·(u_target − a) − log E_p[exp(c·(u − a))] (`certificate`). For every block,

1. the logit lens gives p of each prompt, and one more product E_p[w], hence a = E_p[u] of all units (`distribution`);
2. with no token looked at, a unit's whole remainder is bounded by the spread of the unembedding (tier *linear*);
3. units with a pair whose bound exceeds the tolerance go on to the tokens that matter most, 256 of them, 1,024,
   4,096, … up to all: u over these tokens and its first two moments under p, two matrix products for all prompts
   (tier *moments*, `moments`). A unit stops as soon as the bounds of all its pairs are met, and a sample of units
   tells which numbers of tokens are worth stopping at (`stages`);
4. pairs that no set of tokens can settle, those that move the logits far, are summed exactly (`fallback`).

What depends on the checkpoint alone is prepared once: the unembedding's spread, and Σ_j u_j² of every unit. Of a
mixture of experts, only units of experts that some prompt was routed to are touched, expert by expert.
A softcap, or a norm that is recomputed, has no such form: there the exact estimator is used, and the counts of
`BlockScores.tiers` say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gated_lpi.lpi import exact
from gated_lpi.lpi.certificate import Estimate, Pairs, certify
from gated_lpi.lpi.distribution import Distribution, distribution
from gated_lpi.lpi.fallback import MAX_DIRECTIONS, exact_pairs
from gated_lpi.lpi.moments import MomentSums
from gated_lpi.lpi.problem import BlockProblem, BlockScores, Tier
from gated_lpi.lpi.rounding import full_precision, gamma, unit_roundoff
from gated_lpi.lpi.stages import Stage, all_stages, worthwhile
from gated_lpi.lpi.unembedding import Unembedding
from gated_lpi.models import Readout
from gated_lpi.trace import Slab

MAX_PAIRS = 2**20
SAMPLE = 16  # one unit in so many is scored first, to see which stages are worth it


class FastEstimator:
    """An `Estimator` for one checkpoint.

    Args:
        readout: the model's; what is prepared of it is kept.
        tolerance: largest error of a score, in nats.
        pairs: pairs of prompt and unit that are worked on at a time.
        numbers: numbers in a matrix of units and tokens, likewise.
    """

    def __init__(
        self, readout: Readout, tolerance: float, *, pairs: int = MAX_PAIRS, numbers: int = MAX_DIRECTIONS
    ) -> None:
        self.tolerance = tolerance
        self._max_pairs, self._max_numbers = pairs, numbers
        self._readout = readout
        self._table: Unembedding | None = None
        self._squares: dict[tuple[str, int, int], Tensor] = {}

    def __call__(self, problem: BlockProblem) -> BlockScores:
        """Score every unit of a block on every prompt, within the tolerance."""
        if not problem.frozen:
            return exact.score_block(problem)
        with full_precision():
            return self._score(problem)

    @property
    def table(self) -> Unembedding:
        """What is prepared of the unembedding, once."""
        if self._table is None:
            self._table = Unembedding(self._readout)
        return self._table

    def _score(self, problem: BlockProblem) -> BlockScores:
        n_prompts, device = len(problem.targets), problem.base.device
        p = distribution(self._readout, self.table, problem.base, problem.base_logits)
        found = BlockScores(
            torch.zeros(n_prompts, problem.n_units, dtype=torch.float64, device=device),
            torch.zeros(n_prompts, dtype=torch.float64, device=device),
            torch.zeros(n_prompts, len(Tier), dtype=torch.long, device=device),
        )
        left = _LeftOver()
        for slab in problem.slabs:
            for units in _unit_chunks(slab, self._max_pairs):
                part = Slab(slab.start + units.start, slab.values[units], slab.coefficients[:, units], slab.prompts)
                self._score_slab(problem, p, part, found, left)
        left.settle(problem, p, found, self.tolerance, self._max_numbers)
        return found

    def _score_slab(
        self, problem: BlockProblem, p: Distribution, slab: Slab, found: BlockScores, left: _LeftOver
    ) -> None:
        """Steps 2 and 3 for the units of one slab."""
        prompts = problem.prompts(slab)
        wide = problem.readout.fold(slab.values.double())
        folded = wide.to(slab.values.dtype)
        pairs = _pairs(problem, p, self.table, slab, wide, self._squares_of(problem, slab, folded))
        sums = MomentSums(self.table, p, folded, slab.prompts)
        best = _Best(pairs.c, self.tolerance)
        stages = all_stages(p.levels, pairs.c.shape[0], folded.shape[1])
        sample = torch.arange(0, len(folded), SAMPLE, device=folded.device)
        if len(sample) >= SAMPLE:
            trial = _Best(pairs.c[:, sample], self.tolerance)
            left_after = _climb(pairs.units(sample), sums.units(sample), trial, stages)
            stages = worthwhile(stages, p.levels, [count / len(sample) for count in left_after])
        _climb(pairs, sums, best, stages)
        found.scores[prompts, slab.start : slab.start + len(folded)] = best.score
        settled = torch.where(best.settled, best.bound, 0.0)
        found.error_bound[prompts] = torch.maximum(found.error_bound[prompts], settled.amax(dim=1))
        found.tiers[prompts] += torch.stack([(best.tier == tier).sum(dim=1) for tier in Tier], dim=1)
        left.add(problem, slab, prompts, best.settled)

    def _squares_of(self, problem: BlockProblem, slab: Slab, folded: Tensor) -> Tensor:
        """Upper bounds on Σ_j u_j² of a slab's units, [n]; computed once for a unit."""
        if not problem.key:
            return self.table.squares(folded)
        key = problem.key, slab.start % problem.units_of_block, len(folded)
        if key not in self._squares:
            self._squares[key] = self.table.squares(folded)
        return self._squares[key]


def _unit_chunks(slab: Slab, max_pairs: int) -> Iterator[slice]:
    """Ranges of units with at most so many pairs."""
    n_units = slab.values.shape[0]
    size = max(1, max_pairs // max(1, slab.coefficients.shape[0]))
    for start in range(0, n_units, size):
        yield slice(start, min(start + size, n_units))


def _climb(pairs: Pairs, sums: MomentSums, best: _Best, stages: Sequence[Stage]) -> list[int]:
    """Certify units stage by stage, those that are not settled; returns how many go on after each stage."""
    units = torch.arange(pairs.c.shape[1], device=pairs.c.device)
    left_after: list[int] = []
    for stage in stages:
        if stage.level:
            sums.extend(stage.level, stage.orders)
        estimate = certify(pairs, sums.moments, sums.region(stage.level), best.tolerance)
        going_on = best.take(estimate, units, Tier.MOMENTS if stage.level else Tier.LINEAR)
        chosen = going_on.any(dim=0).nonzero().squeeze(-1)
        left_after.append(len(chosen))
        if not len(chosen):
            break
        if len(chosen) < len(units):
            units, pairs, sums = units[chosen], pairs.units(chosen), sums.units(chosen)
    return left_after + [0] * (len(stages) - len(left_after))


def _pairs(
    problem: BlockProblem, p: Distribution, table: Unembedding, slab: Slab, folded: Tensor, squares: Tensor
) -> Pairs:
    """Step 1: a, and the linear term, of all pairs of a slab, with their rounding; `folded` [n, d] in float64."""
    prompts = problem.prompts(slab)
    c = slab.coefficients * problem.base_logits.inverse_scale[prompts].unsqueeze(-1)
    mean = p.mean[prompts]
    target = table.rows(problem.targets[prompts]).double() - mean
    size = c.abs() * torch.linalg.vector_norm(folded, dim=-1)
    rounding = gamma(folded.shape[1] + 8, torch.float64) * size * (4 * table.longest)
    return Pairs(
        c=c,
        shift=mean @ folded.T,
        gain=(target @ folded.T).mul_(c),
        size=size,
        shift_error=rounding + size * p.mean_error[prompts].unsqueeze(-1),
        gain_error=rounding + 2 * unit_roundoff(table.dtype) * size * table.longest,
        squares=squares,
    )


class _Best:
    """The best certified estimate of each pair of a slab so far: `score`, `bound`, `tier`, `settled`, [P', n]."""

    def __init__(self, c: Tensor, tolerance: float) -> None:
        self.tolerance = tolerance
        self.score = torch.zeros_like(c)
        self.bound = torch.full_like(c, torch.inf)
        self.tier = torch.full(c.shape, Tier.EXACT, dtype=torch.int32, device=c.device)

    @property
    def settled(self) -> Tensor:
        """Which pairs are within the tolerance."""
        return self.bound <= self.tolerance

    def take(self, estimate: Estimate, units: Tensor, tier: Tier) -> Tensor:
        """Keep an estimate of some units where it is better; returns the pairs that more tokens could settle."""
        whole = len(units) == self.score.shape[1]
        before = self.bound if whole else self.bound[:, units]
        better = estimate.bound < before
        bound = torch.where(better, estimate.bound, before)
        settled = better & (bound <= self.tolerance)
        if whole:
            self.score = torch.where(better, estimate.score, self.score)
            self.bound = bound
            self.tier.masked_fill_(settled, int(tier))
        else:
            self.score[:, units] = torch.where(better, estimate.score, self.score[:, units])
            self.bound[:, units] = bound
            self.tier[:, units] = self.tier[:, units].masked_fill(settled, int(tier))
        return bound > self.tolerance


class _LeftOver:
    """Step 4: the pairs of a block that are still to be summed exactly, of all its slabs together."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._count = 0

    def add(self, problem: BlockProblem, slab: Slab, prompts: Tensor, settled: Tensor) -> None:
        """Take the pairs of a slab that are not settled; NaN counts as not settled."""
        rows, columns = (~settled).nonzero(as_tuple=True)
        if not len(rows):
            return
        units, which = columns.unique(return_inverse=True)
        c = slab.coefficients[rows, columns] * problem.base_logits.inverse_scale[prompts[rows]]
        self._values.append(slab.values[units])
        self._parts.append((c, prompts[rows], which + self._count, columns + slab.start))
        self._count += len(units)

    def settle(
        self, problem: BlockProblem, p: Distribution, found: BlockScores, tolerance: float, numbers: int
    ) -> None:
        """Sum them, into the block's scores and bounds."""
        if not self._parts:
            return
        c, prompts, which, units = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        score, bound = exact_pairs(
            problem, p, torch.cat(self._values), c, prompts, which, tolerance=tolerance, numbers=numbers
        )
        found.scores[prompts, units] = score
        found.error_bound.scatter_reduce_(0, prompts, bound, "amax")
