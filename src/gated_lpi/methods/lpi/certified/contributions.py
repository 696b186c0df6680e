"""Summed contributions, each one prompt's own, certified like units: heads, experts, blocks.

The bounds on units hold for any vector. But a head's summed contribution differs from prompt to prompt, so u over the
tokens is not shared: one vector costs what a unit costs that only one prompt uses. m of them go through the same steps,

1. no token: mean and envelope (`envelope`);
2. the first level of tokens: m dot products with each, in one matrix product, and four moments;
3. all the other tokens by 8 bits (`eight_bit`);
4. four moments over all tokens. Those of heads come from u of the block's units, which all prompts share: the head's
   vector is Σ_i m_i·v_i, so its u is Σ_i m_i·u_i, d_h products for each token in place of d (`_by_units`);
5. what is left is summed exactly (`exact_pairs`).

Of 3 and 4 the cheaper one is gone first, by how many vectors 3 is likely to leave (`_rough_pays`).

What rounding took from a vector while it was summed up (`Summed.slip`) moves a score by at most twice what it moves a
logit by, at most 2·slip·max‖w_j − w̄‖·max|γ|/σ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

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
LIKELY, LARGEST_Y = 1.6, 4.5  # of likely tokens, and of the most that is moved, y over its root mean square, about
ROUGHLY = 0.02  # how wrong 8 bits are, over the root mean square of y, about
ROUGH_COST = 0.35  # of a vector that goes through 8 bits, over one that goes to all tokens, about

Tiles = Callable[[Tensor], Iterator[tuple[slice, Tensor]]]
"""From rows of the unembedding [tokens, d], u [n, tokens] of some of the vectors at a time, and which they are."""

MomentsOf = Callable[[Tensor, int], Moments]
"""Moments of some of the vectors, whose indices are [n], over the tokens of a level."""


class Units(NamedTuple):
    """The units that heads are sums of.

    Attributes:
        folded: [n, d], their folded value vectors, head after head.
        coefficients: [H, P, n / H], in the weights' dtype.
        size: [H, P], float64, Σ of |coefficient|·‖folded value vector‖ over each head.
    """

    folded: Tensor
    coefficients: Tensor
    size: Tensor

    @property
    def n_heads(self) -> int:
        """H."""
        return len(self.coefficients)


def score_vectors(
    prepared: Prepared,
    problem: BlockProblem,
    p: Distribution,
    envelope: Envelope,
    given: Summed,
    tolerance: float,
    units: Units | None = None,
) -> Found:
    """Score what groups add, each on its prompt.

    Args:
        prepared: of the checkpoint.
        problem: the block whose base it is added to.
        p: its distributions.
        envelope: what bounds the tokens that are not looked at.
        given: the vectors.
        tolerance: what no bound should exceed.
        units: what heads are sums of; their vectors then come head after head.
    """
    return _Steps(prepared, problem, p, envelope, given, tolerance, units).score()


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
        units: Units | None = None,
    ) -> None:
        self._units = units
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
            left = self._certify(left, self._summed, 1)
            if eight_bit.supported(self._slip.device.type) and self._rough_pays(left):
                left = self._certify(left, self._roughly_over_others, 1)
        factored = self._units is not None and len(left) > self._fewest_factored
        left = self._certify(left, self._by_units if factored else self._summed, len(self._p.levels) - 1)
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
        if moments_of == self._by_units:
            at = at._replace(unit_rounding=self._rounding_by_units(left))
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

    @property
    def _fewest_factored(self) -> float:
        """From how many heads on their u is cheaper from that of the units; 0 if there are no units."""
        if self._units is None:
            return 0.0
        n_units, width = self._units.folded.shape
        return n_units * width / (width - n_units / self._units.n_heads + 1)

    def _rough_pays(self, left: Tensor) -> bool:
        """Whether 8 bits, and all tokens for what they leave, cost less than all tokens at once."""
        if not len(left):
            return False
        p, prompts, vocabulary = self._p, self._given.prompts[left], self._p.levels[-1]
        size = self._pairs.c[left].double().abs() * self._pairs.length[left].double() * self._table.root_mean_square
        outside, largest = 1 - p.inside[1][prompts], p.tail_max[1][prompts]
        y = LIKELY * size.squeeze(-1) / self._folded.shape[1] ** 0.5  # about what a vector moves a likely logit by
        doubt = outside * y.square() * (y * LARGEST_Y / 6 + ROUGHLY * (largest * vocabulary / outside).sqrt())
        remaining = len(left) * float((doubt > self._tolerance / 2).double().mean())
        factored = self._fewest_factored or len(left)
        return ROUGH_COST * len(left) + min(remaining, factored) < min(len(left), factored)

    def _roughly_over_others(self, left: Tensor, level: int) -> Moments:
        """Four moments over the first level, and 8 bits over the others."""
        second = torch.zeros(len(left), dtype=torch.float64, device=left.device)
        prompts = self._given.prompts[left]

        def take(u: Tensor, weight: Tensor) -> None:
            second.add_(u.square_().mul_(weight.index_select(0, prompts)).sum(dim=-1))

        ends = self._prepared.eight_bit(self._folded[left], self._p, level, take)
        second *= ends.scale.square()
        return self._summed(left, level)._replace(
            outside_least=ends.least.unsqueeze(-1),
            outside_largest=ends.largest.unsqueeze(-1),
            outside_wrong=ends.wrong.unsqueeze(-1),
            outside_second=second.unsqueeze(-1),
        )

    def _summed(self, left: Tensor, level: int) -> Moments:
        """Four moments over the tokens of a level."""
        like = self._folded
        step = max(1, TILE_NUMBERS // min(TOKENS, self._p.levels[level]))
        multiply = BlockedProduct(min(step, len(left)), min(TOKENS, self._p.levels[level]), like)

        def tiles(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
            for first in range(0, len(left), step):
                here = slice(first, first + step)
                yield here, multiply(like[left[here]], rows.T)

        return self._moments(left, level, tiles)

    def _by_units(self, left: Tensor, level: int) -> Moments:
        """The same for heads, from u of the units."""
        assert self._units is not None
        units, like = self._units, self._folded
        heads, counts = self._given.groups[left].unique_consecutive(return_counts=True)
        coefficients = [
            units.coefficients[head][some]
            for head, some in zip(heads.tolist(), self._given.prompts[left].split(counts.tolist()), strict=True)
        ]
        multiply = BlockedProduct(len(units.folded), TOKENS, like)

        def tiles(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
            of_units = multiply(units.folded, rows.T).view(units.n_heads, -1, len(rows))
            first = 0
            for head, some in zip(heads.tolist(), coefficients, strict=True):
                yield slice(first, first + len(some)), some @ of_units[head]
                first += len(some)

        return self._moments(left, level, tiles)

    def _rounding_by_units(self, left: Tensor) -> Tensor:
        """Bound on the rounding of u from that of the units, over ‖v‖·max‖w_j − w̄‖: [n, 1]."""
        assert self._units is not None
        units, dtype = self._units, self._table.dtype
        width = units.folded.shape[1]
        size = units.size[self._given.groups[left], self._given.prompts[left]].unsqueeze(-1)
        both = product_gamma(width, dtype) + gamma(len(units.folded) // units.n_heads + 4, dtype)
        return both * (1 + both) * size / self._pairs.length[left].double().clamp_min(torch.finfo(dtype).tiny)

    def _moments(self, left: Tensor, level: int, tiles: Tiles) -> Moments:
        """Four moments over the tokens of a level; `tiles` gives u [n, tokens] of some of the vectors at a time."""
        p, last, like = self._p, self._p.levels[level], self._folded
        whole, prompts = level == len(p.levels) - 1, self._given.prompts[left]
        sums = like.new_zeros(len(left), 5, dtype=torch.float64)  # the last one under the envelope
        ends = like.new_full((2, len(left)), -torch.inf)  # −least, largest
        for start in range(0, last, TOKENS):
            some = slice(start, min(start + TOKENS, last))
            rows = self._table.weight[some] - self._table.mean if whole else p.rows(self._table, some)
            probability = p.log_p[:, some].exp() if whole else p.p[:, some]
            for here, u in tiles(rows):
                ends[0, here] = torch.maximum(ends[0, here], -u.amin(dim=1))
                ends[1, here] = torch.maximum(ends[1, here], u.amax(dim=1))
                if not whole:
                    sums[here, 4] += u.square() @ self._envelope.weights[some]
                weighted = probability.index_select(0, prompts[here])
                for order in range(4):
                    sums[here, order] += weighted.mul_(u).sum(dim=-1)
        mass = self._envelope.mass[0] - self._envelope.mass[level]
        lower = lower_squares(self._table, like[left], sums[:, 4], mass).unsqueeze(-1)
        least, largest = -ends[0].unsqueeze(-1), ends[1].unsqueeze(-1)
        first, second, third, fourth = sums[:, :4].split(1, dim=1)
        return Moments(first, second, lower, least, largest, third, fourth)

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
