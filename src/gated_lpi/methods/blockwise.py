"""Methods that look at one block at a time: a forward pass over a batch of prompts, then block after block.

1. Prompts of similar lengths are run together and recorded where their targets are predicted (`trace`).
2. Each block becomes a problem (`problem`) that the method scores (`contract`); so are its heads or experts and the
   whole block, with their summed contributions (`lpi.groups`), a block perhaps when the next one is there.
3. Scores of the items of a prompt, which are the tokens of its answer, are added up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi import score_schema as schema
from gated_lpi._common.heap import give_back
from gated_lpi.methods.collect import Collector, Floats, finite_array
from gated_lpi.methods.contract import Method, Room
from gated_lpi.methods.dataset import PromptResults
from gated_lpi.methods.lpi.groups import Found, has_experts, routing
from gated_lpi.methods.memory import Sizes
from gated_lpi.methods.objective import Aims, Objective, Question, objective_of
from gated_lpi.methods.problem import BlockProblem, TracedProblem, problem_of
from gated_lpi.methods.rounding import full_precision, unit_roundoff
from gated_lpi.methods.side_by_side import Pairing, side_by_side
from gated_lpi.models import Model
from gated_lpi.options import Gate, Norm, Scoring
from gated_lpi.trace import Trace, similar_lengths, target_rank, trace


class BlockBatch:
    """Prompts that were run together.

    Attributes:
        prompts: [P], their indices among all.
        lengths: [P], their tokens.
        objective: what is explained of them.
    """

    def __init__(
        self, prompts: NDArray[np.int64], lengths: Sequence[int], traced: Trace, objective: Objective, terms: int
    ) -> None:
        self.prompts = prompts
        self.lengths = lengths
        self.objective = objective
        self._traced = traced
        self._terms = terms

    def read_targets(self, results: PromptResults, at_once: int) -> None:
        """What the model itself says of the targets, so many items at a time."""
        targets, log_p, ranks = self.objective.targets, [], []
        for some in torch.arange(len(targets), device=targets.device).split(at_once):
            logits, wanted = self._traced.logits[some], targets[some]
            log_p.append(logits.gather(-1, wanted.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1))
            ranks.append(target_rank(logits, wanted))
        results.take_targets(self.prompts, self.objective, torch.cat(log_p), np.concatenate(ranks))

    def read_routing(self, results: PromptResults) -> None:
        """What the routers did at every position, if it was recorded; forgotten here then."""
        if self._traced.routing:
            results.add_routing(self.prompts, self._traced.routing)
            self._traced = dataclasses.replace(self._traced, routing=())

    @torch.no_grad()
    def problems(self, model: Model, norm: Norm, gate: Gate) -> Iterator[TracedProblem]:
        """The blocks, in order, once: each is forgotten when it is scored, and the logits, as large as p, now."""
        blocks, traced = list(self._traced.blocks), self._traced
        self._traced = dataclasses.replace(traced, blocks=(), logits=traced.logits[:0].clone())
        frozen = model.readout.inverse_scale(traced.final_residual) if norm == "frozen" else None
        del traced
        asked = self.objective
        for block in model.blocks:
            seen = blocks.pop(0)
            yield problem_of(
                model.readout,
                block,
                seen,
                asked.targets,
                frozen,
                gate,
                asked.foils,
                self._terms,
                blocks[0].base if blocks else None,
            )


def block_batches(
    model: Model,
    asked: Sequence[Question],
    aims: Aims,
    sizes: Sizes,
    *,
    by_position: bool = False,
    all_experts: bool = False,
    routing: bool = False,
) -> Iterator[BlockBatch]:
    """Prompts of similar lengths, run together."""
    terms = max(len(one.positions) for one in asked)
    for prompts in similar_lengths([one.ids for one in asked], sizes.prompts):
        some = [asked[i] for i in prompts]
        with full_precision():
            traced = trace(
                model,
                [one.ids for one in some],
                [one.positions for one in some],
                by_position=by_position,
                all_experts=all_experts,
                routing=routing,
                limits=sizes.forward,
            )
        lengths = [len(one.ids) for one in some]
        batch = BlockBatch(prompts, lengths, traced, objective_of(some, aims, traced.logits), terms)
        del traced
        yield batch


@torch.no_grad()
def score_batch(
    model: Model,
    method: Method[Any],
    state: Any,
    batch: BlockBatch,
    scoring: Scoring,
    sizes: Sizes,
    collector: Collector,
    results: PromptResults,
) -> None:
    """Score the prompts of one batch, block by block or a few side by side; adds to `collector` and `results`."""
    with full_precision():
        batch.read_targets(results, sizes.forward.logits)
        batch.read_routing(results)
        bounds, bases = results.by_block(schema.ERROR_BOUND), results.by_block(schema.BASE_LOGPROB)
        positions: list[Floats] = []
        blocks = _Blocks(method, state, scoring, batch.objective, sizes)
        problems = enumerate(batch.problems(model, method.norm, method.gate))
        for found in side_by_side(blocks.calls(problems), sizes.room.blocks):
            bases[batch.prompts, found.block] = found.base
            if found.tiers is not None:
                results.tier_pairs[found.block] += found.tiers
            if found.by_position is not None:
                positions.append(found.by_position)
            for piece in found.pieces:
                collector.add(piece.name, piece.block, batch.prompts, piece.scores)
                if piece.error_bound is not None:
                    bound = bounds[batch.prompts, piece.block]
                    bounds[batch.prompts, piece.block] = np.maximum(bound, piece.error_bound)
        if positions:
            results.add_positions(batch.prompts, positions, batch.lengths, units=scoring.keep == "prompts")


class _Kept(NamedTuple):
    """What is kept of a block.

    Attributes:
        block: its index.
        base: [P], float64, log p(target | base).
        tiers: [3], how many of its units' scores were found in which way; None without units.
        by_position: [P, S, n_units], nats, where positions are resolved; else None.
        pieces: its scores, and perhaps those of the block before as a whole.
    """

    block: int
    base: Floats
    tiers: NDArray[np.int64] | None
    by_position: Floats | None
    pieces: Sequence[_Piece]


class _Blocks:
    """The blocks of one batch, each scored by a call of its own, which may be made side by side."""

    def __init__(self, method: Method[Any], state: Any, scoring: Scoring, objective: Objective, sizes: Sizes) -> None:
        self._method, self._state, self._scoring, self._objective = method, state, scoring, objective
        self._frugal = sizes.forward.frugal
        self._groups = _Groups(method, state, scoring, objective, sizes.room)

    def calls(self, problems: Iterator[tuple[int, TracedProblem]]) -> Iterator[Callable[[], _Kept]]:
        """One for each block; a problem is held by its call alone."""
        for index, problem in problems:
            call = partial(self._score, index, problem)
            del problem
            yield call
            del call
            if self._frugal:
                give_back()

    def _score(self, index: int, problem: TracedProblem) -> _Kept:
        base = self._objective.by_prompt(problem.base_logits.target_log_p.double()).cpu().numpy()
        units = _score_units(problem, self._method, self._state, self._scoring, self._objective)
        pieces: list[_Piece] = []
        if units is not None:
            pieces.append(_piece(self._method.name, index, units.scores, units.error_bound))
        pieces += self._groups.of_block(problem, index)
        pieces += _routing(problem, self._scoring, self._objective, index)
        if units is None:
            return _Kept(index, base, None, None, pieces)
        by_position = None if units.by_position is None else units.by_position.cpu().numpy()
        return _Kept(index, base, units.tiers.sum(dim=0).cpu().numpy(), by_position, pieces)


class _UnitScores(NamedTuple):
    """The scores of one block, as they are kept.

    Attributes:
        scores: [P, n_units], nats, in the weights' dtype.
        error_bound: [P], float64, nats: no score of the prompt is off by more.
        tiers: [I, 3], how many of the items' scores were found in which way (`Tier`).
        by_position: [P, S, n_units], nats, where positions are resolved; else None.
    """

    scores: Tensor
    error_bound: Tensor
    tiers: Tensor
    by_position: Tensor | None


def _score_units(
    problem: TracedProblem, method: Method[Any], state: Any, scoring: Scoring, objective: Objective
) -> _UnitScores | None:
    """Score the units of one block, where they are asked for."""
    if problem.block.kind not in scoring.units:
        return None
    dtype = problem.base.dtype
    resolved = scoring.positions == "resolved" and problem.block.kind == "attention"
    apart = problem.resolved() if resolved else problem
    found = method.score(state, apart)
    total = found.scores.to(dtype).view(len(found.scores), -1, problem.n_units)
    by_position = objective.by_prompt(total) if resolved else None
    bound = objective.by_prompt(found.error_bound.double() * apart.positions)
    if not resolved and problem.terms == 1:
        return _UnitScores(total.squeeze(1), bound, found.tiers, None)
    summed = objective.by_prompt(total.sum(dim=1, dtype=torch.float64))
    if method.certified:
        bound += unit_roundoff(dtype) * summed.abs().amax(dim=-1)  # of storing the sum
    return _UnitScores(summed.to(dtype), bound, found.tiers, by_position)


class _Piece(NamedTuple):
    """Scores of one block [P, n] under a name, of the model; and the bound on their errors [P], or None."""

    name: str
    block: int
    scores: Floats
    error_bound: Floats | None


def _piece(name: str, block: int, scores: Tensor, bound: Tensor | None = None) -> _Piece:
    return _Piece(name, block, finite_array(name, scores), None if bound is None else bound.cpu().numpy())


class _Groups:
    """Scores of the heads, experts and blocks that are asked for, of the blocks of one batch."""

    def __init__(self, method: Method[Any], state: Any, scoring: Scoring, objective: Objective, room: Room) -> None:
        self._method, self._state, self._objective, self._room = method, state, objective, room
        self._wanted = set(scoring.units) if method.groups else set()
        self._unfinished = Pairing[Callable[[BlockProblem], Found] | None, TracedProblem]()

    def of_block(self, problem: TracedProblem, index: int) -> list[_Piece]:
        """What is known now: groups of this block, and perhaps the block before or this one as a whole.

        A block may need the problem of the next one to be finished, which whoever comes last of both does.
        """
        heads, block = problem.block.n_heads > 0, "blocks" in self._wanted
        inner = "heads" in self._wanted if heads else "experts" in self._wanted and has_experts(problem)
        pieces: list[_Piece] = []
        if not (inner or block):
            return pieces
        found = self._method.score_groups(self._state, problem, self._room, inner=inner, block=block)
        if inner and found.heads is not None:
            pieces.append(self._piece(schema.HEAD_LPI, index, found.heads, found.error_bound))
        if inner and found.experts is not None:
            pieces.append(self._piece(schema.EXPERT_LPI, index, found.experts, found.error_bound))
        if block and found.block is not None:
            pieces.append(self._piece(schema.BLOCK_LPI, index, found.block.unsqueeze(-1), found.error_bound))
        if block:
            for number, finish, following in self._unfinished.meet(index, found.later, problem):
                if finish is not None:
                    scores, bound = finish(following)
                    dtype = problem.base.dtype
                    pieces.append(self._piece(schema.BLOCK_LPI, number, scores.to(dtype).unsqueeze(-1), bound))
        return pieces

    def _piece(self, name: str, index: int, scores: Tensor, bound: Tensor) -> _Piece:
        summed = self._objective.by_prompt
        bound = summed(bound)
        if len(bound) == len(scores):
            return _piece(name, index, scores, bound)
        total = summed(scores.double())
        if self._method.certified:
            bound = bound + unit_roundoff(scores.dtype) * total.abs().amax(dim=-1)  # of storing the sum
        return _piece(name, index, total.to(scores.dtype), bound)


def _routing(problem: TracedProblem, scoring: Scoring, objective: Objective, index: int) -> Iterator[_Piece]:
    """Which experts the prompts were routed to and with what weight, where experts are asked for."""
    routed = routing(problem) if "experts" in scoring.units else None
    if routed is not None:
        share = objective.by_prompt(torch.ones_like(objective.targets)).unsqueeze(-1)  # of several items, the mean
        yield _piece(schema.EXPERT_UTILISATION, index, objective.by_prompt(routed.routed) / share)
        yield _piece(schema.EXPERT_GATE, index, objective.by_prompt(routed.gates) / share)
