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
depends on what a library was told as well (ONEDNN_MAX_CPU_ISA), so it is tried out once in a process. With VNNI there
may be products that come scaled and in float32 (*fused*), from rows that were packed once: they spare two passes over
every tile, and use a processor's tiles (AMX) where it has them. They are tried out as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cache
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
    slices,
    underflow,
    unit_roundoff,
)

TOKENS, LEAST_TOKENS = 2048, 256  # that are multiplied at a time
PACKED, ROWS = 512, 256  # tokens that are packed together for fused products, and about how many rows they take
ENCODED = 2**19  # numbers that are rounded at a time
TILE_NUMBERS = 2**20  # numbers that stay in a processor's cache
WITH_VNNI, WITHOUT = 127, 79  # the largest code
SPEEDS = {WITH_VNNI: 4.5, WITHOUT: 2.4}  # products in the time of one of float32
FUSED_SPEED = 8.0
ROUNDING = 1e-5  # relative: of scales and their products in float32

Take = Callable[[slice, Tensor, Tensor], None]
"""Takes û² over the units' scales squared, [n', tokens], which may be overwritten, of n' of the units that follow each
other, and p there, [P, tokens]; both float32."""


class Tail(NamedTuple):
    """What is roughly known of units over some tokens.

    Attributes:
        least: [n], float64, least u of each unit, or less; not above 0.
        largest: [n], float64, largest u of each unit, or more; not below 0.
        wrong: [n], float64, √Σp·(u − û)² is at most the root of the largest p there times this.
        second: [P, n], float64, Σp·û².
        rounding: its relative error.
    """

    least: Tensor
    largest: Tensor
    wrong: Tensor
    second: Tensor
    rounding: float

    def units(self, chosen: Tensor) -> Tail:
        """The same of some of the units, whose indices are `chosen` [m]."""
        least, largest, wrong = (part[chosen] for part in (self.least, self.largest, self.wrong))
        return Tail(least, largest, wrong, self.second[:, chosen], self.rounding)


class Ends(NamedTuple):
    """What of a `Tail` is of units alone; and the `scale` [n], float64, that û was taken over."""

    least: Tensor
    largest: Tensor
    wrong: Tensor
    scale: Tensor


class Codes(NamedTuple):
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
    return FUSED_SPEED if fused(device_type) else SPEEDS.get(largest_code(device_type), 0.0)


def described(device_type: str) -> str:
    """How these products are made here, in words."""
    largest = largest_code(device_type)
    if not largest:
        return "no 8-bit products"
    how = [f"8-bit products of codes up to {largest}"]
    how += ["fused"] if largest == WITH_VNNI and fused(device_type) else []
    how += ["sums in bfloat16"] if bfloat16_pays(device_type) else []
    return ", ".join(how)


def code_bytes(vocabulary: int, d: int, device_type: str) -> int:
    """Bytes of `EightBit` while it is made: codes and packed codes, scales, lengths and spread of what is wrong.

    A second digit (`two_digits`), which is packed as it is made, takes what the codes took.
    """
    return 2 * vocabulary * (d + 8) + 12 * d * d if supported(device_type) else 0


@cache
def largest_code(device_type: str) -> int:
    """The largest code whose products are exact and fast here; 0: there is none."""
    fast = torch.backends.cpu.get_cpu_capability().startswith("AVX") and torch.backends.mkldnn.is_available()
    if device_type != "cpu" or not hasattr(torch, "_int_mm") or not fast:
        return 0
    return next((largest for largest in (WITH_VNNI, WITHOUT) if _exact(largest, _multiply)), 0)


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    return torch._int_mm(left, right.T)


@cache
def fused(device_type: str) -> bool:
    """Whether there are products that come scaled and in float32, exact but for that; only asked for with VNNI."""
    if largest_code(device_type) != WITH_VNNI or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return False
    try:
        return _exact(WITH_VNNI, _multiply_fused)
    except (RuntimeError, TypeError, NotImplementedError):  # an older torch, which has them for other types
        return False


def _exact(largest: int, multiply: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether the sums that saturate first, of products of equal signs, are right, in kernels for few rows and many.

    Sums of signs that change half-way lose digits where they are not taken in integers.
    """
    width = 512
    for rows, tokens in itertools.product((1, 64), (1, 256)):
        for left, right in itertools.product((-largest, largest), repeat=2):
            ones = [torch.full((n, width), code, dtype=torch.int8) for n, code in ((rows, left), (tokens, right))]
            if not bool((multiply(*ones) == width * left * right).all()):
                return False
        many, few = (torch.full((n, 16 * width + 1), largest, dtype=torch.int8) for n in (rows, tokens))
        many[:, 8 * width : 16 * width] = -largest
        many[:, -1], few[:, -1] = 1, 1
        if not bool((multiply(many, few) == 1).all()):
            return False
    return True


def _multiply_fused(left: Tensor, right: Tensor) -> Tensor:
    return multiply_packed(left, pack(right), torch.ones(len(right)))


@cache
def bfloat16_pays(device_type: str) -> bool:
    """Whether products of bfloat16 are fast here, and their sums are not taken in it, only rounded to it at the end."""
    if not (fused(device_type) and getattr(torch.cpu, "_is_amx_tile_supported", bool)()):
        return False
    terms = torch.full((ROWS, PACKED), 1 / PACKED, dtype=torch.bfloat16)
    terms[:, 0] = 1.0  # to which no other adds anything in bfloat16
    found = (terms @ torch.ones_like(terms).T).double()
    return bool(((found - (2 - 1 / PACKED)).abs() < 2**-7).all())


def pack(codes: Tensor) -> Tensor:
    """Codes of tokens [tokens, d] as fused products take them."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(codes.contiguous(), None)
    return packed


def packs(vocabulary: int) -> Iterator[slice]:
    """Which tokens are packed together."""
    return slices(vocabulary, PACKED)


def multiply_packed(codes: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """Products of codes [n, d] and packed ones, each token's times its `scale` [tokens]: [n, tokens] in float32."""
    multiply, zeros = torch.ops.onednn.qlinear_pointwise, torch.zeros(len(scale), dtype=torch.int32)
    found: Tensor = multiply(codes, 1.0, 0, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], "")
    return found


class EightBit:
    """The unembedding in 8 bits, a quarter of its size; made once for a checkpoint.

    Args:
        table: of the checkpoint.

    Attributes:
        bfloat16_pays: whether sums of squares had better be taken of bfloat16 numbers.
        scale: [V], float32, of each row's codes.
        packed: `PACKED` tokens each, as fused products take them; empty where these are not made.
        spread: E = Σ_j e_j·e_jᵀ of what codes leave of the rows, as `gram` leaves it, and its slack.
        longest_rest: ‖e_j‖ at most.
    """

    def __init__(self, table: Unembedding) -> None:
        device = table.weight.device
        length, width = table.weight.shape
        self._table = table
        self._largest = largest_code(device.type) or WITH_VNNI
        codes = _encode(length, width, self._rows, device, self._largest)
        self.scale, wrong = codes.scale, codes.wrong
        self.longest_rest = float(wrong.max())
        self.spread = self._spread_of(codes)
        self._longest = table.longest + self.longest_rest
        self._unit = float(self.scale.max()) or 1.0  # the scales are taken over it: no square of û underflows
        self._fused = self._largest == WITH_VNNI and fused(device.type)
        self.bfloat16_pays = self._fused and bfloat16_pays(device.type)
        self._codes: Tensor | None = None if self._fused else codes.codes
        self.packed = tuple(pack(some) for some in codes.codes.split(PACKED)) if self._fused else ()

    def _rows(self, some: slice) -> Tensor:
        return self._table.weight[some] - self._table.mean

    def rests(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """What codes leave of the rows, [tokens, d], and the codes' scale, `PACKED` tokens at a time."""
        for some in packs(len(self.scale)):
            rows = self._rows(some)
            codes = _encode_tile(rows, self._largest)
            yield some, rest(rows, codes), codes.scale

    def _spread_of(self, codes: Codes) -> tuple[Tensor, float]:
        """E = Σ_j e_j·e_jᵀ, as `gram` leaves it, and its slack, as that of `Unembedding`."""
        table, total = self._table, torch.zeros_like(self._table.spread, dtype=torch.float64)

        def errors() -> Iterator[Tensor]:
            for start in range(0, len(table.weight), GRAM_ROWS):
                some = slice(start, start + GRAM_ROWS)
                yield rest(self._rows(some), Codes(*(part[some] for part in codes)))

        spread, trace = gram(errors(), total), float(codes.wrong.square().sum())
        rounding = gram_gamma(table.dtype) * trace + quadratic_gamma(table.dtype) * frobenius(spread)
        return spread.to(table.dtype), rounding * 1.01 + underflow(table.dtype, len(spread) * (len(table.weight) + 1))

    def __call__(
        self, folded: Tensor, p: Distribution, level: int, take: Take, together: Sequence[slice] | None = None
    ) -> Ends:
        """Go through all tokens outside of a level.

        Args:
            folded: [n, d], folded value vectors.
            p: of the block.
            level: whose tokens are left out; û is 0 there.
            take: is given every tile.
            together: units that tiles are made of, a few at a time, so that these stay in a processor's cache; all
                of them, in order. None: as is fast.
        """
        units = encode(folded, self._largest)
        scale = (self.scale / self._unit).index_fill_(0, p.order[: p.levels[level]], 0.0)
        far = torch.zeros_like(units.scale)
        together = together or [slice(start, start + ROWS) for start in range(0, len(folded), ROWS)]
        for some, tiles in self._products(units, scale, together):
            weight = p.log_p[:, some].exp().float()
            for here, rough in tiles:
                square, farthest = rough.square_(), far[here]
                torch.maximum(farthest, square.amax(dim=1), out=farthest)
                take(here, square, weight)
        length = lengths(folded)
        margin = self.longest_rest * length + self._longest * units.wrong
        unit = units.scale.double() * self._unit
        end = unit * (1 + ROUNDING) * far.double().sqrt() + margin
        return Ends(-end, end, self._wrong_over_tokens(folded, units, length), unit)

    def _products(
        self, units: Codes, scale: Tensor, together: Sequence[slice]
    ) -> Iterator[tuple[slice, Iterator[tuple[slice, Tensor]]]]:
        """û of units over their scales, [n', tokens] of a few tokens at a time; one may overwrite the one before."""
        if self._codes is None:
            for some, packed in zip(packs(len(scale)), self.packed, strict=True):
                given = packed, scale[some]
                yield some, ((here, multiply_packed(units.codes[here], *given)) for here in together)
            return
        codes, n_units = self._codes, len(units.codes)
        tokens = max(LEAST_TOKENS, min(TOKENS, TILE_NUMBERS // n_units))
        products = torch.empty(n_units * tokens, dtype=torch.int32, device=scale.device)
        rough = torch.empty_like(products, dtype=torch.float32)
        for start in range(0, len(codes), tokens):
            some = slice(start, min(start + tokens, len(codes)))
            shape = n_units, some.stop - start
            whole, found = (room[: shape[0] * shape[1]].view(shape) for room in (products, rough))
            torch._int_mm(units.codes, codes[some].T, out=whole)
            found.copy_(whole).mul_(scale[some])
            yield some, ((here, found[here]) for here in together)

    def _wrong_over_tokens(self, folded: Tensor, units: Codes, length: Tensor) -> Tensor:
        """√Σ_j (u_j − û_j)², at most: √(v̂ᵀEv̂) + √(fᵀCf), and what rounding of e and f may add."""
        table, (matrix, slack) = self._table, self.spread
        error = rest(folded, units)
        roots = [squares(folded - error, matrix, slack).sqrt(), squares(error, table.spread, table.slack).sqrt()]
        rounding = 8 * unit_roundoff(table.dtype) * length * table.longest * len(table.weight) ** 0.5
        return torch.stack([*roots, rounding]).sum(dim=0) * (1 + ROUNDING)


def rest(rows: Tensor, codes: Codes) -> Tensor:
    """x − scale · code of rows x [n, d]."""
    scale = codes.scale.to(rows.dtype).unsqueeze(-1)
    return torch.addcmul(rows, codes.codes.to(rows.dtype), scale, value=-1)


def encode(rows: Tensor, largest: int) -> Codes:
    """Codes up to `largest` of rows [n, d]."""
    return _encode(len(rows), rows.shape[1], rows.__getitem__, rows.device, largest)


def _encode(length: int, width: int, rows: Callable[[slice], Tensor], device: torch.device, largest: int) -> Codes:
    """Codes up to `largest` of each of so many rows, which are asked for a few at a time."""
    found = Codes(
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


def _encode_tile(rows: Tensor, largest: int) -> Codes:
    scale = (torch.maximum(rows.amax(dim=-1), -rows.amin(dim=-1)) / largest).float()
    safe = torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
    rounded = torch.div(rows, safe).round_().clamp_(-largest, largest)
    codes = rounded.to(torch.int8)
    wrong = lengths(rounded.mul_(safe).sub_(rows))
    rounding = 4 * unit_roundoff(rows.dtype) * lengths(rows) + underflow(torch.float32, 2 * largest * rows.shape[-1])
    return Codes(codes, scale, wrong + rounding)
