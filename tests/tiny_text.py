"""Tiny facts and a word-level tokenizer that covers them, for tests that go from text to scores."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from gated_lpi.facts import FactSet, Relation, Sample
from gated_lpi.loading import wrap_model
from gated_lpi.models import Model
from tiny_models import Case, tiny_module

CAPITALS = Relation(
    "capital",
    ("The capital of {} is", "In {} the capital city is", "{} has the capital"),
    tuple(Sample(*pair) for pair in (("France", "Paris"), ("Japan", "Tokyo"), ("Peru", "Lima"), ("Chad", "Ndjamena"))),
)
COLOURS = Relation(
    "colour", ("The {} is", "A {} looks"), tuple(Sample(*pair) for pair in (("sky", "blue"), ("sun", "yellow")))
)
FACTS = FactSet((CAPITALS, COLOURS), source="test")
WORDS = sorted({word for p in FACTS.prompts("all") for word in (p.text + p.target).split()})


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of `FACTS`, and `[PAD]`."""
    words = ["[PAD]", "[UNK]", *WORDS]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def speaking_model(case: Case | str, **options: Any) -> Model:
    """A tiny random model of the family, with the tokenizer."""
    return wrap_model(tiny_module(case, **options), tiny_tokenizer())


def save_checkpoint(folder: Path, case: Case | str = "Qwen3-MoE", seed: int = 0, **options: Any) -> Path:
    """Save a tiny random model and its tokenizer as an ordinary checkpoint folder."""
    tiny_module(case, seed=seed, **options).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_facts(folder: Path, relations: Iterable[Relation] = (CAPITALS, COLOURS)) -> Path:
    """Save relations as a folder of JSON files, one for each."""
    folder.mkdir(exist_ok=True)
    for relation in relations:
        content = {
            "name": relation.name,
            "prompt_templates": list(relation.prompt_templates),
            "samples": [{"subject": s.subject, "object": s.object} for s in relation.samples],
        }
        (folder / f"{relation.name}.json").write_text(json.dumps(content))
    return folder
