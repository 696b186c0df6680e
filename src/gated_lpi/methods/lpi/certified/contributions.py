"""Summed contributions, each one prompt's own, certified like units: heads, experts, blocks.

The bounds on units hold for any vector. But a head's summed contribution differs from prompt to prompt, so u over the
tokens is not shared: one vector costs what a unit costs that only one prompt uses. m of them go through the same steps,

1. no token: mean and envelope (`envelope`);
2. the first level of tokens: m dot products with each, in one matrix product, and two moments;
3. the other tokens by 8 bits (`eight_bit`) and four moments of those before; all tokens in the weights' dtype where a
   processor has no fast 8-bit products;
4. what is left is summed exactly (`exact_pairs`).

What rounding took from a vector while it was summed up (`Summed.slip`) moves a score by at most twice what it moves a
logit by, at most 2·slip·max‖w_j − w̄‖·max|γ|/σ.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gated_lpi.methods.lpi.certified import eight_bit
from gated_lpi.methods.lpi.certified.certificate import Moments, Pairs, certify
from gated_lpi.methods.lpi.certified.distribution import Distribution
from gated_lpi.methods.lpi.certified.envelope import Envelope
from gated_lpi.methods.lpi.certified.exact_pairs import exact_pairs
from gated_lpi.methods.lpi.certified.moments import TOKENS, lower_squares, region
from gated_lpi.methods.lpi.certified.prepared import Prepared, arithmetic
from gated_lpi.methods.lpi.groups import Found, Summed
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.methods.rounding import BlockedProduct, gamma, product_gamma, unit_roundoff

TILE_NUMBERS = 2**20  # numbers in a matrix of vectors and tokens, which stay in a processor's cache

MomentsOf = Callable[[Tensor, int], Moments]
"""Moments of some of the vectors, whose indices are [n], over the tokens of a level."""


def score_vectors(
    prepared: Prepared, problem: BlockProblem, p: Distribution, envelope: Envelope, given: Summed, tolerance: float
) -> Found:
    """Score what groups add, each on its prompt.

    Args:
        prepared: of the checkpoint.
        problem: the block whose base it is added to.
        p: its distributions.
        envelope: what bounds the tokens that are not looked at.
        given: the vectors.
        tolerance: what no bound should exceed.
    """
    return _Steps(prepared, problem, p, envelope, given, tolerance).score()


class _Steps:
    """The vectors on their way; arrays of pairs are [m, 1], as if every vector were the one unit of a prompt."""

    def __init__(
        self,
        prepared: Prepared,
        problem: BlockProblem,
        p: Distribution,
        envelope: Envelope,
        given: Summed,
        tolerance: float,
    ) -> None:
        self._prepared, self._problem, self._p, self._envelope = prepared, problem, p, envelope
        self._table, self._given = prepared.table, given
        self._dtype = arithmetic(problem, tolerance)
        self._slip = _moved_by_slip(prepared, problem, given)
        self._tolerance = tolerance * (1 - 4 * unit_roundoff(self._dtype))
        self._scores = torch.zeros(len(given.prompts), 1, dtype=torch.float64, device=given.vectors.device)
        self._bound = torch.full_like(self._scores, torch.inf)
        self._pairs, self._folded = self._lay_out()

    def score(self) -> Found:
        """All steps."""
        left = self._certify(torch.arange(len(self._slip), device=self._slip.device), self._nothing, 0)
        if len(self._p.levels) > 2:
            left = self._certify(left, self._over_first_level, 1)
            if eight_bit.supported(self._slip.device.type):
                left = self._certify(left, self._roughly_over_others, 1)
        left = self._certify(left, self._over_all, len(self._p.levels) - 1)
        if len(left):
            self._sum_exactly(left)
        return Found(self._scores.squeeze(1), self._bound.squeeze(1))

    def _lay_out(self) -> tuple[Pairs, Tensor]:
        """Pairs with a, the linear term and their rounding, as `parts.pairs_of` has them; folded vectors [m, d]."""
        problem, p, table, prompts = self._problem, self._p, self._table, self._given.prompts
        wide = problem.readout.fold(self._given.vectors)
        width, mean = wide.shape[1], p.mean[prompts]
        c = problem.base_logits.inverse_scale[prompts].double()
        length = torch.linalg.vector_norm(wide, dim=-1)
        shift = (mean * wide).sum(dim=-1).to(self._dtype)
        gain = (table.rows(problem.targets[prompts]).double() * wide).sum(dim=-1).sub_(shift).mul_(c)
        folded = wide.to(table.dtype)
        rounding = gamma(width + 8, torch.float64) * (4 * table.longest)
        error = p.mean_error[prompts] + product_gamma(width, self._dtype) * torch.linalg.vector_norm(mean, dim=-1)
        gain_error = torch.full_like(error, rounding + 2 * unit_roundoff(table.dtype) * table.longest)
        squares = self._envelope.squares(folded)

        def column(values: Tensor, dtype: torch.dtype) -> Tensor:
            return values.to(dtype).unsqueeze(-1)

        pairs = Pairs(
            c=column(c, self._dtype),
            shift=column(shift, self._dtype),
            gain=column(gain, self._dtype),
            length=column(length * (1 + 2 * unit_roundoff(self._dtype)), self._dtype),
            shift_error=column(error + rounding, torch.float64),
            gain_error=column(gain_error, torch.float64),
            squares=column(squares, torch.float64),
        )
        return pairs, folded

    def _certify(self, left: Tensor, moments_of: MomentsOf, level: int) -> Tensor:
        """Certify vectors [n] over the tokens of a level; those that are left."""
        if not len(left):
            return left
        pairs = Pairs(*(part[left] for part in self._pairs))
        at = region(self._table, self._p, self._envelope, self._given.prompts[left], level)
        slip = self._slip[left].unsqueeze(-1)
        room = (self._tolerance - slip).clamp_min(0.0).to(self._dtype)
        found = certify(pairs, moments_of(left, level), at, room)
        bound = found.bound.double() + slip
        better = bound < self._bound[left]
        self._scores[left] = torch.where(better, found.score.double(), self._scores[left])
        self._bound[left] = torch.where(better, bound, self._bound[left])
        return left[(~(self._bound[left] <= self._tolerance)).squeeze(-1)]

    def _nothing(self, left: Tensor, level: int) -> Moments:
        del level
        none = torch.zeros(len(left), 1, dtype=torch.float64, device=left.device)
        return Moments(none, none, none, none, none)

    def _over_first_level(self, left: Tensor, level: int) -> Moments:
        return self._summed(left, level, 2)

    def _over_all(self, left: Tensor, level: int) -> Moments:
        return self._summed(left, level, 4)

    def _roughly_over_others(self, left: Tensor, level: int) -> Moments:
        """Four moments over the first level, and 8 bits over the others."""
        second = torch.zeros(len(left), dtype=torch.float64, device=left.device)
        prompts = self._given.prompts[left]

        def take(u: Tensor, weight: Tensor) -> None:
            second.add_(u.square_().mul_(weight.index_select(0, prompts)).sum(dim=-1))

        ends = self._prepared.eight_bit(self._folded[left], self._p, level, take)
        second *= ends.scale.square()
        return self._summed(left, level, 4)._replace(
            outside_least=ends.least.unsqueeze(-1),
            outside_largest=ends.largest.unsqueeze(-1),
            outside_wrong=ends.wrong.unsqueeze(-1),
            outside_second=second.unsqueeze(-1),
        )

    def _summed(self, left: Tensor, level: int, orders: int) -> Moments:
        """Moments over the tokens of a level, a tile of vectors and tokens at a time."""
        p, last = self._p, self._p.levels[level]
        whole = level == len(p.levels) - 1
        like = self._folded
        sums = like.new_zeros(len(left), orders + 1, dtype=torch.float64)  # the last one under the envelope
        ends = like.new_full((2, len(left)), -torch.inf)  # −least, largest
        tokens = min(TOKENS, last)
        step = max(1, TILE_NUMBERS // tokens)
        multiply = BlockedProduct(min(step, len(left)), tokens, like)
        for start in range(0, last, tokens):
            some = slice(start, min(start + tokens, last))
            rows = self._table.weight[some] - self._table.mean if whole else p.rows(self._table, some)
            probability = p.log_p[:, some].exp() if whole else p.p[:, some]
            weight = None if whole else self._envelope.weights[some]
            for first in range(0, len(left), step):
                here = slice(first, first + step)
                u = multiply(like[left[here]], rows.T)
                ends[0, here] = torch.maximum(ends[0, here], -u.amin(dim=1))
                ends[1, here] = torch.maximum(ends[1, here], u.amax(dim=1))
                if weight is not None:
                    sums[here, orders] += u.square() @ weight
                weighted = probability.index_select(0, self._given.prompts[left[here]])
                for order in range(orders):
                    sums[here, order] += weighted.mul_(u).sum(dim=-1)
        mass = self._envelope.mass[0] - self._envelope.mass[level]
        lower = lower_squares(self._table, like[left], sums[:, orders], mass).unsqueeze(-1)
        least, largest = -ends[0].unsqueeze(-1), ends[1].unsqueeze(-1)
        first, second, *higher = sums[:, :orders].split(1, dim=1)
        return Moments(first, second, lower, least, largest, *higher)

    def _sum_exactly(self, left: Tensor) -> None:
        """Step 4, of the vectors as the weights' dtype has them."""
        some = self._given.some(left)
        values = some.vectors.to(self._table.dtype)
        lost = torch.linalg.vector_norm(some.vectors - values.double(), dim=-1)
        slip = _moved_by_slip(self._prepared, self._problem, some._replace(slip=some.slip + lost))
        c = self._problem.base_logits.inverse_scale[some.prompts].double()
        each = torch.arange(len(left), device=left.device)
        score, bound = exact_pairs(
            self._problem,
            self._p,
            values,
            c,
            some.prompts,
            each,
            tolerance=self._tolerance,
            numbers=self._prepared.room.numbers,
        )
        self._scores[left], self._bound[left] = score.unsqueeze(-1), (bound + slip).unsqueeze(-1)


def _moved_by_slip(prepared: Prepared, problem: BlockProblem, given: Summed) -> Tensor:
    """How far scores may be off because vectors are off by their `slip`, [m] in float64."""
    readout = problem.readout
    folding = float(readout.gamma.abs().max()) / readout.divisor
    c = problem.base_logits.inverse_scale[given.prompts].double()
    return 2 * given.slip * c * (folding * prepared.table.longest * (1 + 1e-6))
