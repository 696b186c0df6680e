"""What a model costs: parameters, memory, operations per token, and measured seconds of forward passes.

Operations are counted as 2 for each parameter that a token passes through: all but the token embeddings, which are
looked up, and the experts that it is not routed to. The products of attention scores with each other are left out: they
depend on the length of the text and not on experts.

**Removing experts does not make a token cheaper**: it is still sent to k of them. The router loses its removed rows,
and only if fewer than k are left does a token pass through fewer. What is saved for certain is memory. Whether seconds
are depends on the machine: in a batch, fewer and larger matrix products may be faster. So they are measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from gated_lpi.errors import OptionError
from gated_lpi.models import Model
from gated_lpi.trace import forward_passes, pad, pad_id
from gated_lpi.trace.batches import Prompts


class Cost(NamedTuple):
    """What a model costs.

    Attributes:
        parameters: in all.
        parameters_active: that one token passes through, embeddings included.
        memory: of all parameters, bytes.
        flops_per_token: floating-point operations of a forward pass, for a token.
    """

    parameters: int
    parameters_active: int
    memory: int
    flops_per_token: int


def cost_of(model: Model) -> Cost:
    """Count a model's parameters, their bytes, and the operations of a token."""
    embeddings = model.module.get_input_embeddings().weight
    tied = model.module.get_output_embeddings().weight is embeddings  # then used as the unembedding, too
    looked_up = 0 if tied else embeddings.numel()
    active = model.n_active_parameters
    memory = sum(parameter.numel() * parameter.element_size() for parameter in model.module.parameters())
    return Cost(model.n_parameters, active, memory, 2 * (active - looked_up))


@torch.no_grad()
def seconds_per_pass(
    models: Sequence[Model],
    sequences: Prompts,
    *,
    repeats: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Median seconds that each of some models takes to read all sequences, in batches.

    Models take turns, so that a machine that grows slower does so for all; the first turn of each does not count.

    Args:
        models: whose times are compared.
        sequences: token ids.
        repeats: turns that count.
        progress: called with (turns done, in all).

    Raises:
        OptionError: `repeats` below 1; there is no sequence, or one has no token.
    """
    if repeats < 1:
        raise OptionError(f"repeats={repeats} was given; expected a whole number of at least 1")
    times: list[list[float]] = [[] for _ in models]
    for turn in range(repeats + 1):
        for model, mine in zip(models, times, strict=True):
            mine.append(_seconds(model, sequences))
        if progress is not None:
            progress(turn + 1, repeats + 1)
    return [statistics.median(mine[1:]) for mine in times]


def _seconds(model: Model, sequences: Prompts) -> float:
    batches = [
        pad(sequences[some], pad_id=pad_id(model), device=model.device).arguments()
        for some in forward_passes(sequences)
    ]
    _wait(model)
    started = time.perf_counter()
    for batch in batches:
        model.module(**batch)
    _wait(model)
    return time.perf_counter() - started


def _wait(model: Model) -> None:
    """Until the device has done all that it was given."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
