"""What a trace holds: of each item, a pair of prompt and position, what every block read and wrote.

P counts items. They are the last positions of P prompts unless others were asked for (`trace(positions=)`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from gated_lpi.errors import OptionError
from gated_lpi.models import Block, Model, Writer
from gated_lpi.options import Gate


class Slab(NamedTuple):
    """Units that share value vectors, on the items that use them.

    Attributes:
        start: index of the first unit within the block.
        values: [n, d], value vectors with the block's constant scales folded in.
        coefficients: [P', n], scale · gate · coefficient of each of the items, multiplied in float64.
        prompts: [P'], indices of the items (of the prompts, where each has one); None means every item, in order.
    """

    start: int
    values: Tensor
    coefficients: Tensor
    prompts: Tensor | None


@dataclass(frozen=True)
class WriterTrace:
    """What one writer's units did at P items.

    Attributes:
        coefficients: m, [P, width], or [P, k, width] for the k experts that each item was routed to.
        gates: g, [P] or [P, k]; None where it is 1.
        experts: [P, k], the experts routed to; None unless routed.
        all_coefficients, all_gates: [P, E, width] and [P, E], m of every expert, routed to or not, and the gate that it
            has before any is chosen; None unless routed, and asked for.
        by_position: [P, S, width], what each source position adds to the coefficients of an attention writer; None
            unless asked for. Its sum over S is `coefficients`.
    """

    coefficients: Tensor
    gates: Tensor | None = None
    experts: Tensor | None = None
    by_position: Tensor | None = None
    all_coefficients: Tensor | None = None
    all_gates: Tensor | None = None

    def under(self, gate: Gate) -> WriterTrace:
        """What the writer's units would have done with another gate; what is not routed keeps its own.

        Raises:
            OptionError: `gate` is "open", and not all experts were asked for.
        """
        if self.experts is None or self.gates is None or gate == "gated":
            return self
        if gate == "uniform":
            return replace(self, gates=self.gates.mean(dim=-1, keepdim=True).expand_as(self.gates))
        if gate == "ungated":
            return replace(self, gates=torch.ones_like(self.gates))
        if self.all_coefficients is None or self.all_gates is None:
            raise OptionError(
                "gate='open' was given for a trace of the experts that were routed to; make it with "
                "trace(model, prompts, all_experts=True)"
            )
        every = torch.arange(self.all_gates.shape[1], device=self.experts.device).expand(self.all_gates.shape)
        return replace(self, coefficients=self.all_coefficients, gates=self.all_gates, experts=every)


@dataclass(frozen=True)
class BlockTrace:
    """What one block read and wrote at P items.

    Attributes:
        base: [P, d], the residual stream just before the block writes to it.
        written: [P, d], what the model itself added to the residual stream.
        scale: [P], the item's part of the post-norm's scale; None where there is no post-norm.
        writers: one entry for each of the block's writers.
    """

    base: Tensor
    written: Tensor
    scale: Tensor | None
    writers: tuple[WriterTrace, ...]

    def slabs(self, block: Block, gate: Gate = "gated") -> Iterator[Slab]:
        """The block's units with their value vectors, grouped by value matrix; unused experts are left out.

        Args:
            block: the block.
            gate: with what weight units of routed experts count: see `gated_lpi.LPI`.

        Raises:
            OptionError: `gate` is "open", and the trace has only the experts that were routed to.
        """
        for (writer, start), seen in zip(block.offsets(), self.writers, strict=True):
            traced = seen.under(gate)
            if traced.experts is None:
                coefficients = self._scaled(traced.coefficients, traced.gates)
                yield Slab(start, self._values(block, writer), coefficients, None)
                continue
            coefficients = self._scaled(traced.coefficients, traced.gates)
            for expert in traced.experts.unique().tolist():
                prompts, slot = (traced.experts == expert).nonzero(as_tuple=True)
                first = start + expert * writer.width
                yield Slab(first, self._values(block, writer, expert), coefficients[prompts, slot], prompts)

    def position_slabs(self, block: Block) -> Iterator[Slab]:
        """An attention block's units once for every source position, as if each position had its own units.

        Position t's units start at t · n_units.
        """
        (writer,), (traced,) = block.writers, self.writers
        values = self._values(block, writer)
        assert traced.by_position is not None  # the trace was asked for it
        for position in range(traced.by_position.shape[1]):
            coefficients = self._scaled(traced.by_position[:, position], traced.gates)
            yield Slab(position * block.n_units, values, coefficients, None)

    def _values(self, block: Block, writer: Writer, expert: int = 0) -> Tensor:
        """Value vectors, where the trace is: a sharded model has its blocks on several devices."""
        return block.values(writer, expert).to(self.base.device)

    def _scaled(self, coefficients: Tensor, gates: Tensor | None) -> Tensor:
        coefficients = coefficients.double()
        if gates is not None:
            coefficients = coefficients * gates.unsqueeze(-1)
        if self.scale is not None:
            coefficients = coefficients * self.scale.view(-1, *[1] * (coefficients.dim() - 1))
        return coefficients

    def bias(self, block: Block) -> Tensor:
        """What the block's biases, which belong to no unit, added to the residual stream: [P, d]."""
        total = torch.zeros_like(self.base)
        for writer, traced in zip(block.writers, self.writers, strict=True):
            bias = block.bias(writer)
            if bias is None:
                continue
            bias = bias.to(total.device)
            if traced.experts is None:
                added = bias if traced.gates is None else traced.gates.unsqueeze(-1) * bias
            else:
                weighted = cast(Tensor, traced.gates).unsqueeze(-1) * bias[traced.experts]
                added = weighted.sum(dim=1)
            total = total + (added if self.scale is None else self.scale.unsqueeze(-1) * added)
        return total


class PromptRouting(NamedTuple):
    """What the routers did with the S tokens of one prompt, over the model's X experts (`Model.experts`).

    Attributes:
        logits: [S, X], of the routers; NaN for shared experts.
        gates: [S, X], the final weights; 0 where a token is not routed to.
    """

    logits: Tensor
    gates: Tensor


@dataclass(frozen=True)
class Trace:
    """Forward passes over prompts, seen from P items.

    Attributes:
        blocks: one entry for each of the model's blocks, in order.
        embedding: [P, d], layer 0's input.
        final_residual: [P, d], input of the final norm.
        logits: [P, V], the readout of the final residual.
        of_prompt: [P], index of the prompt that each item is of.
        at_position: [P], where in that prompt it is, counted from its first token.
        routing: one entry for each prompt, if asked for.
    """

    blocks: tuple[BlockTrace, ...]
    embedding: Tensor
    final_residual: Tensor
    logits: Tensor
    of_prompt: Tensor
    at_position: Tensor
    routing: tuple[PromptRouting, ...] = ()

    def slabs(self, model: Model) -> Iterator[tuple[slice, Slab]]:
        """Every block's slabs, each with the place of its units on the model's axis."""
        for index, (block, seen) in enumerate(zip(model.blocks, self.blocks, strict=True)):
            start = model.block_units(index).start
            for slab in seen.slabs(block):
                first = start + slab.start
                yield slice(first, first + slab.values.shape[0]), slab


def join(parts: Sequence[Any]) -> Any:
    """Tensors of some items, or what is made of such, one after the other; source positions are filled up with 0."""
    first = parts[0]
    if len(parts) == 1 or first is None:
        return first
    if isinstance(first, Tensor):
        if first.dim() < 3 or len({part.shape[1:] for part in parts}) == 1:
            return torch.cat(list(parts))
        longest = max(part.shape[1] for part in parts)
        return torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
    if isinstance(first, tuple):
        return tuple(join(some) for some in zip(*parts, strict=True))
    return type(first)(**{f.name: join([getattr(part, f.name) for part in parts]) for f in fields(first)})
