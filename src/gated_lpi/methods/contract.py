"""What a method is given and what it returns: the contract of all of them, written once.

A method gives every unit of a block a score, on every prompt, in two steps:

1. `prepare(readout, room) → state`, once for a checkpoint: whatever of it can be used again for every block and batch.
2. `score(state, problem) → BlockScores`, for one block on P prompts at a time (`problem`).

To write one of your own, derive from `Method`, name it, and give it to `attribute(model, facts, method=Mine())`; or go
through the problems by yourself with `block_problems`. docs/architecture.md has an example.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from gated_lpi.methods.problem import BlockProblem, TracedProblem
from gated_lpi.models import Readout
from gated_lpi.options import Gate, Norm, Target

State = TypeVar("State")


class Room(NamedTuple):
    """What may be held at a time.

    Attributes:
        pairs: pairs of prompt and unit.
        numbers: numbers in one matrix of units and tokens.
    """

    pairs: int = 2**20
    numbers: int = 2**24


class Tier(enum.IntEnum):
    """How a score was found.

    Attributes:
        LINEAR: from means over the vocabulary.
        MOMENTS: from second moments of part of it.
        EXACT: from all of it.
    """

    LINEAR = 0
    MOMENTS = 1
    EXACT = 2


class BlockScores(NamedTuple):
    """The scores of one block.

    Attributes:
        scores: [P, n_units], nats.
        error_bound: [P], nats: no score of the prompt is off by more (0: exact up to rounding, which is not bounded).
        tiers: [P, 3], how many of the prompt's scores were found in which way (`Tier`); units that no slab holds are
            not counted.
    """

    scores: Tensor
    error_bound: Tensor
    tiers: Tensor


class Estimator(ABC, Generic[State]):
    """A way of computing scores, in two steps."""

    @abstractmethod
    def prepare(self, readout: Readout, room: Room) -> State:
        """What is kept of a checkpoint for all its blocks.

        Args:
            readout: the model's.
            room: what may be held at a time.
        """

    @abstractmethod
    def score(self, state: State, problem: TracedProblem) -> BlockScores:
        """Score every unit of a block on every prompt; units that no slab holds score 0.

        Args:
            state: what `prepare` returned.
            problem: the block on P prompts.

        Returns:
            Scores [P, n_units] in nats, with their error bounds.
        """


class Method(Estimator[State]):
    """Scores units, block by block.

    Attributes:
        name: of its variable in results, such as "lpi".
        norm, target, gate: what problems it is given: see `gated_lpi.LPI`.
        readout_eps: epsilon of the readout's norm in place of the model's own.
        certified: whether `error_bound` is proven, rounding included.
    """

    name: str
    norm: Norm = "frozen"
    target: Target = "object"
    gate: Gate = "gated"
    readout_eps: float | None = None
    certified: bool = False


def all_exact(problem: BlockProblem, scores: Tensor) -> BlockScores:
    """Scores of which all are exact up to rounding.

    Args:
        problem: the block that was scored.
        scores: [P, n_units], nats.
    """
    tiers = torch.zeros(len(scores), len(Tier), dtype=torch.long, device=scores.device)
    for slab in problem.slabs:
        tiers[problem.prompts(slab), Tier.EXACT] += slab.values.shape[0]
    return BlockScores(scores, torch.zeros(len(scores), dtype=torch.float64, device=scores.device), tiers)
