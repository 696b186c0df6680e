"""The certified fast estimator: most scores from a few moments, each with a proven bound, the rest from the whole sum.

Under the frozen norm I = c·(u_target − a) − log E_p[exp(c·(u − a))] (`certificate`). For every block,

1. the logit lens gives p of each prompt, and one more product E_p[w], hence a = E_p[u] of all units (`distribution`);
2. with no token looked at, a unit's whole remainder is bounded by the spread of the unembedding (tier *linear*);
3. units with a pair whose bound exceeds the tolerance go on to the tokens that matter most, 256 of them, 1,024,
   4,096, …: u over these tokens and its first two moments under p, two matrix products for all prompts (tier
   *moments*, `moments`), and the other tokens bounded by an envelope of p (`envelope`). A unit stops as soon as the
   bounds of all its pairs are met; a sample of units tells which numbers of tokens are worth stopping at, and whether
   to fit the envelope to the block's prompts (`stages`, `climb`);
4. units that are left have their moments summed over the whole vocabulary, many of them together;
5. pairs that no moments can settle, those that move the logits far, are summed exactly (`fallback`).

What depends on the checkpoint alone is prepared once: the unembedding's spread, and Σ_j u_j² of units that need it.
Of a mixture of experts, only units of experts that some prompt was routed to are touched, expert by expert.
A softcap, or a norm that is recomputed, has no such form: there the exact estimator is used, and the counts of
`BlockScores.tiers` say so.
"""

from __future__ import annotations

from torch import Tensor

from gated_lpi.lpi import exact
from gated_lpi.lpi.cascade import Cascade
from gated_lpi.lpi.climb import Part
from gated_lpi.lpi.distribution import distribution
from gated_lpi.lpi.envelope import Envelope
from gated_lpi.lpi.fallback import MAX_DIRECTIONS
from gated_lpi.lpi.prepared import Stops
from gated_lpi.lpi.problem import BlockProblem, BlockScores
from gated_lpi.lpi.reach import Reach
from gated_lpi.lpi.rounding import full_precision
from gated_lpi.lpi.unembedding import Unembedding
from gated_lpi.models import Readout

MAX_PAIRS = 2**20


class FastEstimator:
    """An `Estimator` for one checkpoint.

    Args:
        readout: the model's; what is prepared of it is kept.
        tolerance: largest error of a score, in nats; of the sum of a unit's scores where each source position is
            scored by itself.
        pairs: pairs of prompt and unit that are worked on at a time.
        numbers: numbers in a matrix of units and tokens, likewise.
    """

    def __init__(
        self, readout: Readout, tolerance: float, *, pairs: int = MAX_PAIRS, numbers: int = MAX_DIRECTIONS
    ) -> None:
        self.tolerance = tolerance
        self.max_pairs, self.max_numbers = pairs, numbers
        self._readout = readout
        self._table: Unembedding | None = None
        self._reach: Reach | None = None
        self._squares: dict[tuple[str, int, int], Tensor] = {}
        self.choices: dict[tuple[str, int], Stops] = {}

    def __call__(self, problem: BlockProblem) -> BlockScores:
        """Score every unit of a block on every prompt, within the tolerance."""
        if not problem.frozen:
            return exact.score_block(problem, self.max_numbers)
        with full_precision():
            p = distribution(self._readout, self.table, problem.base, problem.base_logits)
            return Cascade(self, problem, p).score()

    @property
    def table(self) -> Unembedding:
        """What is prepared of the unembedding, once."""
        if self._table is None:
            self._table = Unembedding(self._readout)
        return self._table

    @property
    def reach(self) -> Reach:
        """Likewise its rows in 8 bits."""
        if self._reach is None:
            self._reach = Reach(self.table)
        return self._reach

    def squares(self, problem: BlockProblem, part: Part, folded: Tensor, envelope: Envelope) -> Tensor:
        """Upper bounds on Σ_j q_j·u_j² of units that follow each other, [n]; those of the uniform q are kept."""
        if not (problem.key and envelope.of_checkpoint):
            return envelope.squares(folded)
        key = problem.key, int(part.units[0]) % problem.units_of_block, len(folded)
        if key not in self._squares:
            self._squares[key] = envelope.squares(folded)
        return self._squares[key]
