"""Envelopes: one weight for every token that, scaled, p of no prompt exceeds; what bounds the tokens not looked at.

With weights q_j and, for a prompt and a set T of tokens, the scale r = max_T p_j/q_j,

    Σ_T p_j·u_j² ≤ r·Σ_T q_j·u_j² = r·(vᵀBv − Σ_S q_j·u_j²),    B = Σ_j q_j·(w_j − w̄)(w_j − w̄)ᵀ,

so that the tokens of T cost a unit one product with a [d, d] matrix, whatever their number and that of the prompts.
Two envelopes are used:

- *uniform*, q = 1: B is the spread of the unembedding, known once for a checkpoint; r is the largest p in T. Good
  where p is flat.
- *fitted* to the prompts of a block: q_j is the largest p_j of any prompt, for the tokens of the ranks that are listed,
  and constant beyond them. Prompts of one block largely agree on which tokens are likely, so it is a few times p and
  not, as a flat bound, hundreds of times. B has to be summed for the block and its prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gated_lpi.methods.lpi.certified.distribution import Distribution, largest_beyond
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.rounding import (
    GRAM_ROWS,
    frobenius,
    gamma,
    gram,
    gram_gamma,
    into_range,
    lengths,
    quadratic_form,
    quadratic_gamma,
    underflow,
)

LISTED = 16384  # tokens that a fitted envelope tells apart
LEAST = 1e-30  # no weight is smaller: p may have underflowed


@dataclass(frozen=True)
class Envelope:
    """Weights of tokens, and how p of a block's prompts lies under them.

    Attributes:
        of_checkpoint: whether it is the same for all blocks of a checkpoint.
        weights: [K], q by rank, at least of the tokens that `Distribution.p` has; in the weights' dtype.
        beyond: q of the tokens that come after these.
        mass: [L], float64, Σ q over the tokens outside of each level; rounded to nearest.
        scale: [L, P], float64, r of each level; 0 where nothing is outside of it.
        matrix: B, [d, d], in the weights' dtype, as `gram` leaves it.
        slack: vᵀBv is larger than what the matrix gives by this times ‖v‖² at most.
    """

    of_checkpoint: bool
    weights: Tensor
    beyond: float
    mass: Tensor
    scale: Tensor
    matrix: Tensor
    slack: float

    def squares(self, values: Tensor) -> Tensor:
        """Upper bound on Σ_j q_j·u_j² = vᵀBv, over the vocabulary, of folded value vectors [n, d]; [n] in float64."""
        return squares(values, self.matrix, self.slack)


def squares(values: Tensor, matrix: Tensor, slack: float) -> Tensor:
    """Upper bound on vᵀBv of value vectors.

    Args:
        values: [n, d], v.
        matrix: [d, d], B as `gram` leaves it.
        slack: by what times ‖v‖² vᵀBv is larger than what the matrix gives, at most.

    Returns:
        [n], float64.
    """
    length = lengths(values)
    scale = into_range(length)
    if scale is not None:  # so that no square underflows
        near = (values.double() * scale.unsqueeze(-1)).to(values.dtype)
        return squares(near, matrix, slack) / scale.square()
    found: Tensor = quadratic_form(values, matrix) + slack * length.square()
    return found.clamp_min_(0.0)


def uniform(table: Unembedding, p: Distribution) -> Envelope:
    """The envelope in which every token weighs 1."""
    tokens = torch.tensor(p.levels, dtype=torch.float64, device=p.p.device)
    return Envelope(
        of_checkpoint=True,
        weights=torch.ones(p.p.shape[1], dtype=p.p.dtype, device=p.p.device),
        beyond=1.0,
        mass=tokens[-1] - tokens,
        scale=p.tail_max,
        matrix=table.spread,
        slack=table.slack,
    )


def fitted(table: Unembedding, p: Distribution) -> Envelope:
    """The envelope whose q is the largest p of any prompt for the first `LISTED` ranks; constant elsewhere."""
    listed = p.order[: _listed(p)]
    beyond = largest_beyond(p.log_p, listed)
    least = beyond.max().clamp_min(LEAST).to(p.p.dtype)
    likely = _likely(p, len(listed))
    weights = likely.amax(dim=0).clamp_min(least)
    matrix, slack = _spread(table, p, weights, float(least))
    return Envelope(
        of_checkpoint=False,
        weights=weights,
        beyond=float(least),
        mass=_mass_outside(weights.double(), float(least), p.levels),
        scale=_scales(beyond / least, len(listed), p.levels),
        matrix=matrix,
        slack=slack,
    )


def fitting_cost(p: Distribution, width: int) -> float:
    """Multiply-adds of `fitted`."""
    return 0.6 * _listed(p) * width**2


def _listed(p: Distribution) -> int:
    return max(p.levels[-2], min(LISTED, p.levels[-1] // 2))


def _spread(table: Unembedding, p: Distribution, weights: Tensor, beyond: float) -> tuple[Tensor, float]:
    """B = Σ (q_j − beyond)·(w_j − w̄)(w_j − w̄)ᵀ + beyond·C, C the uniform one, and its slack.

    Rounding of the sum is at most γ·Σ (q_j − beyond)·‖w_j − w̄‖²·‖v‖², as in `Unembedding`. The tokens up to the second
    level, which may have nearly all the weight, are summed in float64: what is wanted is mostly the sum of the others.
    """
    first = min(p.levels[1], len(weights))
    excess = weights - beyond
    roots = excess.sqrt().unsqueeze(-1)

    def scaled(start: int, stop: int) -> Iterator[Tensor]:
        for one in range(start, stop, GRAM_ROWS):
            piece = slice(one, min(one + GRAM_ROWS, stop))
            yield p.rows(table, piece) * roots[piece]

    total = table.spread.new_zeros(table.spread.shape, dtype=torch.float64)
    gram((rows.double() for rows in scaled(0, first)), total)
    gram(scaled(first, len(weights)), total)
    for some, uniform_part in zip(total.split(GRAM_ROWS), table.spread.split(GRAM_ROWS), strict=True):
        some.add_(uniform_part, alpha=beyond)
    trace = excess.double() * table.norms[p.order[: len(weights)]].square()
    rounding = gram_gamma(table.dtype, roundings=10) * float(trace[first:].sum())
    rounding += gamma(10, table.dtype) * float(trace.sum()) + quadratic_gamma(table.dtype) * frobenius(total)
    lost = underflow(table.dtype, len(total) * (len(weights) + 1))
    return total.to(table.dtype), (rounding + beyond * table.slack) * 1.01 + lost


def _mass_outside(weights: Tensor, beyond: float, levels: tuple[int, ...]) -> Tensor:
    """Σ q over the tokens outside of each level, [L]."""
    rest = beyond * (levels[-1] - len(weights))
    return torch.stack([weights[level:].sum() + rest for level in levels[:-1]] + [weights.new_zeros(())])


def _scales(beyond: Tensor, listed: int, levels: tuple[int, ...]) -> Tensor:
    """r of every level, [L, P]: 1 where some of the `listed` ranks are outside, else the largest p/q `beyond` them."""
    ones, nothing = torch.ones_like(beyond), torch.zeros_like(beyond)
    return torch.stack([*(beyond if level >= listed else ones for level in levels[:-1]), nothing])


def _likely(p: Distribution, listed: int) -> Tensor:
    """p of the first ranks, [P, listed]."""
    known = p.p.shape[1]
    if listed == known:
        return p.p
    return torch.cat([p.p, p.log_p.index_select(1, p.order[known:listed]).exp_()], dim=1)
