"""Units of a slab, certified over more and more tokens until all their pairs are settled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.contract import Tier
from gated_lpi.methods.lpi.certified.certificate import Certificate, Moments, Pairs, certify
from gated_lpi.methods.lpi.certified.distribution import Distribution
from gated_lpi.methods.lpi.certified.moments import MomentSums
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.methods.rounding import BlockedProduct, gamma, into_range, lengths, product_gamma, unit_roundoff
from gated_lpi.methods.tiles import BUSY, at_once
from gated_lpi.models import Readout
from gated_lpi.trace import Slab

FOLDED = 128  # value vectors that are held in float64


class Part(NamedTuple):
    """Some units of a slab.

    Attributes:
        units: [n], their indices within the block.
        values: [n, d], value vectors.
        coefficients: [P', n], float64.
        prompts: [P'], as those of the slab.
        pairs: of these prompts and units, once they have been looked at.
        moments: of these prompts and units over the tokens of the last level that they stopped at, once they did.
    """

    units: Tensor
    values: Tensor
    coefficients: Tensor
    prompts: Tensor | None
    pairs: Pairs | None = None
    moments: Moments | None = None

    @classmethod
    def of(cls, slab: Slab, chosen: slice) -> Part:
        """A part that has some of a slab's units; nothing is copied."""
        units = torch.arange(slab.start, slab.start + len(slab.values), device=slab.values.device)[chosen]
        return cls(units, slab.values[chosen], slab.coefficients[:, chosen], slab.prompts)

    def into_range(self, factor: float) -> Part:
        """The same with value vectors whose length times `factor` is near 1, and coefficients over what that took."""
        scale = into_range(lengths(self.values) * factor)
        if scale is None:
            return self
        values = (self.values.double() * scale.unsqueeze(-1)).to(self.values.dtype)
        return self._replace(values=values, coefficients=self.coefficients / scale)

    def some(self, chosen: Tensor) -> Part:
        """A part that has some of these units, whose indices are `chosen` [m]."""
        return Part(
            self.units[chosen],
            self.values[chosen],
            self.coefficients[:, chosen],
            self.prompts,
            self.pairs and self.pairs.units(chosen),
            self.moments and self.moments.units(chosen),
        )

    def under(self, squares: Tensor) -> Pairs:
        """The pairs, with their units' `squares` [n] under an envelope."""
        assert self.pairs is not None
        return self.pairs._replace(squares=squares)


def pairs_of(
    problem: BlockProblem,
    p: Distribution,
    table: Unembedding,
    part: Part,
    dtype: torch.dtype,
) -> tuple[Pairs, Tensor]:
    """Pairs of the prompts and units of a part, with a, the linear term and their rounding.

    Args:
        problem: the block.
        p: of the block.
        table: of the checkpoint.
        part: units.
        dtype: of the certificate's arithmetic.

    Returns:
        The pairs, [P', n], and the units' folded value vectors, [n, d].
    """
    prompts = problem.prompts(part)
    c = part.coefficients * problem.base_logits.inverse_scale[prompts].unsqueeze(-1)
    mean, width = p.mean[prompts], part.values.shape[1]
    target = table.rows(problem.targets[prompts]).double()
    folded, gain, length = torch.empty_like(part.values), torch.empty_like(c), c.new_empty(len(part.values))
    for some, wide in _folded(problem.readout, part.values):
        folded[some] = wide
        torch.linalg.vector_norm(wide, dim=-1, out=length[some])
        gain[:, some] = target @ wide.T
    shift = BlockedProduct(len(mean), len(folded), mean.to(dtype))(mean.to(dtype), folded.to(dtype).T)
    rounding = gamma(width + 8, torch.float64) * (4 * table.longest)
    error = p.mean_error[prompts] + product_gamma(width, dtype) * torch.linalg.vector_norm(mean, dim=-1)
    error = error.unsqueeze(-1)
    pairs = Pairs(
        c=c.to(dtype),
        shift=shift,
        gain=gain.sub_(shift).mul_(c).to(dtype),
        length=(length * (1 + 2 * unit_roundoff(dtype))).to(dtype),
        shift_error=error + rounding,
        gain_error=torch.full_like(error, rounding + 2 * unit_roundoff(table.dtype) * table.longest),
        squares=torch.zeros_like(length),
    )
    return pairs, folded


def fold(readout: Readout, parts: Sequence[Part]) -> tuple[Tensor, ...]:
    """Value vectors of each part, [n, d], as they are multiplied by W_U: folded in float64, rounded to their dtype."""
    counts = [len(part.values) for part in parts]
    folded: tuple[Tensor, ...] = parts[0].values.new_empty(sum(counts), parts[0].values.shape[1]).split(counts)
    for part, rows in zip(parts, folded, strict=True):
        for some, wide in _folded(readout, part.values):
            rows[some] = wide
    return folded


def _folded(readout: Readout, values: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Folded value vectors in float64 and where they stand, so few at a time that they stay in a processor's cache."""
    step = at_once(FOLDED, values.device, BUSY // values.shape[1])
    for start in range(0, len(values), step):
        some = slice(start, min(start + step, len(values)))
        yield some, readout.fold(values[some].double())


class Best:
    """The best certified estimate of each pair of a slab so far: `score`, `bound`, `tier`, `settled`, [P', n]."""

    def __init__(self, c: Tensor, tolerance: float) -> None:
        self.tolerance = tolerance
        self.score = torch.zeros_like(c)
        self.bound = torch.full_like(c, torch.inf)
        self.tier = torch.full(c.shape, Tier.EXACT, dtype=torch.int32, device=c.device)

    @property
    def settled(self) -> Tensor:
        """Which pairs, [P', n], are within the tolerance; NaN is not."""
        return self.bound <= self.tolerance

    def take(self, estimate: Certificate, units: Tensor, tier: Tier) -> Tensor:
        """Keep an estimate of some units where it is better.

        Args:
            estimate: of m units.
            units: [m], their indices.
            tier: what the estimate was made from.

        Returns:
            [m], a mask of the units that more tokens could settle.
        """
        whole = len(units) == self.score.shape[1]
        before = self.bound if whole else self.bound[:, units]
        better = estimate.bound < before
        bound = torch.where(better, estimate.bound, before)
        settled = better & (bound <= self.tolerance)
        if whole:
            self.score = torch.where(better, estimate.score, self.score)
            self.bound = bound
            self.tier.masked_fill_(settled, int(tier))
        else:
            self.score[:, units] = torch.where(better, estimate.score, self.score[:, units])
            self.bound[:, units] = bound
            self.tier[:, units] = self.tier[:, units].masked_fill(settled, int(tier))
        return (bound > self.tolerance).any(dim=0)


def climb(
    pairs: Sequence[Pairs], sums: MomentSums, best: Sequence[Best], levels: Sequence[int]
) -> tuple[list[Tensor], MomentSums, list[int]]:
    """Certify the units of some parts level by level, those that are not settled.

    Args:
        pairs: of each part.
        sums: moments of all parts; more tokens are added to them.
        best: estimates of each part's pairs, which are improved.
        levels: where to certify, ascending.

    Returns:
        Indices [m] of the units of each part that are left at the end, their moments, and how many were left of all
            after each level.
    """
    units = [torch.arange(some.c.shape[1], device=some.c.device) for some in pairs]
    left_after: list[int] = []
    for level in levels:
        if level:
            sums.extend(level)
        tier = Tier.MOMENTS if level else Tier.LINEAR
        chosen: list[Tensor] = []
        for some, kept, moments, region, found in zip(
            pairs, units, sums.moments, sums.regions(level), best, strict=True
        ):
            estimate = certify(some, moments, region, found.tolerance)
            chosen.append(found.take(estimate, kept, tier).nonzero().squeeze(-1))
        left_after.append(sum(len(some) for some in chosen))
        units = [some[kept] for some, kept in zip(units, chosen, strict=True)]
        pairs = [some.units(kept) for some, kept in zip(pairs, chosen, strict=True)]
        sums = sums.units(chosen)
        if not left_after[-1]:
            break
    return units, sums, left_after + [0] * (len(levels) - len(left_after))
