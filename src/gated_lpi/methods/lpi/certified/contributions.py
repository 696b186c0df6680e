"""Summed contributions, each one prompt's own, certified like units: heads, experts, blocks.

The bounds on units hold for any vector. But a head's summed contribution differs from prompt to prompt, so u over the
tokens is not shared: one vector costs what a unit costs that only one prompt uses. m of them go through the same steps,

1. no token: mean and envelope (`envelope`);
2. the likeliest tokens, level by level: Σ p·g(y) term by term, which is no dearer than moments for one pair;
3. all the other tokens by 8 bits (`eight_bit`), if a sample shows that it pays (`_score_roughly`);
4. all the other tokens by two digits of 8 bits (`two_digits`), term by term, where these are fast;
5. all tokens, term by term;
6. what is left is summed exactly (`exact_pairs`).

In 2, 4 and 5 u of heads comes from u of the block's units where that is cheaper (`vector_products`).

What rounding took from a vector while it was summed up (`Summed.slip`) moves a score by at most twice what it moves a
logit by, at most 2·slip·max‖w_j − w̄‖·max|γ|/σ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.lpi.certified import eight_bit
from gated_lpi.methods.lpi.certified.certificate import Moments, Pairs, certify
from gated_lpi.methods.lpi.certified.exact_pairs import exact_pairs
from gated_lpi.methods.lpi.certified.moments import lower_squares, region
from gated_lpi.methods.lpi.certified.prepared import LaidOut, Prepared, arithmetic
from gated_lpi.methods.lpi.certified.vector_products import Products, Units, cut, of_tile
from gated_lpi.methods.lpi.groups import Found, Summed
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.methods.rounding import gamma, into_range, product_gamma, unit_roundoff

SAMPLE = 64  # vectors that show whether 8 bits pay
ROUGH_TERMS = 30  # multiply-adds that take as long as summing up one u that 8 bits gave


class Seen(NamedTuple):
    """Moments of vectors, and the γ of their u, [n, 1]; None where it is that of a product over the width."""

    moments: Moments
    rounding: Tensor | None


MomentsOf = Callable[[Tensor, int], Seen]
"""Moments of some of the vectors, whose indices are [n], over the tokens of a level."""


class _Sums(NamedTuple):
    """Sums over tokens, of n vectors.

    Attributes:
        terms: [n, 4], float64: Σp·u, Σp·u², Σp·g(y), and Σq·u² under the envelope.
        ends: [2, n], −least and largest u.
        rounding: [n, 1], float64, the γ of u; of a product over the width where nothing was added that was summed
            from units.
        c, shift: [n, 1], in the certificate's dtype, with y = c·(u − shift).
    """

    terms: Tensor
    ends: Tensor
    rounding: Tensor
    c: Tensor
    shift: Tensor

    @classmethod
    def nothing(cls, pairs: Pairs, folded: Tensor) -> _Sums:
        """Over no token, of folded vectors [n, d]."""
        terms = torch.zeros(len(folded), 4, dtype=torch.float64, device=folded.device)
        rounding = torch.full_like(terms[:, :1], product_gamma(folded.shape[1], folded.dtype))
        ends = folded.new_full((2, len(folded)), -torch.inf)
        return cls(terms, ends, rounding, pairs.c, pairs.shift)

    def some(self, chosen: Tensor) -> _Sums:
        """A copy of those whose indices are `chosen` [m]."""
        return _Sums(*(part[:, chosen] if part is self.ends else part[chosen] for part in self))

    def put(self, chosen: Tensor, sums: _Sums) -> None:
        """Write back what `some` gave."""
        self.terms[chosen], self.ends[:, chosen], self.rounding[chosen] = sums.terms, sums.ends, sums.rounding

    def rounded(self, rounding: Tensor | None) -> _Sums:
        """These, where u of tokens that are added has this γ."""
        return self if rounding is None else self._replace(rounding=torch.maximum(self.rounding, rounding))

    def take(self, here: slice, u: Tensor, p: Tensor, weights: Tensor | None) -> None:
        """Add tokens, in place: u, which is overwritten, and p [n', tokens] of some of the vectors; q [tokens]."""
        terms, ends = self.terms[here], self.ends[:, here]
        torch.maximum(ends[0], -u.amin(dim=1), out=ends[0])
        torch.maximum(ends[1], u.amax(dim=1), out=ends[1])
        power = u * u
        if weights is not None:
            terms[:, 3] += power @ weights
        terms[:, 1] += power.mul_(p).sum(dim=-1)
        terms[:, 0] += torch.mul(u, p, out=power).sum(dim=-1)
        y = u.to(self.c.dtype).sub_(self.shift[here]).mul_(self.c[here])
        power = torch.exp(y, out=power) if power.dtype == y.dtype else torch.exp(y)  # expm1 takes five times as long
        terms[:, 2] += power.sub_(y).sub_(1.0).mul_(p).sum(dim=-1)

    def moments(self, lower: Tensor) -> Moments:
        """As the certificate reads them; `lower` [n] is a lower bound on Σq·u²."""
        first, second, above, _ = self.terms.split(1, dim=1)
        least, largest = -self.ends[0].unsqueeze(-1), self.ends[1].unsqueeze(-1)
        return Moments(first, second, lower.unsqueeze(-1), least, largest, above=above)


class Vectors:
    """What groups add, each on its prompt, on its way; arrays of pairs are [m, 1], as if it were a prompt's one unit.

    Args:
        prepared: of the checkpoint.
        problem: the block whose base it is added to.
        laid: how that block is certified.
        given: the vectors.
        tolerance: what no bound should exceed.
        units: what heads are sums of; their vectors then come head after head.
    """

    def __init__(
        self,
        prepared: Prepared,
        problem: BlockProblem,
        laid: LaidOut,
        given: Summed,
        tolerance: float,
        units: Units | None = None,
    ) -> None:
        self._prepared, self._problem, self._p, self._envelope = prepared, problem, laid.p, laid.envelope
        self._table, self._given = prepared.table, given
        self._dtype = arithmetic(problem, tolerance)
        self._slip = _moved_by_slip(prepared, problem, given)
        self._tolerance = tolerance * (1 - 4 * unit_roundoff(self._dtype))
        self._scores = torch.zeros(len(given.prompts), 1, dtype=torch.float64, device=given.vectors.device)
        self._bound = torch.full_like(self._scores, torch.inf)
        self._scale = into_range(torch.linalg.vector_norm(given.vectors, dim=-1) * prepared.reach)
        self._pairs, self._folded = self._lay_out()
        self._sums = _Sums.nothing(self._pairs, self._folded)
        self._reached = 0
        summed_as_they_are = units if self._scale is None else None
        digits = self._dtype == torch.float32
        self._products = Products(prepared, laid.p, given, self._folded, summed_as_they_are, digits=digits)

    def score(self) -> Found:
        """All steps."""
        last = len(self._p.levels) - 1
        left = self._certify(torch.arange(len(self._slip), device=self._slip.device), self._nothing, 0)
        for level in range(1, last):
            left = self._certify(left, self._likeliest, level)
        if last > 1 and len(left) and eight_bit.supported(self._slip.device.type):
            left = self._score_roughly(left, last - 1)
        if last > 1 and self._products.digits < 1:
            left = self._certify(left, self._outside_by_two_digits, last - 1)
        left = self._certify(left, self._everywhere, last)
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
        if self._scale is not None:
            wide, length, c = wide * self._scale.unsqueeze(-1), length * self._scale, c / self._scale
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
        moments, rounding = moments_of(left, level)
        at = region(self._table, self._p, self._envelope, self._given.prompts[left], level)
        at = at if rounding is None else at._replace(unit_rounding=rounding)
        slip = self._slip[left].unsqueeze(-1)
        room = (self._tolerance - slip).clamp_min(0.0).to(self._dtype)
        found = certify(pairs, moments, at, room)
        bound = found.bound.double() + slip
        better = bound < self._bound[left]
        self._scores[left] = torch.where(better, found.score.double(), self._scores[left])
        self._bound[left] = torch.where(better, bound, self._bound[left])
        return left[(~(self._bound[left] <= self._tolerance)).squeeze(-1)]

    def _nothing(self, left: Tensor, level: int) -> Seen:
        del level
        none = torch.zeros(len(left), 1, dtype=torch.float64, device=left.device)
        return Seen(Moments(none, none, none, none, none), None)

    def _likeliest(self, left: Tensor, level: int) -> Seen:
        """Sums over the tokens of a level below the last; those of the level before are known."""
        p, ranks = self._p, slice(self._reached, self._p.levels[level])
        if ranks.start < ranks.stop:
            tiles, rounding = self._products.tiles(left)
            sums, chosen = self._sums.some(left).rounded(rounding), self._given.prompts[left]
            for some in cut(ranks.start, ranks.stop, self._products.tokens):
                for here, u in tiles(p.rows(self._table, some)):
                    sums.take(here, u, of_tile(p.p[:, some], chosen[here]), self._envelope.weights[some])
            self._sums.put(left, sums)
            self._reached = ranks.stop
        sums, mass = self._sums.some(left), self._envelope.mass[0] - self._envelope.mass[level]
        lower = lower_squares(self._table, self._folded[left], sums.terms[:, 3], mass)
        return Seen(sums.moments(lower), sums.rounding)

    def _everywhere(self, left: Tensor, level: int) -> Seen:
        """Sums over all tokens, in the order of the vocabulary."""
        p, table, chosen = self._p, self._table, self._given.prompts[left]
        tiles, rounding = self._products.tiles(left)
        pairs = Pairs(*(part[left] for part in self._pairs))
        sums = _Sums.nothing(pairs, self._folded[left]).rounded(rounding)
        for some in cut(0, p.levels[level], self._products.tokens):
            probability = p.log_p[:, some].exp()
            for here, u in tiles(table.weight[some] - table.mean):
                sums.take(here, u, of_tile(probability, chosen[here]), None)
        return Seen(sums.moments(torch.zeros_like(sums.terms[:, 3])), sums.rounding)  # nothing is outside

    def _outside_by_two_digits(self, left: Tensor, level: int) -> Seen:
        """The sums over the tokens of a level, and over all others by u that is nearly right."""
        p, chosen = self._p, self._given.prompts[left]
        pairs = Pairs(*(part[left] for part in self._pairs))
        sums = _Sums.nothing(pairs, self._folded[left])
        outside = p.log_p.new_ones(p.levels[-1]).index_fill_(0, p.order[: p.levels[level]], 0.0)
        tiles, wrong = self._products.in_two_digits(left)
        for pack, some in enumerate(eight_bit.packs(p.levels[-1])):
            probability = p.log_p[:, some].exp().mul_(outside[some])
            for here, u in tiles(pack):
                sums.take(here, u, of_tile(probability, chosen[here]), None)
        seen, single = self._likeliest(left, level), wrong.single.unsqueeze(-1)
        moments = seen.moments._replace(
            outside_least=-sums.ends[0].double().unsqueeze(-1) - single,
            outside_largest=sums.ends[1].double().unsqueeze(-1) + single,
            outside_wrong=wrong.together.unsqueeze(-1),
            outside_second=sums.terms[:, 1:2],
            outside_above=sums.terms[:, 2:3],
        )
        return seen._replace(moments=moments)

    def _score_roughly(self, left: Tensor, level: int) -> Tensor:
        """By 8 bits, where a sample of the vectors shows that it pays; those that are left.

        What it showed for a block that was seen before stays.
        """
        shown, key = self._prepared.left_by_rough, (self._problem.key, len(left).bit_length())
        kept, others = left[:0], left
        share = shown.get(key) if key[0] else None
        if share is None:
            few = torch.zeros(len(left), dtype=torch.bool, device=left.device)
            few[:: max(1, len(left) // SAMPLE)] = True
            kept, others = self._certify(left[few], self._outside_roughly, level), left[~few]
            share = len(kept) / int(few.sum())
            shown[key] = share
        if not len(others):
            return kept
        heads, width = len(self._given.groups[left].unique()), self._folded.shape[1]
        rough = len(others) * (width / eight_bit.speed(self._folded.device.type) + ROUGH_TERMS)
        without = len(kept) + len(others)
        if rough + self._products.cost(len(kept) + share * len(others), heads) < self._products.cost(without, heads):
            others = self._certify(others, self._outside_roughly, level)
        return torch.cat([kept, others]).sort().values

    def _outside_roughly(self, left: Tensor, level: int) -> Seen:
        """The sums over the tokens of a level, and what 8 bits tell of the others."""
        second = torch.zeros(len(left), dtype=torch.float64, device=left.device)
        prompts = self._given.prompts[left]
        together = self._products.together(prompts)

        def take(here: slice, square: Tensor, weight: Tensor) -> None:
            second[here] += square.mul_(of_tile(weight, prompts[here])).sum(dim=-1)

        ends = self._prepared.eight_bit(self._folded[left], self._p, level, take, together)
        second *= ends.scale.square()
        seen = self._likeliest(left, level)
        moments = seen.moments._replace(
            outside_least=ends.least.unsqueeze(-1),
            outside_largest=ends.largest.unsqueeze(-1),
            outside_wrong=ends.wrong.unsqueeze(-1),
            outside_second=second.unsqueeze(-1),
        )
        return seen._replace(moments=moments)

    def _sum_exactly(self, left: Tensor) -> None:
        """Step 4, of the vectors as the weights' dtype has them."""
        some = self._given.some(left)
        scale = some.slip.new_ones(len(left)) if self._scale is None else self._scale[left]
        vectors = some.vectors * scale.unsqueeze(-1)
        values = vectors.to(self._table.dtype)
        lost = torch.linalg.vector_norm(vectors - values.double(), dim=-1) / scale
        slip = _moved_by_slip(self._prepared, self._problem, some._replace(slip=some.slip + lost))
        c = self._problem.base_logits.inverse_scale[some.prompts].double() / scale
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
    c = problem.base_logits.inverse_scale[given.prompts].double()
    return 2 * given.slip * c * (prepared.reach * (1 + 1e-6))
