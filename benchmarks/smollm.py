"""SmolLM2-135M in the benchmarks: where it lies, what it is asked, and its blocks as problems."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gated_lpi import load_facts
from gated_lpi.facts import EncodedPrompt, FactSet, encode
from gated_lpi.methods import problem_of
from gated_lpi.methods.problem import TracedProblem
from gated_lpi.models import Model
from gated_lpi.trace import trace

N_FACTS = 906  # built in


def folder() -> Path | None:
    """The model's folder, from SMOLLM2 (as the Makefile sets it), or None if `make smollm2` has not been run."""
    path = Path(os.environ.get("SMOLLM2", ".cache/smollm2"))
    return next((p for p in (path, path / "model") if (p / "config.json").is_file()), None)


def built_in(n_prompts: int) -> FactSet:
    """The built-in facts, cut to so many prompts: some of every relation, in proportion."""
    facts = load_facts("builtin")
    total = sum(len(relation.samples) for relation in facts.relations)
    kept, before, relations = 0, 0, []
    for relation in facts.relations:
        before += len(relation.samples)
        size = round(n_prompts * before / total) - kept
        kept += size
        if size:
            relations.append(replace(relation, samples=relation.samples[:size]))
    return replace(facts, relations=tuple(relations))


def encoded(model: Model, n_prompts: int) -> list[EncodedPrompt]:
    """The same as token ids."""
    return list(encode(model.tokenizer, built_in(n_prompts).prompts("first")))


def longer(model: Model, n_prompts: int, tokens: int) -> list[tuple[str, str]]:
    """Pairs of prompt and answer, of as nearly `tokens` tokens as whole facts go: before each stand others, drawn."""
    facts = encoded(model, N_FACTS)
    found = []
    for item in facts[:: max(1, N_FACTS // n_prompts)][:n_prompts]:
        text, left = item.prompt.text, tokens - len(item.ids)
        for other in random.Random(text).sample(facts, N_FACTS):
            left -= len(other.full_ids) + 1
            if left < 0:
                break
            text = f"{other.prompt.text} {other.prompt.target.strip()}. {text}"
        found.append((text, item.prompt.target))
    return found


@torch.no_grad()
def problems(model: Model, prompts: Sequence[EncodedPrompt], kinds: Sequence[str]) -> Iterator[TracedProblem]:
    """The model's blocks of some kinds on these prompts, from one forward pass."""
    traced = trace(model, [item.ids for item in prompts])
    targets = torch.tensor([item.target_id for item in prompts])
    for block, seen in zip(model.blocks, traced.blocks, strict=True):
        if block.kind in kinds:
            yield problem_of(model.readout, block, seen, targets, model.readout.inverse_scale(traced.final_residual))
