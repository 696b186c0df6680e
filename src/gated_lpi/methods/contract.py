"""What a method is given and what it returns: the contract of all of them, written once.

Methods are of two kinds. Both give every unit of a block a score, on every prompt, in two steps:

- a `Method` looks at one block at a time, as one forward pass left it (LPI, direct effect):
  1. `prepare(readout, room) → state`, once for a checkpoint: whatever can be used again for every block and batch.
  2. `score(state, problem) → BlockScores`, for one block on P prompts at a time (`problem`).
- a `PassMethod` runs the model itself, forwards, backwards or changed (gradients, true effect, rollout):
  1. `prepare(model, asked) → state`, once for all prompts.
  2. `score(state, given) → PassScores`, for the prompts of one forward pass, all blocks together.

To write one of your own, derive from either, name it, and give it to `attribute(model, facts, method=Mine())`; or go
through the problems by yourself with `block_problems`. docs/architecture.md has an example.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from gated_lpi.methods.lpi.groups import GroupScores, score_groups
from gated_lpi.methods.objective import Aims, Objective, Question, objective_of
from gated_lpi.methods.problem import BlockProblem, TracedProblem
from gated_lpi.models import Model, Readout
from gated_lpi.options import Answer, Foil, Gate, Norm, Target
from gated_lpi.trace import Batch

State = TypeVar("State")


class Room(NamedTuple):
    """What may be held at a time.

    Attributes:
        pairs: pairs of prompt and unit.
        numbers: numbers in one matrix of units and tokens.
        blocks: blocks that are scored side by side, each of which may hold that.
    """

    pairs: int = 2**20
    numbers: int = 2**24
    blocks: int = 1


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


class Named:
    """What every method says of itself.

    Attributes:
        name: of its variable in results, such as "lpi".
        target, foil, answer: what it explains: see `gated_lpi.LPI`.
        scores_heads: whether it is heads that are scored, and no units.
    """

    name: str
    scores_heads: bool = False
    target: Target = "object"
    foil: Foil | None = None
    answer: Answer = "first"

    @property
    def aims(self) -> Aims:
        """What it explains."""
        return Aims(self.target, self.foil, self.answer)

    def products(self, device_type: str) -> str | None:
        """How it multiplies where it chooses by the processor, recorded in results; None where it does not choose."""
        del device_type
        return None


class Method(Named, Estimator[State]):
    """Scores units, block by block.

    Attributes:
        norm, gate: of the problems that it is given: see `gated_lpi.LPI`.
        readout_eps: epsilon of the readout's norm in place of the model's own.
        certified: whether `error_bound` is proven, rounding included, of units and groups alike.
        groups: whether heads, experts and blocks are scored beside the units, by LPI's formula.
    """

    norm: Norm = "frozen"
    gate: Gate = "gated"
    readout_eps: float | None = None
    certified: bool = False
    groups: bool = False

    def score_groups(
        self, state: State, problem: TracedProblem, room: Room, *, inner: bool, block: bool
    ) -> GroupScores:
        """Score the groups of a block on every prompt, by LPI's formula; asked for where `groups` is true.

        Args:
            state: what `prepare` returned.
            problem: the block on P prompts.
            room: what may be held at a time.
            inner: whether its heads or experts are asked for.
            block: whether the block itself is.
        """
        del state, inner, block
        return score_groups(problem, room.numbers)


@dataclass(frozen=True)
class GivenPass:
    """Prompts that go through the model together, as a method is given them.

    Attributes:
        model: the model.
        asked: P prompts.
        batch: the same, padded, with the items that their values are made of.
        aims: what is explained of them.
        kinds: which units are to be scored: any of "ffn", "attention", "mixer".
        by_layer: whether there is room for the activations of one layer at a time only; asked of methods that can do
            with that.
    """

    model: Model
    asked: Sequence[Question]
    batch: Batch
    aims: Aims
    kinds: Collection[str]
    by_layer: bool = False

    def objective(self, logits: Tensor) -> Objective:
        """What is explained, from the unchanged model's `logits` [I, V]."""
        return objective_of(self.asked, self.aims, logits.detach())


class PassScores(NamedTuple):
    """What a method makes of one forward pass over P prompts.

    Attributes:
        logits: [I, V], of the unchanged model at the items.
        scores: name of a variable → index of a block → [P, n], nats.
        by_block: name of a variable that has one number for each block → index of the block → [P].
    """

    logits: Tensor
    scores: Mapping[str, Mapping[int, Tensor]]
    by_block: Mapping[str, Mapping[int, Tensor]] = {}


class PassMethod(Named, ABC, Generic[State]):
    """Scores units by passes of its own through the model.

    Its forward passes are planned as if activations of every layer were held, as a backward pass does; where that is
    more than there is room for, as if the inputs of every layer were, and activations of one, if it can do with that.

    Attributes:
        by_layer: whether it can (`GivenPass.by_layer`, `gated_lpi.trace.ResumablePass.backward`).
        sampled: whether only some units are scored, and others are NaN.
        sees_attention: whether it has the weights of attention computed and holds them, of every layer.
    """

    by_layer: bool = False
    sampled: bool = False
    sees_attention: bool = False

    def prepare(self, model: Model, asked: Sequence[Question]) -> State:
        """What is found once for all prompts; nothing unless a method says otherwise."""
        del model, asked
        return None  # type: ignore[return-value]  # whose State is None then

    @abstractmethod
    def score(self, state: State, given: GivenPass) -> PassScores:
        """Score the units of all blocks on the prompts of one forward pass."""


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
