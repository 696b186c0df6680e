"""Gradient attribution of the same units, for comparison: activation × gradient, one backward pass a prompt.

The gradient of log p(target) with respect to the input of every output and down projection at the last position, times
that input: one number for every unit, from one forward and one backward pass. It is a first-order estimate of what
*removing* a unit does to the final output, layers in between included: not the same quantity as Gated-LPI, and without
a bound. Its cost is what is compared here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gated_lpi.facts import EncodedPrompt
from gated_lpi.models import Model


def gradient_scores(model: Model, prompt: EncodedPrompt) -> Tensor:
    """Activation × gradient of every attention and dense FFN unit of one prompt, [N]."""
    with _inputs(model) as inputs, torch.enable_grad():
        ids = torch.tensor([prompt.ids])
        hidden = model.module.get_input_embeddings()(ids).detach().requires_grad_()
        output = model.module.base_model(inputs_embeds=hidden, use_cache=False).last_hidden_state[0, -1]
        log_p = torch.log_softmax(output @ model.readout.weight.T, dim=-1)[prompt.target_id]
        gradients = torch.autograd.grad(log_p, inputs)
    return torch.cat([(x[0, -1] * g[0, -1]).detach() for x, g in zip(inputs, gradients, strict=True)])


@contextmanager
def _inputs(model: Model) -> Iterator[list[Tensor]]:
    """The inputs of all writers' projections, in the order of the blocks, filled by the forward pass."""
    inputs: list[Tensor] = []

    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs.append(arguments[0])

    handles = [writer.module.register_forward_pre_hook(hook) for block in model.blocks for writer in block.writers]
    frozen = [p for p in model.module.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield inputs
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for handle in handles:
            handle.remove()


def score_all(model: Model, prompts: Sequence[EncodedPrompt]) -> None:
    """One prompt after the other."""
    for prompt in prompts:
        gradient_scores(model, prompt)
