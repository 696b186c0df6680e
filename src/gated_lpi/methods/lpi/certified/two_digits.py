"""u of every token from two digits of 8 bits each: nearly as good as from float32, and cheaper.

A row or vector x is scale·(a + b/BASE) up to a rest, with integers a and b of 8 bits; x₁ = scale·a and
x₂ = scale·b/BASE are its digits. Of the product of two such the smallest of four terms is left out:

    û = w₁·v₁ + w₁·v₂ + w₂·v₁,    u − û = e·(v₁ + v₂) + w·f + w₂·v₂,

e and f being the rests of w and v, some 2⁻¹⁵ of them. Each term is a product of integers, exact but for its scale
(`eight_bit`). Over all tokens the errors are

    √Σ(u − û)² ≤ ‖E‖·(‖v₁ + v₂‖ + ‖v₂‖) + √(fᵀCf) + √(v₂ᵀRv₂),

with ‖E‖² = Σ‖e_j‖², C the spread of the rows and R that of what their first digit leaves, w₂ + e.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.lpi.certified import eight_bit
from gated_lpi.methods.lpi.certified.eight_bit import PACKED, WITH_VNNI, EightBit, multiply_packed
from gated_lpi.methods.lpi.certified.envelope import squares
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.rounding import gamma, lengths, underflow, unit_roundoff

BASE = 254  # a rest of half a step of the first digit is 127 steps of the second
PRODUCTS = 3  # of 8 bits
LEAST_WIDTH = 256  # from which such products are so much faster that three of them pay
ROUNDINGS = 32  # unit roundoffs of the size of a product: of three terms, their scales and sum


class Wrong(NamedTuple):
    """How far û of n vectors is off at most, each [n] in float64.

    Attributes:
        together: √Σ_j (u_j − û_j)² over the vocabulary.
        single: |u_j − û_j|.
    """

    together: Tensor
    single: Tensor


class Lost(NamedTuple):
    """What digits of n vectors lose, each [n] in float64; that of a sum of vectors is at most the sum of theirs.

    Attributes:
        length: by how much what e is multiplied by is longer than the vector, v₂ counted apart.
        together: √Σ_j (w_j·f + w₂·v₂ + rounding)² over the vocabulary, but for e.
        single: the same of one token.
    """

    length: Tensor
    together: Tensor
    single: Tensor


class Encoded(NamedTuple):
    """Vectors in two digits.

    Attributes:
        first, second: [n, d], int8.
        scale: [n, 1], float32.
        lost: what is not in them.
    """

    first: Tensor
    second: Tensor
    scale: Tensor
    lost: Lost


def supported(device_type: str, width: int, dtype: torch.dtype) -> bool:
    """Whether three products of 8 bits are faster here than one of float32, of vectors so wide."""
    fast = eight_bit.largest_code(device_type) == WITH_VNNI and eight_bit.fused(device_type)
    return fast and dtype == torch.float32 and width >= LEAST_WIDTH


class TwoDigits:
    """The unembedding in two digits; made once for a checkpoint, beside its first digit.

    Args:
        table: of the checkpoint.
        first: its rows in 8 bits, as fused products take them.
    """

    def __init__(self, table: Unembedding, first: EightBit) -> None:
        self._table, self._first = table, first
        packed: list[Tensor] = []
        total, most = 0.0, 0.0
        for tokens, rest, scale in first.rests():
            second = _second_digit(rest, scale)
            lost = _lost(_unseen(rest, second, scale), self._size(table.norms[tokens]))
            total, most = total + float(lost.square().sum()), max(most, float(lost.max()))
            packed.append(eight_bit.pack(second))
        self._packed = tuple(packed)
        self._together, self._single = (total * (1 + 1e-9)) ** 0.5, most

    def _size(self, length: Tensor) -> Tensor:
        """What the rounding of a rest is counted from: what the whole row or vector is, at most."""
        share: float = self._table.weight.shape[1] ** 0.5 / WITH_VNNI
        return length * (1 + share)

    def encode(self, folded: Tensor) -> Encoded:
        """Folded value vectors [n, d] in two digits."""
        codes, table, first = eight_bit.encode(folded, WITH_VNNI), self._table, self._first
        rest = eight_bit.rest(folded, codes)
        second = _second_digit(rest, codes.scale)
        length = lengths(folded)
        unseen = _unseen(rest, second, codes.scale)
        lost = _lost(unseen, self._size(length))
        digit = second.to(folded.dtype) * (codes.scale.unsqueeze(-1) / BASE)
        left = lengths(digit) * (1 + 1e-6)
        size, root = self._size(length) * self._size(table.norms.new_tensor(table.longest)), len(table.weight) ** 0.5
        rounding = ROUNDINGS * unit_roundoff(folded.dtype) * size + underflow(folded.dtype, 4 * folded.shape[1])
        together = squares(unseen, table.spread, table.slack).sqrt() + squares(digit, *first.spread).sqrt()
        single = table.longest * lost + first.longest_rest * left
        found = Lost(lost + left, together + rounding * root, single + rounding)
        return Encoded(codes.codes, second, codes.scale.unsqueeze(-1), found)

    def wrong(self, length: Tensor, lost: Lost) -> Wrong:
        """How far û of vectors so long [n], float64, is off: what is lost of rows and vectors."""
        size = (length + lost.length) * (1 + 1e-6)
        return Wrong(self._together * size + lost.together, self._single * size + lost.single)

    def product(self, pack: int, vectors: Encoded, here: slice) -> Tensor:
        """û of some of the vectors and of the tokens of a pack (`eight_bit.packs`), [n', tokens]."""
        first, second = vectors.first[here], vectors.second[here]
        rows, finer = self._first.packed[pack], self._packed[pack]
        scale = self._first.scale[pack * PACKED : (pack + 1) * PACKED]
        found = multiply_packed(first, rows, scale)
        found += multiply_packed(first, finer, scale / BASE)
        found += multiply_packed(second, rows, scale / BASE)
        return found.mul_(vectors.scale[here])


def _second_digit(rest: Tensor, scale: Tensor) -> Tensor:
    """b of what the first digit leaves of rows [n, d] of that scale [n], int8."""
    safe = torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
    return torch.div(rest, safe).mul_(BASE).round_().clamp_(-WITH_VNNI, WITH_VNNI).to(torch.int8)


def _unseen(rest: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """What two digits leave, [n, d], of what the first one leaves of rows of that scale [n]."""
    return torch.addcmul(rest, second.to(rest.dtype), scale.unsqueeze(-1) / BASE, value=-1)


def _lost(unseen: Tensor, size: Tensor) -> Tensor:
    """Upper bounds on the length of what two digits leave, [n] in float64; rounding is that of what is `size` long."""
    lost = underflow(torch.float32, 2 * WITH_VNNI * unseen.shape[-1])
    return lengths(unseen) + gamma(8, unseen.dtype) * size + lost
