"""Gated-LPI as a method: which of its estimators computes the scores of a block.

    I(u) = log p(target | base + contribution_u) − log p(target | base)

With a foil the score is I of the target less I of the foil, in which the sums over the vocabulary cancel (`contrast`).

Source: arXiv 2601.08383; of dense models arXiv 2312.12141. Check: every estimator against the float64 `reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gated_lpi import score_schema as schema
from gated_lpi.methods.contract import BlockScores, Estimator, Method, Room
from gated_lpi.methods.lpi import contrast, exact, reference
from gated_lpi.methods.lpi.certified import CertifiedEstimator, eight_bit
from gated_lpi.methods.lpi.groups import GroupScores
from gated_lpi.methods.problem import TracedProblem
from gated_lpi.models import Readout
from gated_lpi.options import LPI, Certified, Exact, MethodOptions, Reference


class ExactEstimator(Estimator[Room]):
    """The full vocabulary, in batches (`exact`)."""

    def prepare(self, readout: Readout, room: Room) -> Room:
        """Nothing of the checkpoint is kept."""
        del readout
        return room

    def score(self, state: Room, problem: TracedProblem) -> BlockScores:
        """Score every unit of a block on every prompt."""
        return exact.score_block(problem, state.numbers)


class ReferenceEstimator(Estimator[None]):
    """The definition in float64, one unit at a time (`reference`)."""

    def prepare(self, readout: Readout, room: Room) -> None:
        """Nothing is kept."""

    def score(self, state: None, problem: TracedProblem) -> BlockScores:
        """Score every unit of a block on every prompt."""
        del state
        return reference.score_block(problem)


IMPLEMENTATIONS: dict[type[MethodOptions], Callable[[Any], Estimator[Any]]] = {
    Certified: lambda options: CertifiedEstimator(options.tolerance),
    Exact: lambda _: ExactEstimator(),
    Reference: lambda _: ReferenceEstimator(),
}


class GatedLPI(Method[Any]):
    """The method that `gated_lpi.LPI` asks for."""

    name = schema.LPI
    groups = True

    def __init__(self, options: LPI) -> None:
        self.norm, self.gate, self.readout_eps = options.norm, options.gate, options.readout_eps
        self.target, self.foil, self.answer = options.target, options.foil, options.answer
        self.certified = isinstance(options.estimator, Certified)
        self.estimator = IMPLEMENTATIONS[type(options.estimator)](options.estimator)

    def products(self, device_type: str) -> str | None:
        """Which products of 8 bits the certified estimator takes here."""
        return eight_bit.described(device_type) if self.certified else None

    def prepare(self, readout: Readout, room: Room) -> Any:
        """What the estimator keeps of a checkpoint."""
        return self.estimator.prepare(readout, room), room

    def score(self, state: Any, problem: TracedProblem) -> BlockScores:
        """Score every unit of a block on every prompt, in nats."""
        prepared, room = state
        if problem.foils is not None and not isinstance(self.estimator, ReferenceEstimator):
            return contrast.score_block(problem, room.numbers)
        return self.estimator.score(prepared, problem)

    def score_groups(self, state: Any, problem: TracedProblem, room: Room, *, inner: bool, block: bool) -> GroupScores:
        """Score the groups of a block on every prompt, in nats."""
        if isinstance(self.estimator, ReferenceEstimator) or not problem.frozen:
            return super().score_groups(state, problem, room, inner=inner, block=block)
        if problem.foils is not None:
            return contrast.score_groups(problem, room.numbers)
        if isinstance(self.estimator, CertifiedEstimator):
            return self.estimator.score_groups(state[0], problem, inner=inner, block=block)
        return super().score_groups(state, problem, room, inner=inner, block=block)
