"""How far a unit moves any token at all: bounds on u from products of 8-bit integers.

With rows and value vectors rounded to 8 bits, w = ŵ + e and v = v̂ + f, the product ŵ·v̂ of integers is exact, and

    |w·v − ŵ·v̂| ≤ ‖e‖·‖v‖ + ‖ŵ‖·‖f‖.

That is too coarse for a moment of u, but as a bound on the largest u it is far better than ‖w‖·‖v‖, and where a
processor has instructions for it (VNNI) such a product is three to four times as fast as one of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.rounding import gamma, lengths, unit_roundoff

TOKENS, LEAST_TOKENS = 2048, 256  # that are multiplied at a time
ENCODED = 2**19  # numbers that are rounded at a time
TILE_NUMBERS = 2**21  # numbers that stay in a processor's cache
LARGEST = 127
ROUNDING = 1e-5  # relative: of scales and their products in float32


class Extremes(NamedTuple):
    """How far units move some tokens.

    Attributes:
        least: [n], float64, least u of each unit, or less.
        largest: [n], float64, largest u of each unit, or more.
    """

    least: Tensor
    largest: Tensor

    def units(self, chosen: Tensor) -> Extremes:
        """The extremes of some of the units, whose indices are `chosen` [m]."""
        return Extremes(self.least[chosen], self.largest[chosen])


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


@cache
def supported(device_type: str) -> bool:
    """Whether products of 8-bit integers are exact and fast here."""
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    return device_type == "cpu" and hasattr(torch, "_int_mm") and has_vnni is not None and bool(has_vnni())


class EightBit:
    """The unembedding in 8 bits, a quarter of its size; made once for a checkpoint.

    Rows are kept in the order of their scales. Those that are multiplied together then have nearly the same one, and
    extremes are taken of the integers: all of a tile count with its largest scale.

    Args:
        table: of the checkpoint.
    """

    def __init__(self, table: Unembedding) -> None:
        length, width = table.weight.shape
        order = torch.cat([_scale(table.weight[some] - table.mean) for some in _tiles(length, width)]).argsort()
        self._place = torch.empty_like(order).scatter_(0, order, torch.arange(length, device=order.device))
        self._codes, self._scale, wrong = _encode(length, width, lambda some: table.rows(order[some]), order.device)
        self._wrong = float(wrong.max())
        self._longest = table.longest + self._wrong

    def __call__(self, parts: Sequence[Tensor], skipped: Tensor) -> list[Extremes]:
        """Extremes on u over all tokens but those `skipped`, of folded value vectors [n, d] of some parts.

        0 always lies between them.
        """
        codes = [_encode(len(part), part.shape[1], part.__getitem__, part.device) for part in parts]
        units = _Codes(*map(torch.cat, zip(*codes, strict=True)))
        least = torch.zeros_like(units.scale)
        largest = torch.zeros_like(least)
        tokens = max(LEAST_TOKENS, min(TOKENS, TILE_NUMBERS // len(least)))
        starts = range(0, len(self._codes), tokens)
        hidden = self._place[skipped].sort().values
        bounds = torch.searchsorted(hidden, torch.tensor([*starts, len(self._codes)], device=hidden.device)).tolist()
        for start, first, last in zip(starts, bounds[:-1], bounds[1:], strict=True):
            tile = torch._int_mm(units.codes, self._codes[start : start + tokens].T)
            tile.index_fill_(1, hidden[first:last] - start, 0)
            scale = self._scale[start : start + tokens].amax()
            least = torch.minimum(least, tile.amin(dim=1) * scale)
            largest = torch.maximum(largest, tile.amax(dim=1) * scale)
        length = torch.cat([lengths(part) for part in parts])
        margin = self._wrong * length + self._longest * units.wrong
        wide = units.scale.double() * (1 + ROUNDING)
        ends = wide * least.double() - margin, wide * largest.double() + margin
        split = (end.split([len(part) for part in parts]) for end in ends)
        return [Extremes(*end) for end in zip(*split, strict=True)]


def _tiles(length: int, width: int) -> Iterator[slice]:
    step = max(1, ENCODED // width)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _encode(length: int, width: int, rows: Callable[[slice], Tensor], device: torch.device) -> _Codes:
    """8 bits of each of so many rows, which are asked for a few at a time."""
    found = _Codes(
        torch.empty(length, width, dtype=torch.int8, device=device),
        torch.empty(length, dtype=torch.float32, device=device),
        torch.empty(length, dtype=torch.float64, device=device),
    )
    for some in _tiles(length, width):
        for whole, part in zip(found, _encode_tile(rows(some)), strict=True):
            whole[some] = part
    return found


def _encode_tile(rows: Tensor) -> _Codes:
    scale = _scale(rows)
    safe = torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
    rounded = torch.div(rows, safe).round_().clamp_(-LARGEST, LARGEST)
    codes = rounded.to(torch.int8)
    wrong = torch.linalg.vector_norm(rounded.mul_(safe).sub_(rows), dim=-1).double()
    rounding = 4 * unit_roundoff(rows.dtype) * torch.linalg.vector_norm(rows, dim=-1).double()
    return _Codes(codes, scale, (wrong + rounding) * (1 + gamma(rows.shape[-1] + 8, rows.dtype)))


def _scale(rows: Tensor) -> Tensor:
    return (torch.maximum(rows.amax(dim=-1), -rows.amin(dim=-1)) / LARGEST).float()
