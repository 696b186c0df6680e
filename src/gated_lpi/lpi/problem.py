"""What an estimator is given and what it returns: the contract, written once.

A *problem* is one block on P prompts: the residual stream before it writes, the readout, and the block's units as
slabs of value vectors with the coefficients that each prompt gives them. An *estimator* returns

    I(p, u) = log p(target | base + contribution_u) − log p(target | base)    [nats]

for every unit and prompt, and for each prompt a proven bound on the error of its scores (0 where they are exact
up to rounding). Units that no slab holds, those of experts that were not routed to, score 0.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gated_lpi.lpi.lens import BaseLogits, base_logits
from gated_lpi.models import Block, Readout
from gated_lpi.trace import BlockTrace, Slab


class HasPrompts(Protocol):
    """Units that some prompts use; None means every prompt."""

    @property
    def prompts(self) -> Tensor | None:
        """Indices, [P']."""
        ...


@dataclass(frozen=True)
class BlockProblem:
    """One block to be scored on P prompts.

    Attributes:
        readout: residual stream → logits.
        base: [P, d], the residual stream before the block writes.
        inverse_scale: [P], 1/σ of the real final residual (frozen norm); None recomputes the norm.
        targets: [P], target token ids.
        slabs: the block's units.
        n_units: how many units the block has, those that no slab holds included.
        by_position: whether the block's units are counted once for every source position (attention only); unit u at
            position t is then unit t · (units of the block) + u.
        key: the block's name, under which an estimator may keep what it finds of the block's units; "" to keep nothing.
        block, traced: where the problem comes from; the reference reads these and not the slabs.
    """

    readout: Readout
    base: Tensor
    inverse_scale: Tensor | None
    targets: Tensor
    slabs: tuple[Slab, ...]
    n_units: int
    block: Block
    traced: BlockTrace
    by_position: bool = False
    key: str = ""

    @cached_property
    def base_logits(self) -> BaseLogits:
        """What the readout makes of `base`, computed once for all that score this block."""
        return base_logits(self.readout, self.base, self.inverse_scale, self.targets)

    @cached_property
    def base_directions(self) -> Tensor:
        """W_U·(γ ⊙ C·base)/divisor, [P, V]: the base's part of the logits before 1/σ."""
        return self.readout.directions(self.base)

    @property
    def units_of_block(self) -> int:
        """How many units the block has, each counted once."""
        return self.n_units // self.positions

    @property
    def positions(self) -> int:
        """How many scores add up to one unit's: source positions where they are counted one by one, else 1."""
        return len(self.slabs) if self.by_position else 1

    @property
    def share(self) -> float:
        """The part of a tolerance that one score may take: scores of positions add up, and their sum is stored."""
        return 15 / 16 / self.positions if self.by_position else 1.0

    @property
    def frozen(self) -> bool:
        """Whether a contribution's effect on the logits is one vector times a number: norm held, no softcap."""
        return self.inverse_scale is not None and self.readout.affine

    def prompts(self, slab: HasPrompts) -> Tensor:
        """Indices of the prompts that use a slab, or part of one, [P']."""
        if slab.prompts is not None:
            return slab.prompts
        return torch.arange(len(self.targets), device=self.base.device)


class Tier(enum.IntEnum):
    """How a score was found: from means over the vocabulary, from second moments of part of it, from all of it."""

    LINEAR = 0
    MOMENTS = 1
    EXACT = 2


class BlockScores(NamedTuple):
    """The scores of one block.

    Attributes:
        scores: [P, n_units], nats.
        error_bound: [P], nats: no score of the prompt is off by more (0: exact up to rounding, which is not bounded).
        tiers: [P, 3], how many of the prompt's scores were found in which way (`Tier`); units that no slab holds are
            not counted.
    """

    scores: Tensor
    error_bound: Tensor
    tiers: Tensor


class Estimator(Protocol):
    """Scores one block after the other; made once for a checkpoint, so that it can keep what it prepares."""

    def __call__(self, problem: BlockProblem) -> BlockScores:
        """Score every unit of a block on every prompt."""
        ...


def all_exact(problem: BlockProblem, scores: Tensor) -> BlockScores:
    """Scores of which all are exact up to rounding."""
    tiers = torch.zeros(len(scores), len(Tier), dtype=torch.long, device=scores.device)
    for slab in problem.slabs:
        tiers[problem.prompts(slab), Tier.EXACT] += slab.values.shape[0]
    return BlockScores(scores, torch.zeros(len(scores), dtype=torch.float64, device=scores.device), tiers)
