"""The certified estimator itself, as the overview of this folder says: prepare a checkpoint, then score its blocks."""

from __future__ import annotations

from functools import partial

import torch

from gated_lpi.methods.contract import BlockScores, Estimator, Room
from gated_lpi.methods.lpi import exact
from gated_lpi.methods.lpi.certified.blocks import Ahead, Known, step_to, target_log_p
from gated_lpi.methods.lpi.certified.cascade import Cascade
from gated_lpi.methods.lpi.certified.contributions import Vectors
from gated_lpi.methods.lpi.certified.parts import Part, fold
from gated_lpi.methods.lpi.certified.prepared import LaidOut, Prepared, arithmetic
from gated_lpi.methods.lpi.certified.stops import choose
from gated_lpi.methods.lpi.certified.vector_products import Units
from gated_lpi.methods.lpi.groups import Found, GroupScores, Summed, as_scores, has_experts, n_groups, summed
from gated_lpi.methods.problem import BlockProblem, TracedProblem
from gated_lpi.methods.rounding import full_precision, lengths, unit_roundoff
from gated_lpi.models import Readout

LOG_P_SHARE, STEP_SHARE = 0.4, 0.19  # of the tolerance, of which a block's score takes the first twice


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
            return Cascade(prepared, problem, _laid_out(prepared, problem)).score()

    def score_groups(self, prepared: Prepared, problem: TracedProblem, *, inner: bool, block: bool) -> GroupScores:
        """Score the heads or experts of a block, and the block, within the tolerance; its norm is frozen.

        Args:
            prepared: what `prepare` returned.
            problem: the block on P prompts.
            inner: whether heads or experts are asked for.
            block: whether the block is.
        """
        with full_precision():
            laid = _laid_out(prepared, problem)
            found, ahead = _Groups(prepared, problem, laid).score(inner=inner, block=block)
        return found if ahead is None else found._replace(later=partial(self._finish, prepared, ahead))

    def _finish(self, prepared: Prepared, ahead: Ahead, problem: BlockProblem) -> Found:
        """Score the block before this one, on the same prompts."""
        with full_precision():
            laid = _laid_out(prepared, problem)
            after = _log_p(prepared, problem, laid)
            step = Vectors(prepared, problem, laid, ahead.step, STEP_SHARE * laid.tolerance).score()
        scores = after.log_p + step.scores - ahead.before.log_p
        bound = after.error + step.bound + ahead.before.error
        return Found(scores, bound + unit_roundoff(problem.base.dtype) * scores.abs())


def _laid_out(prepared: Prepared, problem: BlockProblem) -> LaidOut:
    """Step 1 and where units stop, found once for units and groups."""
    laid = prepared.kept(problem)
    if laid is None:
        tolerance = prepared.tolerance * problem.share
        p = prepared.distribution(problem)
        laid = LaidOut(p, *choose(prepared, problem, p, arithmetic(problem, tolerance)), tolerance)
        prepared.keep(problem, laid)
    return laid


def _log_p(prepared: Prepared, problem: BlockProblem, laid: LaidOut) -> Known:
    """log p(target | base); a block's score has two of them, and that of a step."""
    if laid.log_p is None:
        laid.log_p = target_log_p(problem, laid.p, LOG_P_SHARE * laid.tolerance, prepared.room.numbers)
    return laid.log_p


class _Groups:
    """The groups of one block."""

    def __init__(self, prepared: Prepared, problem: TracedProblem, laid: LaidOut) -> None:
        self._prepared, self._problem, self._laid = prepared, problem, laid
        like, n_prompts = problem.base, len(problem.targets)
        self._inner = like.new_zeros(n_prompts, n_groups(problem))
        self._bound = like.new_zeros(n_prompts, dtype=torch.float64)

    def score(self, *, inner: bool, block: bool) -> tuple[GroupScores, Ahead | None]:
        problem, like = self._problem, self._problem.base
        everyone = torch.arange(len(like), device=like.device)
        whole = Summed(like.new_zeros(like.shape, dtype=torch.float64), self._bound.clone(), everyone, everyone)
        inner = inner and (problem.block.n_heads > 0 or has_experts(problem))
        units = self._units() if inner and problem.block.n_heads else None
        for part in summed(problem, self._prepared.room.numbers):
            whole.vectors.index_add_(0, part.prompts, part.vectors)
            whole.slip.index_add_(0, part.prompts, part.slip)
            if inner:
                found = self._certify(part, units)
                self._inner[part.prompts, part.groups] = found.to(like.dtype)
        following = problem.following
        step = None if following is None or not block else step_to(problem, following, whole)
        ahead = None if step is None else Ahead(_log_p(self._prepared, problem, self._laid), step)
        scores = None
        if block and ahead is None:
            scores = self._certify(whole).to(like.dtype)
        return as_scores(problem, self._inner, scores, self._bound), ahead

    def _units(self) -> Units:
        """The units of an attention or mixer with heads, as heads are summed from them."""
        problem = self._problem
        (writer,), (slab,) = problem.block.writers, problem.slabs
        (folded,) = fold(problem.readout, [Part.of(slab, slice(None))])
        by_head = slab.coefficients.unflatten(1, (writer.n_heads, -1)).transpose(0, 1)
        length = lengths(folded).view(writer.n_heads, -1, 1)
        return Units(folded, by_head.to(folded.dtype), (by_head.abs() @ length).squeeze(-1))

    def _certify(self, part: Summed, units: Units | None = None) -> torch.Tensor:
        laid = self._laid
        found = Vectors(self._prepared, self._problem, laid, part, laid.tolerance, units).score()
        self._bound.scatter_reduce_(0, part.prompts, found.bound, "amax")
        return found.scores
