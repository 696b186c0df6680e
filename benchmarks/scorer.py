"""The certified estimator for one checkpoint, prepared when it is first used, as the benchmarks time it."""

from __future__ import annotations

from functools import cached_property

from gated_lpi.methods import BlockProblem, BlockScores, Room
from gated_lpi.methods.lpi.certified import CertifiedEstimator
from gated_lpi.methods.lpi.certified.prepared import Prepared
from gated_lpi.methods.lpi.groups import GroupScores
from gated_lpi.methods.memory import usual_room
from gated_lpi.methods.problem import TracedProblem
from gated_lpi.models import Readout


class Scorer:
    """Scores blocks of one checkpoint, one after the other."""

    def __init__(self, readout: Readout, tolerance: float, room: Room | None = None) -> None:
        self.estimator = CertifiedEstimator(tolerance)
        self.readout, self.room = readout, room or usual_room(readout.weight.device)

    @cached_property
    def prepared(self) -> Prepared:
        """What is kept of the checkpoint."""
        return self.estimator.prepare(self.readout, self.room)

    def groups(self, problem: TracedProblem) -> GroupScores:
        """Its heads or experts and the block; where the next base tells the block's score, all but the last step."""
        return self.estimator.score_groups(self.prepared, problem, inner=True, block=True)

    def __call__(self, problem: BlockProblem) -> BlockScores:
        return self.estimator.score(self.prepared, problem)
