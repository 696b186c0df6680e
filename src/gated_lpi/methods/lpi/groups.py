"""Heads, experts and whole blocks: the same formula with the summed contribution of the group's units.

The sum is taken over contributions, never over unit scores. A block's biases belong to no unit and are in no
group. Unlike value vectors, the sums differ from prompt to prompt, so each goes through the readout by itself;
there are few of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.objective import Objective
from gated_lpi.methods.problem import TracedProblem

MAX_NUMBERS = 2**23


class GroupScores(NamedTuple):
    """Scores of the groups of one block on P prompts, in nats.

    Attributes:
        block: [P], all units of the block together.
        heads: [P, H], or None for an FFN.
        experts: [P, E] with routed experts first, then the shared one; None without experts. 0 if not routed to.
    """

    block: Tensor
    heads: Tensor | None
    experts: Tensor | None


class Routing(NamedTuple):
    """Where the router sent the last token of P prompts.

    Attributes:
        routed: [P, E], 1 for the experts routed to, 0 for the others.
        gates: [P, E], the final gates.
    """

    routed: Tensor
    gates: Tensor


def score_groups(problem: TracedProblem, numbers: int = MAX_NUMBERS) -> GroupScores:
    """Score the heads or experts of a block, and the block, on every prompt.

    Args:
        problem: the block.
        numbers: numbers in a matrix of contributions and tokens, at most.
    """
    attention = problem.block.kind == "attention"
    parts = _head_contributions(problem) if attention else _expert_contributions(problem)
    scores = _score(problem, torch.cat([parts, parts.sum(dim=1, keepdim=True)], dim=1), min(numbers, MAX_NUMBERS))
    inner, block = scores[:, :-1], scores[:, -1]
    has_experts = any(writer.kind == "routed" for writer in problem.block.writers)
    return GroupScores(block, inner if attention else None, inner if has_experts else None)


def routing(problem: TracedProblem) -> Routing | None:
    """Read which experts each prompt was routed to and with what weight; None for a block without experts."""
    n_prompts, columns, found = len(problem.targets), [], False
    for writer, seen in zip(problem.block.writers, problem.traced.writers, strict=True):
        if seen.experts is not None and seen.gates is not None:
            gates = problem.base.new_zeros(n_prompts, writer.n_experts)
            routed = torch.zeros_like(gates).scatter_(1, seen.experts, 1.0)
            columns.append((routed, gates.scatter_(1, seen.experts, seen.gates)))
            found = True
        elif writer.kind == "shared":
            ones = problem.base.new_ones(n_prompts, 1)
            columns.append((ones, ones if seen.gates is None else seen.gates.unsqueeze(-1)))
    if not found:
        return None
    return Routing(torch.cat([c[0] for c in columns], dim=1), torch.cat([c[1] for c in columns], dim=1))


def _head_contributions(problem: TracedProblem) -> Tensor:
    """[P, H, d]: each head's units, summed."""
    (writer,), (slab,) = problem.block.writers, problem.slabs
    n_prompts, d = problem.base.shape
    coefficients = slab.coefficients.to(slab.values.dtype).view(n_prompts, writer.n_heads, -1)
    values = slab.values.reshape(writer.n_heads, -1, d)
    return torch.einsum("phn,hnd->phd", coefficients, values)


def _expert_contributions(problem: TracedProblem) -> Tensor:
    """[P, E, d]: the units of each expert, or of the dense FFN (E = 1), summed; routed experts first."""
    n_prompts, d = problem.base.shape
    column_of: dict[int, int] = {}
    for writer, start in problem.block.offsets():
        for expert in range(writer.n_experts):
            column_of[start + expert * writer.width] = len(column_of)
    contributions = problem.base.new_zeros(n_prompts, len(column_of), d)
    for slab in problem.slabs:
        rows = slice(None) if slab.prompts is None else slab.prompts
        contributions[rows, column_of[slab.start]] = slab.coefficients.to(slab.values.dtype) @ slab.values
    return contributions


def _score(problem: TracedProblem, contributions: Tensor, numbers: int) -> Tensor:
    """I of `contributions` [P, G, d] → [P, G], a chunk of prompts at a time; 0 where nothing is contributed."""
    n_prompts, n_groups, _ = contributions.shape
    before = problem.base_logits.target_log_p
    if problem.foils is not None:
        before = torch.cat([_contrast(problem, problem.base[some], some) for some in _chunks(problem, numbers)])
    scores = torch.zeros(n_prompts, n_groups, dtype=contributions.dtype, device=contributions.device)
    row, group = contributions.abs().amax(dim=-1).nonzero(as_tuple=True)
    size = max(1, numbers // problem.readout.vocabulary)
    for start in range(0, len(row), size):
        prompts, groups = row[start : start + size], group[start : start + size]
        scale = None if problem.inverse_scale is None else problem.inverse_scale[prompts]
        changed = problem.base[prompts] + contributions[prompts, groups]
        if problem.foils is None:
            after = problem.readout.log_probability(changed, problem.targets[prompts], scale)
        else:
            after = _contrast(problem, changed, prompts)
        scores[prompts, groups] = after - before[prompts]
    return scores


def _contrast(problem: TracedProblem, residual: Tensor, prompts: Tensor) -> Tensor:
    """log p(target) − mean log p(foil) of residual streams [n, d] of some prompts [n]: [n]."""
    scale = None if problem.inverse_scale is None else problem.inverse_scale[prompts]
    foils = None if problem.foils is None else problem.foils[prompts]
    asked = Objective(problem.targets[prompts], torch.arange(len(prompts), device=prompts.device), foils)
    return asked.of_items(problem.readout.logits(residual, scale))


def _chunks(problem: TracedProblem, numbers: int) -> Iterator[Tensor]:
    """Indices of all prompts, so many at a time that their logits are `numbers` at most."""
    yield from torch.arange(len(problem.targets), device=problem.base.device).split(
        max(1, numbers // problem.readout.vocabulary)
    )
