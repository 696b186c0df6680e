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
from typing import NamedTuple

from torch import Tensor

from gated_lpi.models import Block, Readout
from gated_lpi.trace import BlockTrace, Slab


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


class BlockScores(NamedTuple):
    """Scores [P, n_units] and error bounds [P] of one block, in nats."""

    scores: Tensor
    error_bound: Tensor


Estimator = Callable[[BlockProblem], BlockScores]
