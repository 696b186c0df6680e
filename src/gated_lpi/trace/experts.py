"""Coefficients of routed experts, which are no module's input and are computed again from a recorded hidden state."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from gated_lpi.models import ForeignExperts


def expert_coefficients(module: nn.Module, hidden: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
    """act(gate)·up of the experts routed to.

    Args:
        module: the routed experts, fused.
        hidden: [P, d], what they were given.
        experts: [P, k], the experts routed to.
        gates: [P, k], the gates of those; a few families multiply by them what goes into an expert, too.

    Returns:
        [P, k, width].
    """
    down = cast(Tensor, module.down_proj)
    coefficients = hidden.new_empty(*experts.shape, down.shape[1 if module.is_transposed else 2])
    there = hidden.to(down.device)
    for expert in experts.unique().tolist():
        prompts, slot = (experts == expert).nonzero(as_tuple=True)
        states = there[prompts.to(down.device)]
        if isinstance(module, ForeignExperts):
            found = module.coefficients(states, expert, gates[prompts, slot].to(down.device))
        else:
            found = _of_fused(module, states, expert)
        coefficients[prompts, slot] = found.to(hidden.device)
    return coefficients


def _of_fused(module: nn.Module, hidden: Tensor, expert: int) -> Tensor:
    """Of one expert, as transformers fuses them: [n, width], for hidden states [n, d]."""
    gated = bool(module.has_gate)
    weight = cast(Tensor, module.gate_up_proj if gated else module.up_proj)[expert]
    projected = hidden @ (weight if module.is_transposed else weight.T)
    if module.has_bias:
        projected = projected + cast(Tensor, module.gate_up_proj_bias if gated else module.up_proj_bias)[expert]
    activate = cast("Callable[[Tensor], Tensor]", module._apply_gate if gated else module.act_fn)
    return activate(projected)
