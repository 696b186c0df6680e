"""Activation × gradient of every unit, added up over positions while a backward pass runs.

A unit's part of what its block writes is coefficient · value, so scaling it by 1 + ε changes the model's value by
ε · a_u·∂f/∂a_u, where a_u is the coefficient. Summed over the positions of a prompt:

1. Attention, dense FFNs and shared experts: a_u is a coordinate of the projection's input x, and backward passes
   compute ∂f/∂x anyway. A hook on x multiplies the two and sums over positions.
2. Routed experts, fused into one module: a_u is inside. With G = ∂f/∂y at the module's output y, ∂f/∂a_u at a token is
   gate · (value_u · G), for the experts that the token was routed to; for others the score is 0. Coefficients are
   computed again from the module's input.

Weights get no gradients, which would be most of a backward pass. Padding needs no care: nothing that is explained
depends on what stands after it, so its gradient is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gated_lpi.models import Model, Writer
from gated_lpi.options import At
from gated_lpi.trace import Batch, expert_coefficients


@contextmanager
def gradients_of_activations_only(module: nn.Module) -> Iterator[None]:
    """Record operations on activations inside the `with` block, but give no weight a gradient."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def embeddings_with_gradient(model: Model) -> Iterator[None]:
    """Let gradients flow back to the embeddings of passes inside the `with` block: without that nothing has any."""

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.requires_grad_(True)

    handle = model.module.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class Taps:
    """Adds up activation × gradient.

    Attributes:
        scores: index of a block → [B, n_units], of all backward passes so far.
    """

    def __init__(self, model: Model, batch: Batch, at: At) -> None:
        self.model = model
        self.scores: dict[int, Tensor] = {}
        self._batch = batch
        self._at = at
        self._length = batch.ids.shape[1]

    def tap(self, index: int, weight: float = 1.0, scale: float = 1.0) -> list[RemovableHandle]:
        """Hook the writers of a block.

        Args:
            index: of the block.
            weight: what products are multiplied by before they are added.
            scale: what the units are multiplied by on the way; products are with the coefficients before that.
        """
        block = self.model.blocks[index]
        if index not in self.scores:
            self.scores[index] = torch.zeros(
                len(self._batch.ids), block.n_units, dtype=torch.float32 if _narrow(self.model) else self.model.dtype
            ).to(self.model.readout.weight.device)
        return [self._tap(index, writer, start, weight, scale) for writer, start in block.offsets()]

    def _tap(self, index: int, writer: Writer, start: int, weight: float, scale: float) -> RemovableHandle:
        def add(scores: Tensor) -> None:
            target = self.scores[index]
            target[:, start : start + writer.n_units] += weight * scores.to(target)

        if writer.kind == "routed":
            return self._tap_routed(writer, add, scale)
        return self._tap_input(writer, add, scale)

    def _tap_input(self, writer: Writer, add: Callable[[Tensor], None], scale: float) -> RemovableHandle:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            given = args[0]
            kept = given.detach()
            entering = given if scale == 1.0 else self._scaled(given, scale)

            def multiply(gradient: Tensor) -> None:
                add(self._summed(kept, gradient))

            if entering.requires_grad:  # not in a pass without gradients, made for its scale alone
                entering.register_hook(multiply)
            return (entering, *args[1:])

        return writer.module.register_forward_pre_hook(hook)

    def _tap_routed(self, writer: Writer, add: Callable[[Tensor], None], scale: float) -> RemovableHandle:
        def hook(module: nn.Module, args: tuple[Tensor, Tensor, Tensor], output: Tensor) -> Tensor:
            hidden, experts, gates = (given.detach() for given in args)

            def multiply(gradient: Tensor) -> None:
                add(self._summed_routed(writer, module, hidden, experts, gates, gradient.reshape_as(hidden)))

            if scale != 1.0:
                bias = _gated_bias(writer, experts, gates)
                whole = output.reshape_as(hidden)
                fixed = torch.zeros_like(whole) if bias is None else bias
                output = self._scaled(whole - fixed, scale).add(fixed).view_as(output)
            if output.requires_grad:
                output.register_hook(multiply)
            return output

        return writer.module.register_forward_hook(hook)

    def _scaled(self, states: Tensor, scale: float) -> Tensor:
        """The states [B, S, n] or [B·S, n] times `scale`, at the positions that are asked for."""
        if self._at == "all":
            return states * scale
        apart = states.reshape(*self._batch.ids.shape, -1)
        factor = torch.ones(self._batch.ids.shape, dtype=states.dtype, device=states.device)
        factor[self._items(states)] = scale
        return (apart * factor.unsqueeze(-1)).view_as(states)

    def _items(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Row and position of every item, [I] each, where `states` are: a sharded model has them on several devices."""
        return self._batch.rows.to(states.device), self._batch.positions.to(states.device)

    @torch.no_grad()
    def _summed(self, coefficients: Tensor, gradient: Tensor) -> Tensor:
        """Σ over positions of coefficient · gradient, [B, n], of two [B, S, n] or [B·S, n]."""
        shape = self._batch.ids.shape
        left, right = coefficients.reshape(*shape, -1), gradient.reshape(*shape, -1)
        if self._at == "all":
            return torch.einsum("bsn,bsn->bn", _wide(left), _wide(right))
        rows, positions = self._items(left)
        products = _wide(left[rows, positions]) * _wide(right[rows, positions])
        return products.new_zeros(shape[0], products.shape[-1]).index_add_(0, rows, products)

    @torch.no_grad()
    def _summed_routed(
        self, writer: Writer, module: nn.Module, hidden: Tensor, experts: Tensor, gates: Tensor, gradient: Tensor
    ) -> Tensor:
        """Σ over positions of coefficient · gate · (value · gradient), [B, n_experts · width]."""
        found = torch.zeros(
            len(self._batch.ids), writer.n_units, dtype=_wide(hidden[:0]).dtype, device=hidden.device
        ).view(len(self._batch.ids), writer.n_experts, writer.width)
        tokens = torch.arange(len(hidden), device=hidden.device)
        if self._at == "last":
            rows, positions = self._items(hidden)
            tokens = rows * self._length + positions
        chosen = experts[tokens]
        for expert in chosen.unique().tolist():
            if expert >= writer.n_experts:
                continue
            which, slot = (chosen == expert).nonzero(as_tuple=True)
            there = tokens[which]
            one = torch.full((len(there), 1), expert, device=hidden.device)
            gate = gates[there, slot].unsqueeze(-1)
            coefficients = expert_coefficients(module, hidden[there], one, gate)[:, 0]
            gated = gradient[there] * gate.to(gradient.dtype)
            products = _wide(coefficients) * _wide(gated @ writer.raw_values(expert).T.to(gated.dtype))
            found[:, expert].index_add_(0, there // self._length, products)
        return found.flatten(1)


@contextmanager
def tapped(taps: Taps, blocks: Collection[int], weight: float = 1.0, scale: float = 1.0) -> Iterator[None]:
    """Tap blocks in the passes inside the `with` block; the hooks are gone when it ends, also by an error."""
    handles: list[RemovableHandle] = []
    try:
        for index in blocks:
            handles += taps.tap(index, weight, scale)
        yield
    finally:
        for handle in handles:
            handle.remove()


def blocks_of(model: Model, kinds: Collection[str]) -> list[int]:
    """Indices of the blocks whose units are of some kinds."""
    return [index for index, block in enumerate(model.blocks) if block.kind in kinds]


def _gated_bias(writer: Writer, experts: Tensor, gates: Tensor) -> Tensor | None:
    """What the biases of routed experts, which belong to no unit, add at every token: [T, d]."""
    bias = writer.bias_parameter
    return None if bias is None else (gates.unsqueeze(-1) * bias.detach()[experts]).sum(dim=1)


def _wide(states: Tensor) -> Tensor:
    """Half precision as float32, so that sums over positions keep its digits."""
    return states.float() if states.dtype in (torch.float16, torch.bfloat16) else states


def _narrow(model: Model) -> bool:
    return model.dtype in (torch.float16, torch.bfloat16)
