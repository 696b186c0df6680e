"""Methods that look at one block at a time: a forward pass over a batch of prompts, then block after block.

1. Prompts of similar lengths are run together and recorded where their targets are predicted (`trace`).
2. Each block becomes a problem (`problem`) that the method scores (`contract`); its heads or experts and the whole
   block are scored with their summed contributions (`lpi.groups`).
3. Scores of the items of a prompt, which are the tokens of its answer, are added up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi import score_schema as schema
from gated_lpi._common.heap import give_back
from gated_lpi.methods.collect import Collector, Floats, finite_array
from gated_lpi.methods.contract import Method
from gated_lpi.methods.dataset import PromptResults
from gated_lpi.methods.lpi.groups import routing, score_groups
from gated_lpi.methods.memory import Sizes
from gated_lpi.methods.objective import Aims, Objective, Question, objective_of
from gated_lpi.methods.problem import TracedProblem, problem_of
from gated_lpi.methods.rounding import full_precision, unit_roundoff
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
            yield problem_of(model.readout, block, blocks.pop(0), asked.targets, frozen, gate, asked.foils, self._terms)


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
    """Score the prompts of one batch, block by block; adds to `collector` and `results`."""
    with full_precision():
        batch.read_targets(results, sizes.forward.logits)
        batch.read_routing(results)
        bounds, bases = results.by_block(schema.ERROR_BOUND), results.by_block(schema.BASE_LOGPROB)
        positions: list[Floats] = []
        summed = batch.objective.by_prompt
        for index, problem in enumerate(batch.problems(model, method.norm, method.gate)):
            base = summed(problem.base_logits.target_log_p.double())
            bases[batch.prompts, index] = base.cpu().numpy()
            units = _score_units(problem, method, state, scoring, batch.objective)
            found = _score_groups(problem, scoring, batch.objective, sizes.room.numbers, groups=method.groups)
            if units is not None:
                bounds[batch.prompts, index] = units.error_bound.cpu().numpy()
                results.tier_pairs[index] += units.tiers.sum(dim=0).cpu().numpy()
                found[method.name] = units.scores
            if units is not None and units.by_position is not None:
                positions.append(units.by_position.cpu().numpy())
            for name, scores in found.items():
                collector.add(name, index, batch.prompts, finite_array(name, scores))
            if sizes.forward.frugal:
                del problem, units, found
                give_back()
        if positions:
            results.add_positions(batch.prompts, positions, batch.lengths, units=scoring.keep == "prompts")


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


def _score_groups(
    problem: TracedProblem, scoring: Scoring, objective: Objective, numbers: int, *, groups: bool
) -> dict[str, Tensor]:
    """Scores of heads, experts and block, and the routing, [P, n] by name, where they are asked for."""
    found: dict[str, Tensor | None] = {}
    if groups and not {"heads", "experts", "blocks"}.isdisjoint(scoring.units):
        scored = score_groups(problem, numbers)
        named = {
            "heads": (schema.HEAD_LPI, scored.heads),
            "experts": (schema.EXPERT_LPI, scored.experts),
            "blocks": (schema.BLOCK_LPI, scored.block.unsqueeze(-1)),
        }
        found = {
            name: None if values is None else objective.by_prompt(values)
            for unit, (name, values) in named.items()
            if unit in scoring.units
        }
    routed = routing(problem) if "experts" in scoring.units else None
    if routed is not None:
        share = objective.by_prompt(torch.ones_like(objective.targets)).unsqueeze(-1)  # of several items, the mean
        found |= {
            schema.EXPERT_UTILISATION: objective.by_prompt(routed.routed) / share,
            schema.EXPERT_GATE: objective.by_prompt(routed.gates) / share,
        }
    return {name: values for name, values in found.items() if values is not None}
