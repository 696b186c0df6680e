"""What is prepared of a checkpoint, once for all its blocks and batches; and what was found of blocks on the way."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.contract import Room
from gated_lpi.methods.lpi.certified.blocks import Known
from gated_lpi.methods.lpi.certified.distribution import Distribution, distribution
from gated_lpi.methods.lpi.certified.eight_bit import EightBit
from gated_lpi.methods.lpi.certified.envelope import Envelope
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.models import Readout

FINE = 1e-4  # nats: a smaller tolerance is not left to certificates in float32


def arithmetic(problem: BlockProblem, tolerance: float) -> torch.dtype:
    """The dtype of certificates: float32 where that does for the weights and the tolerance."""
    fine = problem.base.dtype == torch.float64 or tolerance < FINE
    return torch.float64 if fine else torch.float32


@dataclass
class LaidOut:
    """What units and groups of one block are certified with.

    Attributes:
        p: its distributions.
        levels: where units stop to be certified before the last level.
        envelope: what bounds the tokens that are not looked at.
        tolerance: largest error of a score, nats.
        log_p: of the targets at the base, once it was asked for.
    """

    p: Distribution
    levels: tuple[int, ...]
    envelope: Envelope
    tolerance: float
    log_p: Known | None = None


class Stops(NamedTuple):
    """Where the units of a block stop to be certified.

    Attributes:
        levels: at which.
        fitted: whether under a fitted envelope.
    """

    levels: tuple[int, ...]
    fitted: bool


class Prepared:
    """What is prepared of one checkpoint; each part is made when it is first asked for.

    Args:
        readout: the model's.
        tolerance: largest error of a score, nats.
        room: what may be held at a time.

    Attributes:
        choices: what was chosen for a block, by its name and the size of the batch.
    """

    def __init__(self, readout: Readout, tolerance: float, room: Room) -> None:
        self.readout = readout
        self.tolerance = tolerance
        self.room = room
        self.choices: dict[tuple[str, int], Stops] = {}
        self._squares: dict[tuple[str, int, int], Tensor] = {}
        self._distribution: tuple[weakref.ref[BlockProblem], Distribution] | None = None
        self._latest: tuple[weakref.ref[BlockProblem], LaidOut] | None = None

    @cached_property
    def table(self) -> Unembedding:
        """The unembedding's mean, spread and norms."""
        return Unembedding(self.readout)

    @cached_property
    def reach(self) -> float:
        """What no logit is moved by more than, over σ and the length of what moves it."""
        folding = float(self.readout.gamma.abs().max()) / self.readout.divisor
        return folding * self.table.longest

    @cached_property
    def eight_bit(self) -> EightBit:
        """The unembedding's rows in 8 bits."""
        return EightBit(self.table)

    def distribution(self, problem: BlockProblem) -> Distribution:
        """p of a block, found once for its units, by position too, and groups; kept while its problem lives."""
        whole, mine = problem.whole or problem, weakref.ref(self)
        if self._distribution is not None and self._distribution[0]() is whole:
            return self._distribution[1]

        def forget(gone: weakref.ref[BlockProblem]) -> None:
            holder = mine()
            if holder is not None and holder._distribution is not None and holder._distribution[0] is gone:
                holder._distribution = None

        self._distribution = None  # before the next is there
        found = distribution(self.readout, self.table, whole.base, whole.base_logits)
        self._distribution = weakref.ref(whole, forget), found
        return found

    def keep(self, problem: BlockProblem, laid: LaidOut) -> None:
        """Keep what was laid out of a block, for as long as its problem lives or until the next one is kept."""
        mine = weakref.ref(self)

        def forget(gone: weakref.ref[BlockProblem]) -> None:
            holder = mine()
            if holder is not None and holder._latest is not None and holder._latest[0] is gone:
                holder._latest = None

        self._latest = weakref.ref(problem, forget), laid

    def kept(self, problem: BlockProblem) -> LaidOut | None:
        """What was kept of this very problem, if it was the last one."""
        return self._latest[1] if self._latest is not None and self._latest[0]() is problem else None

    def squares(self, problem: BlockProblem, first: int, folded: Tensor, envelope: Envelope) -> Tensor:
        """Upper bounds on Σ_j q_j·u_j² of units that follow each other; those of the uniform q are kept.

        Args:
            problem: the block.
            first: index of the first of the units within the block.
            folded: [n, d], their folded value vectors.
            envelope: which has the weights q.

        Returns:
            [n].
        """
        if not (problem.key and envelope.of_checkpoint):
            return envelope.squares(folded)
        key = problem.key, first % problem.units_of_block, len(folded)
        if key not in self._squares:
            self._squares[key] = envelope.squares(folded)
        return self._squares[key]
