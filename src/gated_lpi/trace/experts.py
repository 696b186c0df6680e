"""Coefficients of routed experts, which are no module's input and are computed again from a recorded hidden state."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn


def expert_coefficients(module: nn.Module, hidden: Tensor, experts: Tensor) -> Tensor:
    """act(gate)·up of the experts routed to.

    Args:
        module: the routed experts, fused.
        hidden: [P, d], what they were given.
        experts: [P, k], the experts routed to.

    Returns:
        [P, k, width].
    """
    gated = bool(module.has_gate)
    weight = cast(Tensor, module.gate_up_proj if gated else module.up_proj)
    bias = cast(Tensor, module.gate_up_proj_bias if gated else module.up_proj_bias) if module.has_bias else None
    activate = cast("Callable[[Tensor], Tensor]", module._apply_gate if gated else module.act_fn)
    width = cast(Tensor, module.down_proj).shape[1 if module.is_transposed else 2]
    coefficients = hidden.new_empty(*experts.shape, width)
    there = hidden.to(weight.device)
    for expert in experts.unique().tolist():
        prompts, slot = (experts == expert).nonzero(as_tuple=True)
        matrix = weight[expert] if module.is_transposed else weight[expert].T
        projected = there[prompts.to(weight.device)] @ matrix
        activated = activate(projected if bias is None else projected + bias[expert])
        coefficients[prompts, slot] = activated.to(hidden.device)
    return coefficients
