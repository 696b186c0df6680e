"""A whole block, from the base of the block that comes next.

Where the residual stream is sequential, base' = base + (what the block's units add) + (what its biases add). With the
*step* = base + contribution − base', which is what rounding took in the forward pass and, turned round, the biases,

    I(block) = log p(t | base + contribution) − log p(t | base) = log p(t | base') + I'(step) − log p(t | base),

I' being the score of the step at base'. The next block computes log p(t | base') anyway, and where there is no bias its
own envelope bounds I'(step) without a token being looked at. Nothing is assumed of the family: the step is what it is,
and whether this way is gone depends on how long it is (`step_to`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.lpi.certified.distribution import Distribution
from gated_lpi.methods.lpi.certified.exact_pairs import float64_logits, size_of_offset
from gated_lpi.methods.lpi.groups import Summed
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.methods.rounding import gamma

SHORT = 0.25  # a step is at most this times as long as what the block adds, in the root mean square over prompts


class Known(NamedTuple):
    """Log-probabilities of targets, [P] in float64, nats, and how far off they are at most."""

    log_p: Tensor
    error: Tensor


class Ahead(NamedTuple):
    """A block whose score is found from the next block's base.

    Attributes:
        before: log p(t | base).
        step: of each prompt, to be scored at the next base.
    """

    before: Known
    step: Summed


def step_to(problem: BlockProblem, following: Tensor, whole: Summed) -> Summed | None:
    """The step from the next block's base back to base + contribution; None where it is not short.

    Args:
        problem: the block.
        following: [P, d], the next block's base.
        whole: what the block adds on each prompt, in order.
    """
    step = problem.base.double() + whole.vectors - following.double()
    if not float(step.square().sum()) <= SHORT**2 * float(whole.vectors.square().sum()):
        return None
    size = torch.linalg.vector_norm(following.double(), dim=-1) + torch.linalg.vector_norm(step, dim=-1)
    return whole._replace(vectors=step, slip=whole.slip + 4 * gamma(1, torch.float64) * size)


def target_log_p(problem: BlockProblem, p: Distribution, tolerance: float, numbers: int) -> Known:
    """log p(target | base) of every prompt, from float64 logits of the target and of the likeliest tokens.

    Logits of the others err by D_j, so log Σ_j exp(logit) by Σ_j p_j·D_j at most, but for a factor exp(2 max D).
    Prompts where that exceeds the tolerance get float64 logits of more tokens, those of the largest level below the
    last, and of all where that is not enough.

    Args:
        problem: the block.
        p: its distributions.
        tolerance: nats.
        numbers: numbers in a matrix of prompts and tokens, at most.
    """
    readout, targets = problem.readout, problem.targets
    hidden = readout.fold(problem.base.double())
    logit = (hidden * readout.weight[targets].double()).sum(dim=-1) * problem.base_logits.inverse_scale.double()
    if readout.wide_offset is not None:
        logit = logit + readout.wide_offset[targets]
    log_p = logit - p.log_z
    error = p.error_per_norm * p.outside_norm * p.outside_head.sqrt() + p.head_error
    error = error * torch.exp(2 * p.error) + 2 * p.storage
    some = (~(error <= tolerance)).nonzero().squeeze(-1)
    if len(some) and p.levels[-2] > p.head:
        shift, error[some] = _with_more_tokens(problem, p, some)
        log_p[some] = log_p[some] - shift
        some = (~(error <= tolerance)).nonzero().squeeze(-1)
    for part in some.split(max(1, numbers // (4 * readout.vocabulary))) if len(some) else ():
        logits = float64_logits(problem, part)
        log_p[part] = logits.gather(-1, targets[part].unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)
        size = logits.abs().amax(dim=-1) + size_of_offset(readout) + 1
        error[part] = 4 * gamma(sum(readout.weight.shape) + 16, torch.float64) * size
    return Known(log_p, error)


def _with_more_tokens(problem: BlockProblem, p: Distribution, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """What log Z changes by, [n], when tokens after the head have logits in float64; and the error that is left."""
    ranks = slice(p.head, p.levels[-2])
    tokens = p.order[ranks]
    found, known = float64_logits(problem, prompts, tokens), p.p[prompts, ranks].double()
    shift = torch.log1p((found - p.log_z[prompts].unsqueeze(-1)).exp().sub_(known).sum(dim=-1))
    mass = (1 - p.inside[-2][prompts]).clamp_min(0.0) + p.storage[prompts]
    squares = known @ p.outside_norms[tokens].double().square()
    squares = (p.outside_norm[prompts].square() - squares * (1 - p.storage[prompts])).clamp_min(0.0)
    error = p.error_per_norm[prompts] * (squares * mass).sqrt() + p.head_error[prompts]
    return shift, error * torch.exp(2 * p.error[prompts]) + 4 * p.storage[prompts]
