"""Facts: relations, templates and targets; the built-in set; loaders for LRE files, JSON lines and pairs."""

from gated_lpi.facts.checks import check_facts
from gated_lpi.facts.sources import load_facts
from gated_lpi.facts.subjects import subject_positions
from gated_lpi.facts.targets import (
    Collision,
    Encoded,
    EncodedPrompt,
    Vocabulary,
    collision_notes,
    encode,
    encode_or_skip,
    first_token_collisions,
)
from gated_lpi.facts.teaching import FactFrequency
from gated_lpi.facts.types import Answer, FactSet, OnError, Prompt, Relation, Sample, Skipped, join, separator_option

__all__ = [
    "Answer",
    "Collision",
    "Encoded",
    "EncodedPrompt",
    "FactFrequency",
    "FactSet",
    "OnError",
    "Prompt",
    "Relation",
    "Sample",
    "Skipped",
    "Vocabulary",
    "check_facts",
    "collision_notes",
    "encode",
    "encode_or_skip",
    "first_token_collisions",
    "join",
    "load_facts",
    "separator_option",
    "subject_positions",
]
