"""Heads, experts and whole blocks: the same formula with the summed contribution of the group's units.

The sum is taken over contributions, never over unit scores. A block's biases belong to no unit and are in no
group. Unlike value vectors, the sums differ from prompt to prompt. Three ways of scoring them:

1. The certified estimator bounds them as it bounds units (`certified.contributions`), and finds a block from the base
   of the next one (`certified.blocks`).
2. With a foil and the frozen norm a score is linear: one product with the gradient (`contrast`).
3. Otherwise each goes through the readout by itself (`score_groups`), up to rounding the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.objective import Objective
from gated_lpi.methods.problem import BlockProblem, TracedProblem
from gated_lpi.methods.rounding import gamma
from gated_lpi.methods.tiles import BUSY, at_once
from gated_lpi.trace import Slab

MAX_NUMBERS = 2**23
WIDE_ROWS = 512  # value vectors that are held in float64


class Found(NamedTuple):
    """Scores and how far off they are at most, nats, both [m] in float64."""

    scores: Tensor
    bound: Tensor


class GroupScores(NamedTuple):
    """Scores of the groups of one block on P prompts, in nats.

    Attributes:
        block: [P], all units of the block together; None where it is not asked for, or found `later`.
        heads: [P, H], or None for a block without heads; zeros where they are not asked for.
        experts: [P, E] with routed experts first, then the shared one, 0 if not routed to; None without experts.
        error_bound: [P], float64: none of these scores is off by more (0: exact up to rounding, which is not bounded).
        later: scores the block once the problem of the next one, on the same prompts, is there; or None.
    """

    block: Tensor | None
    heads: Tensor | None
    experts: Tensor | None
    error_bound: Tensor
    later: Callable[[BlockProblem], Found] | None = None


class Summed(NamedTuple):
    """What m groups add to the residual stream.

    Attributes:
        vectors: [m, d], float64.
        slip: [m], float64, how far from it the exact sum may be.
        prompts: [m], indices of their prompts.
        groups: [m], indices of the heads or experts within the block.
    """

    vectors: Tensor
    slip: Tensor
    prompts: Tensor
    groups: Tensor

    def some(self, chosen: Tensor) -> Summed:
        """Those whose indices are `chosen` [n]."""
        return Summed(*(part[chosen] for part in self))


class Routing(NamedTuple):
    """Where the router sent the last token of P prompts.

    Attributes:
        routed: [P, E], 1 for the experts routed to, 0 for the others.
        gates: [P, E], the final gates.
    """

    routed: Tensor
    gates: Tensor


def summed(problem: TracedProblem, numbers: int) -> Iterator[Summed]:
    """The heads or experts of a block that contribute anything on some prompt; a block without any is one of its own.

    Args:
        problem: the block.
        numbers: numbers in a matrix of contributions, at most.
    """
    pieces: list[Summed] = []
    for piece in _pieces(problem, numbers):
        pieces.append(piece)
        if sum(len(one.prompts) for one in pieces) * problem.base.shape[1] >= numbers:
            yield _joined(pieces)
            pieces = []
    if pieces:
        yield _joined(pieces)


def _joined(pieces: list[Summed]) -> Summed:
    return Summed(*(torch.cat(columns) for columns in zip(*pieces, strict=True)))


def _pieces(problem: TracedProblem, numbers: int) -> Iterator[Summed]:
    """Group after group, with so many prompts at a time."""
    if problem.block.n_heads:
        (writer,), (slab,) = problem.block.writers, problem.slabs
        width = len(slab.values) // writer.n_heads
        for head in range(writer.n_heads):
            units = slice(head * width, (head + 1) * width)
            own = slab._replace(values=slab.values[units], coefficients=slab.coefficients[:, units])
            yield from _sums(problem, own, head, numbers)
        return
    column_of: dict[int, int] = {}
    for writer, start in problem.block.offsets():
        for expert in range(writer.n_experts):
            column_of[start + expert * writer.width] = len(column_of)
    for slab in problem.slabs:
        yield from _sums(problem, slab, column_of[slab.start], numbers)


def _sums(problem: TracedProblem, slab: Slab, group: int, numbers: int) -> Iterator[Summed]:
    """The units of a slab, summed in float64, so many prompts at a time."""
    prompts, d = problem.prompts(slab), problem.base.shape[1]
    for rows in torch.arange(len(prompts), device=prompts.device).split(max(1, numbers // d)):
        coefficients = slab.coefficients[rows]
        vectors = torch.zeros(len(rows), d, dtype=torch.float64, device=prompts.device)
        size = torch.zeros(len(rows), dtype=torch.float64, device=prompts.device)
        step = at_once(WIDE_ROWS, prompts.device, BUSY // d)
        for start in range(0, len(slab.values), step):
            units = slice(start, start + step)
            wide, some = slab.values[units].double(), coefficients[:, units]
            vectors += some @ wide
            size += some.abs() @ torch.linalg.vector_norm(wide, dim=-1)
        slip = size * (2 * gamma(problem.units_of_block + 16, torch.float64))
        yield Summed(vectors, slip, prompts[rows], torch.full_like(rows, group))


def n_groups(problem: TracedProblem) -> int:
    """How many heads or experts the block has; 1 for a block that has neither, a dense FFN."""
    return sum(writer.n_heads or writer.n_experts for writer in problem.block.writers)


def has_experts(problem: TracedProblem) -> bool:
    """Whether the block's groups are experts."""
    return any(writer.kind == "routed" for writer in problem.block.writers)


def as_scores(problem: TracedProblem, inner: Tensor, block: Tensor | None, error_bound: Tensor) -> GroupScores:
    """Scores [P, G] of a block's groups, and [P] of the block, by what the groups are."""
    return GroupScores(
        block, inner if problem.block.n_heads else None, inner if has_experts(problem) else None, error_bound
    )


def score_groups(problem: TracedProblem, numbers: int = MAX_NUMBERS) -> GroupScores:
    """Score the heads or experts of a block, and the block, on every prompt, each through the readout by itself.

    Args:
        problem: the block.
        numbers: numbers in a matrix of contributions and tokens, at most.
    """
    numbers, dtype, device = min(numbers, MAX_NUMBERS), problem.base.dtype, problem.base.device
    inner = torch.zeros(len(problem.targets), n_groups(problem), dtype=dtype, device=device)
    before = problem.base_logits.target_log_p
    if problem.foils is not None:
        before = torch.cat([_contrast(problem, problem.base[some], some) for some in _chunks(problem, numbers)])
    whole = problem.base.new_zeros(problem.base.shape, dtype=torch.float64)
    for part in summed(problem, numbers):
        whole.index_add_(0, part.prompts, part.vectors)
        inner[part.prompts, part.groups] = _score(problem, part.vectors.to(dtype), part.prompts, before, numbers)
    block = _score(problem, whole.to(dtype), torch.arange(len(whole), device=device), before, numbers)
    return as_scores(problem, inner, block, torch.zeros(len(whole), dtype=torch.float64, device=device))


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


def _score(problem: TracedProblem, contributions: Tensor, prompts: Tensor, before: Tensor, numbers: int) -> Tensor:
    """I of `contributions` [m, d] on their `prompts` [m] → [m], a chunk at a time; 0 where nothing is contributed."""
    scores = contributions.new_zeros(len(contributions))
    there = contributions.abs().amax(dim=-1).nonzero().squeeze(-1)
    for some in there.split(max(1, numbers // problem.readout.vocabulary)):
        rows = prompts[some]
        scale = None if problem.inverse_scale is None else problem.inverse_scale[rows]
        changed = problem.base[rows] + contributions[some]
        if problem.foils is None:
            after = problem.readout.log_probability(changed, problem.targets[rows], scale)
        else:
            after = _contrast(problem, changed, rows)
        scores[some] = after - before[rows]
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
