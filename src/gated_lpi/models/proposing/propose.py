"""The row of a model, put together."""

from __future__ import annotations

import re
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gated_lpi.models.families import Family
from gated_lpi.models.mixers import mixes_otherwise
from gated_lpi.models.proposing.ends import end
from gated_lpi.models.proposing.layers import Layer, find_layers
from gated_lpi.models.proposing.observing import observe
from gated_lpi.models.proposing.refusing import refusal, refuse_acausal, refuse_unreached
from gated_lpi.models.proposing.routers import routing
from gated_lpi.models.proposing.scales import is_parallel, scales

PROMPTS, TOKENS = 2, 8
_SUFFIX = re.compile(r"(For(CausalLM|ConditionalGeneration)|LMHeadModel|Decoder)$")


def propose(module: PreTrainedModel) -> Family:
    """Read a row off a model, in evaluation mode, by a few forward passes over random tokens.

    Raises:
        UnknownFamilyError: it is no decoder that attention, mixers and FFN write to alone; says what was found.
    """
    embeddings = cast(Tensor, module.get_input_embeddings().weight)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(embeddings.shape[0], (PROMPTS, TOKENS), generator=generator).to(embeddings.device)
    seen = observe(module, ids)
    refuse_unreached(module, seen)
    refuse_acausal(module, ids, seen)
    layers = find_layers(module, seen)
    listed = cast(nn.ModuleList, module.get_submodule(layers))
    mixed = any(mixes_otherwise(part) for part in listed.modules())
    parts = [Layer(module, seen, f"{layers}.{index}", mixed) for index in range(len(listed))]
    _refuse_unlike(module, parts)
    scaled = scales(module, parts)
    row = _merged(module, [part.row() for part in parts]) | scaled
    return Family(
        name=_SUFFIX.sub("", type(module).__name__),
        model_types=(module.config.model_type,),
        layers=layers,
        parallel=is_parallel(module, ids, seen, parts),
        **row,
        **end(module, seen, parts[-1]),
        **routing(module, parts),
    )


def _refuse_unlike(module: PreTrainedModel, parts: list[Layer]) -> None:
    """Refuse layers without attention or FFN in a model whose row could not say that some lack them."""
    if any("mixer" in part.mixing for part in parts):
        return
    for part in parts:
        if not part.mixing or part.ffn is None:
            raise refusal(module, f"{part.path} has no {'attention' if not part.mixing else 'FFN'}, and others have")


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
