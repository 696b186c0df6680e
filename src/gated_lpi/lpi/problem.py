"""What an estimator is given and what it returns: the contract, written once.

A *problem* is one block on P prompts: the residual stream before it writes, the readout, and the block's units as
slabs of value vectors with the coefficients that each prompt gives them. An *estimator* returns

    I(p, u) = log p(target | base + contribution_u) − log p(target | base)    [nats]

for every unit and prompt, and for each prompt a proven bound on the error of its scores (0 where they are exact
up to rounding). Units that no slab holds, those of experts that were not routed to, score 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.models import Block, Readout
from gated_lpi.trace import BlockTrace, Slab


class BaseLogits(NamedTuple):
    """The readout of the base of P prompts.

    Attributes:
        inverse_scale: [P], 1/σ that the base is read out with.
        directions: [P, V], W_U·(γ ⊙ C·base)/divisor.
        log_p: [P, V], log-softmax of the logits.
        target_log_p: [P], log p(target | base), nats.
    """

    inverse_scale: Tensor
    directions: Tensor
    log_p: Tensor
    target_log_p: Tensor


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

    @cached_property
    def base_logits(self) -> BaseLogits:
        """What the readout makes of `base`, computed once for all that score this block."""
        readout = self.readout
        inverse_scale = readout.inverse_scale(self.base) if self.inverse_scale is None else self.inverse_scale
        directions = readout.directions(self.base)
        log_p = torch.log_softmax(readout.assemble(directions, inverse_scale), dim=-1)
        target_log_p = log_p.gather(-1, self.targets.unsqueeze(-1)).squeeze(-1)
        return BaseLogits(inverse_scale, directions, log_p, target_log_p)


class BlockScores(NamedTuple):
    """Scores [P, n_units] and error bounds [P] of one block, in nats."""

    scores: Tensor
    error_bound: Tensor


Estimator = Callable[[BlockProblem], BlockScores]
