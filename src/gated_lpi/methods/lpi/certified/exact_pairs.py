"""The exact sum over the vocabulary for single pairs, with a bound on its rounding.

I = c·u_target − log Σ_j exp(log p_j + c·u_j).

1. u in float64, or in the weights' dtype for units of which that moves no exponent by more than a part of the
   tolerance; exponents and log p in the weights' dtype; sums of runs of them are added up in float64.
2. Where log p is not good enough for that, it is found again for the pair's prompt, from logits in float64; where that
   is plain beforehand, at once.
3. Where rounding of the exponents alone exceeds the tolerance (a pair that moves the logits by tens), everything is
   done again in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.lpi.certified.distribution import Distribution
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.methods.rounding import (
    RUN,
    BlockedProduct,
    gamma,
    product_gamma,
    sum_in_runs,
    unit_roundoff,
    wide_products,
)
from gated_lpi.methods.tiles import at_once
from gated_lpi.models import Readout

TILE_NUMBERS = 2**17
LARGEST = 60.0  # exponents above this are left to float64
NARROW = 0.4  # of the tolerance, that u in the weights' dtype may take


class _Singles(NamedTuple):
    """Pairs of a prompt and a unit, m of them.

    Attributes:
        c: [m], coefficients over σ, float64.
        prompts: [m], indices of prompts.
        units: [m], indices of value vectors.
    """

    c: Tensor
    prompts: Tensor
    units: Tensor

    def some(self, chosen: Tensor) -> _Singles:
        return _Singles(self.c[chosen], self.prompts[chosen], self.units[chosen])


class _Rows(NamedTuple):
    """log p of all prompts, or of some, and how wrong it may be.

    Attributes:
        log_p: [R, V].
        row_of: [P], which row is that of a prompt.
        error, error_per_norm, head_error: [R], float64, bounds on the error of log p, as those of `Distribution`.
        outside: [R], float64, √(Σ p_j·‖w_j‖²) times √(Σ p_j), both over the tokens outside of the head.
        outside_norms: [V], ‖w_j‖ of these tokens, 0 for those of the head.
    """

    log_p: Tensor
    row_of: Tensor
    error: Tensor
    error_per_norm: Tensor
    head_error: Tensor
    outside: Tensor
    outside_norms: Tensor


def exact_pairs(
    problem: BlockProblem,
    p: Distribution,
    values: Tensor,
    c: Tensor,
    prompts: Tensor,
    units: Tensor,
    *,
    tolerance: float,
    numbers: int,
) -> tuple[Tensor, Tensor]:
    """Scores and error bounds, [m] in float64, of m pairs.

    Args:
        problem: the block.
        p: its distributions.
        values: [n, d], value vectors.
        c: [m], coefficients over σ, float64.
        prompts: [m], indices of prompts.
        units: [m], rows of `values`.
        tolerance: what a bound should not exceed; it does where even float64 is not enough.
        numbers: numbers in a matrix of units and tokens, at most.
    """
    pairs, found = _Singles(c, prompts, units), _as_found(p)
    scores, bound = torch.zeros_like(c), torch.full_like(c, torch.inf)
    least = found.error_per_norm * found.outside + 2 * found.head_error  # what errors of log p add to a bound
    first = (least[prompts] <= tolerance).nonzero().squeeze(-1)
    if len(first):
        scores[first], bound[first] = _in_weights_dtype(problem, found, values, pairs.some(first), tolerance, numbers)
    left = (~(bound <= tolerance)).nonzero().squeeze(-1)
    if len(left) and values.dtype != torch.float64:
        rows = _refined(problem, p, prompts[left].unique(), numbers)
        scores[left], bound[left] = _in_weights_dtype(problem, rows, values, pairs.some(left), tolerance, numbers)
        left = (~(bound <= tolerance)).nonzero().squeeze(-1)
    if len(left):
        scores[left], bound[left] = _in_float64(problem, values, pairs.some(left), numbers)
    return scores, bound


def _as_found(p: Distribution) -> _Rows:
    everyone = torch.arange(len(p.log_p), device=p.log_p.device)
    outside = p.outside_norm * p.outside_head.sqrt()
    return _Rows(p.log_p, everyone, p.error, p.error_per_norm, p.head_error, outside, p.outside_norms)


def _refined(problem: BlockProblem, p: Distribution, prompts: Tensor, numbers: int) -> _Rows:
    """log p of these prompts, ascending, from logits in float64."""
    log_p = torch.empty(len(prompts), p.log_p.shape[1], dtype=p.log_p.dtype, device=p.log_p.device)
    step = max(1, numbers // (2 * log_p.shape[1]))
    for start in range(0, len(prompts), step):
        log_p[start : start + step] = float64_logits(problem, prompts[start : start + step]).log_softmax(dim=-1)
    row_of = torch.zeros(len(p.log_p), dtype=torch.long, device=log_p.device)
    row_of[prompts] = torch.arange(len(prompts), device=log_p.device)
    rounding = unit_roundoff(log_p.dtype) * (2 - 2 * log_p.amin(dim=-1).double())
    zero = torch.zeros_like(rounding)
    return _Rows(log_p, row_of, rounding, zero, rounding, zero, torch.zeros_like(p.outside_norms))


def _in_weights_dtype(
    problem: BlockProblem, rows: _Rows, values: Tensor, pairs: _Singles, tolerance: float, numbers: int
) -> tuple[Tensor, Tensor]:
    """Step 1, a few value vectors at a time; the bound is infinite where an exponent is too large for it."""
    scores, bound = torch.empty_like(pairs.c), torch.full_like(pairs.c, torch.inf)
    order = pairs.units.argsort(stable=True)
    distinct, which = pairs.units[order].unique_consecutive(return_inverse=True)
    least = rows.log_p.amin(dim=-1).double()
    size = max(1, numbers // problem.readout.vocabulary)
    for start in range(0, len(distinct), size):
        chosen = order[(which >= start) & (which < start + size)]
        here = pairs.some(chosen)
        here = here._replace(units=torch.searchsorted(distinct, here.units) - start)
        some = values[distinct[start : start + size]]
        scores[chosen], bound[chosen] = _sum_up(problem, rows, some, here, least, tolerance)
    return scores, bound


def _sum_up(
    problem: BlockProblem, rows: _Rows, values: Tensor, pairs: _Singles, least: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Scores and bounds of pairs of a few `values` [n, d]; `least` is each row's smallest log p."""
    weight, dtype, c = problem.readout.weight, values.dtype, pairs.c
    vocabulary = len(weight)
    wide = problem.readout.fold(values.double())
    at_target = (weight[problem.targets[pairs.prompts]].double() * wide[pairs.units]).sum(dim=-1)
    u, from_u = _products(problem.readout, wide, pairs, dtype, NARROW * tolerance)
    total, tilted = torch.empty_like(c), torch.empty_like(c)
    step = max(1, at_once(TILE_NUMBERS, u.device) // vocabulary)
    terms = u.new_empty(step, vocabulary)
    row = rows.row_of[pairs.prompts]
    for start in range(0, len(c), step):
        some = slice(start, start + step)
        exponents = terms[: len(c[some])]
        torch.mul(u[pairs.units[some]], c[some].to(dtype).unsqueeze(-1), out=exponents)
        exponents += rows.log_p[row[some]]
        exponents.exp_()
        total[some] = sum_in_runs(exponents)
        tilted[some] = (exponents @ rows.outside_norms).double()
    moved = c.abs() * torch.maximum(u.amax(dim=-1), -u.amin(dim=-1))[pairs.units]
    # Σ_j D_j·(p_j + q_j), q ∝ p·e^{c·u}, bounds what errors D of log p do (docs/method.md).
    outside = rows.error_per_norm[row] * (rows.outside[row] + 1.01 * tilted / total)
    from_p = (outside + 2 * rows.head_error[row]) * torch.exp(2 * rows.error[row])
    rounding = unit_roundoff(dtype) * (8 * moved - 3 * least[row] + 16) + gamma(RUN + 4, dtype)
    scores = c * at_target - total.log()
    bound = from_p + from_u + rounding + unit_roundoff(dtype) * scores.abs()
    return scores, torch.where(moved < LARGEST, bound, torch.inf)


def _products(
    readout: Readout, wide: Tensor, pairs: _Singles, dtype: torch.dtype, allowed: float
) -> tuple[Tensor, Tensor]:
    """u [n, V] of folded value vectors [n, d], and by how much its rounding may move an exponent of each pair, [m].

    Products are in `dtype` for the units whose pairs that moves by `allowed` at most, and in float64 for the others,
    where it is 0.
    """
    size = product_gamma(wide.shape[1], dtype) * readout.longest_row * torch.linalg.vector_norm(wide, dim=-1)
    moved = pairs.c.abs() * size[pairs.units]
    narrow = torch.zeros_like(size).scatter_reduce_(0, pairs.units, moved, "amax") <= allowed
    u = torch.empty(len(wide), readout.vocabulary, dtype=dtype, device=wide.device)
    some, others = (chosen.nonzero().squeeze(-1) for chosen in (narrow, ~narrow))
    if len(some):
        left = wide[some].to(dtype)
        u[some] = BlockedProduct(len(some), readout.vocabulary, left)(left, readout.weight.T)
    if len(others):
        u[others] = wide_products(wide[others], readout.weight).to(dtype)
    return u, torch.where(narrow[pairs.units], moved, 0.0)


def _in_float64(problem: BlockProblem, values: Tensor, pairs: _Singles, numbers: int) -> tuple[Tensor, Tensor]:
    """Step 3: scores and bounds of pairs, with every number in float64."""
    readout = problem.readout
    scores, largest = torch.empty_like(pairs.c), torch.empty_like(pairs.c)
    step = max(1, numbers // (4 * readout.vocabulary))
    distinct, which = pairs.prompts.unique(return_inverse=True)
    for start in range(0, len(distinct), step):
        logits = float64_logits(problem, distinct[start : start + step])
        log_p = torch.log_softmax(logits, dim=-1)
        chosen = ((which >= start) & (which < start + step)).nonzero().squeeze(-1)
        for first in range(0, len(chosen), step):
            some = chosen[first : first + step]
            u = wide_products(readout.fold(values[pairs.units[some]].double()), readout.weight)
            u -= u.gather(-1, problem.targets[pairs.prompts[some]].unsqueeze(-1))
            row = which[some] - start
            scores[some] = -torch.logsumexp(log_p[row] + pairs.c[some].unsqueeze(-1) * u, dim=-1)
            largest[some] = logits[row].abs().amax(dim=-1)
    length = torch.linalg.vector_norm(readout.fold(values.double()), dim=-1)[pairs.units] * readout.longest_row
    terms = readout.weight.shape[1] + readout.vocabulary + 16
    size = pairs.c.abs() * length + largest + size_of_offset(readout) + 1
    bound = 4 * gamma(terms, torch.float64) * size
    bound += unit_roundoff(values.dtype) * scores.abs()  # of storing them
    return scores, bound


def float64_logits(problem: BlockProblem, prompts: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Logits of the base of some prompts, [m, V], or of some tokens."""
    readout = problem.readout
    weight, offset = readout.weight, readout.wide_offset
    if tokens is not None:
        weight, offset = weight[tokens], offset if offset is None else offset[tokens]
    logits = wide_products(readout.fold(problem.base[prompts].double()), weight)
    logits *= problem.base_logits.inverse_scale[prompts].double().unsqueeze(-1)
    return logits if offset is None else logits + offset


def size_of_offset(readout: Readout) -> float | Tensor:
    """What the rounding of the offset is counted from: Σ of the sizes of its terms, at most."""
    beta = 0.0 if readout.beta is None else torch.linalg.vector_norm(readout.beta.double()) * readout.longest_row
    bias = 0.0 if readout.bias is None else readout.bias.abs().max().double()
    return (beta + bias) / readout.divisor
