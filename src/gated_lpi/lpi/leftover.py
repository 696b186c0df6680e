"""The pairs of a block that no moments settle, of all its slabs together, to be summed exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from gated_lpi.lpi.climb import Part
from gated_lpi.lpi.distribution import Distribution
from gated_lpi.lpi.fallback import exact_pairs
from gated_lpi.lpi.problem import BlockProblem, BlockScores


class LeftOver:
    """Grows slab by slab, is settled once."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._count = 0

    def add(self, problem: BlockProblem, part: Part, settled: Tensor) -> None:
        """Take the pairs of some units that are not settled, [P', n]."""
        rows, columns = (~settled).nonzero(as_tuple=True)
        if not len(rows):
            return
        units, which = columns.unique(return_inverse=True)
        prompts = problem.prompts(part)[rows]
        c = part.coefficients[rows, columns] * problem.base_logits.inverse_scale[prompts]
        self._values.append(part.values[units])
        self._parts.append((c, prompts, which + self._count, part.units[columns]))
        self._count += len(units)

    def settle(
        self, problem: BlockProblem, p: Distribution, found: BlockScores, tolerance: float, numbers: int
    ) -> None:
        """Sum them, into the block's scores and bounds."""
        if not self._parts:
            return
        c, prompts, which, units = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        score, bound = exact_pairs(
            problem, p, torch.cat(self._values), c, prompts, which, tolerance=tolerance, numbers=numbers
        )
        found.scores[prompts, units] = score.to(found.scores.dtype)
        found.error_bound.scatter_reduce_(0, prompts, bound, "amax")
