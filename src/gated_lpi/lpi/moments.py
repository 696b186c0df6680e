"""Moments of u under p over nested sets of tokens: the matrix products of the fast estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.lpi.certificate import Moments, Region
from gated_lpi.lpi.distribution import Distribution
from gated_lpi.lpi.envelope import Envelope
from gated_lpi.lpi.reach import Bounds
from gated_lpi.lpi.rounding import BlockedProduct, gamma, product_gamma, unit_roundoff
from gated_lpi.lpi.unembedding import Unembedding

TOKENS, LEAST_TOKENS = 2048, 256  # that are summed in one product of the weights' dtype
TILE = 2**22  # numbers in a matrix of tokens and units, of a few such


class MomentSums:
    """Moments of some units over the likeliest tokens; more of them are added step by step.

    Args:
        table: of the checkpoint.
        p: of the block.
        envelope: what bounds the other tokens.
        units: which ones.
        outside: bounds on u over the tokens outside of the largest level below the last, where they are known.
    """

    def __init__(
        self, table: Unembedding, p: Distribution, envelope: Envelope, units: Units, outside: Bounds | None = None
    ) -> None:
        self._table, self._p, self._envelope = table, p, envelope
        self._folded, self._prompts = units
        nothing = torch.zeros(len(units.folded), dtype=torch.float64, device=units.folded.device)
        none = nothing.new_zeros(_shape(p, units))
        ends = {} if outside is None else {"outside_least": outside.least, "outside_largest": outside.largest}
        self.moments = Moments(none, none, nothing, nothing, nothing, **ends)
        self._kept = torch.arange(len(units.folded), device=units.folded.device)
        self._summed = 0

    def units(self, chosen: Tensor) -> MomentSums:
        """The same for some of the units it holds."""
        fewer = MomentSums.__new__(MomentSums)
        fewer.__dict__.update(self.__dict__)
        fewer.moments = self.moments.units(chosen)
        fewer._kept = self._kept[chosen]
        return fewer

    def extend(self, level: int) -> None:
        """Add the tokens up to this level, not the last one, to those that are summed already."""
        last = self._p.levels[level]
        folded = self._folded[self._kept]
        sums = _Sums(self._p, [Units(folded, self._prompts)], 2)
        multiply = BlockedProduct(min(TOKENS, last - self._summed), len(folded), folded)
        squares = torch.zeros(len(folded), dtype=torch.float64, device=folded.device)
        for start in range(self._summed, last, TOKENS):
            tokens = slice(start, min(start + TOKENS, last))
            square = sums.add(self._p.p[:, tokens], multiply(self._p.rows(self._table, tokens), folded.T))
            squares += self._envelope.weights[tokens] @ square
        found = sums.moments(self._lower(squares, folded, level))[0]
        if self._summed:
            found = _together(self.moments, found)
        ends = self.moments.outside_least, self.moments.outside_largest
        self.moments = found._replace(outside_least=ends[0], outside_largest=ends[1])
        self._summed = last

    def _lower(self, found: Tensor, folded: Tensor, level: int) -> Tensor:
        """Lower bound on Σ q_j·u_j² of the tokens that were added, from the computed sum."""
        before = self._p.levels.index(self._summed)
        mass = (self._envelope.mass[before] - self._envelope.mass[level]).clamp_min(0.0) * (1 + 1e-6)
        wrong = _of_product(folded) * torch.linalg.vector_norm(folded.double(), dim=-1) * self._table.longest
        root: Tensor = (found * (1 - _of_sum(folded))).sqrt() - wrong * mass.sqrt()
        return root.clamp_min(0.0).square()

    def region(self, level: int) -> Region:
        """What is known of the tokens inside and outside of a level."""
        return region(self._table, self._p, self._envelope, self._prompts, level)


class Units(NamedTuple):
    """Units that the same prompts use: `folded` value vectors [n, d], `prompts` [P'] or None for all."""

    folded: Tensor
    prompts: Tensor | None


def everything(table: Unembedding, p: Distribution, parts: Sequence[Units], orders: int) -> list[Moments]:
    """Moments of each part over the whole vocabulary, of `orders` 2 or 4.

    Tokens are taken in the order of the vocabulary, and all parts together, so that its rows are read once.
    """
    values = torch.cat([part.folded for part in parts])
    step = max(LEAST_TOKENS, min(TOKENS, TILE // len(values)))
    multiply = BlockedProduct(step, len(values), values)
    rows = values.new_empty(step, values.shape[1])
    sums = _Sums(p, parts, orders)
    for start in range(0, len(table.weight), step):
        tokens = slice(start, start + step)
        sums.add(p.log_p[:, tokens].exp(), multiply(table.centred(tokens, rows), values.T))
    return sums.moments(torch.zeros(len(values), dtype=torch.float64, device=values.device))


class _Sums:
    """Σ p·u^k over tiles of tokens, [P', n] of every part, and the least and largest u, [n] of all parts together."""

    def __init__(self, p: Distribution, parts: Sequence[Units], orders: int) -> None:
        like = parts[0].folded
        self._parts = parts
        self._counts = [len(part.folded) for part in parts]
        self._totals = [
            [torch.zeros(_shape(p, part), dtype=torch.float64, device=like.device) for part in parts]
            for _ in range(orders)
        ]
        self._least = like.new_full((sum(self._counts),), torch.inf)
        self._largest = -self._least
        self._power = like.new_empty(0)

    def add(self, p: Tensor, u: Tensor) -> Tensor:
        """Add a tile, `p` [P, tokens] and `u` [tokens, n]; returns u² (u⁴ of four moments), valid until the next."""
        # Not aminmax, which is ten times slower along columns.
        self._least = torch.minimum(self._least, u.amin(dim=0))
        self._largest = torch.maximum(self._largest, u.amax(dim=0))
        weights = [p if part.prompts is None else p.index_select(0, part.prompts) for part in self._parts]
        if self._power.shape != u.shape:
            self._power = torch.empty_like(u)
        power = u
        for order, totals in enumerate(self._totals):
            if order:
                power = torch.mul(power, u, out=self._power)
            for weight, some, total in zip(weights, power.split(self._counts, dim=1), totals, strict=True):
                total += weight @ some
        return power

    def moments(self, squares: Tensor) -> list[Moments]:
        """As the certificate reads them, of every part; `squares` [n] is a lower bound on Σ q·u²."""
        ends = (values.split(self._counts) for values in (squares, self._least, self._largest))
        return [
            Moments(first, second, *end, *higher)
            for (first, second, *higher), *end in zip(zip(*self._totals, strict=True), *ends, strict=True)
        ]


def _shape(p: Distribution, units: Units) -> tuple[int, int]:
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
    """What is known of the tokens inside and outside of a level."""

    def column(values: Tensor) -> Tensor:
        return (values if prompts is None else values[prompts]).unsqueeze(-1)

    return Region(
        inside=column(p.inside[level]),
        outside=column((1.0 - p.inside[level]).clamp_min(0.0) + p.storage),
        tail_scale=column(envelope.scale[level]),
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
