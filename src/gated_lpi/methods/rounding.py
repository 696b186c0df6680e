"""Rounding that can be bounded: matrix products of limited length, and what their error is at most.

A sum of n products in a dtype of unit roundoff ε, in whatever order and with or without fused multiply-adds, is off by
at most γ_n·Σ|a_i·b_i| with γ_n = nε/(1 − nε) (Higham, Accuracy and Stability of Numerical Algorithms, § 3.1). A long
product in float32 would therefore have a bound too wide to be of use. `BlockedProduct` cuts the inner dimension into
pieces of at most `PIECE` terms, each a plain matrix product, and adds these up: n falls to PIECE and the number of
pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gated_lpi.methods.tiles import BUSY, at_once

PIECE = 256
TILE = 192  # columns of a symmetric matrix that are multiplied at a time: what is above the diagonal is spared
ACROSS = 1024  # by so many, where one is summed: the sum of the pieces stays in a processor's cache
WIDE_ROWS = 512  # that are converted to float64 at a time
GRAM_ROWS = 1024  # whose products `gram` sums up in their dtype, in pieces
WIDE_RANGE = 2.0**20  # sizes over 1, or below, of what is left as it is
RUN = 128  # terms that are summed in their own dtype
FLOAT64_TERMS = 2**20  # more additions in float64 than any sum here has


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of one rounding to nearest."""
    return float(torch.finfo(dtype).eps) / 2


def gamma(terms: int, dtype: torch.dtype) -> float:
    """γ_n: the relative error of a sum of n products, over the sum of the products' absolute values."""
    error = terms * unit_roundoff(dtype)
    return error / (1 - error) if error < 1 else math.inf


def pieces(length: int, limit: int = PIECE) -> Iterator[slice]:
    """Cut `length` into the fewest slices of at most `limit`, of nearly the same size."""
    count = max(1, -(-length // limit))
    size = -(-length // count) if length else 0
    for start in range(0, length, max(1, size)):
        yield slice(start, min(start + size, length))


def gram(pieces: Iterable[Tensor], total: Tensor) -> Tensor:
    """Add Σ xxᵀ over the rows x of matrices [≤ `GRAM_ROWS`, width], all of one dtype, to `total` [width, width].

    `total` is float64; as the sum is symmetric, only the tiles on and under the diagonal are added to, which are what
    `quadratic_form` reads. An entry is off by at most `gram_gamma` times Σ|x_k·x_l|.

    Raises:
        ValueError: a matrix has more than `GRAM_ROWS` rows.
    """
    multiply: BlockedProduct | None = None
    for rows in pieces:
        if len(rows) > GRAM_ROWS:
            raise ValueError(f"{len(rows)} rows were given; their products are bounded for {GRAM_ROWS} at most")
        multiply = multiply or BlockedProduct(min(TILE, len(total)), min(ACROSS, len(total)), rows)
        for tile in slices(len(total), TILE):
            for across in slices(tile.stop, ACROSS):
                total[tile, across] += multiply(rows[:, tile].T, rows[:, across])
    return total


def gram_gamma(dtype: torch.dtype, roundings: int = 4) -> float:
    """γ of `gram`, with a few `roundings` of the rows before it."""
    return product_gamma(GRAM_ROWS, dtype) + gamma(roundings, dtype) + gamma(FLOAT64_TERMS, torch.float64)


def quadratic_form(values: Tensor, matrix: Tensor) -> Tensor:
    """vᵀMv of every row v of some values, with M symmetric.

    Only the tiles on and under the diagonal are read; those under it count twice. Off by at most γ·Σ_kl |v_k·M_kl·v_l|
    with the γ of `quadratic_gamma`.

    Args:
        values: [n, d].
        matrix: [d, d], M.

    Returns:
        [n], float64.
    """
    total = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    room = torch.empty_like(values).flatten()
    for tile in slices(values.shape[1], TILE):
        width = tile.stop
        product = torch.mm(values[:, tile], matrix[tile, :width], out=room[: len(values) * width].view(-1, width))
        product[:, : tile.start] *= 2
        total += sum_in_runs(product.mul_(values[:, :width]))
    return total


def frobenius(matrix: Tensor) -> float:
    """Upper bound on ‖M‖_F of a symmetric M [d, d] from the tiles on and under the diagonal, those above being 0."""
    return math.sqrt(2) * float(torch.linalg.vector_norm(matrix))


def quadratic_gamma(dtype: torch.dtype) -> float:
    """γ of `quadratic_form`: a product of at most `TILE` terms, their factor, a sum in runs."""
    return gamma(TILE + RUN + 4, dtype) + gamma(FLOAT64_TERMS, torch.float64)


def lengths(rows: Tensor) -> Tensor:
    """Upper bounds on ‖x‖ of rows x [n, d], [n] in float64."""
    found: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64)  # squares of float32 may underflow
    return found * (1 + gamma(rows.shape[-1] + 4, torch.float64))


def into_range(sizes: Tensor) -> Tensor | None:
    """Powers of two that bring `sizes` [n] near 1, [n] in float64; None where all are near enough, or 0.

    What is multiplied by them loses nothing, and can be squared twice without leaving the range of float32.
    """
    outside = (sizes > 0) & ((sizes < 1 / WIDE_RANGE) | (sizes > WIDE_RANGE))
    if not bool(outside.any()):
        return None
    sizes = sizes.double()
    return torch.where(outside, torch.ldexp(torch.ones_like(sizes), -torch.frexp(sizes).exponent), 1.0)


def underflow(dtype: torch.dtype, terms: int) -> float:
    """What so many products may lose because each is too small for the dtype."""
    return terms * float(torch.finfo(dtype).tiny)


def sum_in_runs(terms: Tensor) -> Tensor:
    """Sum over the last dimension of `terms` [..., n], [...] in float64.

    Runs of at most `RUN` terms are summed in their dtype, the runs' sums in float64. Off by at most γ_RUN·Σ|terms| and
    what float64 loses.
    """
    length = terms.shape[-1]
    whole = length - length % RUN
    total: Tensor = terms[..., :whole].unflatten(-1, (-1, RUN)).sum(dim=-1).sum(dim=-1, dtype=torch.float64)
    return total if whole == length else total + terms[..., whole:].sum(dim=-1).double()


def slices(length: int, size: int) -> Iterator[slice]:
    """So many at a time, the last ones fewer."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def wide_products(left: Tensor, rows: Tensor) -> Tensor:
    """`left` [m, k] in float64 @ `rows` [n, k] transposed → [m, n] in float64; rows are converted a few at a time."""
    found = left.new_empty(len(left), len(rows))
    step = at_once(WIDE_ROWS, rows.device, BUSY // rows.shape[1])
    wide = left.new_empty(min(step, len(rows)), rows.shape[1])
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        torch.mm(left, wide[: len(some)].copy_(some).T, out=found[:, start : start + step])
    return found


class BlockedProduct:
    """Matrix products in pieces of at most `PIECE` inner terms, which are added in their dtype.

    A product is overwritten by the next one. An entry is off by at most γ·Σ|a_i·b_i| with the γ of `product_gamma`.

    Args:
        rows, columns: of the largest product.
        like: a tensor of the operands' dtype and device.
        piece: another length of pieces: shorter ones cost more and err less.
    """

    def __init__(self, rows: int, columns: int, like: Tensor, piece: int = PIECE) -> None:
        self._limit = piece
        self._total, self._piece = (like.new_empty(rows * columns) for _ in range(2))

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        """`left` [m, k] @ `right` [k, n] → [m, n]."""
        shape = len(left), right.shape[1]
        total, product = (numbers[: shape[0] * shape[1]].view(shape) for numbers in (self._total, self._piece))
        for number, piece in enumerate(pieces(len(right), self._limit)):
            torch.mm(left[:, piece], right[piece], out=product if number else total)
            if number:
                total += product
        return total


def product_gamma(length: int, dtype: torch.dtype, piece: int = PIECE) -> float:
    """γ of a `BlockedProduct` of so many terms, with a few roundings of the operands before it."""
    cut = list(pieces(length, piece))
    return gamma(max((one.stop - one.start for one in cut), default=0) + len(cut) + 4, dtype)


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep float32 matrix products float32 inside the `with` block: TF32 or bfloat16 products void every bound."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
