"""Running the model: forward passes over prompts → what is recorded of them, laid out as a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi._common.heap import give_back
from gated_lpi.errors import ModelError
from gated_lpi.models import Block, Model, Writer
from gated_lpi.trace.attention import listening
from gated_lpi.trace.batches import (
    USUAL,
    Batch,
    ItemPositions,
    Limits,
    Prompts,
    forward_passes,
    pad,
    resolve_positions,
)
from gated_lpi.trace.experts import expert_coefficients
from gated_lpi.trace.hooks import LayerRouting, Recording, record, record_final, record_routers, writer_name
from gated_lpi.trace.records import BlockTrace, PromptRouting, Trace, WriterTrace, join
from gated_lpi.trace.running import run

ADDS_UP = 1e-3  # relative difference that rounding explains between source positions and their sum


@torch.no_grad()
def trace(
    model: Model,
    prompts: Prompts,
    positions: ItemPositions | None = None,
    *,
    by_position: bool = False,
    all_experts: bool = False,
    routing: bool = False,
    limits: Limits = USUAL,
) -> Trace:
    """Run the model over token ids, a few prompts at a time, and record its blocks at some positions.

    Args:
        model: the model.
        prompts: token ids.
        positions: for each prompt one position or more where its blocks are recorded, −1 being its last token; each
            pair of prompt and position is an item of the trace, in the order given. None: the last token of each.
        by_position: also record what each source position adds to the coefficients of attention units; attention is
            then computed eagerly.
        all_experts: also compute what the experts would do that an item was not routed to.
        routing: also record what the routers do at every position of the prompts.
        limits: what is worked on at a time.

    Returns:
        What every block read and wrote at the P items.

    Raises:
        OptionError: there is no prompt, or one has no token; or a prompt without a position, or one that it lacks.
        ModelError: `by_position`, and the model's attention does not go through transformers' interface, or does more
            than to weight values.
    """
    chosen = resolve_positions(prompts, positions)
    parts, routed = [], []
    for some in forward_passes(prompts, limits.tokens):
        batch = _batch(model, prompts[some], chosen[some])
        with _recorded(model, batch, by_position, routing) as recording:
            run(model, batch)
        parts.append(_seen(model, recording, all_experts))
        if routing:
            layers = recording.everywhere_routed(model)
            routed += [_over_experts(one) for one in routing_by_prompt(layers, prompts[some])]
        if limits.frugal:
            give_back()
    # Block by block, and each part's own copy is dropped at once.
    blocks = tuple(join([part.blocks.pop(0) for part in parts]) for _ in model.blocks)
    final = join([part.final for part in parts])
    return Trace(
        blocks=blocks,
        embedding=join([part.embedding for part in parts]),
        final_residual=final,
        logits=_logits(model, final, limits),
        of_prompt=torch.tensor([i for i, some in enumerate(chosen) for _ in some], device=final.device),
        at_position=torch.tensor([position for some in chosen for position in some], device=final.device),
        routing=tuple(routed),
    )


@torch.no_grad()
def last_logits(
    model: Model, prompts: Prompts, positions: ItemPositions | None = None, *, limits: Limits = USUAL
) -> Tensor:
    """The model's logits at one position or more of each prompt; nothing more.

    Args:
        model: the model.
        prompts: token ids.
        positions: for each prompt one position or more, −1 being its last token. None: the last token of each.
        limits: what is worked on at a time.

    Returns:
        [P, V], a row for each pair of prompt and position, in the order given.

    Raises:
        OptionError: there is no prompt, or one has no token; or a prompt without a position, or one that it lacks.
    """
    chosen = resolve_positions(prompts, positions)
    finals = []
    for some in forward_passes(prompts, limits.tokens):
        batch = _batch(model, prompts[some], chosen[some])
        with record_final(model, batch) as recording:
            run(model, batch)
        finals.append(recording.inputs["final"])
    return _logits(model, join(finals), limits)


@torch.no_grad()
def trace_routing(model: Model, prompts: Prompts, *, limits: Limits = USUAL) -> Iterator[tuple[LayerRouting, ...]]:
    """Run the model over token ids and yield, for each prompt, what every router did at all of its positions.

    Args:
        model: the model.
        prompts: token ids.
        limits: what is worked on at a time.

    Raises:
        OptionError: there is no prompt, or one has no token.
    """
    resolve_positions(prompts)
    for some in forward_passes(prompts, limits.tokens):
        batch = _batch(model, prompts[some], [[-1]] * len(prompts[some]))
        with record_routers(model, batch) as recording:
            run(model, batch)
        yield from routing_by_prompt(recording.everywhere_routed(model), prompts[some])
        if limits.frugal:
            give_back()


def routing_by_prompt(layers: Sequence[LayerRouting], prompts: Prompts) -> Iterator[tuple[LayerRouting, ...]]:
    """What routers did with a batch, [B, S, ·] for each layer, cut into its prompts without their padding."""
    for row, ids in enumerate(prompts):
        inside = row, slice(len(ids))
        yield tuple(
            LayerRouting(
                one.experts[inside],
                one.gates[inside],
                one.logits[inside],
                None if one.shared is None else one.shared[inside],
            )
            for one in layers
        )


def _over_experts(layers: Sequence[LayerRouting]) -> PromptRouting:
    """What the routers did with one prompt, over all experts: of each layer the routed ones, then the shared one."""
    logits, gates = [], []
    for layer in layers:
        logits.append(layer.logits)
        gates.append(torch.zeros_like(layer.logits).scatter_(-1, layer.experts, layer.gates.to(layer.logits)))
        if layer.shared is not None:
            logits.append(torch.full_like(layer.shared, float("nan")).to(layer.logits))
            gates.append(layer.shared.to(layer.logits))
    return PromptRouting(torch.cat(logits, dim=-1), torch.cat(gates, dim=-1))


def target_rank(logits: Tensor, targets: Tensor) -> NDArray[np.int64]:
    """Rank of each target among the logits: how many tokens are likelier; ties count in its favour.

    Args:
        logits: [P, V].
        targets: [P], token ids.

    Returns:
        [P]; 0 is the likeliest token.
    """
    ranks: NDArray[np.int64] = (logits > logits.gather(-1, targets.unsqueeze(-1))).sum(dim=-1).cpu().numpy()
    return ranks


def pad_id(model: Model) -> int:
    """The token that fills up batches; which one it is changes no score, and one without an embedding is not taken."""
    given = getattr(model.tokenizer, "pad_token_id", None)
    return given if isinstance(given, int) and 0 <= given < model.n_embeddings else 0


def _batch(model: Model, prompts: Prompts, positions: ItemPositions) -> Batch:
    return pad(prompts, positions, pad_id=pad_id(model), device=model.device)


def _logits(model: Model, final: Tensor, limits: Limits) -> Tensor:
    logits = final.new_empty(len(final), model.readout.vocabulary)
    for some, hidden in zip(logits.split(limits.logits), final.split(limits.logits), strict=True):
        some[:] = model.readout.logits(hidden)
    return logits


class _Seen(NamedTuple):
    """What `Trace` has of some items.

    Attributes:
        blocks: one entry for each of the model's blocks, in order.
        embedding: [P, d], layer 0's input.
        final: [P, d], input of the final norm.
    """

    blocks: list[BlockTrace]
    embedding: Tensor
    final: Tensor


@contextmanager
def _recorded(model: Model, batch: Batch, by_position: bool, routers: bool) -> Iterator[Recording]:
    with record(model, batch, routers=routers) as recording, ExitStack() as stack:
        if by_position:
            recording.resolves = True
            stack.enter_context(listening(model.module, recording.hear_attention))
        yield recording


def _seen(model: Model, recording: Recording, all_experts: bool) -> _Seen:
    blocks = list(_block_traces(model, recording, all_experts))
    embedding = _on_its_way(recording.inputs["layer 0"], model.blocks[0])
    return _Seen(blocks, embedding, recording.inputs["final"])


def _on_its_way(states: Tensor, block: Block) -> Tensor:
    """What enters a block's layer, [P, d], as it is when it reaches the final norm: later layers may scale it."""
    return states if block.stream == 1.0 else states * block.stream


def _block_traces(model: Model, recording: Recording, all_experts: bool) -> Iterator[BlockTrace]:
    layer = -1
    for block in model.blocks:
        if block.layer != layer:
            layer = block.layer
            base = entering = _on_its_way(recording.inputs[f"layer {layer}"], block)
        written = _written(block, recording)
        if block.kind == "ffn" and not model.parallel:
            base = entering  # with what attention and mixers wrote; these two read the layer's input, both of them
        elif block.kind != "ffn":
            entering = entering + written
        scale = None
        if block.post_norm is not None:
            scale = block.post_norm.scale(recording.inputs[f"{block.name} post-norm"])
        writers = tuple(_writer_trace(block, writer, recording, all_experts) for writer in block.writers)
        yield BlockTrace(base, written, scale, writers)


def _written(block: Block, recording: Recording) -> Tensor:
    if not block.by_projection or block.post_norm is not None:
        return recording.outputs[block.name] * block.multiplier
    parts = []
    for name, writer in ((writer_name(block, writer), writer) for writer in block.writers):
        written = recording.outputs[f"{name} output"] * writer.multiplier
        parts.append(written if writer.gate is None else torch.sigmoid(recording.outputs[f"{name} gate"]) * written)
    return torch.stack(parts).sum(dim=0) * block.multiplier


def _writer_trace(block: Block, writer: Writer, recording: Recording, all_experts: bool) -> WriterTrace:
    name = writer_name(block, writer)
    coefficients = recording.inputs[name]
    if writer.kind == "routed":
        experts, gates = recording.routing[name]
        found = expert_coefficients(writer.module, coefficients, experts, gates)
        traced = WriterTrace(found, _multiplied(gates.to(found.dtype), writer), experts)
        if not all_experts:
            return traced
        every = torch.arange(writer.n_experts, device=experts.device).expand(len(experts), -1)
        full = writer.full_gates(recording.outputs[f"{name} router"]).to(found.dtype)
        whole = expert_coefficients(writer.module, coefficients, every, full)
        return replace(traced, all_coefficients=whole, all_gates=_multiplied(full, writer))
    if writer.gate is not None:
        return WriterTrace(coefficients, torch.sigmoid(recording.outputs[f"{name} gate"]).squeeze(-1))
    by_position = recording.by_position.get(block.module)
    if recording.resolves and writer.kind == "attention":
        _refuse_unresolved(block, by_position, coefficients)
    return WriterTrace(coefficients, by_position=by_position)


def _refuse_unresolved(block: Block, by_position: Tensor | None, coefficients: Tensor) -> None:
    """Refuse source positions that do not add up to what the output projection is given."""
    if by_position is not None and by_position.shape[-1] == coefficients.shape[-1]:
        error = (by_position.sum(dim=1) - coefficients).abs().max()
        if bool(error <= ADDS_UP * coefficients.abs().max()):
            return
    raise ModelError(
        f"what the output projection of {block.name} is given is not seen as values weighted by attention "
        f"({type(block.module).__name__} gates, normalises or mixes them, or computes them by itself), so it cannot be "
        "resolved by position; use positions='summed'"
    )


def _multiplied(gates: Tensor, writer: Writer) -> Tensor:
    return gates if writer.multiplier == 1.0 else gates * writer.multiplier
