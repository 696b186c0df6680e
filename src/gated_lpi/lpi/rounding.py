"""Rounding that can be bounded: matrix products of limited length, and what their error is at most.

A sum of n products in a dtype of unit roundoff ε, in whatever order and with or without fused multiply-adds, is off by
at most γ_n·Σ|a_i·b_i| with γ_n = nε/(1 − nε) (Higham, Accuracy and Stability of Numerical Algorithms, § 3.1). A long
product in float32 would therefore have a bound too wide to be of use. `split_matmul` cuts the inner dimension into
pieces of at most `PIECE` terms, each a plain matrix product, and adds these up in float64: n falls to PIECE.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

PIECE = 576
FLOAT64_TERMS = 2**20  # more additions in float64 than any sum here has


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of one rounding to nearest."""
    return float(torch.finfo(dtype).eps) / 2


def gamma(terms: int, dtype: torch.dtype) -> float:
    """γ_n: the relative error of a sum of n products, over the sum of the products' absolute values."""
    error = terms * unit_roundoff(dtype)
    return error / (1 - error) if error < 1 else math.inf


def split_gamma(dtype: torch.dtype, *, roundings: int = 4) -> float:
    """The same for `split_matmul`, with a few `roundings` of the operands before it and the float64 sum after it."""
    return gamma(PIECE + roundings, dtype) + gamma(FLOAT64_TERMS, torch.float64)


def pieces(length: int, limit: int = PIECE) -> Iterator[slice]:
    """Cut `length` into the fewest slices of at most `limit`, of nearly the same size."""
    count = max(1, -(-length // limit))
    size = -(-length // count) if length else 0
    for start in range(0, length, max(1, size)):
        yield slice(start, min(start + size, length))


def split_matmul(left: Tensor, right: Tensor) -> Tensor:
    """`left` [m, k] @ `right` [k, n] → [m, n] in float64, in pieces of at most `PIECE` inner terms.

    For operands that are float64 already it is one plain product.
    """
    if left.dtype == torch.float64:
        return left @ right
    total = torch.empty(left.shape[0], right.shape[1], dtype=torch.float64, device=left.device)
    product = left.new_empty(total.shape)
    for number, piece in enumerate(pieces(left.shape[1])):
        torch.mm(left[:, piece], right[piece], out=product)
        total.copy_(product) if number == 0 else total.add_(product)
    return total


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep float32 matrix products float32 inside the `with` block: TF32 or bfloat16 products void every bound."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
