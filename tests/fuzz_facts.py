"""Fuzz targets for facts: they load, and then make prompts, notes, a hash and token ids, or they are a FactsError."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzzing import fuzzed_json, mutated_bytes, mutated_value
from gated_lpi.errors import FactsError
from gated_lpi.facts import (
    FactSet,
    OnError,
    check_facts,
    collision_notes,
    encode_or_skip,
    first_token_collisions,
    load_facts,
)

RELATIONS = [
    {
        "name": "river mouth",
        "prompt_templates": ["The river {} flows into the", "{} ends in the"],
        "prompt_templates_zs": ["Where does {} end?"],
        "properties": {"relation_type": "factual", "symmetric": False, "range": [{"a": [1, 2.5]}]},
        "samples": [
            {"subject": "Danube", "object": "Black Sea", "foil": "Baltic"},
            {"subject": "Nile", "object": "Mediterran\\u00e9e"},
        ],
    },
    {
        "name": "sums",
        "prompt_templates": ["{}="],
        "separator": "",
        "samples": [{"subject": "1+1", "object": "2"}, {"subject": "1+2", "object": "3", "separator": "auto"}],
    },
]
LINES = [
    [{"prompt": "12+34=", "target": "46", "separator": ""}, {"prompt": "One is", "target": "1", "relation": "r"}],
    [
        {"relation": "capital", "subject": "France", "object": "Paris", "template": "The capital of {} is"},
        {
            "relation": "capital",
            "subject": "Perú",
            "object": "Lima",
            "template": "{}'s capital:",
            "separator": "\n",
            "bridge": "b",
        },
    ],
]
PAIRS = [[["One is", "1"], ["Two is", "2"]], [["a", " b"], ["c", "d"], ["e\u0301", "f"]]]
SEPARATORS = (None, "auto", "", "\n", ' "')


class Characters:
    """A tokenizer of one token a character."""

    is_fast = True
    all_special_ids: tuple[int, ...] = ()
    bos_token_id = None

    def __call__(self, text: str, *, return_offsets_mapping: bool = False) -> Any:
        assert return_offsets_mapping
        return {"input_ids": list(map(ord, text)), "offset_mapping": [(i, i + 1) for i in range(len(text))]}

    def convert_ids_to_tokens(self, ids: int) -> str:
        return chr(ids)

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))


def use(facts: FactSet) -> None:
    """Do all that is done with facts once they are loaded."""
    prompts = facts.prompts("all")
    assert len(prompts) >= len(facts) > 0
    assert set(facts.training_prompts()) <= set(prompts)
    assert len(facts.prompts("held_out")) == len(facts.prompts()) == len(facts)
    assert len(facts.sha256) == 64
    assert facts.with_separator("auto").with_separator("").sha256 == facts.with_separator("").sha256
    for text in (*facts.notes, *map(str, facts.skipped), *check_facts(facts)):
        assert text.encode()
        assert all(character.isprintable() for character in text), text
    try:
        encoded, skipped = encode_or_skip(Characters(), prompts)
    except FactsError:
        assert not any(prompt.joined[: prompt.answer_start] for prompt in prompts)
        return
    assert len(encoded) + len(skipped) == len(prompts)
    for item in encoded:
        assert item.prompt.joined.encode()
        assert item.prompt.joined.startswith("".join(map(chr, (*item.ids, item.target_id))))
        assert item.prompt.target.lstrip()[0] == chr(item.target_id)
    assert all(one.reason for one in skipped)
    assert all(note.isprintable() for note in collision_notes(first_token_collisions(encoded)))


def attempt(source: Any, separator: str | None, on_error: OnError) -> FactSet | str:
    """The facts, or what is wrong with them."""
    try:
        return load_facts(source, separator=separator, on_error=on_error)
    except FactsError as error:
        return str(error)


def outcome(source: Any, separator: str | None) -> str:
    """Load either way: what loads whole must not be skipped from, what is skipped from must not load whole."""
    whole, some = attempt(source, separator, "raise"), attempt(source, separator, "skip")
    if isinstance(some, str):
        assert isinstance(whole, str)
        assert some.encode()
        return "refused"
    use(some)
    if isinstance(whole, str):
        assert whole.encode()
        assert some.skipped
        return "skipped"
    assert not some.skipped
    assert (whole.sha256, whole.notes) == (some.sha256, some.notes)
    return "taken"


def relation_files(folder: Path, first: int, count: int) -> Iterator[str]:
    """LRE files."""
    path = folder / "r.json"
    for seed, content in enumerate(fuzzed_json(RELATIONS, count, first), first):
        path.write_bytes(content)
        yield outcome(path, SEPARATORS[seed % len(SEPARATORS)])


def lines(folder: Path, first: int, count: int) -> Iterator[str]:
    """Files of JSON lines."""
    path = folder / "f.jsonl"
    for seed in range(first, first + count):
        chance = random.Random(seed)
        texts = [
            json.dumps(mutated_value(chance, line) if chance.random() < 0.3 else line) for line in chance.choice(LINES)
        ]
        content = "\n".join(texts).encode()
        path.write_bytes(mutated_bytes(chance, content) if seed % 2 else content)
        yield outcome(path, SEPARATORS[seed % len(SEPARATORS)])


def pairs(_folder: Path, first: int, count: int) -> Iterator[str]:
    """Pairs of Python objects."""
    for seed in range(first, first + count):
        chance = random.Random(seed)
        given = mutated_value(chance, chance.choice(PAIRS))
        if seed % 2 and isinstance(given, list):
            given = tuple(tuple(pair) if isinstance(pair, list) else pair for pair in given)
        if isinstance(given, str):
            given = [given]
        yield outcome(given, SEPARATORS[seed % len(SEPARATORS)])


TARGETS = (relation_files, lines, pairs)
