"""Facts: relations, templates and targets; the built-in set; loaders for LRE files, JSON lines and pairs."""

from gated_lpi.facts.checks import check_facts
from gated_lpi.facts.loaders import load_facts
from gated_lpi.facts.targets import Collision, EncodedPrompt, encode, first_token_collisions
from gated_lpi.facts.types import FactSet, Prompt, Relation, Sample, join

__all__ = [
    "Collision",
    "EncodedPrompt",
    "FactSet",
    "Prompt",
    "Relation",
    "Sample",
    "check_facts",
    "encode",
    "first_token_collisions",
    "join",
    "load_facts",
]
