"""Silencing units while the model runs, by hooks: the weights are never changed.

- A unit of attention, of a dense FFN or of a shared expert is a coordinate of its projection's input: it is set to
  zero, in a copy.
- A unit of a routed expert is inside the fused experts: what it adds, gate · coefficient · value, is taken off
  their output.

UnitIndices are silenced at every position, so that later layers see the change as well. In post-norm families the norm
acts on what is left, as it would if the column were zero; that differs from subtracting the unit's scaled
contribution.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gated_lpi.models import Model, Writer
from gated_lpi.trace import expert_coefficients

UnitIndices = NDArray[np.int64]


@contextmanager
def silenced(model: Model, units: UnitIndices) -> Iterator[None]:
    """Silence units inside the `with` block.

    Args:
        model: the model.
        units: [n], indices on the model's unit axis (`model.units`); repeats count once.

    Raises:
        OptionError: an index is not on the axis.
    """
    with ExitStack() as hooks:
        for part in model.by_writer(units):
            hook = _silence_routed if part.writer.kind == "routed" else _silence_input
            hooks.callback(hook(part.writer, torch.from_numpy(part.inside)).remove)
        yield


def head_units(model: Model, head: int) -> UnitIndices:
    """Indices, [n], of the units of the head at this index of `model.heads`."""
    return model.head_units(head)


def _silence_input(writer: Writer, units: Tensor) -> RemovableHandle:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].index_fill(-1, units.to(args[0].device), 0.0), *args[1:])

    return writer.module.register_forward_pre_hook(hook)


def _silence_routed(writer: Writer, units: Tensor) -> RemovableHandle:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output - _routed_contribution(writer, module, units.to(output.device), *args).view_as(output)

    return writer.module.register_forward_hook(hook)


def _routed_contribution(
    writer: Writer, module: Any, units: Tensor, hidden: Tensor, experts: Tensor, gates: Tensor
) -> Tensor:
    """What `units` (expert · width + neuron) add to the output of the experts at every position: [T, d]."""
    total = torch.zeros_like(hidden)
    for expert in (units // writer.width).unique().tolist():
        neurons = units[units // writer.width == expert] % writer.width
        tokens, slot = (experts == expert).nonzero(as_tuple=True)
        if not len(tokens):
            continue
        one = torch.full((len(tokens), 1), expert, device=experts.device)
        coefficients = expert_coefficients(module, hidden[tokens], one)[:, 0, neurons]
        values = writer.raw_values(expert)[neurons]
        total.index_add_(0, tokens, gates[tokens, slot].unsqueeze(-1) * (coefficients @ values))
    return total
