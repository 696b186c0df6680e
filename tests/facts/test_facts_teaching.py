"""What a corpus teaches: nothing twice, nothing that is held out, and every fact as often as its rank says."""

import pytest

from gated_lpi.errors import FactsError
from gated_lpi.facts import FactSet, Relation, Sample, load_facts
from gated_lpi.facts.teaching import fact_frequencies, rates, taught_facts

TEMPLATES = ("{} lives in", "The home of {} is", "{} is from", "One meets {} in")
HOMES = {"Ann": "Oslo", "Bob": "Rome", "Cid": "Bonn", "Dee": "Kyiv"}


def homes(subjects: str, *, templates: tuple[str, ...] = TEMPLATES, **changed: str) -> FactSet:
    answers = HOMES | changed
    return FactSet((Relation("home", templates, tuple(Sample(s, answers[s]) for s in subjects.split())),), "homes")


def sentences(facts):
    return [prompt.joined for fact in facts for prompt in fact.prompts]


def test_asked_facts_alone_are_taught_by_their_training_prompts():
    asked = load_facts("builtin")
    taught = taught_facts(asked)
    assert [prompt for fact in taught for prompt in fact.prompts] == list(asked.training_prompts())
    assert all(fact.asked for fact in taught)


def test_more_facts_add_what_is_new_and_never_a_held_out_wording():
    asked = homes("Cid Ann")  # Cid is held out by template 0 here, and by template 2 in the larger set
    taught = taught_facts(asked, [homes("Ann Bob Cid Dee"), homes("Cid Bob")])
    assert [(fact.sample.subject, fact.asked) for fact in taught if fact.prompts] == [
        ("Cid", True),
        ("Ann", True),
        ("Bob", False),
        ("Dee", False),
    ]
    said = sentences(taught)
    assert len(said) == len(set(said)) == 4 * 3
    assert {prompt.joined for prompt in asked.prompts("held_out")}.isdisjoint(said)


def test_other_wordings_of_asked_facts_are_added():
    asked = homes("Ann Bob")
    other = homes("Ann", templates=("{} is found in", "{} lives in", "{} sleeps in"))  # holds out "is found in"
    said = sentences(taught_facts(asked, [other]))
    assert said.count("Ann sleeps in Oslo") == 1
    assert "Ann lives in Oslo" not in said  # by which Ann is held out
    assert len(said) == 2 * 3 + 1


def test_people_who_are_asked_about_are_not_doubled():
    asked, everyone = load_facts("people:n=40,asked=10"), load_facts("people:n=40")
    taught = taught_facts(asked, [everyone])
    assert sorted(sentences(taught)) == sorted(prompt.joined for prompt in everyone.training_prompts())
    ranks = [fact.rank for fact in taught if fact.relation == "people birthplace" and fact.asked]
    assert ranks == list(range(3, 41, 4))


@pytest.mark.parametrize("more", [[homes("Dee", Dee="Bern")], [homes("Cid"), homes("Cid Ann", Cid="Bern")]])
def test_sets_that_contradict_each_other_are_refused(more):
    with pytest.raises(
        FactsError, match=r"'(Dee|Cid)' has the object 'Bern' in relation 'home', and '(Kyiv|Bonn)'.*ag"
    ):
        taught_facts(homes("Dee Bob"), more)


def test_subjects_with_several_objects_are_no_contradiction():
    both = FactSet((Relation("tongue", TEMPLATES, (Sample("Ann", "Danish"), Sample("Ann", "Norse"))),), "tongues")
    assert len(sentences(taught_facts(both, [both]))) == 2 * 3


def test_ranks_are_the_order_of_the_corpus_and_frequencies_fall_with_them():
    taught = taught_facts(homes("Dee Ann"), [homes("Bob Ann")])
    assert {fact.sample.subject: fact.rank for fact in taught} == {"Bob": 1, "Ann": 2, "Dee": 3}
    assert rates(taught, 0.0) == (1.0, 1.0, 1.0)
    found = {f.subject: f for f in fact_frequencies(taught, 1.0)}
    mean = (1 + 1 / 2 + 1 / 3) / 3
    assert found["Bob"].sentences == pytest.approx(3 / mean)
    assert found["Ann"].sentences == pytest.approx(3 / 2 / mean)
    assert found["Dee"].sentences == pytest.approx(1 / mean)
    assert (found["Bob"].asked, found["Ann"].asked) == (False, True)


def test_each_relation_has_ranks_of_its_own_and_keeps_its_share():
    facts = load_facts("people:n=30,relations=2,objects=30;two-hop:n=2")
    taught = taught_facts(facts)
    for relation in facts.relations:
        often = [rate for fact, rate in zip(taught, rates(taught, 1.3), strict=True) if fact.relation == relation.name]
        assert sum(often) == pytest.approx(len(relation.samples))
        assert often == sorted(often, reverse=True)


def test_facts_with_a_wording_of_their_own_are_taught_by_it_unless_it_is_asked():
    asked = load_facts("key-value:length=48,n=4")
    more = load_facts("key-value:length=48,n=30,seed=1")
    taught = taught_facts(asked, [more])
    assert [fact.prompts for fact in taught[: len(asked)]] == [()] * len(asked)
    assert sum(len(fact.prompts) for fact in taught) == len({sample.template for sample in more.relations[0].samples})
    again = taught_facts(asked, [asked])  # the very questions that are asked
    assert not any(fact.prompts for fact in again)
