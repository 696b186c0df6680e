"""Facts that change in the course of training: some have new objects from then on, those of others of their relation.

1. Of each relation a share of the facts is chosen, among those that are asked about and among all others alike. Facts
   that nothing teaches, and those of subjects with several objects, stay.
2. The objects of the chosen facts are permuted so that none keeps its own. One that is that of more than half of them
   cannot be; facts with it are left out until it can.
3. Each relation that is asked about is then three: "NAME (kept)", "NAME (before)" with the old objects of what changes,
   and "NAME (after)" with the new ones. Facts are held out by the same wordings as without a shift.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gated_lpi.errors import FactsError
from gated_lpi.facts.messages import plain
from gated_lpi.facts.tasks.drawing import Draw
from gated_lpi.facts.teaching import TaughtFact
from gated_lpi.facts.types import FactSet, Relation, Sample

KEPT, BEFORE, AFTER = "kept", "before", "after"
NewObjects = Mapping[tuple[str, str, str], str]
"""Relation, subject and object of facts that change → their new object."""


def new_objects(facts: Sequence[TaughtFact], share: float, seed: int) -> NewObjects:
    """Which facts change, and to what.

    Args:
        facts: of `taught_facts`.
        share: of each relation's facts, more than 0.
        seed: of the choice, and of the permutations.

    Raises:
        FactsError: no fact can change, since no relation has two that are taught with different objects.
    """
    found: dict[tuple[str, str, str], str] = {}
    for name in dict.fromkeys(fact.relation for fact in facts):
        draw = Draw("shift", seed, name)
        chosen = _chosen(draw, [fact for fact in facts if fact.relation == name], share)
        permuted = _permuted(draw, [sample.object for sample in chosen])
        found |= {(name, old.subject, old.object): new for old, new in zip(chosen, permuted, strict=True)}
    if not found:
        raise FactsError(
            f"a shift of a share of {share:g} was asked for, but no relation has two facts in it that are trained on "
            "and have different objects, so nothing could change; give more facts, more templates or a larger share"
        )
    return found


def parted(facts: FactSet, changes: NewObjects) -> FactSet:
    """The facts that are asked about, each relation as three: kept, before, after; what would be empty is left out."""
    relations: list[Relation] = []
    notes = list(facts.notes)
    for relation in facts.relations:
        parts: dict[str, list[Sample]] = {KEPT: [], BEFORE: [], AFTER: []}
        for place, sample in enumerate(relation.samples):
            same = sample if sample.held_out is not None else replace(sample, held_out=place)
            new = changes.get((relation.name, sample.subject, sample.object))
            if new is None:
                parts[KEPT].append(same)
            else:
                parts[BEFORE].append(same)
                parts[AFTER].append(replace(same, object=new, foil=None if sample.foil == new else sample.foil))
        count = len(relation.samples)
        notes.append(f"relation {plain(relation.name)!r}: {len(parts[AFTER])} of {count} facts change in the shift")
        relations += [
            replace(relation, name=f"{relation.name} ({part})", samples=tuple(samples))
            for part, samples in parts.items()
            if samples
        ]
    return replace(facts, relations=tuple(relations), notes=tuple(notes))


def _chosen(draw: Draw, facts: Sequence[TaughtFact], share: float) -> list[Sample]:
    """Facts of one relation that are to change, such that no object is that of more than half of them."""
    objects: dict[str, set[str]] = {}
    for fact in facts:
        objects.setdefault(fact.sample.subject, set()).add(fact.sample.object)
    able = [fact for fact in facts if fact.prompts and len(objects[fact.sample.subject]) == 1]
    chosen: list[Sample] = []
    for asked in (True, False):
        samples = list({fact.sample.subject: fact.sample for fact in able if fact.asked == asked}.values())
        chosen += draw.some(samples, round(share * len(samples)))
    while chosen:
        most, count = Counter(sample.object for sample in chosen).most_common(1)[0]
        if 2 * count <= len(chosen):
            break
        chosen.remove(next(sample for sample in reversed(chosen) if sample.object == most))
    return chosen


def _permuted(draw: Draw, objects: Sequence[str]) -> list[str]:
    """The objects in an order in which none stands where it stood; none is that of more than half.

    One that does is changed for one at a place where neither then stands. There is such a place: places that hold it or
    held it are fewer than twice its number, as this one is both.
    """
    new = draw.some(objects)
    for place, own in enumerate(objects):
        if new[place] == own:
            able = [i for i, old in enumerate(objects) if old != own and new[i] != own]
            other = draw.among(able)
            new[place], new[other] = new[other], new[place]
    return new
