"""One forward pass → everything that attribution needs of it, at the last position of every prompt.

1. Prompts are padded on the right. Attention is causal, so nothing that stands before the padding sees it, and a
   prompt's last position is the same alone and in a batch. The padding is not masked besides: with a sliding window,
   positions of which nothing is left unmasked would be NaN, and spread.
2. Hooks (and nothing but hooks) record, at the last position: every layer's input; the input of every output,
   down and shared-expert projection, which is the vector of coefficients of its units; what the router sent to
   the fused experts; what each block wrote; the input of the final norm. They are removed whatever happens.
3. The coefficients of routed experts are not an input of any module: they are computed again from the recorded
   hidden state with the experts' own weights and activation, for the experts that were routed to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gated_lpi.attention import listening
from gated_lpi.errors import OptionError
from gated_lpi.heap import give_back
from gated_lpi.models import Block, Model, Writer

AT_ONCE = 64  # prompts in a forward pass: what it leaves behind in memory grows with them
TOKENS_AT_ONCE = 4096  # in a forward pass, padding included, for the same reason; one prompt may have more


class Slab(NamedTuple):
    """Units that share value vectors, on the prompts that use them.

    Attributes:
        start: index of the first unit within the block.
        values: [n, d], value vectors with the block's constant scales folded in.
        coefficients: [P', n], scale · gate · coefficient of each of the prompts, multiplied in float64.
        prompts: [P'], their indices; None means every prompt, in order.
    """

    start: int
    values: Tensor
    coefficients: Tensor
    prompts: Tensor | None


@dataclass(frozen=True)
class WriterTrace:
    """What one writer's units did at the last position of P prompts.

    Attributes:
        coefficients: m, [P, width], or [P, k, width] for the k experts that each prompt was routed to.
        gates: g, [P] or [P, k]; None where it is 1.
        experts: [P, k], the experts routed to; None unless routed.
        by_position: [P, S, width], what each source position adds to the coefficients of an attention writer; None
            unless asked for. Its sum over S is `coefficients`.
    """

    coefficients: Tensor
    gates: Tensor | None = None
    experts: Tensor | None = None
    by_position: Tensor | None = None


@dataclass(frozen=True)
class BlockTrace:
    """What one block read and wrote at the last position of P prompts.

    Attributes:
        base: [P, d], the residual stream just before the block writes to it.
        written: [P, d], what the model itself added to the residual stream.
        scale: [P], the prompt's part of the post-norm's scale; None where there is no post-norm.
        writers: one entry for each of the block's writers.
    """

    base: Tensor
    written: Tensor
    scale: Tensor | None
    writers: tuple[WriterTrace, ...]

    def slabs(self, block: Block) -> Iterator[Slab]:
        """Yield the block's units with their value vectors, grouped by value matrix; unused experts are left out."""
        for (writer, start), traced in zip(block.offsets(), self.writers, strict=True):
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
        """Yield an attention block's units once for every source position, as if each position had its own units.

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


@dataclass(frozen=True)
class Trace:
    """One forward pass over P prompts, seen from their last positions.

    Attributes:
        blocks: one entry for each of the model's blocks, in order.
        embedding: [P, d], layer 0's input.
        final_residual: [P, d], input of the final norm.
        logits: [P, V], the readout of the final residual.
    """

    blocks: tuple[BlockTrace, ...]
    embedding: Tensor
    final_residual: Tensor
    logits: Tensor

    def slabs(self, model: Model) -> Iterator[tuple[slice, Slab]]:
        """Yield every block's slabs, each with the place of its units on the model's axis."""
        for index, (block, seen) in enumerate(zip(model.blocks, self.blocks, strict=True)):
            start = model.block_units(index).start
            for slab in seen.slabs(block):
                first = start + slab.start
                yield slice(first, first + slab.values.shape[0]), slab


class Limits(NamedTuple):
    """What is worked on at a time.

    Attributes:
        tokens: tokens in a forward pass, padding included; one prompt alone may have more.
        logits: prompts whose logits are computed together.
        frugal: whether what is freed goes back to the system between forward passes.
    """

    tokens: int = TOKENS_AT_ONCE
    logits: int = AT_ONCE
    frugal: bool = False


USUAL = Limits()


class Batch(NamedTuple):
    """Prompts padded on the right: `ids` [P, S], `last` [P] the index of each prompt's last token."""

    ids: Tensor
    last: Tensor

    def arguments(self) -> dict[str, Any]:
        """What a transformers model is called with."""
        return {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids), "use_cache": False}


def pad(prompts: Sequence[Sequence[int]], *, pad_id: int = 0, device: torch.device | None = None) -> Batch:
    """Pad token ids on the right.

    Raises:
        OptionError: there is no prompt, or one has no token.
    """
    _refuse_empty(prompts)
    lengths = [len(ids) for ids in prompts]
    width = max(lengths)
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in prompts], device=device)
    last = torch.tensor(lengths, device=device) - 1
    return Batch(ids, last)


def _refuse_empty(prompts: Sequence[Sequence[int]]) -> None:
    without = sum(len(ids) == 0 for ids in prompts)
    if without or not len(prompts):
        raise OptionError(
            f"{len(prompts)} prompts were given, {without} of them without a token; at least one prompt, and one token "
            "in each, is needed"
        )


def forward_passes(prompts: Sequence[Sequence[int]], tokens: int = TOKENS_AT_ONCE) -> Iterator[slice]:
    """Cut prompts into runs for one forward pass each: `AT_ONCE` of them, and `tokens` padded tokens, at most."""
    start = width = 0
    for index, ids in enumerate(prompts):
        longer = max(width, len(ids))
        if index > start and (index - start >= AT_ONCE or longer * (index - start + 1) > tokens):
            yield slice(start, index)
            start, longer = index, len(ids)
        width = longer
    yield slice(start, len(prompts))


@torch.no_grad()
def trace(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    by_position: bool = False,
    limits: Limits = USUAL,
) -> Trace:
    """Run the model over token ids, a few prompts at a time, and record its blocks at each prompt's last position.

    Args:
        model: the model.
        prompts: token ids.
        by_position: also record what each source position adds to the coefficients of attention units; attention is
            then computed eagerly.
        limits: what is worked on at a time.

    Raises:
        OptionError: there is no prompt, or one has no token.
    """
    _refuse_empty(prompts)
    parts = []
    for some in forward_passes(prompts, limits.tokens):
        parts.append(_forward(model, prompts[some], by_position))
        if limits.frugal:
            give_back()
    # Block by block, and each part's own copy is dropped at once.
    blocks = tuple(_join([part.blocks.pop(0) for part in parts]) for _ in model.blocks)
    final = _join([part.final for part in parts])
    logits = final.new_empty(len(final), model.readout.vocabulary)
    for some, hidden in zip(logits.split(limits.logits), final.split(limits.logits), strict=True):
        some[:] = model.readout.logits(hidden)
    return Trace(blocks, _join([part.embedding for part in parts]), final, logits)


class _Seen(NamedTuple):
    """What `Trace` has of some prompts."""

    blocks: list[BlockTrace]
    embedding: Tensor
    final: Tensor


def _forward(model: Model, prompts: Sequence[Sequence[int]], by_position: bool) -> _Seen:
    batch = pad(prompts, pad_id=pad_id(model), device=model.device)
    with record(model, batch.last) as recording, ExitStack() as stack:
        if by_position:
            stack.enter_context(listening(model.module, recording.hear_attention))
        model.module.base_model(**batch.arguments())
    return _Seen(list(_block_traces(model, recording)), recording.inputs["layer 0"], recording.inputs["final"])


def _join(parts: Sequence[Any]) -> Any:
    """Tensors of some prompts after each other, and whatever is made of such; source positions are filled up with 0."""
    first = parts[0]
    if len(parts) == 1 or first is None:
        return first
    if isinstance(first, Tensor):
        if first.dim() < 3 or len({part.shape[1:] for part in parts}) == 1:
            return torch.cat(list(parts))
        longest = max(part.shape[1] for part in parts)
        return torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
    if isinstance(first, tuple):
        return tuple(_join(some) for some in zip(*parts, strict=True))
    return type(first)(**{f.name: _join([getattr(part, f.name) for part in parts]) for f in fields(first)})


def similar_lengths(prompts: Sequence[Sequence[int]], size: int) -> Iterator[NDArray[np.int64]]:
    """Yield indices of at most `size` prompts of similar length together, so that little is padded; evenly many."""
    order = np.argsort([len(ids) for ids in prompts], kind="stable")
    yield from np.array_split(order, max(1, -(-len(order) // size)))


def target_rank(logits: Tensor, targets: Tensor) -> NDArray[np.int64]:
    """Rank of each target [P] among `logits` [P, V]: how many tokens are likelier; ties count in its favour."""
    ranks: NDArray[np.int64] = (logits > logits.gather(-1, targets.unsqueeze(-1))).sum(dim=-1).cpu().numpy()
    return ranks


@torch.no_grad()
def last_logits(model: Model, prompts: Sequence[Sequence[int]]) -> Tensor:
    """The model's logits at each prompt's last position, [P, V]; nothing else is recorded."""
    return torch.cat([_last_logits(model, prompts[some]) for some in forward_passes(prompts)])


def _last_logits(model: Model, prompts: Sequence[Sequence[int]]) -> Tensor:
    batch = pad(prompts, pad_id=pad_id(model), device=model.device)
    recording = Recording(batch.last, model.readout.weight.device)
    handle = _on_input(model.module.get_submodule(model.family.final_norm), recording, "final")
    try:
        model.module.base_model(**batch.arguments())
    finally:
        handle.remove()
    return model.readout.logits(recording.inputs["final"])


def pad_id(model: Model) -> int:
    """The token that fills up batches; which one it is changes no score, and one without an embedding is not taken."""
    given = getattr(model.tokenizer, "pad_token_id", None)
    return given if isinstance(given, int) and 0 <= given < model.n_embeddings else 0


class Recording:
    """What the hooks saw, by name, at the last positions only; all of it on the readout's device."""

    def __init__(self, last: Tensor, device: torch.device) -> None:
        self.last = last
        self.device = device
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.routing: dict[str, tuple[Tensor, Tensor]] = {}
        self.by_position: dict[nn.Module, Tensor] = {}

    def at_last(self, hidden: Tensor) -> Tensor:
        """Pick the last positions of `hidden`, [P, S, n] or [P·S, n] → [P, n]."""
        n_prompts = len(self.last)
        rows = hidden.reshape(n_prompts, -1, hidden.shape[-1])
        # A copy: some models change activations in place later on.
        return rows[torch.arange(n_prompts, device=rows.device), self.last.to(rows.device)].clone().to(self.device)

    def hear_attention(self, module: nn.Module, weights: Tensor, values: Tensor) -> None:
        """Keep weight · value of the last positions, by source position: [P, S, H · d_v]."""
        rows = weights[torch.arange(len(self.last), device=weights.device), :, self.last.to(weights.device)]
        repeated = values.repeat_interleave(rows.shape[1] // values.shape[1], dim=1)
        parts = rows[..., : values.shape[2]].unsqueeze(-1) * repeated
        self.by_position[module] = parts.transpose(1, 2).flatten(2).to(self.device)


@contextmanager
def record(model: Model, last: Tensor) -> Iterator[Recording]:
    """Record a forward pass made inside the `with` block; the hooks are gone when it ends, also by an error."""
    recording = Recording(last, model.readout.weight.device)
    handles: list[RemovableHandle] = []
    try:
        layers = cast(nn.ModuleList, model.module.get_submodule(model.family.layers))
        for index, layer in enumerate(layers):
            handles.append(_on_input(layer, recording, f"layer {index}"))
        handles.append(_on_input(model.module.get_submodule(model.family.final_norm), recording, "final"))
        for block in model.blocks:
            handles.extend(_block_hooks(block, recording))
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def _block_hooks(block: Block, recording: Recording) -> Iterator[RemovableHandle]:
    if block.post_norm is None:
        yield _on_output(block.module, recording, block.name)
    else:
        yield _on_input(block.post_norm.module, recording, f"{block.name} post-norm")
        yield _on_output(block.post_norm.module, recording, block.name)
    for writer in block.writers:
        name = _writer_name(block, writer)
        hook = _on_routing if writer.kind == "routed" else _on_input
        yield hook(writer.module, recording, name)
        if writer.gate is not None:
            yield _on_output(writer.gate, recording, f"{name} gate")


def _writer_name(block: Block, writer: Writer) -> str:
    return f"{block.name} {writer.kind}"


def _first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return cast(Tensor, args[0] if args else kwargs["hidden_states"])


def _on_input(module: nn.Module, recording: Recording, name: str) -> RemovableHandle:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recording.inputs[name] = recording.at_last(_first_argument(args, kwargs))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(module: nn.Module, recording: Recording, name: str) -> RemovableHandle:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        recording.outputs[name] = recording.at_last(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(hook)


def _on_routing(module: nn.Module, recording: Recording, name: str) -> RemovableHandle:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        hidden, experts, gates = args
        recording.inputs[name] = recording.at_last(hidden)
        recording.routing[name] = recording.at_last(experts), recording.at_last(gates)

    return module.register_forward_pre_hook(hook)


def _block_traces(model: Model, recording: Recording) -> Iterator[BlockTrace]:
    for block in model.blocks:
        entering = recording.inputs[f"layer {block.layer}"]
        if block.kind == "attention":
            attention_written = _written(block, recording)
            base, written = entering, attention_written
        else:
            base = entering if model.parallel else entering + attention_written
            written = _written(block, recording)
        scale = None
        if block.post_norm is not None:
            scale = block.post_norm.scale(recording.inputs[f"{block.name} post-norm"])
        writers = tuple(_writer_trace(block, writer, recording) for writer in block.writers)
        yield BlockTrace(base, written, scale, writers)


def _written(block: Block, recording: Recording) -> Tensor:
    return recording.outputs[block.name] * block.multiplier


def _writer_trace(block: Block, writer: Writer, recording: Recording) -> WriterTrace:
    name = _writer_name(block, writer)
    coefficients = recording.inputs[name]
    if writer.kind == "routed":
        experts, gates = recording.routing[name]
        coefficients = expert_coefficients(writer.module, coefficients, experts)
        return WriterTrace(coefficients, gates.to(coefficients.dtype), experts)
    if writer.gate is not None:
        return WriterTrace(coefficients, torch.sigmoid(recording.outputs[f"{name} gate"]).squeeze(-1))
    return WriterTrace(coefficients, by_position=recording.by_position.get(block.module))


def expert_coefficients(module: nn.Module, hidden: Tensor, experts: Tensor) -> Tensor:
    """act(gate)·up of the experts routed to: `hidden` [P, d], `experts` [P, k] → [P, k, width]."""
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
