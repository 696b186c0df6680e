"""The one entry point of attribution: a model and facts → scores of every unit, head, expert and block.

1. Prompts are tokenised together with their targets and run in batches of similar length (`trace`).
2. Each block of a batch becomes a problem (`problem`) that the chosen estimator scores; its heads or experts
   and the whole block are scored with their summed contributions (`groups`).
3. The prompt axis is reduced while streaming (`collect`) and everything is laid out as one dataset (`dataset`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

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
from gated_lpi.heap import give_back
from gated_lpi.lpi import exact, reference
from gated_lpi.lpi.collect import Collector, Floats
from gated_lpi.lpi.dataset import PromptResults, build_dataset
from gated_lpi.lpi.fast import FastEstimator
from gated_lpi.lpi.groups import routing, score_groups
from gated_lpi.lpi.memory import Pieces, pieces, usual_batch
from gated_lpi.lpi.problem import BlockProblem, Estimator
from gated_lpi.lpi.rounding import full_precision, unit_roundoff
from gated_lpi.models import Block, Model, Readout
from gated_lpi.options import ALL_UNITS, Keep, Norm, Positions, Target, parse_memory
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.trace import BlockTrace, Trace, similar_lengths, target_rank, trace

ESTIMATORS = ("fast", "exact", "reference")


@dataclass(frozen=True)
class Options:
    """What is computed and how; recorded with every result."""

    norm: Norm = "frozen"
    target: Target = "object"
    estimator: str = "fast"
    tolerance: float = 1e-3
    units: tuple[str, ...] = ALL_UNITS
    keep: Keep = "prompts"
    batch_size: int | None = None
    positions: Positions = "summed"
    memory: int | str | None = None
    readout_eps: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            OptionError: names the option, what was given and what is allowed.
        """
        _one_of("norm", self.norm, get_args(Norm))
        _one_of("target", self.target, get_args(Target))
        _one_of("estimator", self.estimator, ESTIMATORS)
        _one_of("keep", self.keep, get_args(Keep))
        _one_of("positions", self.positions, get_args(Positions))
        for unit in self.units:
            _one_of("units", unit, ALL_UNITS)
        if not self.units:
            raise OptionError(f"units is empty; expected at least one of {', '.join(ALL_UNITS)}")
        if not 0 < self.tolerance <= 1:
            raise OptionError(f"tolerance={self.tolerance} was given; expected nats above 0 and up to 1, such as 1e-3")
        if self.memory is not None:
            parse_memory(self.memory)
        if self.batch_size is not None and self.batch_size < 1:
            raise OptionError(f"batch_size={self.batch_size} was given; expected at least 1")
        if self.readout_eps is not None and not 0 <= self.readout_eps < math.inf:
            raise OptionError(
                f"readout_eps={self.readout_eps} was given; expected the epsilon of the readout's norm, 0 or more, or "
                "None for the model's own"
            )

    @property
    def by_position(self) -> bool:
        """Whether attention units are scored at every source position."""
        return self.positions == "resolved" and "attention" in self.units


def attribute(
    model: Model,
    facts: FactSet | str | Path | Sequence[tuple[str, str]],
    *,
    templates: Templates = "first",
    separator: str | None = None,
    bos: bool | None = None,
    on_error: OnError = "raise",
    norm: Norm = "frozen",
    target: Target = "object",
    estimator: str = "fast",
    tolerance: float = 1e-3,
    units: Collection[str] = ALL_UNITS,
    keep: Keep = "prompts",
    positions: Positions = "summed",
    batch_size: int | None = None,
    memory: int | str | None = None,
    readout_eps: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Score how much each unit raises the log-probability of each fact's target (Gated-LPI).

    I(u) = log p(target | base + contribution) − log p(target | base) in nats, at the prompt's last position
    (arXiv 2601.08383; docs/method.md). A unit whose expert was not routed to scores 0.

    Args:
        model: from `load_model` or `wrap_model`.
        facts: a `FactSet`, anything that `load_facts` takes, or a list of (prompt, target) pairs.
        templates: "first" of each relation, "all", or the "held_out" one of each fact.
        separator: what stands between a prompt and its answer, for all facts: "auto" (one space where there is no
            whitespace) or any text, "" too. None: as the facts say, "auto" where they say nothing.
        bos: put a BOS token before every prompt (True) or take it away (False). None: as the tokenizer does it.
        on_error: "raise" at facts that cannot be used, or "skip" them: they are counted and listed in the attributes.
        norm: "frozen" holds the final norm's scale at that of the model's real final residual; "recomputed"
            applies the norm afresh before and after.
        target: "object", or "top1", the model's own prediction.
        estimator: "fast" (certified: every score with a proven bound on its error), "exact" (full vocabulary, batched)
            or "reference" (float64, one unit at a time; tiny models). "fast" takes the exact path where the logits
            are not affine in a contribution (norm="recomputed", or a family with a softcap).
        tolerance: of the fast estimator, nats: no unit's score is off by more, nor by more than `error_bound` says.
        units: which scores: any of "ffn", "attention", "heads", "experts", "blocks".
        keep: "prompts", or means over "relations", or the "mean" over all prompts.
        positions: "summed": an attention unit's coefficient is its weighted value summed over source positions.
            "resolved": every source position is scored by itself; `lpi` is then the sum of these scores, which are
            kept as `position_lpi (prompt, position, attention_unit)` if prompts are kept.
        batch_size: prompts that are run and scored together, at most. None: 192, or more for a small vocabulary or a
            wide model.
        memory: cap on the working set beside model and result, in bytes or as "2GB"; fewer prompts are then taken at
            a time. It holds for prompts of any length; a cap below one prompt's needs is refused with the least that
            works. None: as `batch_size` asks.
        readout_eps: epsilon of the readout's norm in place of the model's own, as in the publication's code, which
            fixes it (docs/method.md).
        progress: called with (prompts done, prompts in all).

    Returns:
        A dataset with `lpi (prompt, unit)`, `head_lpi (prompt, head_unit)`, `expert_lpi`, `expert_utilisation`,
        `expert_gate (prompt, expert_unit)` and `block_lpi (prompt, block_index)`, whose `prompt` dimension is
        `relation` or absent as `keep` says, and always by prompt: `base_logprob`, `error_bound
        (prompt, block_index)`, `target_logprob`, `target_rank (prompt)` (0 = likeliest). All in nats but
        ranks, gates and utilisation. The coordinate `text (prompt)` is what was tokenised, prompt and answer joined.
        `tier_pairs (block_index, tier)` counts the pairs of prompt and unit whose score was found from means
        (`linear`), second moments (`moments`) or the whole sum (`exact`). Provenance is in `attrs`, with `bos_added`,
        the facts that were `skipped`, `collisions` of targets within a relation, and `notes` on the model.

    Raises:
        OptionError: an option outside what it may be.
        FactsError: the facts cannot be read; or some cannot be used with this model, such as a target without a token
            of its own or an id beyond its embeddings, and on_error is "raise".
        ModelError: the model came without a tokenizer, or a block's scores are not finite.
    """
    options = Options(
        norm, target, estimator, tolerance, tuple(units), keep, batch_size, positions, memory, readout_eps
    )
    how = Prompting(templates, separator, on_error, bos)
    if not isinstance(facts, FactSet):
        facts = load_facts(facts, on_error=on_error)
    return attribute_asked(model, facts, encode_facts(model, facts, how), how, options, progress)


def attribute_asked(
    model: Model,
    facts: FactSet,
    asked: Encoded,
    how: Prompting,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Score facts that were put to the model already: `asked` is what `encode_facts` made of them; see `attribute`."""
    encoded, skipped = asked
    collected = attribute_encoded(model, encoded, options, progress)
    first = None if model.tokenizer is None else model.tokenizer.bos_token_id
    sources = {
        "facts": facts.source,
        "facts_sha256": facts.sha256,
        **dataclasses.asdict(how),
        "bos_added": any(item.ids[0] == first for item in encoded),
        "skipped": [str(fact) for fact in (*facts.skipped, *skipped)],
        "collisions": collision_notes(first_token_collisions(encoded)),
        "notes": list(model.notes),
    }
    return build_dataset(model, encoded, options.__dict__ | sources, *collected)


def attribute_encoded(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    options: Options,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Collector, PromptResults]:
    """Score prompts that are already token ids; see `attribute`."""
    batch = options.batch_size or usual_batch(*model.readout.weight.shape)
    memory = None if options.memory is None else parse_memory(options.memory)
    longest = max((len(item.ids) for item in encoded), default=1)
    sizes = pieces(model, batch, memory, longest, by_position=options.by_position)
    if options.readout_eps is not None:
        model = dataclasses.replace(model, readout=dataclasses.replace(model.readout, eps=options.readout_eps))
    estimator = make_estimator(options, model.readout, sizes)
    collector = Collector(options.keep, [item.prompt.relation for item in encoded])
    results = PromptResults.empty(len(encoded), len(model.blocks))
    done = 0
    for prompts in similar_lengths([item.ids for item in encoded], sizes.prompts):
        with full_precision():
            _attribute_batch(model, estimator, encoded, prompts, options, sizes, collector, results)
        done += len(prompts)
        if progress is not None:
            progress(done, len(encoded))
    return collector, results


def make_estimator(options: Options, readout: Readout, sizes: Pieces) -> Estimator:
    """The estimator that the options name, for one checkpoint."""
    if options.estimator == "fast":
        return FastEstimator(readout, options.tolerance, pairs=sizes.pairs, numbers=sizes.numbers)
    if options.estimator == "exact":
        return partial(exact.score_block, numbers=sizes.numbers)
    return reference.score_block


@torch.no_grad()
def _attribute_batch(
    model: Model,
    estimator: Estimator,
    encoded: Sequence[EncodedPrompt],
    prompts: NDArray[np.int64],
    options: Options,
    sizes: Pieces,
    collector: Collector,
    results: PromptResults,
) -> None:
    """Trace and score the prompts of one batch, block by block; adds to `collector` and `results`."""
    ids = [encoded[i].ids for i in prompts]
    traced = trace(model, ids, by_position=options.by_position, limits=sizes.forward)
    targets = torch.tensor([encoded[i].target_id for i in prompts], device=traced.logits.device)
    if options.target == "top1":
        targets = traced.logits.argmax(dim=-1)
    results.target_id[prompts] = targets.cpu().numpy()
    for some in np.array_split(np.arange(len(prompts)), -(-len(prompts) // sizes.forward.logits)):
        logits, wanted = traced.logits[some], targets[some]
        at_target = logits.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        results.target_logprob[prompts[some]] = (at_target - logits.logsumexp(dim=-1)).cpu().numpy()
        results.target_rank[prompts[some]] = target_rank(logits, wanted)
    blocks = list(traced.blocks)  # each is forgotten when it is scored, and the logits, as large as p of a block, now
    traced = dataclasses.replace(traced, blocks=(), logits=traced.logits[:0].clone())

    positions: list[Tensor] = []
    for index, block in enumerate(model.blocks):
        problem = _problem(model, block, blocks.pop(0), traced, targets, options.norm)
        results.base_logprob[prompts, index] = problem.base_logits.target_log_p.cpu().numpy()
        units = _score_units(problem, estimator, options)
        found = _score_groups(problem, options, sizes.numbers)
        if units is not None:
            results.error_bound[prompts, index] = units.error_bound.cpu().numpy()
            results.tier_pairs[index] += units.tiers.sum(dim=0).cpu().numpy()
            found["lpi"] = units.scores
        if units is not None and units.by_position is not None:
            positions.append(units.by_position)
        for name, scores in found.items():
            collector.add(name, index, prompts, _array(name, scores))
        if sizes.forward.frugal:
            del problem, units, found
            give_back()
    if positions and options.keep == "prompts":
        results.add_positions(prompts, torch.cat(positions, dim=2).cpu().numpy())


def _problem(model: Model, block: Block, seen: BlockTrace, traced: Trace, targets: Tensor, norm: Norm) -> BlockProblem:
    frozen = model.readout.inverse_scale(traced.final_residual) if norm == "frozen" else None
    return BlockProblem(
        readout=model.readout,
        base=seen.base,
        inverse_scale=frozen,
        targets=targets,
        slabs=tuple(seen.slabs(block)),
        n_units=block.n_units,
        block=block,
        traced=seen,
        key=block.name,
    )


class _UnitScores(NamedTuple):
    """As `BlockScores`, scores in the weights' dtype; `by_position` [P, S, n_units] where positions are resolved."""

    scores: Tensor
    error_bound: Tensor
    tiers: Tensor
    by_position: Tensor | None


def _score_units(problem: BlockProblem, estimator: Estimator, options: Options) -> _UnitScores | None:
    """Score the units of one block, where the options ask for them."""
    if problem.block.kind not in options.units:
        return None
    dtype = problem.base.dtype
    if not (options.positions == "resolved" and problem.block.kind == "attention"):
        found = estimator(problem)
        return _UnitScores(found.scores.to(dtype), found.error_bound.double(), found.tiers, None)
    apart = _by_position(problem)
    found = estimator(apart)
    by_position = found.scores.to(dtype).view(len(found.scores), -1, problem.n_units)
    total = by_position.sum(dim=1, dtype=torch.float64)
    bound = found.error_bound.double() * apart.positions
    if options.estimator == "fast":
        bound += unit_roundoff(dtype) * total.abs().amax(dim=-1)  # of storing the sum
    return _UnitScores(total.to(dtype), bound, found.tiers, by_position)


def _score_groups(problem: BlockProblem, options: Options, numbers: int) -> dict[str, Tensor]:
    """Scores of heads, experts and block, and the routing, [P, n] by name, where the options ask for them."""
    found: dict[str, Tensor | None] = {}
    if not {"heads", "experts", "blocks"}.isdisjoint(options.units):
        groups = score_groups(problem, numbers)
        named = {"heads": groups.heads, "experts": groups.experts, "blocks": groups.block.unsqueeze(-1)}
        found = {f"{unit[:-1]}_lpi": values for unit, values in named.items() if unit in options.units}
    routed = routing(problem) if "experts" in options.units else None
    if routed is not None:
        found |= {"expert_utilisation": routed.routed, "expert_gate": routed.gates}
    return {name: values for name, values in found.items() if values is not None}


def _by_position(problem: BlockProblem) -> BlockProblem:
    """The same attention block with its units counted once for every source position."""
    slabs = tuple(problem.traced.position_slabs(problem.block))
    return dataclasses.replace(problem, slabs=slabs, n_units=len(slabs) * problem.n_units, by_position=True)


def _array(name: str, scores: Tensor) -> Floats:
    values: Floats = scores.cpu().numpy()
    if not np.isfinite(values).all():
        raise ModelError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} values of {name} are not finite; the model's "
            "activations overflow in this dtype. Load it with dtype='float64', or leave this checkpoint out"
        )
    return values


def _one_of(option: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise OptionError(f"{option}={given!r} was given; expected one of {', '.join(map(repr, allowed))}")
