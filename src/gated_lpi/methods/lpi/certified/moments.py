"""Moments of u under p over nested sets of tokens: the matrix products of the fast estimator."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.lpi.certified.certificate import ROUGH, ROUGHER, Moments, Region
from gated_lpi.methods.lpi.certified.distribution import Distribution
from gated_lpi.methods.lpi.certified.eight_bit import ROWS, EightBit, Tail
from gated_lpi.methods.lpi.certified.envelope import Envelope
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.rounding import BlockedProduct, gamma, lengths, product_gamma, unit_roundoff
from gated_lpi.methods.tiles import BUSY, at_once

TOKENS, LEAST_TOKENS = 2048, 256  # that are summed in one product of the weights' dtype
TILE_NUMBERS = 2**23  # numbers in a matrix of powers of u


class FoldedUnits(NamedTuple):
    """Units that the same prompts use.

    Attributes:
        folded: [n, d], their folded value vectors.
        prompts: [P'], indices of the prompts; None for all.
    """

    folded: Tensor
    prompts: Tensor | None


class MomentSums:
    """Moments of units of some parts over the likeliest tokens; more of them are added step by step.

    Args:
        table: of the checkpoint.
        p: of the block.
        envelope: what bounds the other tokens.
        parts: which units.
        outside: of each part, what is roughly known of u over the tokens outside of the level that comes next.
        seen: of each part, its moments over the tokens of a level, where they are known.
        level: that level.
        orders: how many moments, 2 or 4; four need all tokens in one step.
    """

    def __init__(
        self,
        table: Unembedding,
        p: Distribution,
        envelope: Envelope,
        parts: Sequence[FoldedUnits],
        outside: Sequence[Tail] | None = None,
        seen: Sequence[Moments] | None = None,
        level: int = 0,
        orders: int = 2,
    ) -> None:
        self._table, self._p, self._envelope, self._parts = table, p, envelope, list(parts)
        self._outside: list[Tail | None] = [None] * len(parts) if outside is None else list(outside)
        self._summed, self._orders = p.levels[level], orders
        seen = [self._nothing(part) for part in parts] if seen is None else seen
        self.moments = [_with_ends(moments, ends) for moments, ends in zip(seen, self._outside, strict=True)]

    def _nothing(self, part: FoldedUnits) -> Moments:
        """Moments over no token."""
        nothing = torch.zeros(len(part.folded), dtype=torch.float64, device=part.folded.device)
        none = nothing.new_zeros(()).expand(_shape(self._p, part))
        return Moments(none, none, nothing, nothing, nothing)

    def units(self, chosen: Sequence[Tensor]) -> MomentSums:
        """The sums for some of the units that are held; `chosen` has the indices [m] of those of each part."""
        fewer = MomentSums.__new__(MomentSums)
        fewer.__dict__.update(self.__dict__)
        fewer._parts = [part._replace(folded=part.folded[some]) for part, some in zip(self._parts, chosen, strict=True)]
        fewer._outside = [ends and ends.units(some) for ends, some in zip(self._outside, chosen, strict=True)]
        fewer.moments = [moments.units(some) for moments, some in zip(self.moments, chosen, strict=True)]
        return fewer

    def extend(self, level: int) -> None:
        """Add the tokens up to this level, not the last one, to those that are summed already."""
        last = self._p.levels[level]
        if last == self._summed:
            return
        folded = torch.cat([part.folded for part in self._parts])
        sums = _PowerSums(self._p, self._parts, self._orders)
        step = min(last - self._summed, _tokens(folded, self._orders))
        multiply = BlockedProduct(len(folded), step, folded)
        squares = torch.zeros(len(folded), dtype=torch.float64, device=folded.device)
        for start in range(self._summed, last, step):
            tokens = slice(start, min(start + step, last))
            square = sums.add(self._p.p[:, tokens], multiply(folded, self._p.rows(self._table, tokens).T))
            squares += square @ self._envelope.weights[tokens]
        mass = self._envelope.mass[self._p.levels.index(self._summed)] - self._envelope.mass[level]
        found = sums.moments(lower_squares(self._table, folded, squares, mass))
        if self._summed:
            found = [_together(one, other) for one, other in zip(self.moments, found, strict=True)]
        self.moments = [_with_ends(moments, ends) for moments, ends in zip(found, self._outside, strict=True)]
        self._summed = last

    def regions(self, level: int) -> list[Region]:
        """What is known of the tokens inside and outside of a level, for the prompts of each part."""
        found = [region(self._table, self._p, self._envelope, part.prompts, level) for part in self._parts]
        return [
            some if tail is None else some._replace(rough=tail.rounding)
            for some, tail in zip(found, self._outside, strict=True)
        ]


def lower_squares(table: Unembedding, folded: Tensor, found: Tensor, mass: Tensor) -> Tensor:
    """Lower bound on Σ q_j·u_j² over some tokens, [n], from the computed sum.

    Args:
        table: of the checkpoint.
        folded: [n, d], folded value vectors.
        found: [n], float64, the sum.
        mass: Σ q_j over these tokens.
    """
    wrong = _of_product(folded) * lengths(folded) * table.longest
    root: Tensor = (found * (1 - _of_sum(folded))).sqrt() - wrong * (mass.clamp_min(0.0) * (1 + 1e-6)).sqrt()
    return root.clamp_min(0.0).square()


def _with_ends(moments: Moments, outside: Tail | None) -> Moments:
    if outside is None:
        return moments
    return moments._replace(
        outside_least=outside.least,
        outside_largest=outside.largest,
        outside_second=outside.second,
        outside_wrong=outside.wrong,
    )


def everything(table: Unembedding, p: Distribution, parts: Sequence[FoldedUnits], orders: int) -> list[Moments]:
    """Moments of each part over the whole vocabulary.

    Tokens are taken in the order of the vocabulary, and all parts together, so that its rows are read once.

    Args:
        table: of the checkpoint.
        p: of the block.
        parts: which units.
        orders: how many moments, 2 or 4.
    """
    values = torch.cat([part.folded for part in parts])
    step = _tokens(values, orders)
    multiply = BlockedProduct(len(values), step, values)
    rows = values.new_empty(step, values.shape[1])
    sums = _PowerSums(p, parts, orders)
    for start in range(0, len(table.weight), step):
        tokens = slice(start, start + step)
        sums.add(p.log_p[:, tokens].exp(), multiply(values, table.centred(tokens, rows).T))
    return sums.moments(torch.zeros(len(values), dtype=torch.float64, device=values.device))


class _Latest:
    """p of a tile of tokens as it is multiplied, in bfloat16 if that pays; made once for all units of the tile."""

    def __init__(self, *, narrow: bool) -> None:
        self._narrow = narrow
        self._given: Tensor | None = None
        self._made: Tensor | None = None

    def __call__(self, p: Tensor) -> Tensor:
        if self._given is not p or self._made is None:
            self._given, self._made = p, p.bfloat16() if self._narrow else p
        return self._made


def outside_by_eight_bit(eight_bit: EightBit, p: Distribution, parts: Sequence[FoldedUnits], level: int) -> list[Tail]:
    """What is roughly known of each part's units over the tokens outside of a level.

    Args:
        eight_bit: of the checkpoint.
        p: of the block.
        parts: which units.
        level: which tokens are left out.
    """
    counts = [len(part.folded) for part in parts]
    seconds = [
        torch.zeros(n_units, n_prompts, dtype=torch.float64, device=p.log_p.device)
        for n_prompts, n_units in (_shape(p, part) for part in parts)
    ]

    starts = [0, *itertools.accumulate(counts)]
    owner: dict[int, int] = {}
    for number, (start, stop) in enumerate(itertools.pairwise(starts)):
        owner |= dict.fromkeys(range(start, stop, ROWS), number)

    narrow, probability = eight_bit.bfloat16_pays, _Latest(narrow=eight_bit.bfloat16_pays)

    def take(here: slice, square: Tensor, weight: Tensor) -> None:
        number = owner[here.start]
        prompts, first = parts[number].prompts, starts[number]
        own = probability(weight) if prompts is None else probability(weight).index_select(0, prompts)
        found = square.bfloat16() @ own.T if narrow else square @ own.T
        seconds[number][here.start - first : here.stop - first] += found

    together = [slice(begin, min(begin + ROWS, starts[number + 1])) for begin, number in owner.items()]
    ends = eight_bit(torch.cat([part.folded for part in parts]), p, level, take, together)
    split = zip(*(values.split(counts) for values in ends), seconds, strict=True)
    return [
        Tail(least, largest, wrong, (second * scale.square().unsqueeze(-1)).T, ROUGHER if narrow else ROUGH)
        for least, largest, wrong, scale, second in split
    ]


def _tokens(folded: Tensor, orders: int) -> int:
    """How many tokens to take at a time of units, whose folded value vectors are [n, d]."""
    numbers = at_once(TILE_NUMBERS, folded.device, 2 * BUSY)
    return max(LEAST_TOKENS, min(TOKENS, numbers // (len(folded) * orders)))


class _PowerSums:
    """Σ p·u^k over tiles of tokens, [n, orders, P'] of every part; least and largest u, [n] of all parts together."""

    def __init__(self, p: Distribution, parts: Sequence[FoldedUnits], orders: int) -> None:
        like = parts[0].folded
        self._parts, self._orders = parts, orders
        self._counts = [len(part.folded) for part in parts]
        self._totals = [
            torch.zeros(n_units, orders, n_prompts, dtype=torch.float64, device=like.device)
            for n_prompts, n_units in (_shape(p, part) for part in parts)
        ]
        self._least = like.new_full((sum(self._counts),), torch.inf)
        self._largest = -self._least
        self._powers = like.new_empty(0)

    def add(self, p: Tensor, u: Tensor) -> Tensor:
        """Add a tile, `p` [P, tokens] and `u` [n, tokens]; returns u², valid until the next."""
        # Not aminmax, which is several times slower.
        self._least = torch.minimum(self._least, u.amin(dim=1))
        self._largest = torch.maximum(self._largest, u.amax(dim=1))
        powers = self._room(u)
        powers[:, 0] = u
        for order in range(1, self._orders):
            torch.mul(powers[:, order - 1], u, out=powers[:, order])
        for part, some, total in zip(self._parts, powers.split(self._counts), self._totals, strict=True):
            weight = p if part.prompts is None else p.index_select(0, part.prompts)
            total += (some.flatten(0, 1) @ weight.T).view(total.shape)
        return powers[:, 1]

    def _room(self, u: Tensor) -> Tensor:
        """[n, orders, tokens] to be overwritten."""
        shape = len(u), self._orders, u.shape[1]
        if self._powers.shape != shape:
            self._powers = u.new_empty(shape)
        return self._powers

    def moments(self, squares: Tensor) -> list[Moments]:
        """The moments of every part, as the certificate reads them; `squares` [n] is a lower bound on Σ q·u²."""
        ends = (values.split(self._counts) for values in (squares, self._least, self._largest))
        found = []
        for total, *end in zip(self._totals, *ends, strict=True):
            first, second, *higher = total.permute(1, 2, 0).contiguous()
            found.append(Moments(first, second, *end, *higher))
        return found


def _shape(p: Distribution, units: FoldedUnits) -> tuple[int, int]:
    return len(p.log_p) if units.prompts is None else len(units.prompts), len(units.folded)


def _together(one: Moments, other: Moments) -> Moments:
    return Moments(
        one.first + other.first,
        one.second + other.second,
        one.squares + other.squares,
        torch.minimum(one.least, other.least),
        torch.maximum(one.largest, other.largest),
    )


def _of_sum(folded: Tensor) -> float:
    return gamma(TOKENS + 8, folded.dtype)


def _of_product(folded: Tensor) -> float:
    return product_gamma(folded.shape[1], folded.dtype)


def region(table: Unembedding, p: Distribution, envelope: Envelope, prompts: Tensor | None, level: int) -> Region:
    """What is known of the tokens inside and outside of a level.

    Args:
        table: of the checkpoint.
        p: of the block.
        envelope: what bounds the tokens outside.
        prompts: [P'], indices of the prompts; None for all.
        level: which one.
    """

    def column(values: Tensor) -> Tensor:
        return (values if prompts is None else values[..., prompts]).unsqueeze(-1)

    return Region(
        inside=column(p.inside[level]),
        outside=column((1.0 - p.inside[level]).clamp_min(0.0) + p.storage),
        tail_scale=column(envelope.scale[level]),
        tail_max=column(p.tail_max[level]),
        tail_norm=p.tail_norm[level],
        tail_weight=envelope.mass[level],
        inside_norm=table.longest,
        inside_tokens=p.levels[level],
        tail_tokens=p.levels[-1] - p.levels[level],
        outside_head=column(p.outside_head),
        outside_error=column(p.error_per_norm * p.outside_norm + p.head_error * p.outside_head.sqrt()),
        error=column(p.error),
        head_error=column(p.head_error),
        storage=column(p.storage),
        unit_rounding=_of_product(table.weight),
        sum_rounding=_of_sum(table.weight),
        storing=unit_roundoff(table.dtype),
    )
