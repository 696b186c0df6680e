"""The certified estimator itself, as the overview of this folder says: prepare a checkpoint, then score its blocks."""

from __future__ import annotations

from gated_lpi.methods.contract import BlockScores, Estimator, Room
from gated_lpi.methods.lpi import exact
from gated_lpi.methods.lpi.certified.cascade import Cascade
from gated_lpi.methods.lpi.certified.distribution import distribution
from gated_lpi.methods.lpi.certified.prepared import Prepared
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.methods.rounding import full_precision
from gated_lpi.models import Readout


class CertifiedEstimator(Estimator[Prepared]):
    """Scores with a proven bound on the error of each.

    Args:
        tolerance: largest error of a score, in nats; of the sum of a unit's scores where each source position is
            scored by itself.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def prepare(self, readout: Readout, room: Room = Room()) -> Prepared:
        """What is kept of a checkpoint."""
        return Prepared(readout, self.tolerance, room)

    def score(self, prepared: Prepared, problem: BlockProblem) -> BlockScores:
        """Score every unit of a block on every prompt, within the tolerance.

        Args:
            prepared: what `prepare` returned.
            problem: the block on P prompts.

        Returns:
            Scores [P, n_units] in nats, with their error bounds.
        """
        if not problem.frozen:
            return exact.score_block(problem, prepared.room.numbers)
        with full_precision():
            p = distribution(prepared.readout, prepared.table, problem.base, problem.base_logits)
            return Cascade(prepared, problem, p).score()
