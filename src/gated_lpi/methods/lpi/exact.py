"""Exact scores: the full vocabulary for every (unit, prompt) pair, in batches.

1. A unit's value vector does the same thing to the logits of every prompt, up to a factor: u = W_U·(γ ⊙ C·v) is
   computed once for all prompts of the batch, as one matrix product per slab.
2. Frozen norm, affine readout. With c = coefficient/σ and p = softmax(base logits),
   I = c·u_target − log Σ_j p_j·exp(c·u_j). Most pairs move the logits little, and for them the sum over the vocabulary
   is a few matrix products shared by the whole slab, to the dtype's last digit (`series`). The others are summed
   term by term, with the maximum taken out where the exponential could overflow.
3. Otherwise (recomputed norm, softcap): logits = α·B + β·u + offset with B = W_U·(γ ⊙ C·base), α = 1/σ of the changed
   residual stream and β = coefficient·α, and a log-softmax over them. σ is found from inner products, in float64,
   since base and contribution may cancel.

Terms are summed in tiles of at most `TILE_NUMBERS` on a CPU, small enough to stay in its cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gated_lpi.methods.contract import BlockScores, Room, all_exact
from gated_lpi.methods.lpi.chebyshev import log_mean_exp
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.methods.tiles import at_once
from gated_lpi.models import Readout
from gated_lpi.trace import Slab

TILE_NUMBERS = 2**18
EXPONENT_LIMIT = 60.0  # exp(±60) is far from float32's limits, with room for the sum over the vocabulary
FEW = 16  # prompts below which the series costs more than summing all terms: its polynomials are made per unit
MANY = 0.3  # share of pairs left by the series from which on it is quicker to sum all terms of all pairs


def score_block(problem: BlockProblem, numbers: int = Room().numbers) -> BlockScores:
    """Score every unit of a block on every prompt with the full vocabulary.

    Args:
        problem: the block.
        numbers: numbers in a matrix of units and tokens, at most.

    Returns:
        Scores [P, n_units] in nats.
    """
    scores = torch.zeros(len(problem.targets), problem.n_units, dtype=problem.base.dtype, device=problem.base.device)
    p = problem.base_logits.log_p.exp()
    for slab in problem.slabs:
        prompts = problem.prompts(slab)
        for start, stop in _unit_chunks(slab, problem.readout.vocabulary, numbers):
            coefficients = slab.coefficients[:, start:stop].to(slab.values.dtype)
            chunk = Slab(slab.start + start, slab.values[start:stop], coefficients, prompts)
            directions = problem.readout.directions(chunk.values)
            units = slice(chunk.start, chunk.start + stop - start)
            if problem.frozen:
                scores[prompts, units] = _frozen_scores(problem, p, chunk, directions, prompts)
            else:
                scores[prompts, units] = _log_softmaxes(problem, chunk, directions, prompts)
    return all_exact(problem, scores)


def _unit_chunks(slab: Slab, vocabulary: int, numbers: int) -> Iterator[tuple[int, int]]:
    """Ranges of units whose directions [n, V] stay below `numbers` numbers."""
    n_units = slab.values.shape[0]
    size = max(1, numbers // vocabulary)
    for start in range(0, n_units, size):
        yield start, min(start + size, n_units)


def _frozen_scores(problem: BlockProblem, p: Tensor, slab: Slab, directions: Tensor, prompts: Tensor) -> Tensor:
    """Step 2: [P', n] scores of a slab under the frozen norm; `p` [P, V], `directions` [n, V]."""
    c = slab.coefficients * problem.base_logits.inverse_scale[prompts].unsqueeze(-1)
    weights = p if len(prompts) == len(p) else p[prompts]
    if len(prompts) >= FEW:
        log_mean, done = log_mean_exp(c, directions, weights)
        left = ~done
    else:
        log_mean, left = torch.zeros_like(c), torch.ones_like(c, dtype=torch.bool)
    if float(left.float().mean()) > MANY:
        size = c.abs() * directions.abs().amax(dim=-1)
        left = size > EXPONENT_LIMIT
        sums = _weighted_sums(c, directions, weights).log_()
        log_mean = torch.where(left, log_mean, sums.masked_fill_(size == 0, 0.0))  # Σ p is 1 to rounding only
    scores = c * directions[:, problem.targets[prompts]].T - log_mean
    row, unit = left.nonzero(as_tuple=True)
    scores[row, unit] = _single_pairs(problem, c[row, unit], directions, prompts[row], unit)
    return scores


def _weighted_sums(c: Tensor, directions: Tensor, p: Tensor) -> Tensor:
    """Σ_j p_j·exp(c·u_j), [P', n], of every pair of `c` [P', n] with `directions` [n, V] and `p` [P', V]."""
    n_units, vocabulary = directions.shape
    sums = torch.empty_like(c)
    numbers = at_once(TILE_NUMBERS, directions.device)
    columns = max(1, min(n_units, numbers // vocabulary))
    rows = max(1, numbers // (columns * vocabulary))
    tile = c.new_empty(rows * columns * vocabulary)  # one piece of memory for all tiles: large ones cost page faults
    for start in range(0, len(c), rows):
        chosen = slice(start, start + rows)
        weights = p[chosen].unsqueeze(-1)
        for first in range(0, n_units, columns):
            factors = c[chosen, first : first + columns].unsqueeze(-1)
            exponents = tile[: factors.numel() * vocabulary].view(*factors.shape[:2], vocabulary)
            torch.mul(factors, directions[first : first + columns], out=exponents)
            sums[chosen, first : first + columns] = torch.bmm(exponents.exp_(), weights).squeeze(-1)
    return sums


def _single_pairs(problem: BlockProblem, c: Tensor, directions: Tensor, prompts: Tensor, units: Tensor) -> Tensor:
    """Scores, [n], of single pairs: −log Σ_j p_j·exp(c·(u_j − u_target)), where nothing large has to cancel."""
    scores = torch.empty_like(c)
    log_p = problem.base_logits.log_p
    size = max(1, at_once(TILE_NUMBERS, directions.device) // directions.shape[1])
    for start in range(0, len(c), size):
        pairs = slice(start, start + size)
        u = directions[units[pairs]]
        u = u - u.gather(-1, problem.targets[prompts[pairs]].unsqueeze(-1))
        exponents = torch.addcmul(log_p[prompts[pairs]], c[pairs].unsqueeze(-1), u)
        scores[pairs] = -torch.logsumexp(exponents, dim=-1)
    return scores


def _log_softmaxes(problem: BlockProblem, slab: Slab, directions: Tensor, prompts: Tensor) -> Tensor:
    """Step 3: [P', n] scores of a slab from whole log-softmaxes; `directions` [n, V]."""
    offset = problem.readout.offset()
    alpha = changed_scale(problem, slab, prompts)
    beta = slab.coefficients * alpha
    n_units, vocabulary = directions.shape
    scores = torch.empty_like(beta)
    numbers = at_once(TILE_NUMBERS, directions.device)
    columns = max(1, min(n_units, numbers // vocabulary))
    rows = max(1, numbers // (columns * vocabulary))
    for start in range(0, len(prompts), rows):
        chosen = slice(start, start + rows)
        before = problem.base_directions[prompts[chosen]].unsqueeze(1)
        index = problem.targets[prompts[chosen]].view(-1, 1, 1)
        for first in range(0, n_units, columns):
            units = slice(first, first + columns)
            change = beta[chosen, units].unsqueeze(-1) * directions[units]
            logits = torch.addcmul(change, alpha[chosen, units].unsqueeze(-1), before)
            logits = problem.readout.cap(logits if offset is None else logits + offset)
            target = logits.gather(-1, index.expand(-1, logits.shape[1], 1)).squeeze(-1)
            scores[chosen, units] = target - torch.logsumexp(logits, dim=-1)
    return scores - problem.base_logits.target_log_p[prompts].unsqueeze(-1)


def changed_scale(problem: BlockProblem, slab: Slab, prompts: Tensor) -> Tensor:
    """1/σ with which each pair is read out, [P', n]: frozen, or that of base + contribution.

    Args:
        problem: the block.
        slab: units of it, with coefficients [P', n].
        prompts: [P'], indices of the prompts.
    """
    if problem.inverse_scale is not None:
        return problem.inverse_scale[prompts].unsqueeze(-1).expand_as(slab.coefficients)
    readout: Readout = problem.readout
    root = math.sqrt(problem.base.shape[-1])
    base = readout.centre(problem.base[prompts].double()) / root
    values = readout.centre(slab.values.double()) / root
    m = slab.coefficients.double()
    variance = base.square().sum(-1, keepdim=True) + 2 * m * (base @ values.T) + m.square() * values.square().sum(-1)
    return torch.rsqrt(variance.clamp_min(0.0) + readout.eps).to(slab.coefficients.dtype)
