"""Facts that change in training: a share of each relation, none keeps its object, and what is asked is told apart."""

from collections import Counter

import pytest

from gated_lpi.errors import FactsError
from gated_lpi.facts import FactSet, Relation, Sample, load_facts
from gated_lpi.facts.shifting import new_objects, parted
from gated_lpi.facts.teaching import taught_facts

TEMPLATES = ("{} is", "One says that {} is", "So {} is")


def relation(name, *pairs, templates=TEMPLATES):
    return Relation(name, templates, tuple(Sample(*pair) for pair in pairs))


@pytest.mark.parametrize("source", ["builtin", "people:n=50,objects=7", "people:n=9,objects=2"])
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_none_keeps_its_object_and_objects_are_those_that_were(source, share, seed):
    facts = load_facts(source)
    changes = new_objects(taught_facts(facts), share, seed)
    for one in facts.relations:
        changed = {key: new for key, new in changes.items() if key[0] == one.name}
        assert all(old != new for (_, _, old), new in changed.items())
        assert Counter(old for _, _, old in changed) == Counter(changed.values())
        assert len(changed) <= round(share * len(one.samples))
    assert changes == new_objects(taught_facts(facts), share, seed)
    assert changes != new_objects(taught_facts(facts), share, seed + 1)


def test_the_share_is_that_of_the_asked_and_of_all_others():
    asked, everyone = load_facts("people:n=200,asked=20"), load_facts("people:n=200")
    changes = new_objects(taught_facts(asked, [everyone]), 0.5, 0)
    for one in asked.relations:
        subjects = {subject for name, subject, _ in changes if name == one.name}
        assert len(subjects) == 100
        assert len(subjects & {sample.subject for sample in one.samples}) == 10


def test_an_object_of_most_facts_changes_only_as_often_as_it_can():
    facts = FactSet((relation("colour", *((f"s{i}", "red" if i < 8 else f"c{i}") for i in range(10))),), "x")
    changes = new_objects(taught_facts(facts), 1.0, 0)
    assert sorted(old for _, _, old in changes) == ["c8", "c9", "red", "red"]
    assert all(new == "red" for (_, _, old), new in changes.items() if old != "red")


def test_what_nothing_teaches_or_has_several_objects_stays():
    facts = FactSet(
        (
            relation("untaught", ("a", "x"), ("b", "y"), templates=("{} is",)),
            relation("several", ("a", "x"), ("a", "y"), ("b", "x"), ("c", "y")),
        ),
        "x",
    )
    assert new_objects(taught_facts(facts), 1.0, 0) == {("several", "b", "x"): "y", ("several", "c", "y"): "x"}
    with pytest.raises(FactsError, match=r"a share of 0\.1 was asked for.*nothing could change; give more facts"):
        new_objects(taught_facts(facts), 0.1, 0)


def test_asked_facts_are_parted_in_three_with_the_wordings_they_had():
    facts = load_facts("people:n=11,relations=2;two-hop:n=7")
    changes = new_objects(taught_facts(facts), 0.5, 4)
    three = parted(facts, changes)
    held_out = {(p.relation, p.subject): p for p in facts.prompts("held_out")}
    seen = Counter()
    for prompt in three.prompts("held_out"):
        name, _, part = prompt.relation.rpartition(" (")
        before = held_out[name, prompt.subject]
        assert prompt.template == before.template
        new = changes.get((name, prompt.subject, before.object))
        assert prompt.object == (new if part == "after)" else before.object)
        assert (new is None) == (part == "kept)")
        seen[name, part] += 1
    for one in facts.relations:
        n = sum(key[0] == one.name for key in changes)
        assert seen[one.name, "before)"] == seen[one.name, "after)"] == n
        assert seen[one.name, "kept)"] == len(one.samples) - n
        assert f"relation {one.name!r}: {n} of {len(one.samples)} facts change in the shift" in three.notes


def test_a_foil_that_becomes_the_answer_is_no_foil():
    facts = FactSet((Relation("r", TEMPLATES, (Sample("a", "x", foil="y"), Sample("b", "y", foil="z"))),), "x")
    after = parted(facts, new_objects(taught_facts(facts), 1.0, 0)).relations[1]
    assert [(sample.object, sample.foil) for sample in after.samples] == [("y", None), ("x", "z")]
