"""One block on P prompts, as a problem to be scored.

A problem has the residual stream before the block writes, the readout, and the block's units as slabs of value vectors
with the coefficients that each prompt gives them. A score is that of the definition,

    I(p, u) = log p(target | base + contribution_u) − log p(target | base)    [nats],

or whatever else a method makes of these. What comes from a forward pass also says from which block, and what was
recorded there (`TracedProblem`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from gated_lpi.methods.lens import BaseLogits, base_logits
from gated_lpi.models import Block, Readout
from gated_lpi.options import Gate
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
        foils: [P, F], token ids that the target is measured against, −1 where a prompt has fewer; None: there are none.
        terms: how many problems' scores add up to one, where all tokens of an answer are asked for.
        key: the block's name, under which an estimator may keep what it finds of the block's units; "" to keep nothing.
        whole: the same block with its units counted once, whose readout of the base is this one's; None: it is this.
    """

    readout: Readout
    base: Tensor
    inverse_scale: Tensor | None
    targets: Tensor
    slabs: tuple[Slab, ...]
    n_units: int
    by_position: bool = False
    foils: Tensor | None = None
    terms: int = 1
    key: str = ""
    whole: BlockProblem | None = None

    @cached_property
    def base_logits(self) -> BaseLogits:
        """What the readout makes of `base`, computed once for all that score this block."""
        if self.whole is not None:
            return self.whole.base_logits
        return base_logits(self.readout, self.base, self.inverse_scale, self.targets)

    @cached_property
    def base_directions(self) -> Tensor:
        """W_U·(γ ⊙ C·base)/divisor, [P, V]: the base's part of the logits before 1/σ."""
        if self.whole is not None:
            return self.whole.base_directions
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
        """The part of a tolerance that one score may take: scores that add up share it, and their sum is stored."""
        summed = self.positions * self.terms
        return 15 / 16 / summed if self.by_position or self.terms > 1 else 1.0

    @property
    def frozen(self) -> bool:
        """Whether a contribution's effect on the logits is one vector times a number: norm held, no softcap."""
        return self.inverse_scale is not None and self.readout.affine

    def prompts(self, slab: HasPrompts) -> Tensor:
        """Indices of the prompts that use a slab, or part of one, [P']."""
        if slab.prompts is not None:
            return slab.prompts
        return torch.arange(len(self.targets), device=self.base.device)


@dataclass(frozen=True, kw_only=True)
class TracedProblem(BlockProblem):
    """A problem that comes from a forward pass.

    Attributes:
        block, traced: the block, and what was recorded of it, which the float64 reference and scores of groups read.
        gate: with what weight the slabs' routed experts count: see `gated_lpi.LPI`.
        following: [P, d], the base of the block that comes next; None for the last one, or where nobody said.
    """

    block: Block
    traced: BlockTrace
    gate: Gate = "gated"
    following: Tensor | None = None

    def resolved(self) -> TracedProblem:
        """This attention block with its units counted once for every source position."""
        slabs = tuple(self.traced.position_slabs(self.block))
        return replace(self, slabs=slabs, n_units=len(slabs) * self.n_units, by_position=True, whole=self)


def problem_of(
    readout: Readout,
    block: Block,
    traced: BlockTrace,
    targets: Tensor,
    inverse_scale: Tensor | None,
    gate: Gate = "gated",
    foils: Tensor | None = None,
    terms: int = 1,
    following: Tensor | None = None,
) -> TracedProblem:
    """The problem of one block on the prompts of a forward pass.

    Args:
        readout: the model's.
        block: the block.
        traced: what was recorded of it.
        targets: [P], target token ids.
        inverse_scale: [P], 1/σ of the final residual (frozen norm); None recomputes the norm.
        gate: with what weight units of routed experts count; "open" needs a trace of all experts.
        foils, terms: see `BlockProblem`.
        following: see `TracedProblem`.

    Raises:
        OptionError: `gate` is "open", and the trace has only the experts that were routed to.
    """
    return TracedProblem(
        readout=readout,
        base=traced.base,
        inverse_scale=inverse_scale,
        targets=targets,
        slabs=tuple(traced.slabs(block, gate)),
        n_units=block.n_units,
        foils=foils,
        terms=terms,
        key=block.name,
        block=block,
        traced=traced,
        gate=gate,
        following=following,
    )
