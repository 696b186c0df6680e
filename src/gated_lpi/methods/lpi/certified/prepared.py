"""What is prepared of a checkpoint, once for all its blocks and batches; and what was found of blocks on the way."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from gated_lpi.methods.contract import Room
from gated_lpi.methods.lpi.certified.blocks import Known
from gated_lpi.methods.lpi.certified.distribution import Distribution, distribution
from gated_lpi.methods.lpi.certified.eight_bit import EightBit
from gated_lpi.methods.lpi.certified.envelope import Envelope
from gated_lpi.methods.lpi.certified.two_digits import TwoDigits
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.models import Readout

Found = TypeVar("Found")

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


class _Latest(Generic[Found]):
    """What was found of the last few problems, each while it lives.

    Args:
        count: of problems.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._found: dict[int, tuple[weakref.ref[BlockProblem], Found]] = {}
        self._changing = threading.RLock()

    def get(self, problem: BlockProblem) -> Found | None:
        """What is kept of this very problem; None if nothing is."""
        with self._changing:
            kept, found = self._found.get(id(problem), (None, None))
            return found if kept is not None and kept() is problem else None

    def make_room(self) -> None:
        """Forget what was kept first, if there are so many already."""
        with self._changing:
            while len(self._found) >= self._count:
                del self._found[next(iter(self._found))]

    def keep(self, problem: BlockProblem, found: Found) -> None:
        """Keep this of a problem, in place of what was kept first if there are so many already."""
        self.make_room()
        mine, key = weakref.ref(self), id(problem)

        def forget(gone: weakref.ref[BlockProblem]) -> None:
            holder = mine()
            if holder is not None:
                with holder._changing:
                    if key in holder._found and holder._found[key][0] is gone:
                        del holder._found[key]

        with self._changing:
            self._found[key] = weakref.ref(problem, forget), found


class Prepared:
    """What is prepared of one checkpoint; each part is made when it is first asked for.

    Args:
        readout: the model's.
        tolerance: largest error of a score, nats.
        room: what may be held at a time.

    Attributes:
        choices: what was chosen for a block, by its name and the size of the batch.
        left_by_rough: the share of vectors of a block's groups that 8 bits leave, by its name and how many it has.
    """

    def __init__(self, readout: Readout, tolerance: float, room: Room) -> None:
        self.readout = readout
        self.tolerance = tolerance
        self.room = room
        self.choices: dict[tuple[str, int], Stops] = {}
        self.left_by_rough: dict[tuple[str, int], float] = {}
        self._squares: dict[tuple[str, int, int], Tensor] = {}
        self._making = threading.RLock()  # for blocks that are scored side by side
        self._distributions: _Latest[Distribution] = _Latest(2 * room.blocks - 1)  # some wait for the block before
        self._laid: _Latest[LaidOut] = _Latest(2 * room.blocks - 1)

    @property
    def table(self) -> Unembedding:
        """The unembedding's mean, spread and norms."""
        with self._making:
            return self._table

    @cached_property
    def _table(self) -> Unembedding:
        return Unembedding(self.readout)

    @cached_property
    def reach(self) -> float:
        """What no logit is moved by more than, over σ and the length of what moves it."""
        folding = float(self.readout.gamma.abs().max()) / self.readout.divisor
        return folding * self.table.longest

    @property
    def eight_bit(self) -> EightBit:
        """The unembedding's rows in 8 bits."""
        with self._making:
            return self._eight_bit

    @cached_property
    def _eight_bit(self) -> EightBit:
        return EightBit(self._table)

    @property
    def two_digits(self) -> TwoDigits:
        """They in two digits of 8 bits."""
        with self._making:
            return self._two_digits

    @cached_property
    def _two_digits(self) -> TwoDigits:
        return TwoDigits(self._table, self.eight_bit)

    def distribution(self, problem: BlockProblem) -> Distribution:
        """p of a block, found once for its units, by position too, and groups; kept while its problem lives."""
        whole = problem.whole or problem
        found = self._distributions.get(whole)
        if found is None:
            self._distributions.make_room()
            found = distribution(self.readout, self.table, whole.base, whole.base_logits)
            self._distributions.keep(whole, found)
        return found

    def keep(self, problem: BlockProblem, laid: LaidOut) -> None:
        """Keep what was laid out of a block, for as long as its problem lives or until others take its place."""
        self._laid.keep(problem, laid)

    def kept(self, problem: BlockProblem) -> LaidOut | None:
        """What was kept of this very problem, if it was one of the last."""
        return self._laid.get(problem)

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
