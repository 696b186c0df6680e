"""LPI against foils: I of the target less the mean I of the foils, without the vocabulary.

log p(target) − log p(foil) is the difference of two logits, so the sums over the vocabulary cancel before and after:

    score = Δlogit_target − mean Δlogit_foil,   Δlogit_j = logit_j(base + contribution) − logit_j(base).

1. Frozen norm, affine readout: the score is linear in the contribution, and equals the direct effect (`direct`).
   So is that of a head, expert or block in its summed contribution.
2. Otherwise each token's logit is found with 1/σ of base + contribution, as the exact estimator does it.

Both are exact up to rounding. Check: the float64 reference, which takes I of target and foils by the definition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gated_lpi.methods.contract import BlockScores, all_exact
from gated_lpi.methods.direct import linear_scores
from gated_lpi.methods.lpi.exact import changed_scale
from gated_lpi.methods.lpi.groups import GroupScores, as_scores, n_groups, summed
from gated_lpi.methods.problem import BlockProblem, TracedProblem
from gated_lpi.models import Readout
from gated_lpi.trace import Slab


def score_block(problem: BlockProblem, numbers: int) -> BlockScores:
    """Score every unit of a block on every prompt, of a problem with foils.

    Args:
        problem: the block.
        numbers: numbers in a matrix of prompts and tokens, at most.

    Returns:
        Scores [P, n_units] in nats.
    """
    assert problem.foils is not None  # the caller has seen to it
    if problem.frozen:
        return linear_scores(problem, numbers)
    scores = torch.zeros(len(problem.targets), problem.n_units, dtype=problem.base.dtype, device=problem.base.device)
    there = problem.foils >= 0
    share = there / there.sum(dim=-1, keepdim=True)  # [P, F], what each foil counts
    tokens = torch.cat([problem.targets.unsqueeze(-1), problem.foils.clamp_min(0)], dim=1)
    weights = torch.cat([torch.ones_like(share[:, :1]), -share], dim=1)
    for slab in problem.slabs:
        prompts = problem.prompts(slab)
        alpha = changed_scale(problem, slab, prompts).double()
        units = slice(slab.start, slab.start + len(slab.values))
        found = torch.zeros_like(slab.coefficients, dtype=torch.float64)
        for column in range(tokens.shape[1]):
            changed = _logits_change(problem, slab, prompts, tokens[prompts, column], alpha)
            found += weights[prompts, column].double().unsqueeze(-1) * changed
        scores[prompts, units] = found.to(scores.dtype)
    return all_exact(problem, scores)


def score_groups(problem: TracedProblem, numbers: int) -> GroupScores:
    """Score the groups of a block, of a problem with foils whose norm is frozen: one product each.

    Args:
        problem: the block.
        numbers: numbers in a matrix of contributions, at most.
    """
    assert problem.foils is not None  # the caller has seen to it
    there = problem.foils >= 0
    share = there / there.sum(dim=-1, keepdim=True)
    readout = problem.readout
    gradient = _folded_rows(readout, problem.targets)
    for column in range(share.shape[1]):
        rows = _folded_rows(readout, problem.foils[:, column].clamp_min(0))
        gradient -= share[:, column : column + 1].double() * rows
    gradient *= problem.base_logits.inverse_scale.double().unsqueeze(-1)
    inner = problem.base.new_zeros(len(gradient), n_groups(problem))
    block = gradient.new_zeros(len(gradient))
    for part in summed(problem, numbers):
        found = (gradient[part.prompts] * part.vectors).sum(dim=-1)
        inner[part.prompts, part.groups] = found.to(inner.dtype)
        block.index_add_(0, part.prompts, found)
    return as_scores(problem, inner, block.to(inner.dtype), torch.zeros_like(block))


def _folded_rows(readout: Readout, tokens: Tensor) -> Tensor:
    """What a vector is multiplied by to give the logits of `tokens` [n] times σ: [n, d], float64.

    w·fold(v) = fold(w)·v, as centring is symmetric and γ a factor of each coordinate: rows are folded, not values.
    """
    return readout.centre(readout.weight[tokens].double() * (readout.gamma.double() / readout.divisor))


def _logits_change(problem: BlockProblem, slab: Slab, prompts: Tensor, tokens: Tensor, alpha: Tensor) -> Tensor:
    """Δlogit of one token of each prompt, [P', n]; `tokens` [P'], `alpha` [P', n] is 1/σ after the change."""
    readout = problem.readout
    rows = readout.weight[tokens].double()
    base = (readout.fold(problem.base[prompts].double()) * rows).sum(dim=-1, keepdim=True)
    unit = _folded_rows(readout, tokens) @ slab.values.double().T
    offset = readout.wide_offset
    added = 0.0 if offset is None else offset[tokens].unsqueeze(-1)
    before = problem.base_logits.inverse_scale[prompts].double().unsqueeze(-1) * base + added
    after = alpha * (base + slab.coefficients.double() * unit) + added
    return readout.cap(after) - readout.cap(before)
