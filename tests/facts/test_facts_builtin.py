"""The built-in set is large, well formed and worded so that its answers can be told apart; the checks find faults."""

from collections import Counter

import pytest

from gated_lpi.facts import FactSet, Relation, Sample, check_facts, load_facts
from gated_lpi.facts.checks import oddities


@pytest.fixture(scope="module")
def builtin() -> FactSet:
    return load_facts("builtin")


def test_the_builtin_set_is_as_large_as_promised_and_has_no_problem(builtin: FactSet) -> None:
    assert builtin.source == "builtin"
    assert len(builtin.relations) >= 14
    assert len(builtin) >= 960
    assert builtin.notes == ()
    assert check_facts(builtin, min_templates=4) == []


def test_every_builtin_relation_says_what_it_is(builtin: FactSet) -> None:
    keys = {"relation_type", "domain_name", "range_name", "symmetric", "source"}
    for relation in builtin.relations:
        assert set(relation.properties) == keys, relation.name
        assert relation.properties["source"] == "general knowledge"
        assert len({s.subject for s in relation.samples}) == len(relation.samples), relation.name


def test_builtin_prompts_end_where_one_space_and_the_answer_follow(builtin: FactSet) -> None:
    for prompt in builtin.prompts("all"):
        assert prompt.text[-1].isalnum() or prompt.text[-1] == ",", prompt
        assert prompt.target == f" {prompt.object}", prompt
        assert "  " not in prompt.text


def test_no_builtin_prompt_has_two_answers(builtin: FactSet) -> None:
    answers: dict[str, set[str]] = {}
    for prompt in builtin.prompts("all"):
        answers.setdefault(prompt.text, set()).add(prompt.object)
    assert {text: found for text, found in answers.items() if len(found) > 1} == {}


def test_builtin_letters_are_the_words_letters(builtin: FactSet) -> None:
    relations = {relation.name: relation for relation in builtin.relations}
    assert all(s.object == s.subject[0] for s in relations["word first letter"].samples)
    assert all(s.object == s.subject[-1] for s in relations["word last letter"].samples)


@pytest.mark.parametrize("name", ["state capital", "state abbreviation"])
def test_every_us_state_is_there_once_with_an_answer_of_its_own(builtin: FactSet, name: str) -> None:
    (relation,) = (relation for relation in builtin.relations if relation.name == name)
    assert len({s.subject for s in relation.samples}) == len({s.object for s in relation.samples}) == 50


def test_relations_on_the_same_subjects_agree_on_them(builtin: FactSet) -> None:
    subjects = {relation.name: {s.subject for s in relation.samples} for relation in builtin.relations}
    assert subjects["state capital"] == subjects["state abbreviation"]
    capitals = [s.object for r in builtin.relations if r.name == "country capital" for s in r.samples]
    assert [city for city, n in Counter(capitals).items() if n > 1] == []


TWO = ("{} is", "what {} is:")


def facts_of(*relations: Relation) -> FactSet:
    return FactSet(relations, "test")


@pytest.mark.parametrize(
    ("relation", "problem"),
    [
        (Relation("r", TWO, (Sample("a", "x"), Sample("a", "x"), Sample("b", "y"), Sample("c", "z"))), "repeated"),
        (Relation("r", TWO, (Sample("a", "x"), Sample("a", "y"))), "several objects: a → x | y"),
        (Relation("r", TWO, (Sample("a", "A"), Sample("b", "y"))), "the same: a"),
        (Relation("r", TWO[:1] * 2, (Sample("a", "x"),)), "1 different templates, fewer than 2"),
        (Relation("r", TWO, (Sample("a ", "x"),)), "whitespace at an end: 'a '"),
        (Relation("r", (*TWO, "the  {}"), (Sample("a", "x"),)), "single spaces: 'the  {}'"),
        (Relation("r", TWO, (Sample("a", "x"), Sample("b", "x"), Sample("c", "y"))), "'x' is the object of 2 of 3"),
    ],
)
def test_each_fault_is_found_alone(relation: Relation, problem: str) -> None:
    (found,) = check_facts(facts_of(relation))
    assert found.startswith("relation 'r': ")
    assert problem in found


def test_relations_of_very_different_size_are_reported() -> None:
    large = Relation("large", TWO, tuple(Sample(f"s{i}", f"o{i}") for i in range(9)))
    small = Relation("small", TWO, (Sample("a", "x"),))
    (found,) = check_facts(facts_of(large, small))
    assert "'large' has 9 facts and 'small' only 1" in found


def test_long_lists_are_cut_short() -> None:
    samples = tuple(Sample(f"s{i}", o) for i in range(6) for o in ("x", "y"))
    (found,) = oddities(Relation("r", TWO, samples))
    assert found.startswith("6 subjects with several objects: s0 → x | y, ")
    assert found.endswith(" and 2 more")
