"""Moments of u under p over nested sets of tokens: the matrix products of the fast estimator."""

from __future__ import annotations

import torch
from torch import Tensor

from gated_lpi.lpi.certificate import Moments, Region
from gated_lpi.lpi.distribution import Distribution
from gated_lpi.lpi.rounding import gamma, unit_roundoff
from gated_lpi.lpi.unembedding import Unembedding

TOKENS = 1024  # that are summed in one product of the weights' dtype


class MomentSums:
    """Moments of some units over the tokens of a level, for the prompts of a slab.

    Args:
        table: of the checkpoint.
        p: of the block.
        folded: [n, d], folded value vectors.
        prompts: [P'], indices of prompts; None for all.
    """

    def __init__(self, table: Unembedding, p: Distribution, folded: Tensor, prompts: Tensor | None) -> None:
        self._table, self._p, self._folded, self._prompts = table, p, folded, prompts
        self._lengths = torch.linalg.vector_norm(folded.double(), dim=-1)
        nothing = torch.zeros_like(self._lengths)
        none = nothing.new_zeros(len(p.p) if prompts is None else len(prompts), len(folded))
        self.moments = Moments(none, none, nothing, nothing, nothing)
        self._kept = torch.arange(len(folded), device=folded.device)
        self._summed = 0

    def units(self, chosen: Tensor) -> MomentSums:
        """The same for some of the units it holds."""
        fewer = MomentSums.__new__(MomentSums)
        fewer.__dict__.update(self.__dict__)
        fewer.moments = self.moments.units(chosen)
        fewer._kept = self._kept[chosen]
        return fewer

    def extend(self, level: int, orders: int = 2) -> None:
        """Add the tokens up to this level to those that are summed already; the last level is summed from the start.

        Args:
            level: which one.
            orders: 2, or 4 at the last level.
        """
        first, last = self._summed, self._p.levels[level]
        values = self._folded[self._kept].T
        everything = level + 1 == len(self._p.levels)
        start_over = everything or first == 0
        before = self.moments
        sums = [torch.zeros_like(before.first) for _ in range(orders)]
        squares = torch.zeros(values.shape[1], dtype=torch.float64, device=values.device)
        least, largest = torch.full_like(squares, torch.inf), torch.full_like(squares, -torch.inf)
        for start in range(0 if everything else first, last, TOKENS):
            tokens = slice(start, min(start + TOKENS, last))
            u = (self._table.centred(tokens) if everything else self._p.rows(self._table, tokens)) @ values
            p = self._weights(tokens, everything)
            low, high = u.aminmax(dim=0)
            least, largest = torch.minimum(least, low), torch.maximum(largest, high)
            power = u
            for order, total in enumerate(sums, start=1):
                total += p @ power
                if order == 1:
                    power = u.square()
                    squares += power.sum(dim=0)
                elif order < len(sums):
                    power = power.mul_(u)
        lower = self._lower_squares(squares, last if everything else last - first)
        if not start_over:
            sums = [sums[0] + before.first, sums[1] + before.second]
            least, largest = torch.minimum(least, before.least), torch.maximum(largest, before.largest)
            lower = lower + before.squares
        self.moments = Moments(sums[0], sums[1], lower, least, largest, *sums[2:])
        self._summed = last

    def _weights(self, tokens: slice, everything: bool) -> Tensor:
        """p of the slab's prompts: columns by rank, or as the vocabulary where everything is summed."""
        p = self._p.log_p if everything else self._p.p
        chosen = p[:, tokens] if self._prompts is None else p[self._prompts, tokens]
        return chosen.exp() if everything else chosen

    def _lower_squares(self, found: Tensor, tokens: int) -> Tensor:
        """Lower bound on Σ_j u_j² from the computed sum over so many tokens."""
        wrong = self._unit_rounding() * self._lengths[self._kept] * self._table.longest * tokens**0.5
        root: Tensor = (found * (1 - self._sum_rounding())).sqrt() - wrong
        return root.clamp_min(0.0).square()

    def _sum_rounding(self) -> float:
        return gamma(TOKENS + 8, self._folded.dtype)

    def _unit_rounding(self) -> float:
        return gamma(self._folded.shape[1] + 4, self._folded.dtype)

    def region(self, level: int) -> Region:
        """What is known of the tokens inside and outside of a level."""
        p = self._p

        def column(values: Tensor) -> Tensor:
            return (values if self._prompts is None else values[self._prompts]).unsqueeze(-1)

        return Region(
            inside=column(p.inside[level]),
            tail_max=column(p.tail_max[level]),
            tail_norm=p.tail_norm[level],
            inside_norm=self._table.longest,
            tail_tokens=len(p.order) - p.levels[level],
            outside_head=column(p.outside_head),
            outside_error=column(p.error_per_norm * p.outside_norm + p.head_error * p.outside_head.sqrt()),
            error=column(p.error),
            head_error=column(p.head_error),
            storage=column(p.storage),
            unit_rounding=self._unit_rounding(),
            sum_rounding=self._sum_rounding(),
            storing=unit_roundoff(self._folded.dtype),
        )
