"""FFNs that hold experts otherwise than transformers fuses them, as a router and fused experts.

The rest of this package reads one form: a router that returns logits, gates and the experts chosen, and a module that
is given hidden states, experts and gates, and adds up gate · Σ coefficient · value. Some FFNs of transformers compute
such a sum in another form:

- DBRX lays the matrices of all experts below each other, and chooses experts outside of any module.
- Llama 4 runs every expert over every token, and multiplies by its gate g what goes *into* an expert. With W_g and W_u,
  the gate and up projections, an expert then writes Σ act(g·W_g x) · (g·W_u x) · value = g · Σ m · value, where the
  coefficient m = act(g·W_g x) · (W_u x) has the gate inside as well.

They are replaced in a copy of the model that shares all of its weights, so that the model itself stays as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Activation = Callable[[Tensor], Tensor]


def with_fused_experts(module: PreTrainedModel) -> PreTrainedModel:
    """The model with a router and fused experts in every FFN that has them otherwise; itself if none has.

    Args:
        module: the model; it is not changed.

    Returns:
        A copy that shares weights and buffers with the model, and computes the same but for rounding.
    """
    makers = {name: make for name, part in module.named_modules() if (make := _maker_for(part)) is not None}
    if not makers:
        return module
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    fused = cast(PreTrainedModel, copy.deepcopy(module, shared))
    for name, make in makers.items():
        fused.set_submodule(name, make(fused.get_submodule(name)).train(module.training))
    return fused


class ForeignExperts(nn.Module):
    """Routed experts of an FFN that holds them otherwise.

    Args:
        gate, up: W_g and W_u of every expert, [E, width, d] each.
        down: value vectors of every expert as rows, [E, width, d].
        activation: what is applied to W_g x.

    Attributes:
        gates_enter: whether gates multiply what goes into an expert too.
    """

    is_transposed = True  # of down_proj, as in transformers' own experts

    def __init__(self, gate: Tensor, up: Tensor, down: nn.Parameter, activation: Activation, gates_enter: bool) -> None:
        super().__init__()
        self.gate_proj = _parameter(gate)
        self.up_proj = _parameter(up)
        self.down_proj = down
        self.act_fn = activation
        self.gates_enter = gates_enter

    def coefficients(self, hidden: Tensor, expert: int, gates: Tensor) -> Tensor:
        """Of one expert: [n, width], for hidden states [n, d] and the gates [n] with which they are sent to it."""
        gate = hidden @ self.gate_proj[expert].T
        if self.gates_enter:
            gate = gates.to(gate).unsqueeze(-1) * gate
        return self.act_fn(gate) * (hidden @ self.up_proj[expert].T)

    def forward(self, hidden: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
        """What the experts [T, k] write for hidden states [T, d], weighted by their gates [T, k]: [T, d]."""
        written = torch.zeros_like(hidden)
        for expert in experts.unique().tolist():
            token, slot = (experts == expert).nonzero(as_tuple=True)
            gate = gates[token, slot].to(hidden)
            output = self.coefficients(hidden[token], expert, gate) @ self.down_proj[expert]
            written = written.index_add(0, token, gate.unsqueeze(-1) * output)
        return written


class _DbrxRouter(nn.Module):
    def __init__(self, weight: nn.Parameter, chosen: int, norm: float | None) -> None:
        super().__init__()
        self.weight, self._chosen, self._norm = weight, chosen, norm

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), self.weight)
        gates, experts = logits.softmax(dim=-1).topk(self._chosen, dim=-1)
        if self._norm is not None:
            gates = gates / torch.linalg.vector_norm(gates, ord=self._norm, dim=-1, keepdim=True)
        return logits, gates, experts


class _Llama4Router(nn.Module):
    def __init__(self, weight: nn.Parameter, chosen: int) -> None:
        super().__init__()
        self.weight, self._chosen = weight, chosen

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), self.weight)
        best, experts = logits.topk(self._chosen, dim=-1)
        return logits, best.float().sigmoid().to(logits.dtype), experts


class _DbrxFfn(nn.Module):
    def __init__(self, ffn: Any) -> None:
        super().__init__()
        held = ffn.experts.mlp
        shape = (held.moe_num_experts, held.ffn_hidden_size, held.hidden_size)
        self.gate = _DbrxRouter(ffn.router.layer.weight, ffn.top_k, ffn.moe_normalize_expert_weights)
        down = _parameter(held.w2.view(shape))
        self.experts = ForeignExperts(held.w1.view(shape), held.v1.view(shape), down, held.activation_fn, False)

    def forward(self, hidden: Tensor) -> Tensor:
        states = hidden.reshape(-1, hidden.shape[-1])
        _, gates, experts = self.gate(states)
        return cast(Tensor, self.experts(states, experts, gates)).view_as(hidden)


class _Llama4Ffn(nn.Module):
    def __init__(self, ffn: Any) -> None:
        super().__init__()
        held = ffn.experts
        gate, up = held.gate_up_proj.transpose(1, 2).chunk(2, dim=1)
        self.gate = _Llama4Router(ffn.router.weight, ffn.top_k)
        self.experts = ForeignExperts(gate, up, held.down_proj, held.act_fn, True)
        self.shared_expert = ffn.shared_expert

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        states = hidden.reshape(-1, hidden.shape[-1])
        logits, gates, experts = self.gate(states)
        return self.shared_expert(states) + self.experts(states, experts, gates), logits


_MAKERS: Mapping[str, Callable[[nn.Module], nn.Module]] = {"DbrxFFN": _DbrxFfn, "Llama4TextMoe": _Llama4Ffn}


def _maker_for(part: nn.Module) -> Callable[[nn.Module], nn.Module] | None:
    """What makes a module of the form that is read, if a part is one of transformers' own that have another."""
    known = type(part).__module__.startswith("transformers.models.")
    return _MAKERS.get(type(part).__name__) if known else None


def _parameter(shared: Tensor) -> nn.Parameter:
    """A view of weights as a parameter of its own."""
    return nn.Parameter(shared.detach(), requires_grad=shared.requires_grad)
