"""Whether FFNs read the layer's input or what attention and mixers wrote besides, seen in one forward pass.

Sums of contributions are the same either way, so no reconstruction tells; the base that units are scored on is not.

1. A batch holds the same tokens twice. In the second row noise is added to what attention and mixers write.
2. As a layer ends, the second row is set to the first, so that each layer is seen by itself.
3. Whatever is given another second row than first reads what was written; what is given the same one does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gated_lpi.models import Block, Model
from gated_lpi.trace.batches import pad
from gated_lpi.trace.hooks import first_argument
from gated_lpi.trace.running import run

MOVED = 1e-4  # relative difference from which on an input is another, and not the same but for rounding


@torch.no_grad()
def reads_what_was_written(model: Model, prompt: list[int]) -> dict[str, bool]:
    """Whether each block reads what attention and mixers of its own layer write.

    Args:
        model: the model.
        prompt: token ids.

    Returns:
        By the block's name; left out are blocks whose units were given zeros alone, layers of one block, and those in
        which attention and mixers write nothing whatever they compute, since a scale or norm of theirs is 0.
    """
    differences: dict[str, list[float]] = {}
    with _watched(model, differences):
        run(model, pad([prompt, prompt], device=model.device))
    return {name: max(found) > MOVED for name, found in differences.items() if found}


@contextmanager
def _watched(model: Model, differences: dict[str, list[float]]) -> Iterator[None]:
    layers = cast(nn.ModuleList, model.module.get_submodule(model.family.layers))
    handles: list[RemovableHandle] = []
    try:
        for index, layer in enumerate(layers):
            blocks = [block for block in model.blocks if block.layer == index]
            if len(blocks) > 1 and any(map(_shows, blocks)):
                handles += _of_layer(layer, blocks, differences)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shows(block: Block) -> bool:
    """Whether what is added to a block's projection shows in what it writes: scales and norms may be 0."""
    norm = block.post_norm
    return block.kind != "ffn" and block.multiplier != 0 and (norm is None or bool(norm.weight.any()))


def _of_layer(layer: nn.Module, blocks: list[Block], differences: dict[str, list[float]]) -> Iterator[RemovableHandle]:
    entered: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered[:] = [first_argument(args, kwargs)]

    def disturb(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        first, second = output.chunk(2)
        noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(0)).to(first)
        # What is written may be far longer than the stream, and the reverse; of a model spread over devices, elsewhere.
        size = _size(entered[0]).to(noise) + _size(first).to(noise)
        return torch.cat([first, second + noise * size])

    yield layer.register_forward_pre_hook(enter, with_kwargs=True)
    for block in blocks:
        differences[block.name] = []
        for writer in block.writers:
            yield writer.module.register_forward_pre_hook(_noting(differences[block.name]), with_kwargs=True)
            if block.kind != "ffn":
                yield writer.module.register_forward_hook(disturb)
    yield layer.register_forward_hook(_put_back)


def _noting(found: list[float]) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = first_argument(args, kwargs).double()  # squares of what an ill model holds may leave float32
        first, second = states.reshape(2, -1, states.shape[-1])
        size = torch.maximum(first.norm(dim=-1), second.norm(dim=-1))
        moved = (first - second).norm(dim=-1)[size > 0] / size[size > 0]
        if len(moved):
            found.append(float(moved.median()))  # of tokens: one whose units almost cancel is mostly rounding

    return hook


def _size(states: Tensor) -> Tensor:
    """Root mean square."""
    return states.double().square().mean().sqrt()


def _put_back(_: nn.Module, __: Any, output: Any) -> Any:
    states = output[0] if isinstance(output, tuple | list) else output
    first = states.chunk(2)[0]
    alike = torch.cat([first, first])
    return type(output)((alike, *output[1:])) if isinstance(output, tuple | list) else alike
