"""Query neurons (arXiv 2312.12141): FFN neurons that switch on attention neurons of later layers.

1. An attention neuron j of head h in layer L reads, at source position s, the inner product of the layer's normed input
   with its row k of the value projection. The norm's scale is common to all parts of that input, so k ⊙ γ (γ the norm's
   weight; less its mean where the norm is a LayerNorm) says how much each part of the residual stream gives it.
2. A part is what an FFN neuron n of an earlier layer wrote at s: gate · coefficient · value vector. Its share is
   ⟨part, k ⊙ γ⟩ / ⟨x_s, k ⊙ γ⟩, with x_s the whole input of layer L. Shares of all that was written add up to 1.
3. The score of n is Σ over the given attention neurons of share · increase, in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gated_lpi.errors import ModelError, OptionError
from gated_lpi.models import Block, Model
from gated_lpi.trace import trace


class AttentionNeuron(NamedTuple):
    """An attention neuron at a source position, and what it adds to log p(target) from there, nats."""

    layer: int
    head: int
    neuron: int
    position: int
    increase: float


class _Key(NamedTuple):
    """What an attention neuron reads for: place of its block and of its position, the vector, its share's weight."""

    block: int
    item: int
    vector: Tensor
    weight: float


@torch.no_grad()
def query_neurons(model: Model, ids: Sequence[int], neurons: Sequence[AttentionNeuron]) -> NDArray[np.float64]:
    """Scores of FFN neurons by what they give to attention neurons of later layers.

    Args:
        model: from `load_model` or `wrap_model`, with a value projection `v_proj` and a norm `input_layernorm` in each
            layer.
        ids: the prompt.
        neurons: attention neurons, as a rule the 30 of greatest increase.

    Returns:
        [N], nats, on the model's axis of units; NaN for attention units.

    Raises:
        ModelError: the model's layers read values another way.
        OptionError: no attention neuron was given.
    """
    if not neurons:
        raise OptionError("no attention neuron was given; give those of greatest increase, as `write_files` does")
    positions = sorted({one.position for one in neurons})
    seen = trace(model, [list(ids)], [positions])
    blocks = {block.layer: place for place, block in enumerate(model.blocks) if block.kind == "attention"}
    keys = []
    for one in neurons:
        place, item = blocks[one.layer], positions.index(one.position)
        vector = _read_for(model, model.blocks[place], one).to(seen.blocks[place].base)
        whole = float(seen.blocks[place].base[item] @ vector)
        keys.append(_Key(place, item, vector, one.increase / whole))
    scores = np.where(model.units.block == "ffn", 0.0, np.nan)
    for place, (block, traced) in enumerate(zip(model.blocks, seen.blocks, strict=True)):
        later = [key for key in keys if model.blocks[key.block].layer > block.layer]
        if block.kind != "ffn" or not later:
            continue
        vectors = torch.stack([key.vector for key in later]).double()
        weights = torch.tensor([key.weight for key in later], dtype=torch.float64, device=vectors.device)
        items = torch.tensor([key.item for key in later], device=vectors.device)
        start = model.block_units(place).start
        for slab in traced.slabs(block):
            given = slab.values.double() @ vectors.T  # [n, keys]
            coefficients = slab.coefficients.new_zeros(len(positions), len(slab.values))
            rows = torch.arange(len(positions)) if slab.prompts is None else slab.prompts
            coefficients[rows.to(coefficients.device)] = slab.coefficients
            found = (given.T * coefficients[items].double() * weights.unsqueeze(-1)).sum(dim=0)
            first = start + slab.start
            scores[first : first + len(found)] += found.cpu().numpy()
    return scores


def _read_for(model: Model, block: Block, one: AttentionNeuron) -> Tensor:
    """k ⊙ γ of an attention neuron, [d]; centred where the norm takes means out."""
    projection = getattr(block.module, "v_proj", None)
    layers = cast(nn.ModuleList, model.module.get_submodule(model.family.layers))
    norm = getattr(layers[block.layer], "input_layernorm", None)
    (writer,) = block.writers
    width = writer.width // writer.n_heads
    if not isinstance(projection, nn.Linear) or norm is None or projection.weight.shape[0] % width:
        raise ModelError(
            f"query neurons need a linear v_proj and an input_layernorm in each layer; {type(block.module).__name__} "
            f"of {model.family.name} has another way to its values: leave them out, and ask `attribute` instead"
        )
    shared = writer.n_heads // (projection.weight.shape[0] // width)  # heads that have their values in common
    row = projection.weight.detach()[one.head // shared * width + one.neuron]
    gamma = getattr(norm, "weight", None)
    vector = row if gamma is None else row * gamma.detach()
    return vector - vector.mean() if _centres(norm, vector) else vector


def _centres(norm: nn.Module, like: Tensor) -> bool:
    """Whether a norm takes the mean out, as a LayerNorm does: then what is the same everywhere becomes nothing."""
    same = torch.ones(1, len(like), dtype=like.dtype, device=like.device)
    bias = getattr(norm, "bias", None)
    return bool((norm(same) - (0 if bias is None else bias)).abs().max() < 0.5)
