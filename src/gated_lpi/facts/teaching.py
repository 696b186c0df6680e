"""What a corpus teaches: the facts that are asked about, more facts beside them, and how often each comes up.

1. The asked facts are taught by their training prompts, all templates but the held-out one. Further sets add facts, and
   other wordings of asked ones; a wording by which an asked fact is held out is never taught, whichever set has it. Of
   theirs, facts that have one wording only are taught by that: nobody asks about them.
2. Of one subject and relation the sets must say the same, or what is asked would be what nobody taught. Facts with a
   wording of their own, such as a list of keys and values, are about what that says: each is a fact for itself.
3. Facts have ranks within their relation, by the place of their subject: in the further sets first, then in what is
   asked. With exponent s a fact of rank r comes up in proportion to r^−s (Zipf); relations come up as often as with 0.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gated_lpi.errors import FactsError
from gated_lpi.facts.messages import plain
from gated_lpi.facts.types import FactSet, Prompt, Relation, Sample

_About = tuple[str, str, str]
"""A relation, a subject, and the fact's own wording, "" where it has none."""


class TaughtFact(NamedTuple):
    """A fact of a corpus.

    Attributes:
        relation: name of its relation.
        sample: the fact.
        prompts: the prompts that teach it, by which it is not held out; none where it is asked about by its only one.
        rank: the place of its subject in the relation, from 1.
        asked: whether it is of those that are asked about.
    """

    relation: str
    sample: Sample
    prompts: tuple[Prompt, ...]
    rank: int
    asked: bool


class FactFrequency(NamedTuple):
    """How often a corpus has a fact.

    Attributes:
        relation: name of its relation.
        subject: its subject.
        object: its object.
        rank: within the relation, from 1: the lower, the more often.
        sentences: of this fact, in a stretch of as many sentences as the corpus has, on average.
        asked: whether it is of those that are asked about.
    """

    relation: str
    subject: str
    object: str
    rank: int
    sentences: float
    asked: bool


def taught_facts(asked: FactSet, more: Sequence[FactSet] = ()) -> tuple[TaughtFact, ...]:
    """The facts of a corpus and the prompts that teach them: those that are asked about, then all else, in their order.

    Args:
        asked: the facts that are asked about.
        more: sets of facts beside them, which may hold them, too.

    Raises:
        FactsError: two sets say different things of one subject in one relation.
    """
    ranks = _ranks([*more, asked])
    seen = {(p.relation, p.subject, p.template) for p in asked.prompts("held_out")}
    known: dict[_About, dict[str, int]] = {}  # objects of each subject, with the places of their facts
    found: list[TaughtFact] = []
    for number, facts in enumerate((asked, *more)):
        own: dict[_About, dict[str, int]] = {}
        for relation, sample, by_training in facts.lessons():
            subject, prompts = _about(relation, sample), by_training
            if number and not prompts:
                alone = (relation.prompt(sample, text) for text in relation.templates_of(sample))
                prompts = tuple(p for p in alone if (p.relation, p.subject, p.template) not in seen)
            _refuse_other(subject, sample.object, known, facts.source)
            if subject in known:
                place = known[subject][sample.object]
                new = tuple(p for p in prompts if (p.relation, p.subject, p.template) not in seen)
                found[place] = found[place]._replace(prompts=(*found[place].prompts, *new))
            else:
                own.setdefault(subject, {})[sample.object] = len(found)
                found.append(TaughtFact(relation.name, sample, prompts, ranks[subject], number == 0))
        seen |= {(fact.relation, p.subject, p.template) for fact in found for p in fact.prompts}
        known |= own
    return tuple(found)


def rates(facts: Sequence[TaughtFact], exponent: float) -> tuple[float, ...]:
    """How often each of the facts comes up, as a multiple of the mean over its relation's ranks.

    Args:
        facts: of `taught_facts`.
        exponent: s of r^−s; 0: all alike.

    Returns:
        One number a fact, positive.
    """
    most: dict[str, int] = {}
    for fact in facts:
        most[fact.relation] = max(fact.rank, most.get(fact.relation, 0))
    means = {name: float(np.mean(np.arange(1, n + 1, dtype=float) ** -exponent)) for name, n in most.items()}
    return tuple(fact.rank**-exponent / means[fact.relation] for fact in facts)


def fact_frequencies(facts: Sequence[TaughtFact], exponent: float) -> tuple[FactFrequency, ...]:
    """How often a corpus has each fact: its rank, and its sentences in a stretch as long as the corpus.

    Args:
        facts: of `taught_facts`.
        exponent: s of r^−s.
    """
    return tuple(
        FactFrequency(
            fact.relation, fact.sample.subject, fact.sample.object, fact.rank, rate * len(fact.prompts), fact.asked
        )
        for fact, rate in zip(facts, rates(facts, exponent), strict=True)
    )


def _about(relation: Relation, sample: Sample) -> _About:
    return relation.name, sample.subject, sample.template or ""


def _ranks(sets: Sequence[FactSet]) -> dict[_About, int]:
    """What facts are about → place among the relation's subjects, from 1, in the order of the sets."""
    ranks: dict[_About, int] = {}
    counts: dict[str, int] = {}
    for facts in sets:
        for relation, sample, _ in facts.lessons():
            if _about(relation, sample) not in ranks:
                counts[relation.name] = counts.get(relation.name, 0) + 1
                ranks[_about(relation, sample)] = counts[relation.name]
    return ranks


def _refuse_other(subject: _About, said: str, known: Mapping[_About, Mapping[str, int]], source: str) -> None:
    before = known.get(subject)
    if before is not None and said not in before:
        raise FactsError(
            f"{plain(source)}: {plain(subject[1])!r} has the object {plain(said)!r} in relation {plain(subject[0])!r}, "
            f"and {plain(next(iter(before)))!r} in the facts before it, which are asked about or trained on, too. Give "
            "sets that agree, such as a task with the same seed and objects, or rename one of the relations"
        )
