"""All tokens of an answer, and the first of its foil, on tokenizers of several makes, fast and slow."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_facts_targets import BYTES, META, SPEEDS, WORDS, Speed, fusing
from transformers import PreTrainedTokenizerFast

from gated_lpi.errors import FactsError
from gated_lpi.facts import (
    EncodedPrompt,
    FactSet,
    Prompt,
    Relation,
    Sample,
    Vocabulary,
    encode,
    encode_or_skip,
    join,
    load_facts,
)

ASKED = "The capital of France is"


@SPEEDS
@pytest.mark.parametrize(
    ("fast", "text", "target", "tokens"),
    [
        (BYTES, ASKED, "Paris", ["ĠParis"]),
        (BYTES, ASKED, "Paxo", ["Pa", "x", "o"]),
        (BYTES, ASKED, "Ä", ["Ã", "Ħ"]),
        (META, "it is", "Pis", ["P", "is"]),
        (META, "it is", "P is", ["P", "▁is"]),
        (WORDS, ASKED, "Paris", ["Paris"]),
        (WORDS, ASKED, "Paris Atlantis", ["Paris", "<unk>"]),
        (WORDS, "Atlantis is", "Paris Atlantis", ["Paris", "<unk>"]),
    ],
)
def test_an_answer_is_all_of_its_tokens_and_nothing_that_ends_every_text(
    speed: Speed, fast: PreTrainedTokenizerFast, text: str, target: str, tokens: list[str]
) -> None:
    (item,) = encode(speed(fast), [Prompt(text, target)])
    assert fast.convert_ids_to_tokens(list(item.answer_ids)) == tokens
    joint = fast(join(text, target))["input_ids"]
    ends = [2] if fast is META else []
    assert [*item.full_ids, *ends] == joint
    assert item.answer_ids[0] == item.target_id


@SPEEDS
def test_an_end_that_belongs_to_the_answer_stays(speed: Speed) -> None:
    (item,) = encode(speed(META), [Prompt("it is", "P</s>")])
    assert META.convert_ids_to_tokens(list(item.answer_ids)) == ["P", "</s>"]


@SPEEDS
@pytest.mark.parametrize("bos", [None, True, False])
def test_a_bos_token_belongs_to_the_input(speed: Speed, bos: bool | None) -> None:
    (item,) = encode(speed(META), [Prompt("it is", "Pis")], bos=bos)
    assert META.convert_ids_to_tokens(list(item.answer_ids)) == ["P", "is"]
    assert (META.bos_token_id in item.full_ids) == (bos is not False)


def test_an_encoded_prompt_of_which_only_the_target_is_known_has_an_answer_of_one_token() -> None:
    item = EncodedPrompt((1, 2), 3, "x", Prompt("", ""))
    assert (item.answer_ids, item.full_ids, item.foil_id) == ((3,), (1, 2, 3), None)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(text=texts, target=texts, space=st.sampled_from(["", " "]))
def test_input_and_answer_are_the_joint_tokens_whatever_the_words(text: str, target: str, space: str) -> None:
    assume(target.strip() and not target[0].isspace())
    prompt = Prompt(f"{text} so", space + target)
    (item,) = encode(BYTES, [prompt])
    assert list(item.full_ids) == BYTES(prompt.joined)["input_ids"]
    assert BYTES.decode(list(item.answer_ids)).lstrip() == target.lstrip()


@SPEEDS
@pytest.mark.parametrize(
    ("fast", "text", "target", "separator", "foil", "token"),
    [
        (BYTES, ASKED, "Paris", "auto", "Tokyo", "ĠTokyo"),
        (BYTES, ASKED, " Paris", "auto", "Tokyo", "ĠTokyo"),
        (BYTES, "12+34=", "Paris", "", "Tokyo", "To"),
        (BYTES, ASKED, "Paris", "\n", "Tokyo", "To"),
        (META, "it is", "P", "auto", "T", "T"),
        (WORDS, ASKED, "Paris", "auto", "Tokyo France", "Tokyo"),
    ],
)
def test_a_foil_is_tokenised_where_the_answer_stands(
    speed: Speed, fast: PreTrainedTokenizerFast, text: str, target: str, separator: str, foil: str, token: str
) -> None:
    prompt = Prompt(text, target, object=target.strip(), separator=separator, foil=foil)
    (item,) = encode(speed(fast), [prompt])
    assert fast.convert_ids_to_tokens(item.foil_id) == token
    assert item == replace(encode(speed(fast), [replace(prompt, foil=None)])[0], prompt=prompt, foil_id=item.foil_id)
    assert fast(join(text, foil, separator))["input_ids"][: len(item.ids) + 1] == [*item.ids, item.foil_id]


@SPEEDS
@pytest.mark.parametrize(
    ("fast", "text", "target", "foil", "reason"),
    [
        (BYTES, ASKED, "Paris", "Paris", "have the same first token, 'ĠParis', .* give a foil that begins otherwise"),
        (BYTES, ASKED, "Xo", "Xi", "have the same first token, '(ĠX|X)'"),
        (BYTES, ASKED, "Paris", " ", "the foil ' ' in the answer's place: the answer is blank"),
        (BYTES, ASKED, "Paris", "\udc80", "half of a surrogate pair"),
        (WORDS, ASKED, "Paris", "Atlantis", "the foil 'Atlantis' in the answer's place: .* '<unk>'"),
        (META, "it", "P", "is", "cuts the prompt before it otherwise"),
        (fusing(), "of", "f", "P", "in the answer's place: token 'of P' covers both"),
    ],
)
def test_a_foil_that_cannot_be_held_against_the_answer_is_refused_or_skipped(
    speed: Speed, fast: PreTrainedTokenizerFast, text: str, target: str, foil: str, reason: str
) -> None:
    good, bad = Prompt(text, target), Prompt(text, target, foil=foil)
    with pytest.raises(FactsError, match=reason):
        encode(speed(fast), [bad])
    encoded, skipped = encode_or_skip(speed(fast), [bad, good])
    assert [item.prompt for item in encoded] == [good]
    assert [one.prompt for one in skipped] == [bad]


@SPEEDS
def test_a_foil_without_a_logit_is_refused(speed: Speed) -> None:
    foiled = Prompt(ASKED, "Tokyo", foil="Paris")
    (item,) = encode(speed(BYTES), [foiled])
    assert item.foil_id > item.target_id
    reason = f"token 'ĠParis' has id {item.foil_id}, but the model has {item.foil_id} logits"
    with pytest.raises(FactsError, match=f"the foil 'Paris' in the answer's place: {reason}"):
        encode(speed(BYTES), [foiled], Vocabulary(len(BYTES), item.foil_id))


def save(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


RELATION = {"name": "capital", "prompt_templates": ["The capital of {} is"]}
SAMPLE = {"subject": "France", "object": "Paris", "foil": "Lyon"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.json", {**RELATION, "samples": [SAMPLE]}),
        ("f.jsonl", {"relation": "capital", "template": "The capital of {} is", **SAMPLE}),
        ("p.jsonl", {"prompt": "The capital of France is", "target": "Paris", "foil": "Lyon"}),
    ],
)
def test_files_may_give_a_fact_its_foil(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    facts = load_facts(save(tmp_path / name, content))
    (prompt,) = facts.prompts()
    assert (prompt.text, prompt.target, prompt.foil) == (ASKED, " Paris", "Lyon")
    assert facts.notes == ()
    assert facts.with_separator("").prompts()[0].foil == "Lyon"


@pytest.mark.parametrize(
    ("foil", "reason"),
    [
        (7, "'foil' is int 7; expected a text"),
        (None, "'foil' is NoneType None; expected a text"),
        (" ", "the foil is ' '; give it at least one visible character"),
        ("Paris ", "the foil is 'Paris ', the object itself; give another answer, or leave it out"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_a_foil_that_is_none_is_refused_at_its_place(tmp_path: Path, foil: object, reason: str) -> None:
    path = save(
        tmp_path / "r.json", {**RELATION, "samples": [{"subject": "Peru", "object": "Lima"}, SAMPLE | {"foil": foil}]}
    )
    with pytest.raises(FactsError, match=f"relation 'capital': sample 1: .*{reason}"):
        load_facts(path)
    assert len(load_facts(path, on_error="skip")) == 1


def test_facts_without_foils_keep_their_hash_and_foils_are_part_of_it() -> None:
    def digest(*foils: str | None) -> str:
        samples = tuple(Sample("France", "Paris", foil=foil) for foil in foils)
        return FactSet((Relation("capital", ("The capital of {} is",), samples),), "test").sha256

    assert digest(None) == "4498afe66e3d33a4cdf0361cc0ede365968f3a9ded1b582317f57166c8b8b81a"
    assert len({digest(None), digest("Lyon"), digest("Lille"), digest(None, None), digest(None, "Lyon")}) == 5
