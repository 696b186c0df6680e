"""The yardstick: the published formula as its authors compute it, one prompt and one block after the other.

For every unit of a block, base + contribution goes through the final norm (scale frozen) and the whole unembedding,
then log-softmax; what is left after log p(target | base) is taken away is the score (arXiv 2312.12141, 2601.08383).
Written here anew, in float32 with batched matrix products, units in chunks as large as `memory` allows: with 512 MB the
products run at the machine's full speed, so that the yardstick is not slow for want of care.

Heads, experts and blocks are scored in the same way with their summed contributions.

Its cost is the same for every unit, group and prompt: 2·d·V operations and a log-softmax over V numbers. So it is timed
on a few and scaled; `curves.linearity` shows how well that holds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gated_lpi.methods import BlockProblem
from gated_lpi.methods.problem import TracedProblem

MEMORY = 512 * 2**20  # bytes of logits and their log-softmax at a time


@torch.no_grad()
def published_scores(
    problem: BlockProblem, prompt: int, *, limit: int | None = None, memory: int = MEMORY
) -> tuple[Tensor, int]:
    """Scores of one prompt, [n_units] (0 where an expert was not routed to), and how many units were scored.

    Args:
        problem: one block on some prompts.
        prompt: which of them.
        limit: score only so many units; None for all.
        memory: bytes of logits and their log-softmax that are held at a time.
    """
    readout, base, target = problem.readout, problem.base[prompt], problem.targets[prompt]
    assert problem.inverse_scale is not None  # the published norm is frozen
    scale = problem.inverse_scale[prompt]
    chunk = max(1, memory // (2 * base.element_size() * readout.vocabulary))
    before = _log_p(problem, base.unsqueeze(0), scale, target)
    scores = torch.zeros(problem.n_units, dtype=base.dtype, device=base.device)
    done = 0
    for slab in problem.slabs:
        row = prompt if slab.prompts is None else _row(slab.prompts, prompt)
        if row is None:
            continue
        n_units = len(slab.values) if limit is None else min(len(slab.values), limit - done)
        for start in range(0, n_units, chunk):
            units = slice(start, min(start + chunk, n_units))
            contributions = slab.coefficients[row, units].to(base.dtype).unsqueeze(-1) * slab.values[units]
            after = _log_p(problem, base + contributions, scale, target)
            scores[slab.start + units.start : slab.start + units.stop] = after - before
        done += n_units
    return scores, done


@torch.no_grad()
def published_groups(problem: TracedProblem, prompt: int) -> Tensor:
    """Scores of one prompt's heads, or of the experts that it is routed to, and last of the block: [G + 1]."""
    (writer, *_), base = problem.block.writers, problem.base[prompt]
    assert problem.inverse_scale is not None
    parts = []
    for slab in problem.slabs:
        row = prompt if slab.prompts is None else _row(slab.prompts, prompt)
        if row is not None:
            heads = max(1, writer.n_heads)
            own = (slab.coefficients[row].to(base.dtype).unsqueeze(-1) * slab.values).view(heads, -1, len(base))
            parts.append(own.sum(dim=1))
    whole = torch.cat(parts).sum(dim=0, keepdim=True)
    inner = [part for part in parts if group_count(problem) > 1]
    scale, target = problem.inverse_scale[prompt], problem.targets[prompt]
    before = _log_p(problem, base.unsqueeze(0), scale, target)
    return _log_p(problem, base + torch.cat([*inner, whole]), scale, target) - before


def group_count(problem: TracedProblem) -> int:
    """Groups of one prompt with the block itself: heads, or experts that it is routed to, on average."""
    heads = max(writer.n_heads for writer in problem.block.writers)
    used = sum(len(problem.prompts(slab)) for slab in problem.slabs) // len(problem.targets)
    experts = used if any(writer.kind == "routed" for writer in problem.block.writers) else 0
    return heads + experts + 1


def _row(prompts: Tensor, prompt: int) -> int | None:
    """Where a slab keeps a prompt, or None if it does not."""
    found = (prompts == prompt).nonzero()
    return int(found[0]) if len(found) else None


def _log_p(problem: BlockProblem, residual: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """log p(target | residual) for residual streams [n, d] → [n]."""
    readout = problem.readout
    logits = readout.cap(_with_offset(problem, (readout.fold(residual) * scale) @ readout.weight.T))
    return torch.log_softmax(logits, dim=-1)[:, target]


def _with_offset(problem: BlockProblem, logits: Tensor) -> Tensor:
    offset = problem.readout.offset()
    return logits if offset is None else logits.add_(offset)
