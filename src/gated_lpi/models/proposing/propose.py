"""The row of a model, put together."""

from __future__ import annotations

import re
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gated_lpi.models.families import Family
from gated_lpi.models.proposing.ends import end
from gated_lpi.models.proposing.layers import Layer, find_layers
from gated_lpi.models.proposing.observing import observe
from gated_lpi.models.proposing.refusing import refusal, refuse_acausal, refuse_other_mixers, refuse_unreached
from gated_lpi.models.proposing.routers import routing
from gated_lpi.models.proposing.scales import is_parallel, scales

PROMPTS, TOKENS = 2, 8
_SUFFIX = re.compile(r"(For(CausalLM|ConditionalGeneration)|LMHeadModel|Decoder)$")


def propose(module: PreTrainedModel) -> Family:
    """Read a row off a model, in evaluation mode, by a few forward passes over random tokens.

    Raises:
        UnknownFamilyError: it is no decoder that attention and FFN write to alone; says what was found.
    """
    embeddings = cast(Tensor, module.get_input_embeddings().weight)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(embeddings.shape[0], (PROMPTS, TOKENS), generator=generator).to(embeddings.device)
    refuse_other_mixers(module)
    seen = observe(module, ids)
    refuse_unreached(module, seen)
    refuse_acausal(module, ids, seen)
    layers = find_layers(module, seen)
    count = len(cast(nn.ModuleList, module.get_submodule(layers)))
    parts = [Layer(module, seen, f"{layers}.{index}") for index in range(count)]
    row = _merged(module, [part.row() for part in parts]) | scales(module, parts)
    return Family(
        name=_SUFFIX.sub("", type(module).__name__),
        model_types=(module.config.model_type,),
        layers=layers,
        parallel=is_parallel(module, ids, seen, parts),
        **row,
        **end(module, seen, parts[-1]),
        **routing(module, parts),
    )


def _merged(module: PreTrainedModel, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of what layers show, each of which may lack some parts."""
    merged: dict[str, Any] = {}
    for index, row in enumerate(rows):
        for field, value in row.items():
            if merged.setdefault(field, value) != value:
                raise refusal(
                    module,
                    f"{field} is {merged[field]!r} in one layer and {value!r} in layer {index}, and a row has one for "
                    "all",
                )
    return merged
