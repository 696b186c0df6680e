"""The one entry point of attribution: a model and facts → scores of every unit, head, expert and block.

1. Prompts are tokenised together with their targets (`prompting`), and what is explained of each is laid down
   (`objective`).
2. A method scores them (`contract`): block by block after one forward pass (`blockwise`), or by passes of its own
   through the model (`passwise`).
3. The prompt axis is reduced while streaming (`collect`) and everything is laid out as one dataset (`dataset`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi._common.heap import keep_large_apart
from gated_lpi.errors import OptionError
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
from gated_lpi.methods.blockwise import block_batches, score_batch
from gated_lpi.methods.collect import Collector, KnownFacts
from gated_lpi.methods.contract import Method, PassMethod
from gated_lpi.methods.dataset import PromptResults, build_dataset
from gated_lpi.methods.memory import Sizes, sizes_for
from gated_lpi.methods.objective import Aims, Question, questions
from gated_lpi.methods.passwise import pass_batches, score_pass
from gated_lpi.methods.problem import TracedProblem
from gated_lpi.methods.table import AnyMethod, method_for
from gated_lpi.models import Model
from gated_lpi.options import (
    ALL_UNITS,
    LPI,
    METHODS_BY_NAME,
    Answer,
    Foil,
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
from gated_lpi.unit_names import KINDS


def attribute(
    model: Model,
    facts: FactSet | str | Path | Sequence[tuple[str, str]],
    *,
    method: MethodOptions | AnyMethod = LPI(),
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
        units: which scores: any of "ffn", "attention", "mixer", "heads", "experts", "blocks"; what a model lacks has no
            scores.
        keep: "prompts", or means over "relations", or the "mean" over all prompts.
        positions: "summed": an attention unit's coefficient is its weighted value summed over source positions.
            "resolved": every source position is scored by itself; `lpi` is then the sum of these scores, which are
            kept as `position_lpi (prompt, position, attention_unit)` if prompts are kept, and summed over each layer
            as `layer_position_lpi (prompt, position, attention_block)`, by prompt whatever `keep` says.
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
        likeliest). All in nats but ranks, gates and utilisation. `error_bound` is that of every score of the block, its
        units', heads', experts' and its own. The coordinate `text (prompt)` is what was tokenised,
        prompt and answer joined. `tier_pairs (block_index, tier)` counts the pairs of prompt and unit whose score was
        found from means (`linear`), second moments (`moments`) or the whole sum (`exact`). Provenance is in `attrs`,
        with `bos_added`, the facts that were `skipped`, `collisions` of targets within a relation, the `products` that
        the certified estimator chose for this processor, and `notes` on the model.

    Raises:
        OptionError: an option outside what it may be.
        FactsError: the facts cannot be read; or some cannot be used with this model, such as a target without a token
            of its own or an id beyond its embeddings, and on_error is "raise".
        ModelError: the model came without a tokenizer, or a block's scores are not finite.
    """
    chosen = method_for(method)  # refused before facts are read
    _refuse(others, method)
    wanted = cast(Any, tuple(units))  # whether they are units is seen there
    scoring = Scoring(
        units=wanted, keep=keep, positions=positions, routing=routing, batch_size=batch_size, memory=memory
    )
    how = Prompting(templates, separator, on_error, bos)
    if not isinstance(facts, FactSet):
        facts = load_facts(facts, on_error=on_error)
    asked = encode_facts(model, facts, how, answer=chosen.answer)
    return attribute_asked(model, facts, asked, how, method, scoring, progress)


def attribute_asked(
    model: Model,
    facts: FactSet,
    asked: Encoded,
    how: Prompting,
    method: MethodOptions | AnyMethod,
    scoring: Scoring,
    progress: Callable[[int, int], None] | None = None,
    known: KnownFacts | None = None,
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
        known: mean scores of units over known facts as well, where `scoring` keeps means.

    Returns:
        The dataset that `attribute` describes; and if `known` is given what `score_schema.OF_RUNS` has of known facts.

    Raises:
        OptionError: `method` is neither the options of a method nor a method, or `memory` holds less than one prompt.
        ModelError: a block's scores are not finite.
    """
    encoded, skipped = asked
    chosen = method_for(method)
    collected = attribute_encoded(model, encoded, chosen, scoring, progress, known)
    first = None if model.tokenizer is None else model.tokenizer.bos_token_id
    sources = {
        "method": chosen.name,
        "products": chosen.products(model.device.type),
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
    method: MethodOptions | AnyMethod = LPI(),
    scoring: Scoring = Scoring(),
    progress: Callable[[int, int], None] | None = None,
    known: KnownFacts | None = None,
) -> tuple[Collector, PromptResults]:
    """Score prompts that are already token ids.

    Args:
        model: from `load_model` or `wrap_model`.
        encoded: the prompts.
        method: how scores are computed.
        scoring: what is scored and kept.
        progress: called with (prompts done, prompts in all).
        known: mean scores of units over known facts as well, where `scoring` keeps means.

    Returns:
        The scores, in nats, reduced as `scoring.keep` says; and what is kept of every prompt.

    Raises:
        OptionError: `method` is neither the options of a method nor a method; its `gate` is for routed experts and
            the model has none; or `memory` holds less than one prompt.
        ModelError: a block's scores are not finite.
    """
    chosen = method_for(method)
    _refuse_unserved(chosen, scoring)
    asked = questions(encoded, chosen.aims)
    results = PromptResults.empty(len(encoded), len(model.blocks))
    parts = {} if known is None else known.parts(results.target_rank)
    collector = Collector(scoring.keep, [item.prompt.relation for item in encoded], parts)
    done = 0

    def finished(some: NDArray[np.int64]) -> None:
        nonlocal done
        done += len(some)
        if progress is not None:
            progress(done, len(encoded))

    if isinstance(chosen, PassMethod):
        sizes = _sizes(model, asked, scoring, passes=chosen)
        state = chosen.prepare(model, asked)
        for prompts, given in pass_batches(model, asked, chosen, scoring, sizes):
            score_pass(chosen, state, prompts, given, sizes, collector, results)
            finished(prompts)
        return collector, results
    _refuse_dense(model, gate=chosen.gate, routing=scoring.routing)
    _refuse_without_attention(model, scoring)
    model = _read_out(model, chosen.readout_eps)
    sizes = _sizes(model, asked, scoring, chosen.gate)
    state = chosen.prepare(model.readout, sizes.room)
    recorded = {"by_position": scoring.by_position, "all_experts": chosen.gate == "open"}
    for batch in block_batches(model, asked, chosen.aims, sizes, **recorded, routing=scoring.routing == "all"):
        score_batch(model, chosen, state, batch, scoring, sizes, collector, results)
        finished(batch.prompts)
    return collector, results


def block_problems(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    *,
    norm: Norm = "frozen",
    target: Target = "object",
    foil: Foil | None = None,
    answer: Answer = "first",
    gate: Gate = "gated",
    scoring: Scoring = Scoring(),
) -> Iterator[tuple[NDArray[np.int64], TracedProblem]]:
    """Every block of every batch as a problem, for methods of your own.

    Args:
        model: from `load_model` or `wrap_model`.
        encoded: prompts as token ids, from `gated_lpi.prompting.encode_facts`.
        norm, target, foil, answer: of the problems: see `LPI`.
        scoring: `batch_size` and `memory` say how much is worked on at a time; the rest is not looked at.

    Returns:
        For each block of each batch, the prompt's index [P] of each row of the problem, and the problem; a prompt has
        one row, or one for each token of its answer if all are asked for.

    Raises:
        FactsError: a foil is asked for that a prompt does not have.
        OptionError: `memory` holds less than one prompt, or `gate` is for routed experts and the model has none.
    """
    _refuse_dense(model, gate=gate)
    aims = Aims(target, foil, answer)
    asked = questions(encoded, aims)
    sizes = _sizes(model, asked, scoring, gate)
    for batch in block_batches(model, asked, aims, sizes, all_experts=gate == "open"):
        of_prompt = batch.objective.of_prompt.cpu().numpy()
        for problem in batch.problems(model, norm, gate):
            yield batch.prompts[of_prompt], problem


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


def _refuse_without_attention(model: Model, scoring: Scoring) -> None:
    """Refuse source positions of a model that has no attention to look at them."""
    if scoring.by_position and not any(block.kind == "attention" for block in model.blocks):
        raise OptionError(
            f"positions='resolved' was given, which is for attention units, and this {model.family.name} model has no "
            "attention; expected positions='summed'"
        )


def _sizes(
    model: Model,
    asked: Sequence[Question],
    scoring: Scoring,
    gate: Gate = "gated",
    *,
    passes: PassMethod[Any] | None = None,
) -> Sizes:
    memory = None if scoring.memory is None else parse_memory(scoring.memory)
    if memory is not None:
        keep_large_apart()
    longest = max((len(one.ids) for one in asked), default=1)
    items = max((len(one.positions) for one in asked), default=1)
    return sizes_for(
        model,
        scoring.batch_size,
        memory,
        longest,
        items=items,
        by_position=scoring.by_position,
        passes=passes is not None,
        weights=passes is not None and passes.sees_attention,
        by_layer=passes is not None and passes.by_layer,
        all_experts=gate == "open",
        routing=scoring.routing == "all",
    )


def _refuse_unserved(method: AnyMethod, scoring: Scoring) -> None:
    """Refuse a scoring that a method has no scores for."""
    if method.scores_heads and "heads" not in scoring.units:
        raise OptionError(f"{method.name} scores heads, and units={list(scoring.units)} leaves them out; add 'heads'")
    groups = isinstance(method, Method) and method.groups
    if not groups and not method.scores_heads and set(KINDS).isdisjoint(scoring.units):
        raise OptionError(
            f"{method.name} scores units alone, and units={list(scoring.units)} holds none of "
            f"{', '.join(map(repr, KINDS))}; add one of them"
        )
    if isinstance(method, PassMethod) and scoring.positions == "resolved":
        raise OptionError(f"{method.name} has no scores by source position; use positions='summed', or method=LPI()")
    if isinstance(method, PassMethod) and scoring.routing == "all":
        raise OptionError(f"{method.name} does not record routing; use routing='last', or method=LPI()")


def _refuse(others: Mapping[str, object], method: MethodOptions | AnyMethod) -> None:
    """Refuse options that `attribute` does not have, with the place of those that belong to a method."""
    for name, value in others.items():
        given = f"{name}={value!r} was given; "
        owners = [kind for kind in METHODS_BY_NAME.values() if name in flat_fields(kind)]
        if not owners:
            raise OptionError(f"{given}attribute has no such option: see help(gated_lpi.attribute)")
        owners = [kind for kind in owners if kind is type(method)] or owners
        nested = name not in owners[0].model_fields
        inside = f"estimator=Certified({name}={value!r})" if nested else f"{name}={value!r}"
        places = " or ".join(f"method=gated_lpi.{owner.__name__}({inside})" for owner in owners)
        raise OptionError(f"{given}it belongs to the method: {places}")
