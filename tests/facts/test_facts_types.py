"""Joining prompts and answers, the ways a fact set gives prompts, and what its parts refuse."""

import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.errors import FactsError, OptionError
from gated_lpi.facts import FactSet, Prompt, Relation, Sample, join, load_facts

CAPITALS = Relation(
    name="capital",
    prompt_templates=("The capital of {} is", "{} has its capital in", "In {}, the capital is"),
    samples=(Sample("France", "Paris"), Sample("Japan", "Tokyo"), Sample("Peru", "Lima"), Sample("Kenya", "Nairobi")),
)


@pytest.mark.parametrize(
    ("prompt", "target", "joint"),
    [
        ("It is", "Paris", "It is Paris"),
        ("It is ", "Paris", "It is Paris"),
        ("It is", " Paris", "It is Paris"),
        ("It is\n", "Paris", "It is\nParis"),
        ("It is", "\tParis", "It is\tParis"),
        ("", "Paris", "Paris"),
    ],
)
def test_join_puts_one_space_unless_there_is_whitespace(prompt: str, target: str, joint: str) -> None:
    assert join(prompt, target) == joint


@given(st.text(), st.text(min_size=1))
def test_join_is_the_same_when_the_target_already_has_its_space(prompt: str, target: str) -> None:
    joint = join(prompt, target)
    assert joint.startswith(prompt)
    assert joint.endswith(target)
    assert join(prompt, joint[len(prompt) :]) == joint


def test_prompt_holds_the_words_and_the_fact() -> None:
    prompt = FactSet((CAPITALS,), "test").prompts()[0]
    assert prompt == Prompt(
        text="The capital of France is",
        target=" Paris",
        relation="capital",
        subject="France",
        object="Paris",
        template="The capital of {} is",
    )


def test_braces_in_a_subject_are_only_text() -> None:
    relation = Relation("code", ("The type {0} of {} is",), (Sample("{x}", "set"),))
    assert FactSet((relation,), "test").prompts()[0].text == "The type {0} of {x} is"


def test_first_takes_the_first_template_and_all_takes_every_one() -> None:
    facts = FactSet((CAPITALS,), "test")
    assert [p.text for p in facts.prompts()] == [f"The capital of {s.subject} is" for s in CAPITALS.samples]
    assert [(p.subject, p.template) for p in facts.prompts("all")] == [
        (s.subject, t) for s in CAPITALS.samples for t in CAPITALS.prompt_templates
    ]


def test_held_out_rotates_over_templates() -> None:
    facts = FactSet((CAPITALS,), "test")
    first, second, third = CAPITALS.prompt_templates
    assert [p.template for p in facts.prompts("held_out")] == [first, second, third, first]


def test_an_own_template_stands_in_for_the_relations() -> None:
    own = Sample("Rome", "Italy", "{} lies in")
    facts = FactSet((Relation("city", ("{} is in", "Where is {}? In"), (own, Sample("Lyon", "France"))),), "test")
    for mode in ("first", "held_out"):
        assert facts.prompts(mode)[0].text == "Rome lies in"
    assert [p.text for p in facts.prompts("all")] == ["Rome lies in", "Lyon is in", "Where is Lyon? In"]
    assert [p.text for p in facts.training_prompts()] == ["Lyon is in"]


@st.composite
def fact_sets(draw: st.DrawFn) -> FactSet:
    relations = []
    for r in range(draw(st.integers(1, 3))):
        templates = tuple(f"t{k} of r{r}: {{}}" for k in range(draw(st.integers(2, 5))))
        samples = tuple(Sample(f"s{i}", f"o{i}") for i in range(draw(st.integers(len(templates), 9))))
        relations.append(Relation(f"r{r}", templates, samples))
    return FactSet(tuple(relations), "drawn")


@given(fact_sets())
def test_training_and_held_out_prompts_part_the_whole(facts: FactSet) -> None:
    training, held_out = facts.training_prompts(), facts.prompts("held_out")
    assert not set(training) & set(held_out)
    assert set(training) | set(held_out) == set(facts.prompts("all"))
    assert len(held_out) == len(facts)
    for relation in facts.relations:
        mine = [p for p in training if p.relation == relation.name]
        assert {p.template for p in mine} == set(relation.prompt_templates)
        for sample in relation.samples:
            seen = [p for p in mine if p.subject == sample.subject]
            assert len(seen) == len(relation.prompt_templates) - 1


def test_hash_depends_on_the_facts_and_not_on_their_source() -> None:
    facts = FactSet((CAPITALS,), "here")
    assert facts.sha256 == FactSet((CAPITALS,), "there", notes=("read on a Monday",)).sha256
    assert len(facts.sha256) == 64
    fewer = dataclasses.replace(CAPITALS, samples=CAPITALS.samples[1:])
    reworded = dataclasses.replace(CAPITALS, prompt_templates=CAPITALS.prompt_templates[1:])
    assert len({facts.sha256, FactSet((fewer,), "here").sha256, FactSet((reworded,), "here").sha256}) == 3


def test_a_fact_set_survives_pickling() -> None:
    facts = FactSet((CAPITALS,), "test")
    digest = facts.sha256
    assert pickle.loads(pickle.dumps(facts)) == facts
    assert pickle.loads(pickle.dumps(facts)).sha256 == digest


def test_an_unknown_choice_of_templates_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"'second'.*first, all, held_out"):
        FactSet((CAPITALS,), "test").prompts("second")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sample(" ", "x"), "the subject is ' '"),
        (lambda: Sample("x", ""), "the object is ''"),
        (lambda: Sample("x", "y", "no slot"), "has 0 times"),
        (lambda: Relation("r", ("{} and {}",), (Sample("a", "b"),)), "relation 'r': template .* has 2 times"),
        (lambda: Relation("r", ("{}",), (Sample("a", "b"),), ("zero",)), "template 'zero' has 0 times"),
        (lambda: Relation("r", (), (Sample("a", "b"),)), "relation 'r': no prompt_templates"),
        (lambda: Relation("r", ("{}",), ()), "relation 'r': no samples"),
        (lambda: Relation("", ("{}",), (Sample("a", "b"),)), "name is ''"),
        (lambda: FactSet((), "src"), "src: no relations"),
        (lambda: FactSet((CAPITALS, CAPITALS), "src"), "src: more than one relation is named 'capital'"),
    ],
)
def test_what_cannot_make_prompts_is_refused(build, message: str) -> None:
    with pytest.raises(FactsError, match=message):
        build()


def test_facts_show_themselves_in_a_line():
    facts = load_facts("builtin")
    shown = repr(facts)
    assert len(shown) < 300
    assert "\n" not in shown
    assert f"{len(facts):,} facts in {len(facts.relations)} relations" in shown
    assert all(repr(relation.name) in shown for relation in facts.relations[:5])
    first = facts.relations[0]
    templates = len(first.prompt_templates)
    assert repr(first) == f"<Relation {first.name!r}: {len(first.samples)} facts, {templates} templates>"
    hostile = dataclasses.replace(first, name="\x1b[31m" + 9000 * "x")
    assert len(repr(FactSet((hostile,), source="s"))) < 300
    assert "\x1b" not in repr(hostile)
