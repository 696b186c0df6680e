"""What a forward pass over one prompt shows of attention and of routers, at every position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gated_lpi.errors import ModelError
from gated_lpi.models import Model
from gated_lpi.trace import LayerRouting, pad, pad_id, run, trace_routing
from gated_lpi.trace.attention import listening


class LayerAttention(NamedTuple):
    """Attention of one layer over T tokens.

    Attributes:
        weights: [H, T, T], row t: from where position t reads.
        outputs: [H, T, D], the values that each head reads, before the output projection.
    """

    weights: Tensor
    outputs: Tensor


@torch.no_grad()
def attention_seen(model: Model, ids: Sequence[int]) -> dict[int, LayerAttention]:
    """Attention of every layer, by the layer's number.

    Args:
        model: from `load_model` or `wrap_model`.
        ids: [T], the prompt.

    Raises:
        ModelError: a layer's attention does not go through transformers' interface.
    """
    heard: dict[nn.Module, LayerAttention] = {}

    def hear(module: nn.Module, weights: Tensor, values: Tensor) -> None:
        of_heads = values[0].repeat_interleave(weights.shape[1] // values.shape[1], dim=0)
        heard[module] = LayerAttention(weights[0], weights[0] @ of_heads)

    with listening(model.module, hear):
        run(model, pad([ids], [[-1]], pad_id=pad_id(model), device=model.device))
    blocks = [block for block in model.blocks if block.kind == "attention"]
    for block in blocks:
        if block.module not in heard:
            raise ModelError(
                f"the attention weights of {block.name} ({type(block.module).__name__}) are not to be seen, as it "
                "computes attention by itself; use `attribute`, which needs none"
            )
    return {block.layer: heard[block.module] for block in blocks}


def routing_seen(model: Model, ids: Sequence[int]) -> dict[int, LayerRouting]:
    """What the routers did with each token of a prompt, by layer, experts of greatest gate first."""
    found = {}
    for (block, _), routing in zip(model.routed(), next(trace_routing(model, [list(ids)])), strict=True):
        order = routing.gates.argsort(dim=-1, descending=True, stable=True)
        found[block.layer] = routing._replace(
            experts=routing.experts.gather(-1, order), gates=routing.gates.gather(-1, order)
        )
    return found
