"""What the steps of the fast estimator read of a checkpoint, and how they are to cut their work."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from gated_lpi.lpi.climb import Part
from gated_lpi.lpi.envelope import Envelope
from gated_lpi.lpi.problem import BlockProblem
from gated_lpi.lpi.reach import Reach
from gated_lpi.lpi.unembedding import Unembedding


class Stops(NamedTuple):
    """Levels at which units of a block are certified, and whether under a fitted envelope."""

    levels: tuple[int, ...]
    fitted: bool


class Prepared(Protocol):
    """What is known of a checkpoint, and how the work is to be cut.

    Attributes:
        tolerance: largest error of a score, nats.
        max_pairs: pairs of prompt and unit that are worked on at a time.
        max_numbers: numbers in a matrix of units and tokens, likewise.
        choices: what was chosen for a block, by its name and the size of the batch.
    """

    tolerance: float
    max_pairs: int
    max_numbers: int
    choices: dict[tuple[str, int], Stops]

    @property
    def table(self) -> Unembedding:
        """Of the unembedding."""
        ...

    @property
    def reach(self) -> Reach:
        """Of its rows in 8 bits."""
        ...

    def squares(self, problem: BlockProblem, part: Part, folded: Tensor, envelope: Envelope) -> Tensor:
        """Σ_j q_j·u_j² of units that follow each other, [n]."""
        ...
