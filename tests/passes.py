"""Prompts, scores and values for tests of methods that run the model themselves."""

from typing import Any

import numpy as np
import torch

from gated_lpi.facts import EncodedPrompt, Prompt
from gated_lpi.interventions import record_routing
from gated_lpi.methods import attribute_encoded
from gated_lpi.options import Scoring
from gated_lpi.trace import last_logits
from tiny_models import random_prompts

UNITS = ("ffn", "attention")


def questions(n: int = 3, seed: int = 3, answer: int = 2) -> list[EncodedPrompt]:
    """Prompts of different lengths with targets of several tokens and a foil."""
    return [
        EncodedPrompt(
            tuple(ids), 5 + i, "", Prompt("", "", relation="ab"[i % 2]), (5 + i, 9 + i, 30)[:answer], foil_id=11 + i
        )
        for i, ids in enumerate(random_prompts(n, seed))
    ]


def scores_of(model: Any, method: Any, prompts: Any, **scoring: Any) -> Any:
    """All variables of a method by name, and what is kept of every prompt."""
    collector, results = attribute_encoded(model, prompts, method, Scoring(**{"units": UNITS} | scoring))
    return {name: collector.result(name) for name in collector.collected}, results


def logits_of(model: Any, item: EncodedPrompt, answer: str = "first") -> Any:
    """Tokens that are predicted, and the model's logits there, of one prompt run by itself."""
    tokens = item.answer_ids if answer == "all" else (item.target_id,)
    ids = item.ids + tokens[:-1]
    return list(tokens), last_logits(model, [ids], [range(len(item.ids) - 1, len(ids))])


def values_of(model: Any, prompts: Any, foil: Any = None, answer: str = "first") -> Any:
    """The value of every prompt, from the model's logits alone."""
    found = []
    for item in prompts:
        tokens, logits = logits_of(model, item, answer)
        log_p = torch.log_softmax(logits, dim=-1)
        if foil == "fact":
            found.append(log_p[0, item.target_id] - log_p[0, item.foil_id])
        else:
            found.append(log_p[range(len(tokens)), tokens].sum())
    return torch.stack(found)


def margins_of(model: Any, prompts: Any, answer: str = "first") -> Any:
    """How far every prompt's target stands above the best other token, summed over an answer's tokens."""
    found = []
    for item in prompts:
        tokens, logits = logits_of(model, item, answer)
        rows = [
            row[token] - torch.cat([row[:token], row[token + 1 :]]).max()
            for token, row in zip(tokens, logits, strict=True)
        ]
        found.append(torch.stack(rows).sum())
    return torch.stack(found)


class scaled:
    """A model with one unit's coefficient times `factor`, by editing the weights that hold its value vector."""

    def __init__(self, model: Any, unit: int, factor: float) -> None:
        place = model.locate(unit)
        writer = model.blocks[int(place.block)].writers[int(place.writer)]
        self.column = writer.raw_values(int(place.expert))[int(place.column)]
        self.factor = factor

    def __enter__(self) -> None:
        self.before = self.column.clone()
        self.column.mul_(self.factor)

    def __exit__(self, *_: Any) -> None:
        self.column.copy_(self.before)


def routed_to(model: Any, prompts: Any) -> Any:
    """Every layer's experts of every prompt, sorted; as many None for a dense model."""
    if not len(model.experts):
        return [None] * len(prompts)
    recorded = record_routing(model, [item.full_ids for item in prompts])
    return [[layer.experts.sort(dim=-1).values.tolist() for layer in layers] for layers in recorded.prompts.values()]


def sample(model: Any, count: int = 6, seed: int = 0) -> Any:
    """A few units of every writer."""
    generator = np.random.default_rng(seed)
    for part in model.by_writer():
        yield from generator.choice(part.units, min(count, len(part.units)), replace=False).tolist()


def hooks_of(model: Any) -> list[int]:
    """How many hooks every module has."""
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules()]
