"""The one entry point of attribution: a model and facts → scores of every unit, head, expert and block.

1. Prompts are tokenised together with their targets and run in batches of similar length (`trace`).
2. Each block of a batch becomes a problem (`problem`) that the method scores (`contract`); its heads or experts and the
   whole block are scored with their summed contributions (`lpi.groups`).
3. The prompt axis is reduced while streaming (`collect`) and everything is laid out as one dataset (`dataset`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi import score_schema as schema
from gated_lpi._common.heap import give_back
from gated_lpi.errors import ModelError, OptionError
from gated_lpi.facts import (
    Encoded,
    EncodedPrompt,
    FactSet,
    OnError,
    collision_notes,
    first_token_collisions,
    load_facts,
)
from gated_lpi.facts.types import Templates
from gated_lpi.methods.collect import Collector, Floats
from gated_lpi.methods.contract import Method
from gated_lpi.methods.dataset import PromptResults, build_dataset
from gated_lpi.methods.lpi.groups import routing as last_routing
from gated_lpi.methods.lpi.groups import score_groups
from gated_lpi.methods.memory import Sizes, sizes_for, usual_batch
from gated_lpi.methods.problem import TracedProblem, problem_of
from gated_lpi.methods.rounding import full_precision, unit_roundoff
from gated_lpi.methods.table import method_for
from gated_lpi.models import Model
from gated_lpi.options import (
    ALL_UNITS,
    LPI,
    Gate,
    Keep,
    MethodOptions,
    Norm,
    Positions,
    Routing,
    Scoring,
    Target,
    parse_memory,
)
from gated_lpi.options.methods import flat_fields, to_flat
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.trace import Trace, similar_lengths, target_rank, trace


def attribute(
    model: Model,
    facts: FactSet | str | Path | Sequence[tuple[str, str]],
    *,
    method: MethodOptions | Method[Any] = LPI(),
    templates: Templates = "first",
    separator: str | None = None,
    bos: bool | None = None,
    on_error: OnError = "raise",
    units: Collection[str] = ALL_UNITS,
    keep: Keep = "prompts",
    positions: Positions = "summed",
    routing: Routing = "last",
    batch_size: int | None = None,
    memory: int | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **others: object,
) -> xr.Dataset:
    """Score how much each unit raises the log-probability of each fact's target (Gated-LPI).

    I(u) = log p(target | base + contribution) − log p(target | base) in nats, at the prompt's last position
    (arXiv 2601.08383; docs/method.md). A unit whose expert was not routed to scores 0.

    Args:
        model: from `load_model` or `wrap_model`.
        facts: a `FactSet`, anything that `load_facts` takes, or a list of (prompt, target) pairs.
        method: how scores are computed: `LPI(norm=…, target=…, estimator=…)`; default: certified, to 1e-3 nats. Or a
            `gated_lpi.methods.Method` of your own.
        templates: "first" of each relation, "all", or the "held_out" one of each fact.
        separator: what stands between a prompt and its answer, for all facts: "auto" (one space where there is no
            whitespace) or any text, "" too. None: as the facts say, "auto" where they say nothing.
        bos: put a BOS token before every prompt (True) or take it away (False). None: as the tokenizer does it.
        on_error: "raise" at facts that cannot be used, or "skip" them: they are counted and listed in the attributes.
        units: which scores: any of "ffn", "attention", "heads", "experts", "blocks".
        keep: "prompts", or means over "relations", or the "mean" over all prompts.
        positions: "summed": an attention unit's coefficient is its weighted value summed over source positions.
            "resolved": every source position is scored by itself; `lpi` is then the sum of these scores, which are
            kept as `position_lpi (prompt, position, attention_unit)` if prompts are kept.
        routing: "last": what the routers did is kept of each prompt's last position. "all": of every position, with the
            routers' logits, as `router_logits` and `position_gate (prompt, position, expert_unit)`, by prompt whatever
            `keep` says.
        batch_size: prompts that are run and scored together, at most. None: 192, or more for a small vocabulary or a
            wide model.
        memory: cap on the working set beside model and result, in bytes or as "2GB"; fewer prompts are then taken at
            a time. It holds for prompts of any length; a cap below one prompt's needs is refused with the least that
            works. None: as `batch_size` asks.
        progress: called with (prompts done, prompts in all).
        others: none; options of a method that are given here are refused with the place where they belong.

    Returns:
        A dataset of the variables of `gated_lpi.score_schema` (docs/results.md): `lpi (prompt, unit)`,
        `head_lpi (prompt, head_unit)`, `expert_lpi`, `expert_utilisation`, `expert_gate (prompt, expert_unit)` and
        `block_lpi (prompt, block_index)`, whose `prompt` dimension is `relation` or absent as `keep` says, and always
        by prompt: `base_logprob`, `error_bound (prompt, block_index)`, `target_logprob`, `target_rank (prompt)` (0 =
        likeliest). All in nats but ranks, gates and utilisation. The coordinate `text (prompt)` is what was tokenised,
        prompt and answer joined. `tier_pairs (block_index, tier)` counts the pairs of prompt and unit whose score was
        found from means (`linear`), second moments (`moments`) or the whole sum (`exact`). Provenance is in `attrs`,
        with `bos_added`, the facts that were `skipped`, `collisions` of targets within a relation, and `notes` on the
        model.

    Raises:
        OptionError: an option outside what it may be.
        FactsError: the facts cannot be read; or some cannot be used with this model, such as a target without a token
            of its own or an id beyond its embeddings, and on_error is "raise".
        ModelError: the model came without a tokenizer, or a block's scores are not finite.
    """
    _refuse(others)
    method_for(method)  # refused before facts are read
    wanted = cast(Any, tuple(units))  # whether they are units is seen there
    scoring = Scoring(
        units=wanted, keep=keep, positions=positions, routing=routing, batch_size=batch_size, memory=memory
    )
    how = Prompting(templates, separator, on_error, bos)
    if not isinstance(facts, FactSet):
        facts = load_facts(facts, on_error=on_error)
    return attribute_asked(model, facts, encode_facts(model, facts, how), how, method, scoring, progress)


def attribute_asked(
    model: Model,
    facts: FactSet,
    asked: Encoded,
    how: Prompting,
    method: MethodOptions | Method[Any],
    scoring: Scoring,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Score facts that were put to the model already; `attribute` after its prompts are tokenised.

    Args:
        model: from `load_model` or `wrap_model`.
        facts: where the prompts are from; recorded in the dataset.
        asked: what `encode_facts` made of them.
        how: how it did so; recorded, too.
        method: how scores are computed.
        scoring: what is scored and kept.
        progress: called with (prompts done, prompts in all).

    Returns:
        The dataset that `attribute` describes.

    Raises:
        OptionError: `method` is neither the options of a method nor a method, or `memory` holds less than one prompt.
        ModelError: a block's scores are not finite.
    """
    encoded, skipped = asked
    chosen = method_for(method)
    collected = attribute_encoded(model, encoded, chosen, scoring, progress)
    first = None if model.tokenizer is None else model.tokenizer.bos_token_id
    sources = {
        "method": chosen.name,
        **(to_flat(method) if isinstance(method, MethodOptions) else {}),
        **dict(scoring),
        "facts": facts.source,
        "facts_sha256": facts.sha256,
        **dataclasses.asdict(how),
        "bos_added": any(item.ids[0] == first for item in encoded),
        "skipped": [str(fact) for fact in (*facts.skipped, *skipped)],
        "collisions": collision_notes(first_token_collisions(encoded)),
        "notes": list(model.notes),
    }
    return build_dataset(model, encoded, scoring.units, sources, *collected)


def attribute_encoded(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    method: MethodOptions | Method[Any] = LPI(),
    scoring: Scoring = Scoring(),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Collector, PromptResults]:
    """Score prompts that are already token ids.

    Args:
        model: from `load_model` or `wrap_model`.
        encoded: the prompts.
        method: how scores are computed.
        scoring: what is scored and kept.
        progress: called with (prompts done, prompts in all).

    Returns:
        The scores, in nats, reduced as `scoring.keep` says; and what is kept of every prompt.

    Raises:
        OptionError: `method` is neither the options of a method nor a method; its `gate` is for routed experts and
            the model has none; or `memory` holds less than one prompt.
        ModelError: a block's scores are not finite.
    """
    chosen = method_for(method)
    _refuse_dense(model, gate=chosen.gate, routing=scoring.routing)
    model = _read_out(model, chosen.readout_eps)
    sizes = _sizes(model, encoded, scoring, chosen.gate)
    state = chosen.prepare(model.readout, sizes.room)
    collector = Collector(scoring.keep, [item.prompt.relation for item in encoded])
    results = PromptResults.empty(len(encoded), len(model.blocks))
    done = 0
    recorded = {"by_position": scoring.by_position, "all_experts": chosen.gate == "open"}
    for batch in _batches(model, encoded, chosen.target, sizes, **recorded, routing=scoring.routing == "all"):
        with full_precision():
            _score_batch(model, chosen, state, batch, scoring, sizes, collector, results)
        done += len(batch.prompts)
        if progress is not None:
            progress(done, len(encoded))
    return collector, results


def block_problems(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    *,
    norm: Norm = "frozen",
    target: Target = "object",
    gate: Gate = "gated",
    scoring: Scoring = Scoring(),
) -> Iterator[tuple[NDArray[np.int64], TracedProblem]]:
    """Every block of every batch as a problem, for methods of your own.

    Args:
        model: from `load_model` or `wrap_model`.
        encoded: prompts as token ids, from `gated_lpi.prompting.encode_facts`.
        norm, target, gate: of the problems: see `LPI`.
        scoring: `batch_size` and `memory` say how much is worked on at a time; the rest is not looked at.

    Returns:
        For each block of each batch, the prompts' indices [P], and the problem.

    Raises:
        OptionError: `memory` holds less than one prompt, or `gate` is for routed experts and the model has none.
    """
    _refuse_dense(model, gate=gate)
    sizes = _sizes(model, encoded, scoring, gate)
    for batch in _batches(model, encoded, target, sizes, all_experts=gate == "open"):
        for problem in batch.problems(model, norm, gate):
            yield batch.prompts, problem


class _Batch:
    """Prompts that were run together: their indices [P], what was recorded, and their targets [P]."""

    def __init__(self, prompts: NDArray[np.int64], traced: Trace, targets: Tensor) -> None:
        self.prompts = prompts
        self.targets = targets
        self._traced = traced

    def read_targets(self, results: PromptResults, at_once: int) -> None:
        """What the model itself says of the targets, so many prompts at a time."""
        results.target_id[self.prompts] = self.targets.cpu().numpy()
        for some in np.array_split(np.arange(len(self.prompts)), -(-len(self.prompts) // at_once)):
            logits, wanted = self._traced.logits[some], self.targets[some]
            at_target = logits.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
            results.target_logprob[self.prompts[some]] = (at_target - logits.logsumexp(dim=-1)).cpu().numpy()
            results.target_rank[self.prompts[some]] = target_rank(logits, wanted)

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
        for block in model.blocks:
            yield problem_of(model.readout, block, blocks.pop(0), self.targets, frozen, gate)


def _read_out(model: Model, eps: float | None) -> Model:
    """The model, with another epsilon of the readout's norm if one is given."""
    return model if eps is None else dataclasses.replace(model, readout=dataclasses.replace(model.readout, eps=eps))


def _refuse_dense(model: Model, gate: Gate, routing: Routing = "last") -> None:
    """Refuse what is asked of routed experts for a model that has none."""
    asked = {"gate": (gate, "gated"), "routing": (routing, "last")}
    for name, (given, plain) in asked.items():
        if given != plain and not any(model.routed()):
            raise OptionError(
                f"{name}={given!r} was given, which is for routed experts, and this {model.family.name} model has "
                f"none; expected a mixture-of-experts model, or {name}={plain!r}"
            )


def _sizes(model: Model, encoded: Sequence[EncodedPrompt], scoring: Scoring, gate: Gate) -> Sizes:
    batch = scoring.batch_size or usual_batch(*model.readout.weight.shape)
    memory = None if scoring.memory is None else parse_memory(scoring.memory)
    longest = max((len(item.ids) for item in encoded), default=1)
    every = gate == "open"
    everywhere = scoring.routing == "all"
    return sizes_for(
        model, batch, memory, longest, by_position=scoring.by_position, all_experts=every, routing=everywhere
    )


def _batches(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    target: Target,
    sizes: Sizes,
    *,
    by_position: bool = False,
    all_experts: bool = False,
    routing: bool = False,
) -> Iterator[_Batch]:
    """Prompts of similar lengths, run together."""
    for prompts in similar_lengths([item.ids for item in encoded], sizes.prompts):
        with full_precision():
            ids = [encoded[i].ids for i in prompts]
            traced = trace(
                model,
                ids,
                by_position=by_position,
                all_experts=all_experts,
                routing=routing,
                limits=sizes.forward,
            )
        if target == "top1":
            targets = traced.logits.argmax(dim=-1)
        else:
            targets = torch.tensor([encoded[i].target_id for i in prompts], device=traced.logits.device)
        batch = _Batch(prompts, traced, targets)
        del traced
        yield batch


@torch.no_grad()
def _score_batch(
    model: Model,
    method: Method[Any],
    state: Any,
    batch: _Batch,
    scoring: Scoring,
    sizes: Sizes,
    collector: Collector,
    results: PromptResults,
) -> None:
    """Score the prompts of one batch, block by block; adds to `collector` and `results`."""
    batch.read_targets(results, sizes.forward.logits)
    batch.read_routing(results)
    positions: list[Tensor] = []
    for index, problem in enumerate(batch.problems(model, method.norm, method.gate)):
        results.base_logprob[batch.prompts, index] = problem.base_logits.target_log_p.cpu().numpy()
        units = _score_units(problem, method, state, scoring)
        found = _score_groups(problem, scoring, sizes.room.numbers)
        if units is not None:
            results.error_bound[batch.prompts, index] = units.error_bound.cpu().numpy()
            results.tier_pairs[index] += units.tiers.sum(dim=0).cpu().numpy()
            found[method.name] = units.scores
        if units is not None and units.by_position is not None:
            positions.append(units.by_position)
        for name, scores in found.items():
            collector.add(name, index, batch.prompts, _array(name, scores))
        if sizes.forward.frugal:
            del problem, units, found
            give_back()
    if positions and scoring.keep == "prompts":
        results.add_positions(batch.prompts, torch.cat(positions, dim=2).cpu().numpy())


class _UnitScores(NamedTuple):
    """The scores of one block, as they are kept.

    Attributes:
        scores: [P, n_units], nats, in the weights' dtype.
        error_bound: [P], float64, nats: no score of the prompt is off by more.
        tiers: [P, 3], how many of the prompt's scores were found in which way (`Tier`).
        by_position: [P, S, n_units], nats, where positions are resolved; else None.
    """

    scores: Tensor
    error_bound: Tensor
    tiers: Tensor
    by_position: Tensor | None


def _score_units(problem: TracedProblem, method: Method[Any], state: Any, scoring: Scoring) -> _UnitScores | None:
    """Score the units of one block, where they are asked for."""
    if problem.block.kind not in scoring.units:
        return None
    dtype = problem.base.dtype
    if not (scoring.positions == "resolved" and problem.block.kind == "attention"):
        found = method.score(state, problem)
        return _UnitScores(found.scores.to(dtype), found.error_bound.double(), found.tiers, None)
    apart = problem.resolved()
    found = method.score(state, apart)
    by_position = found.scores.to(dtype).view(len(found.scores), -1, problem.n_units)
    total = by_position.sum(dim=1, dtype=torch.float64)
    bound = found.error_bound.double() * apart.positions
    if method.certified:
        bound += unit_roundoff(dtype) * total.abs().amax(dim=-1)  # of storing the sum
    return _UnitScores(total.to(dtype), bound, found.tiers, by_position)


def _score_groups(problem: TracedProblem, scoring: Scoring, numbers: int) -> dict[str, Tensor]:
    """Scores of heads, experts and block, and the routing, [P, n] by name, where they are asked for."""
    found: dict[str, Tensor | None] = {}
    if not {"heads", "experts", "blocks"}.isdisjoint(scoring.units):
        groups = score_groups(problem, numbers)
        named = {
            "heads": (schema.HEAD_LPI, groups.heads),
            "experts": (schema.EXPERT_LPI, groups.experts),
            "blocks": (schema.BLOCK_LPI, groups.block.unsqueeze(-1)),
        }
        found = {name: values for unit, (name, values) in named.items() if unit in scoring.units}
    routed = last_routing(problem) if "experts" in scoring.units else None
    if routed is not None:
        found |= {schema.EXPERT_UTILISATION: routed.routed, schema.EXPERT_GATE: routed.gates}
    return {name: values for name, values in found.items() if values is not None}


def _array(name: str, scores: Tensor) -> Floats:
    values: Floats = scores.cpu().numpy()
    if not np.isfinite(values).all():
        raise ModelError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} values of {name} are not finite; the model's "
            "activations overflow in this dtype. Load it with dtype='float64', or leave this checkpoint out"
        )
    return values


def _refuse(others: Mapping[str, object]) -> None:
    """Refuse options that `attribute` does not have, with the place of those that belong to the method."""
    known = flat_fields(LPI)
    for name, value in others.items():
        if name in known:
            of = f"LPI(estimator=Certified(tolerance={value!r}))" if name == "tolerance" else f"LPI({name}={value!r})"
            raise OptionError(f"{name}={value!r} was given; it belongs to the method: method=gated_lpi.{of}")
        raise OptionError(f"{name}={value!r} was given; attribute has no such option: see help(gated_lpi.attribute)")
