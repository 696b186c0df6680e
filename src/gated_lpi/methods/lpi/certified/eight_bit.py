"""What units do to the tokens that are not looked at, roughly but with proof: from products of 8-bit integers.

With rows and value vectors rounded to 8 bits, w = ŵ + e and v = v̂ + f, the product û = ŵ·v̂ of integers is exact, and

    u − û = e·v̂ + w·f.

1. For one token that is at most ‖e‖·‖v‖ + ‖ŵ‖·‖f‖ (it is e·v + ŵ·f as well), which bounds the largest u of a unit.
2. Over many tokens it is far less, since the e of different tokens point everywhere: with Σ_j (e_j·x)² = xᵀEx and
   Σ_j (w_j·x)² = xᵀCx, both matrices known for the checkpoint, and p ≤ p_max on these tokens,

       √Σ_T p·(u − û)² ≤ √p_max·(√(v̂ᵀEv̂) + √(fᵀCf)),

   a few percent of √Σ_T p·u². So Σ_T p·û², one product for all prompts, tells Σ_T p·u² from both sides.

Where a processor has instructions for it (VNNI) such a product is four times as fast as one of float32. Without them
libraries add products of two pairs in 16 bits, which saturate, and the sum is wrong. Codes up to 79 are safe there: one
side is shifted by 128 to be unsigned, and 2·(79 + 128)·79 < 2¹⁵. They are twice as fast as float32. Which of both it is
depends on what a library was told as well (ONEDNN_MAX_CPU_ISA), so it is tried out once in a process.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.lpi.certified.distribution import Distribution
from gated_lpi.methods.lpi.certified.envelope import squares
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.rounding import (
    GRAM_ROWS,
    frobenius,
    gram,
    gram_gamma,
    lengths,
    quadratic_gamma,
    underflow,
    unit_roundoff,
)

TOKENS, LEAST_TOKENS = 2048, 256  # that are multiplied at a time
ENCODED = 2**19  # numbers that are rounded at a time
TILE_NUMBERS = 2**20  # numbers that stay in a processor's cache
WITH_VNNI, WITHOUT = 127, 79  # the largest code
SPEEDS = {WITH_VNNI: 4.5, WITHOUT: 2.4}  # products in the time of one of float32
ROUNDING = 1e-5  # relative: of scales and their products in float32

Take = Callable[[Tensor, Tensor], None]
"""Takes û over the units' scales, [n, tokens], which may be overwritten, and p there, [P, tokens]; both float32."""


class Tail(NamedTuple):
    """What is roughly known of units over some tokens.

    Attributes:
        least: [n], float64, least u of each unit, or less; not above 0.
        largest: [n], float64, largest u of each unit, or more; not below 0.
        wrong: [n], float64, √Σp·(u − û)² is at most the root of the largest p there times this.
        second: [P, n], float64, Σp·û².
    """

    least: Tensor
    largest: Tensor
    wrong: Tensor
    second: Tensor

    def units(self, chosen: Tensor) -> Tail:
        """The same of some of the units, whose indices are `chosen` [m]."""
        return Tail(self.least[chosen], self.largest[chosen], self.wrong[chosen], self.second[:, chosen])


class Ends(NamedTuple):
    """What of a `Tail` is of units alone; and the `scale` [n], float64, that û was taken over."""

    least: Tensor
    largest: Tensor
    wrong: Tensor
    scale: Tensor


class _Codes(NamedTuple):
    """x ≈ scale · code, row by row.

    Attributes:
        codes: [n, d], int8.
        scale: [n], float32.
        wrong: [n], float64, upper bound on ‖x − scale · code‖.
    """

    codes: Tensor
    scale: Tensor
    wrong: Tensor


def supported(device_type: str) -> bool:
    """Whether products of 8-bit integers are exact and fast here."""
    return largest_code(device_type) > 0


def speed(device_type: str) -> float:
    """How many such products take as long as one of float32, about; 0 where they are not made."""
    return SPEEDS.get(largest_code(device_type), 0.0)


@cache
def largest_code(device_type: str) -> int:
    """The largest code whose products are exact and fast here; 0: there is none."""
    fast = torch.backends.cpu.get_cpu_capability().startswith("AVX") and torch.backends.mkldnn.is_available()
    if device_type != "cpu" or not hasattr(torch, "_int_mm") or not fast:
        return 0
    return next((largest for largest in (WITH_VNNI, WITHOUT) if _exact(largest)), 0)


def _exact(largest: int) -> bool:
    """Whether the sums that saturate first, of products of equal signs, are right, in kernels for few rows and many."""
    width = 512
    for rows, tokens in itertools.product((1, 64), (1, 256)):
        for left, right in itertools.product((-largest, largest), repeat=2):
            ones = [torch.full((n, width), code, dtype=torch.int8) for n, code in ((rows, left), (tokens, right))]
            if not bool((torch._int_mm(ones[0], ones[1].T) == width * left * right).all()):
                return False
    return True


class EightBit:
    """The unembedding in 8 bits, a quarter of its size; made once for a checkpoint.

    Args:
        table: of the checkpoint.
    """

    def __init__(self, table: Unembedding) -> None:
        length, width = table.weight.shape
        self._table = table
        self._largest = largest_code(table.weight.device.type) or WITH_VNNI
        self._codes, self._scale, wrong = _encode(length, width, self._rows, table.weight.device, self._largest)
        self._wrong, self._trace = float(wrong.max()), float(wrong.square().sum())
        self._longest = table.longest + self._wrong
        self._unit = float(self._scale.max()) or 1.0  # the scales are taken over it: no square of û underflows

    def _rows(self, some: slice) -> Tensor:
        return self._table.weight[some] - self._table.mean

    @cached_property
    def _spread(self) -> tuple[Tensor, float]:
        """E = Σ_j e_j·e_jᵀ, as `gram` leaves it, and its slack, as that of `Unembedding`."""
        table, total = self._table, torch.zeros_like(self._table.spread, dtype=torch.float64)

        def errors() -> Iterator[Tensor]:
            for start in range(0, len(table.weight), GRAM_ROWS):
                some = slice(start, start + GRAM_ROWS)
                yield _error(self._rows(some), _Codes(self._codes[some], self._scale[some], total))

        spread = gram(errors(), total)
        rounding = gram_gamma(table.dtype) * self._trace + quadratic_gamma(table.dtype) * frobenius(spread)
        return spread.to(table.dtype), rounding * 1.01 + underflow(table.dtype, len(spread) * (len(table.weight) + 1))

    def __call__(self, folded: Tensor, p: Distribution, level: int, take: Take) -> Ends:
        """Go through all tokens outside of a level.

        Args:
            folded: [n, d], folded value vectors.
            p: of the block.
            level: whose tokens are left out; û is 0 there.
            take: is given every tile.
        """
        units = _encode(len(folded), folded.shape[1], folded.__getitem__, folded.device, self._largest)
        least = torch.zeros_like(units.scale)
        largest = torch.zeros_like(least)
        scale = (self._scale / self._unit).index_fill_(0, p.order[: p.levels[level]], 0.0)
        tokens = max(LEAST_TOKENS, min(TOKENS, TILE_NUMBERS // len(least)))
        products = torch.empty(len(least), tokens, dtype=torch.int32, device=folded.device)
        rough = torch.empty_like(products, dtype=torch.float32)
        rooms = products, rough
        for start in range(0, len(self._codes), tokens):
            some = slice(start, start + tokens)
            codes = self._codes[some]
            if len(codes) < tokens:
                products, rough = (room.flatten()[: len(least) * len(codes)].view(-1, len(codes)) for room in rooms)
            torch._int_mm(units.codes, codes.T, out=products)
            rough.copy_(products).mul_(scale[some])
            least = torch.minimum(least, rough.amin(dim=1))
            largest = torch.maximum(largest, rough.amax(dim=1))
            take(rough, p.log_p[:, some].exp().float())
        length = lengths(folded)
        margin = self._wrong * length + self._longest * units.wrong
        unit = units.scale.double() * self._unit
        wide = unit * (1 + ROUNDING)
        least, largest = wide * least.double() - margin, wide * largest.double() + margin
        return Ends(least, largest, self._wrong_over_tokens(folded, units, length), unit)

    def _wrong_over_tokens(self, folded: Tensor, units: _Codes, length: Tensor) -> Tensor:
        """√Σ_j (u_j − û_j)², at most: √(v̂ᵀEv̂) + √(fᵀCf), and what rounding of e and f may add."""
        table, (matrix, slack) = self._table, self._spread
        error = _error(folded, units)
        roots = [squares(folded - error, matrix, slack).sqrt(), squares(error, table.spread, table.slack).sqrt()]
        rounding = 8 * unit_roundoff(table.dtype) * length * table.longest * len(table.weight) ** 0.5
        return torch.stack([*roots, rounding]).sum(dim=0) * (1 + ROUNDING)


def _error(rows: Tensor, codes: _Codes) -> Tensor:
    """x − scale · code of rows x [n, d]."""
    scale = codes.scale.to(rows.dtype).unsqueeze(-1)
    return torch.addcmul(rows, codes.codes.to(rows.dtype), scale, value=-1)


def _encode(length: int, width: int, rows: Callable[[slice], Tensor], device: torch.device, largest: int) -> _Codes:
    """Codes up to `largest` of each of so many rows, which are asked for a few at a time."""
    found = _Codes(
        torch.empty(length, width, dtype=torch.int8, device=device),
        torch.empty(length, dtype=torch.float32, device=device),
        torch.empty(length, dtype=torch.float64, device=device),
    )
    step = max(1, ENCODED // width)
    for start in range(0, length, step):
        some = slice(start, min(start + step, length))
        for whole, part in zip(found, _encode_tile(rows(some), largest), strict=True):
            whole[some] = part
    return found


def _encode_tile(rows: Tensor, largest: int) -> _Codes:
    scale = (torch.maximum(rows.amax(dim=-1), -rows.amin(dim=-1)) / largest).float()
    safe = torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
    rounded = torch.div(rows, safe).round_().clamp_(-largest, largest)
    codes = rounded.to(torch.int8)
    wrong = lengths(rounded.mul_(safe).sub_(rows))
    rounding = 4 * unit_roundoff(rows.dtype) * lengths(rows) + underflow(torch.float32, 2 * largest * rows.shape[-1])
    return _Codes(codes, scale, wrong + rounding)
