"""Hooks, and nothing but hooks, record a forward pass where a batch's items are.

Every layer's input; the input of every output, down and shared-expert projection, which is the vector of coefficients
of its units; what the router sent to the fused experts; what each block wrote; the input of the final norm; and, if it
is asked for, what the routers did at every position. Hooks are removed whatever happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gated_lpi.models import Block, Model, Writer
from gated_lpi.trace.batches import Batch


class LayerRouting(NamedTuple):
    """What the router of one layer did with S tokens: of one prompt, or with a batch's dimension in front.

    Attributes:
        experts: [S, k], the experts routed to.
        gates: [S, k], their final gates.
        logits: [S, E], the router's logits.
        shared: [S, 1], the gate of the layer's shared expert; None if it has none.
    """

    experts: Tensor
    gates: Tensor
    logits: Tensor
    shared: Tensor | None


class Recording:
    """What the hooks saw, by name, at the batch's items only; all of it on the readout's device."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self.batch = batch
        self.device = device
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.routing: dict[str, tuple[Tensor, Tensor]] = {}
        self.by_position: dict[nn.Module, Tensor] = {}
        self.resolves = False  # whether attention is asked for by position
        self.routers: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self.shared_gates: dict[str, Tensor] = {}

    def pick(self, states: Tensor) -> Tensor:
        """Copy the items of `states`, [B, S, n] or [B·S, n] → [P, n]: some models change activations in place."""
        return self.batch.pick(states).to(self.device)

    def everywhere(self, states: Tensor) -> Tensor:
        """Copy `states` of every position, [B, S, n] or [B·S, n] → [B, S, n]."""
        return states.detach().reshape(len(self.batch.ids), -1, states.shape[-1]).to(self.device, copy=True)

    def everywhere_routed(self, model: Model) -> list[LayerRouting]:
        """What the routers did at every position, layer after layer, [B, S, ·], if it was recorded."""
        found = []
        for block, _ in model.routed():
            logits, gates, experts = self.routers[block.name]
            shared = None
            if any(writer.kind == "shared" for writer in block.writers):
                ones = torch.ones_like(gates[..., :1])
                shared = self.shared_gates[block.name].sigmoid() if block.name in self.shared_gates else ones
            found.append(LayerRouting(experts, gates, logits, shared))
        return found

    def hear_attention(self, module: nn.Module, weights: Tensor, values: Tensor) -> None:
        """Keep weight · value of the items, by source position: [P, S, H · d_v].

        Args:
            module: the attention.
            weights: [B, H, S, S].
            values: [B, H_kv, S, d_v].
        """
        rows, positions = (index.to(weights.device) for index in (self.batch.rows, self.batch.positions))
        chosen = weights[rows, :, positions][..., : values.shape[2]]  # [P, H, S]: some families have sinks besides
        # Heads that share values stand together: [P, H_kv, heads that share, S, d_v].
        shared = chosen.unflatten(1, (values.shape[1], -1)).unsqueeze(-1) * values[rows].unsqueeze(2)
        self.by_position[module] = shared.flatten(1, 2).transpose(1, 2).flatten(2).to(self.device)


@contextmanager
def record(model: Model, batch: Batch, *, routers: bool = False) -> Iterator[Recording]:
    """Record a forward pass made inside the `with` block; the hooks are gone when it ends, also by an error.

    Args:
        model: the model.
        batch: what is run.
        routers: also record what the routers do at every position.
    """
    recording = Recording(batch, model.readout.weight.device)
    handles: list[RemovableHandle] = []
    try:
        layers = cast(nn.ModuleList, model.module.get_submodule(model.family.layers))
        for index, layer in enumerate(layers):
            handles.append(_on_input(layer, recording, f"layer {index}"))
        handles.append(_on_final(model, recording))
        for block in model.blocks:
            handles.extend(_block_hooks(block, recording))
        if routers:
            handles.extend(_router_hooks(model, recording))
        yield recording
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_final(model: Model, batch: Batch) -> Iterator[Recording]:
    """Record the input of the final norm alone in a forward pass inside the `with` block; the hook ends with it."""
    recording = Recording(batch, model.readout.weight.device)
    handle = _on_final(model, recording)
    try:
        yield recording
    finally:
        handle.remove()


@contextmanager
def record_routers(model: Model, batch: Batch) -> Iterator[Recording]:
    """Record what the routers do at every position in one forward pass inside the `with` block, and nothing else."""
    recording = Recording(batch, model.readout.weight.device)
    handles = list(_router_hooks(model, recording))
    try:
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def _on_final(model: Model, recording: Recording) -> RemovableHandle:
    return _on_input(model.module.get_submodule(model.family.final_norm), recording, "final")


def _block_hooks(block: Block, recording: Recording) -> Iterator[RemovableHandle]:
    if block.post_norm is not None:
        yield _on_input(block.post_norm.module, recording, f"{block.name} post-norm")
        yield _on_output(block.post_norm.module, recording, block.name)
    elif not block.by_projection:
        yield _on_output(block.module, recording, block.name)
    for writer in block.writers:
        name = writer_name(block, writer)
        if block.by_projection and block.post_norm is None:
            yield _on_output(writer.module, recording, f"{name} output")
        hook = _on_routing if writer.kind == "routed" else _on_input
        yield hook(writer.module, recording, name)
        if writer.gate is not None:
            yield _on_output(writer.gate, recording, f"{name} gate")
        if writer.router is not None:
            yield _on_output(writer.router, recording, f"{name} router")


def _router_hooks(model: Model, recording: Recording) -> Iterator[RemovableHandle]:
    for block, writer in model.routed():
        yield _on_router(cast(nn.Module, writer.router), recording, block.name)
        for gate in (other.gate for other in block.writers if other.gate is not None):
            yield _on_shared_gate(gate, recording, block.name)


def _on_router(module: nn.Module, recording: Recording, name: str) -> RemovableHandle:
    def hook(_: nn.Module, __: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, gates, experts = map(recording.everywhere, output)
        recording.routers[name] = logits, gates, experts

    return module.register_forward_hook(hook)


def _on_shared_gate(module: nn.Module, recording: Recording, name: str) -> RemovableHandle:
    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        recording.shared_gates[name] = recording.everywhere(output)

    return module.register_forward_hook(hook)


def writer_name(block: Block, writer: Writer) -> str:
    """Under which name a recording has what a writer was given."""
    return f"{block.name} {writer.kind}"


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states that a layer, a projection or a norm is called with."""
    return cast(Tensor, args[0] if args else kwargs["hidden_states"])


def _on_input(module: nn.Module, recording: Recording, name: str) -> RemovableHandle:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recording.inputs[name] = recording.pick(first_argument(args, kwargs))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(module: nn.Module, recording: Recording, name: str) -> RemovableHandle:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        recording.outputs[name] = recording.pick(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(hook)


def _on_routing(module: nn.Module, recording: Recording, name: str) -> RemovableHandle:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        hidden, experts, gates = args
        recording.inputs[name] = recording.pick(hidden)
        recording.routing[name] = recording.pick(experts), recording.pick(gates)

    return module.register_forward_pre_hook(hook)
