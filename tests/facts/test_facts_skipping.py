"""Facts that cannot be used: all named at once, or skipped and listed; ids beyond a model; shared first tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_facts_targets import BYTES, SPEEDS, WORDS, Speed

from gated_lpi.errors import FactsError, OptionError
from gated_lpi.facts import (
    EncodedPrompt,
    FactSet,
    Prompt,
    Sample,
    Vocabulary,
    collision_notes,
    encode,
    encode_or_skip,
    first_token_collisions,
    load_facts,
)

GOOD = {"subject": "France", "object": "Paris"}


def write(path: Path, *values: Any) -> Path:
    path.write_text("\n".join(v if isinstance(v, str) else json.dumps(v) for v in values), encoding="utf-8")
    return path


def relation(*samples: object, name: str = "capital") -> dict[str, object]:
    return {"name": name, "prompt_templates": ["The capital of {} is"], "samples": list(samples)}


def told(facts: FactSet) -> list[str]:
    return [str(skipped) for skipped in facts.skipped]


def test_bad_samples_are_skipped_each_with_its_reason(tmp_path: Path) -> None:
    bad = [{"subject": "Peru"}, 7, {"subject": " ", "object": "x"}, {"subject": "a", "object": "b", "k": "\ud800"}]
    path = write(tmp_path / "r.json", relation(bad[0], GOOD, *bad[1:]))
    facts = load_facts(path, on_error="skip")
    assert facts.relations[0].samples == (Sample("France", "Paris"),)
    assert told(facts) == [
        f"{path}: sample 0: no key 'object' (there are: 'subject'); add it",
        f'{path}: sample 2: expected a JSON object, got int 7; give {{"subject", "object"}}',
        f"{path}: sample 3: the subject is ' '; give it at least one visible character",
        f"{path}: sample 4: 'k' is str '\\ud800', with half of a surrogate pair; write the whole character",
    ]
    assert len(facts.notes) == 1
    assert facts.notes[0].startswith("r.json: skipped 4 of 5 samples: sample 0: no key 'object'")
    with pytest.raises(FactsError, match="sample 0: no key 'object'"):
        load_facts(path)


def test_bad_lines_are_skipped_whatever_is_wrong_with_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.jsonl",
        *("{oops", {"prompt": "a", "target": "b"}, "", '{"prompt": "a", "prompt": "c", "target": "b"}', "[" * 9999),
        *({"relation": "r", "subject": "a", "object": "b", "template": "no slot"}, '{"prompt": "a", "target": 1}'),
    )
    facts = load_facts(path, on_error="skip")
    assert [prompt.text for prompt in facts.prompts()] == ["a"]
    assert [skipped.fact for skipped in facts.skipped] == [f"{path}: line {n}" for n in (1, 4, 5, 6, 7)]
    assert "key 'prompt' is given twice in one object, again at column 17" in facts.skipped[1].reason
    assert facts.notes[0].startswith("skipped 5 of 6 lines: line 1: not JSON")
    assert facts.notes[0].endswith("and 1 more")


def test_bad_pairs_are_skipped() -> None:
    facts = load_facts([("a", "b"), ("c", None), "de", ("f",)], on_error="skip")
    assert [prompt.text for prompt in facts.prompts()] == ["a"]
    assert told(facts) == [
        "pair 1: 'target' is NoneType None; expected a text",
        "pair 2: 'de' is not a pair; give (prompt, target), two texts",
        "pair 3: ('f',) is not a pair; give (prompt, target), two texts",
    ]
    assert facts.notes[0].startswith("skipped 3 of 4 pairs: ")


def test_a_relation_of_bad_samples_only_is_left_out_of_a_folder_and_noted(tmp_path: Path) -> None:
    write(tmp_path / "a.json", relation({"subject": "x"}, name="gone"))
    write(tmp_path / "b.json", relation(GOOD))
    facts = load_facts(tmp_path, on_error="skip")
    assert [r.name for r in facts.relations] == ["capital"]
    assert "a.json: relation 'gone' is left out, for it has no other samples" in facts.notes
    assert len(facts.skipped) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: write(folder / "r.json", relation({}, {})),
        lambda folder: write(folder / "f.jsonl", "{", "}"),
        lambda _: ["ab", "cd"],
    ],
)
def test_nothing_left_is_an_error(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    with pytest.raises(FactsError, match=r"no fact is left, for all 2 were skipped: .*; mend them or give"):
        load_facts(make(tmp_path), on_error="skip")


@pytest.mark.parametrize(
    "content", ["{", "[]", {"name": "r"}, {**relation(GOOD), "prompt_templates": ["x"]}, relation()]
)
def test_what_is_wrong_with_a_file_as_a_whole_raises_all_the_same(tmp_path: Path, content: Any) -> None:
    write(tmp_path / "bad.json", content)
    write(tmp_path / "good.json", relation(GOOD, name="good"))
    with pytest.raises(FactsError, match=r"bad\.json: "):
        load_facts(tmp_path, on_error="skip")


def test_facts_without_a_fault_load_alike_either_way() -> None:
    assert load_facts("builtin", on_error="skip") == load_facts("builtin")


@pytest.mark.parametrize("on_error", ["ignore", None, []])
def test_other_values_of_on_error_are_refused(on_error: Any) -> None:
    with pytest.raises(OptionError, match="choose one of raise, skip"):
        load_facts("builtin", on_error=on_error)
    with pytest.raises(OptionError, match="choose one of raise, skip"):
        encode_or_skip(BYTES, [], on_error)


def city(name: str, text: str = "The capital of France is") -> Prompt:
    return Prompt(text, name, relation="capital", subject="France", object=name, template="of {} is")


@SPEEDS
def test_prompts_that_cannot_be_encoded_are_skipped_with_their_reasons(speed: Speed) -> None:
    prompts = [city("Paris"), city("Atlantis"), city("Tokyo"), city(" "), city("\udc80"), city("Paris", "")]
    encoded, skipped = encode_or_skip(speed(WORDS), prompts)
    assert [item.prompt for item in encoded] == [prompts[0], prompts[2]]
    assert encoded == encode(speed(WORDS), [prompts[0], prompts[2]])
    assert [one.prompt for one in skipped] == [prompts[1], *prompts[3:]]
    reasons = ("'<unk>', a special or unknown token", "blank", "surrogate", "no token comes before")
    for one, reason in zip(skipped, reasons, strict=True):
        assert reason in one.reason
        assert one.fact == (
            f"relation 'capital', subject 'France', object {one.prompt.object!r}, template 'of {{}} is'"
        )


def test_all_refused_prompts_are_named_in_one_error() -> None:
    prompts = [city(name) for name in ("Paris", "Ulm", "Bonn", "Tokyo", "Kiel", "Hof", "Aue")]
    with pytest.raises(FactsError) as caught:
        encode(WORDS, prompts)
    lines = str(caught.value).split("\n")
    assert lines[0] == "5 of 7 prompts cannot be used:"
    for line, name in zip(lines[1:5], ("Ulm", "Bonn", "Kiel", "Hof"), strict=True):
        assert line.startswith(f"- relation 'capital', subject 'France', object '{name}'")
        assert "unknown token" in line
    assert lines[5:] == ["- and 1 more", 'Mend them, or leave them out with on_error="skip".']


def test_skipping_every_prompt_is_an_error_and_no_prompts_are_none() -> None:
    with pytest.raises(FactsError, match=r"2 of 2 prompts cannot be used:\n- .*'Ulm'.*\n- .*'Bonn'[^\n]*$"):
        encode_or_skip(WORDS, [city("Ulm"), city("Bonn")])
    assert encode_or_skip(WORDS, []) == ([], ())


@SPEEDS
def test_ids_beyond_the_model_are_refused_by_the_facts_name(speed: Speed) -> None:
    tokenizer = speed(BYTES)
    (fits,) = encode(tokenizer, [city("Paris")])
    embeddings, logits = max(fits.ids) + 1, fits.target_id + 1
    assert encode(tokenizer, [city("Paris")], Vocabulary(embeddings, logits)) == [fits]
    with pytest.raises(FactsError, match=f"'France', object 'Paris'.* has id {embeddings - 1}, but the model has") as e:
        encode(tokenizer, [city("Paris")], Vocabulary(embeddings - 1, logits))
    assert f"{embeddings - 1} input embeddings; use the tokenizer that belongs to the model" in str(e.value)
    with pytest.raises(FactsError, match=f"'ĠParis' has id {logits - 1}, but the model has {logits - 1} logits"):
        encode(tokenizer, [city("Paris")], Vocabulary(embeddings, logits - 1))


def test_skipping_takes_the_prompts_that_the_model_has_ids_for() -> None:
    (paris,), (xo,) = encode(BYTES, [city("Paris")]), encode(BYTES, [city("Xo")])
    low, high = sorted((paris, xo), key=lambda item: item.target_id)
    encoded, skipped = encode_or_skip(
        BYTES, [city("Paris"), city("Xo")], "skip", Vocabulary(len(BYTES), high.target_id)
    )
    assert encoded == [low]
    assert [one.prompt for one in skipped] == [high.prompt]


class Shrinking:
    """A slow tokenizer whose tokens of the whole are fewer than those of the prompt alone."""

    is_fast = False
    all_special_ids: tuple[int, ...] = ()

    def __call__(self, text: str, *, return_offsets_mapping: bool = False) -> Any:
        assert not return_offsets_mapping
        return {"input_ids": [1, 2] if text == "a b" else [1]}

    def convert_ids_to_tokens(self, ids: int) -> str:
        return str(ids)

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(map(str, token_ids))


def test_a_whole_of_fewer_tokens_than_its_prompt_is_refused() -> None:
    with pytest.raises(FactsError, match="gives the answer no token"):
        encode(Shrinking(), [Prompt("a b", "c")])


def encoded_as(relation_name: str, answer: str, token: int) -> EncodedPrompt:
    return EncodedPrompt((1,), token, f"t{token}", Prompt("It is", answer, relation_name, "s", answer))


def test_collisions_are_told_in_one_line_a_relation() -> None:
    encoded = [
        *(encoded_as("a", f"San {i}", 1) for i in range(6)),
        *(encoded_as("a", name, 2) for name in ("Port A", "Port\x1bB")),
        *(encoded_as("b", name, i) for i, name in enumerate(("x", "y"))),
        *(encoded_as("c", name, 1) for name in ("San 1", "San 2")),
    ]
    assert collision_notes(first_token_collisions(encoded)) == [
        "relation 'a': 8 objects share their first token with another, so their targets are the same: "
        "'t1' (San 0, San 1, San 2, San 3 and 2 more), 't2' (Port A, 'Port\\x1bB')",
        "relation 'c': 2 objects share their first token with another, so their targets are the same: "
        "'t1' (San 1, San 2)",
    ]
    assert collision_notes([]) == []


class Counted(str):
    """A text that counts how often it is compared."""

    comparisons = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("objects", [2, 50, 2000])
def test_collisions_take_comparisons_in_proportion_to_the_prompts(objects: int) -> None:
    prompts = [encoded_as(Counted("r"), f"o{i % objects}", i % 7) for i in range(4000)]
    Counted.comparisons = 0
    collisions = first_token_collisions(prompts)
    assert sum(len(c.objects) for c in collisions) == len({(i % objects, i % 7) for i in range(4000)})
    assert 0 < Counted.comparisons <= 2 * len(prompts)
