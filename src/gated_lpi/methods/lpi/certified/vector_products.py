"""u of vectors, each one prompt's own: which way it is computed, and how far it may be off.

1. *Direct*: a product over the width for each vector.
2. *From units*: a head's vector is Σ_i m_i·v_i, so its u is Σ_i m_i·u_i, with u_i of the head's units once for all
   prompts: d_h products for each token in place of d.

Either in float32, or in two digits of 8 bits (`two_digits`). What takes fewer operations is taken. Tiles have so few
vectors and tokens that they stay in a processor's cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.lpi.certified import eight_bit, two_digits
from gated_lpi.methods.lpi.certified.distribution import Distribution
from gated_lpi.methods.lpi.certified.moments import TOKENS as RUN_OF_TOKENS
from gated_lpi.methods.lpi.certified.prepared import Prepared
from gated_lpi.methods.lpi.certified.two_digits import Lost, Wrong
from gated_lpi.methods.lpi.groups import Summed
from gated_lpi.methods.rounding import BlockedProduct, gamma, lengths, product_gamma
from gated_lpi.methods.tiles import BUSY, at_once

TOKENS = 512  # that are multiplied at a time on a CPU, with so few vectors that they stay in its cache
MANY = 64  # prompts from which on a group has tiles of its own
TERMS = 60  # multiply-adds that take as long as summing up one u

SomeU = Iterator[tuple[slice, Tensor]]
"""Which of the vectors, and their u [n, tokens]; a few vectors at a time."""

Tiles = Callable[[Tensor], SomeU]
"""From rows of the unembedding [tokens, d]."""

PackTiles = Callable[[int], SomeU]
"""From which pack of tokens (`eight_bit.packs`)."""


def cut(start: int, stop: int, step: int) -> Iterator[slice]:
    """So many at a time."""
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def of_tile(p: Tensor, prompts: Tensor) -> Tensor:
    """Rows of p [P, tokens] of the prompts [m] of a tile.

    On a CPU `MANY` prompts or more, if as many as there are, are all in order (`_by_prompts`).
    """
    whole = p.device.type == "cpu" and len(prompts) == len(p) >= MANY
    return p if whole else p.index_select(0, prompts)


def _by_prompts(prompts: Tensor, n_prompts: int) -> list[slice]:
    """Cut the vectors of some prompts [m], ascending within each group, into tiles.

    Groups of few prompts share tiles. Of `MANY` prompts a tile as long as their number has each once, in order, so that
    p need not be gathered for it (`of_tile`).
    """
    begins = [0, *((prompts[1:] <= prompts[:-1]).nonzero().squeeze(-1) + 1).tolist(), len(prompts)]
    many = n_prompts >= MANY
    limit = min(n_prompts, eight_bit.ROWS) if many else eight_bit.ROWS
    found: list[slice] = []
    for start, stop in itertools.pairwise(begins):
        whole = many and stop - start == n_prompts
        if found and not whole and stop - found[-1].start < limit:
            found[-1] = slice(found[-1].start, stop)
        else:
            found += cut(start, stop, n_prompts if whole else eight_bit.ROWS)
    return found


def _weighted(coefficients: list[Tensor], of_units: Tensor) -> SomeU:
    """u of vectors, head after head, from u of the heads' units [heads, units, tokens]."""
    first = 0
    for some, u in zip(coefficients, of_units, strict=True):
        yield slice(first, first + len(some)), some @ u
        first += len(some)


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


class Products:
    """u of what groups add.

    Args:
        prepared: of the checkpoint.
        p: of the block.
        given: the vectors.
        folded: [m, d], as they are multiplied by W_U.
        units: what heads are sums of, where vectors are sums of them as they stand.
        digits: whether two digits of 8 bits may be used.

    Attributes:
        tokens: that are multiplied at a time.
        digits: what a product over the width takes in two digits, over that of float32; 1 where float32 it is.
    """

    def __init__(
        self, prepared: Prepared, p: Distribution, given: Summed, folded: Tensor, units: Units | None, *, digits: bool
    ) -> None:
        device = folded.device
        self._prepared, self._p, self._given, self._folded, self._units = prepared, p, given, folded, units
        self.tokens = at_once(TOKENS, device, RUN_OF_TOKENS)
        self._rows = at_once(eight_bit.ROWS, device, min(BUSY, prepared.room.numbers) // self.tokens)
        digits = digits and two_digits.supported(device.type, folded.shape[1], folded.dtype)
        self.digits = two_digits.PRODUCTS / eight_bit.speed(device.type) if digits else 1.0

    def cost(self, count: float, heads: int) -> float:
        """Multiply-adds for each token of the cheaper way to u of so many vectors, of so many heads."""
        return min(self._cost_direct(count, self.digits), self._cost_by_units(count, heads, self.digits))

    def _cost_direct(self, count: float, product: float = 1.0) -> float:
        """The same of one way; `product`: what products over the width take, over those of float32."""
        return count * (self._folded.shape[1] * product + TERMS)

    def _cost_by_units(self, count: float, heads: int, product: float = 1.0) -> float:
        if self._units is None:
            return math.inf
        n_units, width = self._units.folded.shape
        return n_units // self._units.n_heads * (heads * width * product + count) + count * TERMS

    def tiles(self, left: Tensor) -> tuple[Tiles, Tensor | None]:
        """How u of vectors [n] is computed, and what its rounding is, where it is not that of a product."""
        if self._cost_by_units(len(left), len(self._given.groups[left].unique())) < self._cost_direct(len(left)):
            return self._by_units(left), self._rounding_by_units(left)
        return self._direct(left), None

    def in_two_digits(self, left: Tensor) -> tuple[PackTiles, Wrong]:
        """From which pack of tokens, û of vectors [n] in two digits; and how far it is off."""
        heads = len(self._given.groups[left].unique())
        if self._cost_by_units(len(left), heads, self.digits) < self._cost_direct(len(left), self.digits):
            return self._digits_by_units(left, heads)
        return self._digits_directly(left)

    def _digits_directly(self, left: Tensor) -> tuple[PackTiles, Wrong]:
        rows, folded, together = self._prepared.two_digits, self._folded[left], self.together(self._given.prompts[left])
        vectors = rows.encode(folded)

        def tiles(pack: int) -> SomeU:
            return ((here, rows.product(pack, vectors, here)) for here in together)

        return tiles, rows.wrong(lengths(folded), vectors.lost)

    def _digits_by_units(self, left: Tensor, heads: int) -> tuple[PackTiles, Wrong]:
        """What is lost of a vector is at most Σ|m| times what is lost of its units, and the rounding of that sum."""
        rows = self._prepared.two_digits
        folded, coefficients, size = self._of_heads(left)
        units = rows.encode(folded)
        lost = Lost(
            *(
                torch.cat([m.abs().double() @ own for m, own in zip(coefficients, part.view(heads, -1), strict=True)])
                for part in units.lost
            )
        )
        rounding = gamma(len(folded) // heads + 4, folded.dtype) * 1.01 * size * self._prepared.table.longest
        together = lost.together + rounding * self._p.levels[-1] ** 0.5
        lost = lost._replace(together=together, single=lost.single + rounding)

        def tiles(pack: int) -> SomeU:
            return _weighted(coefficients, rows.product(pack, units, slice(None)).unflatten(0, (heads, -1)))

        return tiles, rows.wrong(lengths(self._folded[left]), lost)

    def together(self, prompts: Tensor) -> list[slice]:
        """Which vectors to work on at a time, of these prompts [m]."""
        if prompts.device.type == "cpu":
            return _by_prompts(prompts, len(self._p.log_p))
        return list(cut(0, len(prompts), self._rows))

    def _direct(self, left: Tensor) -> Tiles:
        """A product for each."""
        folded, together = self._folded[left], self.together(self._given.prompts[left])
        multiply = BlockedProduct(max(here.stop - here.start for here in together), self.tokens, folded)

        def tiles(rows: Tensor) -> SomeU:
            for here in together:
                yield here, multiply(folded[here], rows.T)

        return tiles

    def _by_units(self, left: Tensor) -> Tiles:
        """For heads, from u of the units of those that some vector is of."""
        folded, coefficients, _ = self._of_heads(left)
        multiply = BlockedProduct(len(folded), self.tokens, self._folded)
        if left.device.type != "cpu":
            return self._by_padded(folded, coefficients, multiply)

        def tiles(rows: Tensor) -> SomeU:
            return _weighted(coefficients, multiply(folded, rows.T).view(len(coefficients), -1, len(rows)))

        return tiles

    def _of_heads(self, left: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Of the heads that some vector [n] is of: folded units; each one's coefficients; Σ |m|·‖v‖ of the vectors."""
        assert self._units is not None
        units = self._units
        heads, counts = self._given.groups[left].unique_consecutive(return_counts=True)
        folded = units.folded.unflatten(0, (units.n_heads, -1))[heads].flatten(0, 1)
        coefficients = [
            units.coefficients[head][some]
            for head, some in zip(heads.tolist(), self._given.prompts[left].split(counts.tolist()), strict=True)
        ]
        return folded, coefficients, units.size[self._given.groups[left], self._given.prompts[left]]

    def _by_padded(self, folded: Tensor, coefficients: list[Tensor], multiply: BlockedProduct) -> Tiles:
        """The same of several heads in one operation, each with as many vectors as the one that has most."""
        padded = torch.nn.utils.rnn.pad_sequence(coefficients, batch_first=True)
        counts = torch.tensor([len(some) for some in coefficients], device=padded.device)
        there = torch.arange(padded.shape[1], device=padded.device) < counts.unsqueeze(1)
        several = cut(0, len(padded), max(1, self._rows // padded.shape[1]))
        chosen = [(heads, there[heads].flatten().nonzero().squeeze(1)) for heads in several]

        def tiles(rows: Tensor) -> SomeU:
            of_units = multiply(folded, rows.T).view(len(padded), -1, len(rows))
            first = 0
            for heads, kept in chosen:
                u = (padded[heads] @ of_units[heads]).flatten(0, 1)
                yield slice(first, first + len(kept)), u if len(kept) == len(u) else u.index_select(0, kept)
                first += len(kept)

        return tiles

    def _rounding_by_units(self, left: Tensor) -> Tensor:
        """Bound on the rounding of u from that of the units, over ‖v‖·max‖w_j − w̄‖: [n, 1]."""
        assert self._units is not None
        units, dtype = self._units, self._folded.dtype
        width = units.folded.shape[1]
        size = units.size[self._given.groups[left], self._given.prompts[left]].unsqueeze(-1)
        both = product_gamma(width, dtype) + gamma(len(units.folded) // units.n_heads + 4, dtype)
        size = size * (1 + 1e-6)  # lengths are rounded up
        return both * (1 + both) * size / lengths(self._folded[left]).unsqueeze(-1).clamp_min(torch.finfo(dtype).tiny)
