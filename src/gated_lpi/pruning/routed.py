"""What experts do on the tokens that are routed to them: how many these are, and how much is written.

- `frequency` of expert e: the share of the tokens that are routed to it.
- `reap` (Router-weighted Expert Activation Pruning, Lasby et al., arXiv 2510.13999, eq. 9): with X_e the tokens routed
  to it, g the router's final gate and f the expert's output,

      S(e) = 1/|X_e| · Σ_{x in X_e} g_e(x) · ‖f_e(x)‖₂,

  0 for an expert that none is routed to.

Every position of every sequence counts. Gates are those of the forward pass: normalised where the family normalises
them. A scale of all of them and a post-norm of the block are the same for all experts of a layer, and left as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gated_lpi.models import Model, Writer
from gated_lpi.trace import Batch, expert_coefficients, forward_passes, pad, pad_id, run
from gated_lpi.trace.batches import Prompts

Floats = NDArray[np.float64]


class RoutedTokens(NamedTuple):
    """What was seen of the E experts of each of L layers.

    Attributes:
        n_tokens: tokens in all.
        counts: [L, E], how many of them were routed to each expert.
        written: [L, E], sums over these of gate · ‖output‖₂.
    """

    n_tokens: int
    counts: Floats
    written: Floats

    @property
    def frequency(self) -> Floats:
        """[L, E], the share of the tokens routed to each expert."""
        return self.counts / self.n_tokens

    @property
    def reap(self) -> Floats:
        """[L, E], the mean over the tokens routed to an expert of gate · ‖output‖₂; 0 where there is none."""
        return self.written / np.maximum(self.counts, 1.0)


@torch.no_grad()
def watch_experts(
    model: Model, sequences: Prompts, *, progress: Callable[[int, int], None] | None = None
) -> RoutedTokens:
    """Run the model over sequences and look at every token that an expert is given.

    Args:
        model: one with as many routed experts in each of its layers that have any.
        sequences: token ids; every position counts.
        progress: called with (sequences done, sequences in all).

    Raises:
        OptionError: there is no sequence, or one has no token.
    """
    seen = [_Experts(writer) for _, writer in model.routed()]
    every = [range(len(ids)) for ids in sequences]
    for some in forward_passes(sequences):
        batch = pad(sequences[some], every[some], pad_id=pad_id(model), device=model.device)
        with ExitStack() as hooks:
            for experts in seen:
                hooks.callback(experts.watch(batch).remove)
            run(model, batch)
        if progress is not None:
            progress(some.stop, len(sequences))
    return RoutedTokens(
        sum(map(len, every)), np.stack([one.counts for one in seen]), np.stack([one.written for one in seen])
    )


class _Experts:
    """The experts of one layer, while forward passes are made."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.counts = np.zeros(writer.n_experts)
        self.written = np.zeros(writer.n_experts)

    def watch(self, batch: Batch) -> RemovableHandle:
        """Look at the batch's items until the hook is removed."""

        def hook(module: nn.Module, args: tuple[Tensor, Tensor, Tensor]) -> None:
            self._look(module, *(batch.pick(one) for one in args))

        return self._writer.module.register_forward_pre_hook(hook)

    def _look(self, module: nn.Module, hidden: Tensor, experts: Tensor, gates: Tensor) -> None:
        bias = self._writer.bias_parameter
        for expert in experts.unique().tolist():
            tokens, slot = (experts == expert).nonzero(as_tuple=True)
            gate = gates[tokens, slot]
            one = torch.full((len(tokens), 1), expert, device=experts.device)
            coefficients = expert_coefficients(module, hidden[tokens], one, gate.unsqueeze(-1))
            output = coefficients[:, 0] @ self._writer.raw_values(expert)
            if bias is not None:
                output = output + bias[expert]
            self.counts[expert] += len(tokens)
            self.written[expert] += float((gate.double() * output.double().norm(dim=-1)).sum())
