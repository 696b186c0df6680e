"""What is prepared of a checkpoint, once for all its blocks and batches; and what was found of blocks on the way."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from gated_lpi.methods.contract import Room
from gated_lpi.methods.lpi.certified.eight_bit import EightBit
from gated_lpi.methods.lpi.certified.envelope import Envelope
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.models import Readout


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

    @cached_property
    def table(self) -> Unembedding:
        """The unembedding's mean, spread and norms."""
        return Unembedding(self.readout)

    @cached_property
    def eight_bit(self) -> EightBit:
        """The unembedding's rows in 8 bits."""
        return EightBit(self.table)

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
