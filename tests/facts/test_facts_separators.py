"""How prompt and answer are joined: by the rule "auto" or by a text that a file, a fact or a call names."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_facts_targets import BYTES, META, SPEEDS, Speed

from gated_lpi.errors import FactsError, OptionError
from gated_lpi.facts import FactSet, Prompt, Relation, Sample, encode, join, load_facts, separator_option
from gated_lpi.training.corpus import build_corpus

BUILTIN_SHA256 = "7f79791cb6b74a7e3a2eff499ce97868ab5a664addf9331fa821c23beab68dd1"
SUMS = {"name": "sums", "prompt_templates": ["{}=", "so {}="], "samples": [{"subject": "12+34", "object": "46"}]}


def write(path: Path, *values: object) -> Path:
    path.write_text("\n".join(json.dumps(value) for value in values), encoding="utf-8")
    return path


def joined(facts: FactSet) -> list[str]:
    return [prompt.joined for prompt in facts.prompts()]


@pytest.mark.parametrize("separator", ["", " ", "\n", ": ", "autos", "\u3000"])
@given(prompt=st.text(), target=st.text())
def test_a_text_is_put_between_as_it_is(separator: str, prompt: str, target: str) -> None:
    assert join(prompt, target, separator) == prompt + separator + target


@given(st.text(), st.text(min_size=1), st.sampled_from(["auto", "", "x", "\t"]))
def test_a_prompt_is_joined_by_its_separator_and_knows_where_its_answer_starts(
    text: str, target: str, separator: str
) -> None:
    prompt = Prompt(text, target, separator=separator)
    assert prompt.joined == join(text, target, separator)
    assert prompt.joined[prompt.answer_start :] == target.lstrip()


def test_auto_is_the_rule_and_not_a_text() -> None:
    assert join("12+34=", "46", "auto") == join("12+34=", "46") == "12+34= 46"


@pytest.mark.parametrize(
    ("template", "subject", "answer", "separator", "whole", "token"),
    [
        ("{}=", "12+34", "46", "", "12+34=46", "4"),
        ("www.", "", "google", "", "www.google", "g"),
        ('{} is called "', "it", "Paris", "", 'it is called "Paris', None),
        ("{}的首都是", "法国", "巴黎", "", "法国的首都是巴黎", None),
        ("def {}(", "f", "x", "", "def f(x", "x"),
        ("{} ->", "x", "y", ' "', 'x -> "y', "y"),
        ("{}", "Q", "A", "\n", "Q\nA", "A"),
    ],
)
@SPEEDS
def test_the_joint_text_is_tokenised_without_a_space_of_its_own(
    speed: Speed, template: str, subject: str, answer: str, separator: str, whole: str, token: str | None
) -> None:
    if subject:
        relation = Relation("r", (template,), (Sample(subject, answer),), separator=separator)
        (prompt,) = FactSet((relation,), "test").prompts()
    else:
        prompt = Prompt(template, answer, separator=separator)
    assert prompt.joined == whole
    (encoded,) = encode(speed(BYTES), [prompt])
    assert [*encoded.ids, encoded.target_id] == BYTES(whole)["input_ids"][: len(encoded.ids) + 1]
    assert BYTES.decode(list(encoded.ids)) == whole.removesuffix(answer)
    if token is not None:
        assert encoded.target_token == token


@SPEEDS
def test_a_token_across_a_joint_without_a_space_is_refused_with_what_to_do(speed: Speed) -> None:
    with pytest.raises(FactsError, match=r"'▁is' covers both the prompt's end .* join by another separator"):
        encode(speed(META), [Prompt("it i", "s", separator="")])


@SPEEDS
def test_a_target_after_special_tokens_and_a_visible_separator(speed: Speed) -> None:
    (encoded,) = encode(speed(META), [Prompt("it", "Paris", separator=" is ")])
    assert META.convert_ids_to_tokens(list(encoded.ids)) == ["<s>", "▁", "i", "t", "▁is", "▁"]
    assert encoded.target_token == "P"


def test_a_relation_file_names_its_separator_and_a_sample_its_own(tmp_path: Path) -> None:
    samples = [*SUMS["samples"], {"subject": "1+1", "object": "2", "separator": "auto"}]
    facts = load_facts(write(tmp_path / "r.json", {**SUMS, "separator": "", "samples": samples}))
    assert joined(facts) == ["12+34=46", "1+1= 2"]
    assert [prompt.separator for prompt in facts.training_prompts()] == ["", "auto"]
    assert facts.notes == ()


def test_lines_name_their_separators(tmp_path: Path) -> None:
    lines = [
        {"prompt": "12+34=", "target": "46", "separator": ""},
        {"prompt": "12+34=", "target": "46"},
        {"relation": "url", "subject": "www", "template": "{}.", "object": "google", "separator": ""},
    ]
    assert joined(load_facts(write(tmp_path / "f.jsonl", *lines))) == ["12+34=46", "12+34= 46", "www.google"]


def test_an_argument_is_for_relations_that_name_none(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {**SUMS, "name": "none"})
    write(tmp_path / "b.json", {**SUMS, "name": "auto", "separator": "auto"})
    write(tmp_path / "c.json", {**SUMS, "name": "line", "separator": "\n"})
    assert joined(load_facts(tmp_path, separator="")) == ["12+34=46", "12+34= 46", "12+34=\n46"]
    assert joined(load_facts(tmp_path)) == ["12+34= 46", "12+34= 46", "12+34=\n46"]
    lines = write(
        tmp_path / "f.jsonl", {"prompt": "a", "target": "b"}, {"prompt": "a", "target": "b", "separator": "-"}
    )
    assert joined(load_facts(lines, separator="")) == ["ab", "a-b"]
    assert joined(load_facts([("12+34=", "46")], separator="")) == ["12+34=46"]


def test_a_call_overrides_what_facts_and_relations_name(tmp_path: Path) -> None:
    lines = [{"prompt": "a", "target": "b"}, {"prompt": "c", "target": "d", "separator": "-"}]
    facts = load_facts(write(tmp_path / "f.jsonl", *lines), separator="")
    assert joined(facts.with_separator("auto")) == ["a b", "c d"]
    assert joined(facts.with_separator(":")) == ["a:b", "c:d"]
    assert joined(facts) == ["ab", "c-d"]
    assert (facts.with_separator(":").source, facts.with_separator(":").notes) == (facts.source, facts.notes)


def test_repeats_are_told_by_the_separator_that_applies(tmp_path: Path) -> None:
    line = {"prompt": "a", "target": "b"}
    path = write(tmp_path / "f.jsonl", line, {**line, "separator": ""}, {**line, "separator": "auto"})
    assert joined(load_facts(path)) == ["a b", "ab"]
    assert joined(load_facts(path, separator="")) == ["ab", "a b"]


def test_facts_that_use_no_separator_keep_the_hash_that_runs_were_made_with() -> None:
    builtin = load_facts("builtin")
    assert builtin.sha256 == BUILTIN_SHA256
    assert load_facts("builtin", separator="auto").sha256 == BUILTIN_SHA256
    assert builtin.with_separator("auto").sha256 == BUILTIN_SHA256
    assert builtin.with_separator("").with_separator("auto").sha256 == BUILTIN_SHA256


def test_the_hash_tells_separators_apart() -> None:
    samples = (Sample("a", "x"), Sample("b", "y"))
    plain = Relation("r", ("{} is",), samples)
    changed: list[dict[str, Any]] = [
        {"separator": ""},
        {"separator": "-"},
        {"samples": (samples[0], Sample("b", "y", separator=""))},
        {"separator": "-", "samples": (samples[0], Sample("b", "y", separator="auto"))},
    ]
    sets = [FactSet((dataclasses.replace(plain, **change),), "test") for change in ({}, *changed)]
    assert len({facts.sha256 for facts in sets}) == 5


def test_training_texts_are_joined_alike_and_answers_start_after_the_separator() -> None:
    relation = Relation("r", ("{}=", "so {}="), (Sample("1+1", "2"),))
    for separator, text, start in (("", "so 1+1=2.", 7), (" is <", "so 1+1= is <2.", 12), ("auto", "so 1+1= 2.", 7)):
        corpus = build_corpus(FactSet((relation,), "test").with_separator(separator))
        assert (corpus.texts, corpus.answer_starts) == ((text,), (start,))


@pytest.mark.parametrize(
    ("separator", "message"),
    [
        (3, "'separator' is int 3; expected \"auto\""),
        (None, "'separator' is NoneType None"),
        ([""], "'separator' is list"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_what_is_no_separator_is_refused_wherever_it_is_given(tmp_path: Path, separator: Any, message: str) -> None:
    facts = load_facts([("a", "b")])
    with pytest.raises(OptionError, match=message):
        facts.with_separator(separator)
    with pytest.raises(OptionError, match=message):
        separator_option(separator)
    with pytest.raises(FactsError, match=message):
        load_facts(write(tmp_path / "r.json", {**SUMS, "separator": separator}))
    with pytest.raises(FactsError, match=f"sample 0: .*{message}"):
        load_facts(write(tmp_path / "r.json", {**SUMS, "samples": [{**SUMS["samples"][0], "separator": separator}]}))
    with pytest.raises(FactsError, match=f"line 1: .*{message}"):
        load_facts(write(tmp_path / "f.jsonl", {"prompt": "a", "target": "b", "separator": separator}))
    with pytest.raises(FactsError, match=message):
        encode(BYTES, [Prompt("a", "b", separator=separator)])
    if separator is not None:
        with pytest.raises(OptionError, match=message):
            load_facts([("a", "b")], separator=separator)
        with pytest.raises(FactsError, match=message):
            Sample("a", "b", separator=separator)
        with pytest.raises(FactsError, match=message):
            Relation("r", ("{}",), (Sample("a", "b"),), separator=separator)
