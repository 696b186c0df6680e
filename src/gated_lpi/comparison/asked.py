"""What is compared, and on what: methods by name, and facts in halves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from gated_lpi.ablation import target_ranks
from gated_lpi.errors import FactsError, OptionError
from gated_lpi.facts import EncodedPrompt, FactSet, Relation, Sample
from gated_lpi.facts.types import Templates
from gated_lpi.models import Model
from gated_lpi.options import METHODS_BY_NAME, At, Explained, Foil, MethodOptions, Rollout, TrueEffect
from gated_lpi.unit_names import KINDS

FOILS = tuple(foil for foil in get_args(Foil) if foil != "best")  # "best" is the margin, which is compared anyway
Fact = tuple[str, str, str]


def chosen_methods(methods: Sequence[str] | Mapping[str, MethodOptions], at: At) -> dict[str, Explained]:
    """The options of every method that is compared, by name.

    Args:
        methods: names, or options under names of one's own.
        at: where those that are named silence or scale units, if they do.

    Raises:
        OptionError: there is none, one is listed twice, is unknown, gives no unit a score, or explains something else.
    """
    named = [methods] if isinstance(methods, str) else list(methods)
    if not named or len(set(named)) < len(named):
        raise OptionError(f"methods={named!r} was given; expected one method or more, each once")
    return {name: _chosen(name, methods[name] if isinstance(methods, Mapping) else None, at) for name in named}


def _chosen(name: str, given: MethodOptions | None, at: At) -> Explained:
    kind = METHODS_BY_NAME.get(name) if given is None else type(given)
    if kind is Rollout:
        raise OptionError(
            f"method {name!r} scores heads by where they look, and no FFN or attention unit, which are compared; "
            "leave it out, and have its scores by attribute(model, facts, method=Rollout(), units=['heads'])"
        )
    if kind is TrueEffect:
        raise OptionError(
            f"method {name!r} is what the others are held against; leave it out of methods: sample= says of how many "
            "units of each block it is measured"
        )
    if kind is None or not issubclass(kind, Explained):
        able = ", ".join(repr(key) for key, options in METHODS_BY_NAME.items() if options not in (Rollout, TrueEffect))
        raise OptionError(f"method {name!r} was given; expected one of {able}")
    usual: dict[str, Any] = {"at": at} if "at" in kind.model_fields else {}
    options = kind(**usual) if given is None else given
    assert isinstance(options, Explained)
    plain = Explained()
    odd = [key for key in Explained.model_fields if getattr(options, key) != getattr(plain, key)]
    if odd:
        raise OptionError(
            f"method {name!r} was given with {odd[0]}={getattr(options, odd[0])!r}; all methods are compared on one "
            "target: give foil= to compare instead"
        )
    return options


def against(options: Explained, foil: Foil) -> Explained:
    """The same method, of the target against a foil."""
    return type(options)(**{**dict(options), "foil": foil})


def refuse_kinds(kinds: Collection[str]) -> tuple[str, ...]:
    """The kinds of units, once they are known to be ones that every method can score.

    Raises:
        OptionError: there is none, or one that is not.
    """
    given = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    odd = [kind for kind in given if kind not in KINDS]
    if odd or not given or len(set(given)) < len(given):
        why = f"; no method but rollout and lpi scores {odd[0]}" if odd else ""
        raise OptionError(f"units={list(given)} was given{why}; expected some of {', '.join(map(repr, KINDS))}")
    return given


class Halves(NamedTuple):
    """Facts by what they are used for.

    Attributes:
        every: all of them.
        ranked: those that units are ranked on before some are silenced.
        tested: those that the model is then asked, of the same relations.
        others: of other relations, for the damage; None: there are none.
    """

    every: FactSet
    ranked: frozenset[Fact]
    tested: FactSet
    others: FactSet | None


def split(facts: FactSet, others: FactSet | None, seed: int) -> Halves:
    """Split facts at random: every relation into two halves, after a third of the relations was set aside as others.

    Args:
        facts: what there is.
        others: facts of other relations; None: a third of the relations of `facts`, if it has three or more.
        seed: of the split.

    Raises:
        FactsError: no relation has two facts.
    """
    generator = np.random.default_rng(seed)
    aside = set()
    if others is None and len(facts.relations) >= 3:
        aside = set(generator.permutation(len(facts.relations))[: len(facts.relations) // 3].tolist())
        others = replace(facts, relations=tuple(facts.relations[i] for i in sorted(aside)))
    ranked: set[Fact] = set()
    tested: list[Relation] = []
    for index, relation in enumerate(facts.relations):
        order = generator.permutation(len(relation.samples))
        if index in aside:
            continue
        first = set(order[: (len(order) + 1) // 2].tolist())
        ranked |= {fact_of(relation, sample) for i, sample in enumerate(relation.samples) if i in first}
        rest = tuple(sample for i, sample in enumerate(relation.samples) if i not in first)
        if rest:
            tested.append(replace(relation, samples=rest))
    if not tested:
        raise FactsError(
            f"{facts.source}: no relation has two facts, one to rank units on and one to test them; give more facts"
        )
    return Halves(facts, frozenset(ranked), replace(facts, relations=tuple(tested)), others)


def fact_of(relation: Relation, sample: Sample) -> Fact:
    """What tells a fact from others."""
    return relation.name, sample.subject, sample.object


def pinned(facts: FactSet, templates: Templates) -> tuple[FactSet, Templates]:
    """Facts whose templates do not depend on which facts stand before them, as held-out ones do."""
    if templates != "held_out":
        return facts, templates
    fixed = []
    for relation in facts.relations:
        wordings = [relation.templates_of(sample) for sample in relation.samples]
        samples = tuple(
            replace(sample, template=some[i % len(some)])
            for i, (sample, some) in enumerate(zip(relation.samples, wordings, strict=True))
        )
        fixed.append(replace(relation, samples=samples))
    return replace(facts, relations=tuple(fixed)), "first"


def only_known(model: Model, facts: FactSet, encoded: Sequence[EncodedPrompt], k: int) -> FactSet:
    """The facts whose target is among the model's k likeliest tokens, through every template that is asked.

    Raises:
        FactsError: it knows none of them.
    """
    ranks = target_ranks(model, encoded)
    asked = [(item.prompt.relation, item.prompt.subject, item.prompt.object) for item in encoded]
    known = set(asked) - {fact for fact, rank in zip(asked, ranks.tolist(), strict=True) if rank >= k}
    kept = [
        replace(relation, samples=samples)
        for relation in facts.relations
        if (samples := tuple(sample for sample in relation.samples if fact_of(relation, sample) in known))
    ]
    if not kept:
        raise FactsError(
            f"{facts.source}: the model has the answer of none of {len(asked)} prompts among its {k} likeliest tokens; "
            "take known=False, a greater k, or facts that it knows"
        )
    return replace(facts, relations=tuple(kept))


def asked_facts(scores: Any) -> list[Fact]:
    """The fact of every prompt of some scores."""
    columns = [scores[name].to_numpy().tolist() for name in ("prompt_relation", "subject", "object")]
    return list(zip(*columns, strict=True))


def rows_of(scores: Any, wanted: frozenset[Fact]) -> NDArray[np.int64]:
    """The prompts of some facts, as indices."""
    return np.flatnonzero([fact in wanted for fact in asked_facts(scores)])
