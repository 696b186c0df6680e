"""What the coefficients of units are as a rule: their mean over reference tokens, and what they were on some of them.

1. The model runs over the reference prompts, and every token of them is looked at. A unit of a routed expert has a
   coefficient on the tokens that were routed to its expert, and on no others.
2. The mean is over all of them. Of what the coefficients were, a sample of tokens is kept: those with the least of the
   random numbers that each token was given. Units of one expert, FFN or attention have theirs from the same tokens, in
   the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gated_lpi.errors import OptionError
from gated_lpi.models import Model, Writer
from gated_lpi.trace import Batch, Limits, expert_coefficients, forward_passes, pad, pad_id, run
from gated_lpi.trace.batches import USUAL, Prompts

SAMPLES = 64


class Reference(NamedTuple):
    """Coefficients of n units over reference tokens.

    Attributes:
        units: [n], indices on the model's axis, ascending.
        tokens: [n], on how many tokens the unit had a coefficient; 0 for an expert that none was routed to.
        mean: [n], its mean over them; 0 where there are none.
        samples: [n, K], what it was on some of them; 0 beyond `kept`.
        kept: [n], how many of the K there are.
    """

    units: NDArray[np.int64]
    tokens: NDArray[np.int64]
    mean: NDArray[np.floating]
    samples: NDArray[np.floating]
    kept: NDArray[np.int64]

    def rows(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where units [m] stand in these arrays, [m].

        Raises:
            OptionError: one is not among them.
        """
        found = np.minimum(np.searchsorted(self.units, units), max(len(self.units) - 1, 0))
        missing = units[self.units[found] != units] if len(self.units) else units
        if missing.size:
            raise OptionError(
                f"unit {missing[0]} is silenced ({missing.size} of {units.size} alike), and the reference has "
                f"{len(self.units)} other units; make it with record_coefficients for all units that are silenced"
            )
        return found


@torch.no_grad()
def record_coefficients(
    model: Model,
    prompts: Prompts,
    units: ArrayLike | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    limits: Limits = USUAL,
) -> Reference:
    """Run the model over reference prompts and keep what the coefficients of units are.

    Args:
        model: the model.
        prompts: token ids; every position of every prompt counts.
        units: [n], indices on the model's axis. None: every unit.
        samples: on how many tokens coefficients are kept, at most.
        seed: of which tokens these are.
        limits: what is worked on at a time.

    Raises:
        OptionError: an index is not on the axis; there is no prompt, or one has no token; or `samples` below 1.
    """
    if samples < 1:
        raise OptionError(f"samples={samples} was given; expected a whole number of at least 1")
    every = [range(len(ids)) for ids in prompts]
    seen = [_WriterSeen(part.writer, part.start, part.inside, samples) for part in model.by_writer(units)]
    generator = torch.Generator().manual_seed(seed)
    for some in forward_passes(prompts, limits.tokens):
        batch = pad(prompts[some], every[some], pad_id=pad_id(model), device=model.device)
        order = torch.rand(len(batch.rows), generator=generator, dtype=torch.float64)
        with ExitStack() as hooks:
            for writer in seen:
                hooks.callback(writer.watch(batch, order).remove)
            run(model, batch)
    groups = [group for writer in seen for group in writer.groups]
    if not groups:
        nothing = np.empty(0, dtype=np.int64)
        return Reference(nothing, nothing, np.empty(0), np.empty((0, samples)), nothing)
    return Reference(
        units=np.concatenate([group.units for group in groups]),
        tokens=np.concatenate([np.full(len(group.units), group.tokens) for group in groups]),
        mean=np.concatenate([group.mean() for group in groups]),
        samples=np.concatenate([group.samples() for group in groups]),
        kept=np.concatenate([np.full(len(group.units), len(group.order)) for group in groups]),
    )


class _Group:
    """Units that have coefficients on the same tokens: those of one expert, or of one projection.

    Attributes:
        units: [n], indices on the model's axis.
        columns: [n], indices within the expert or the projection.
        tokens: on how many tokens they had coefficients so far.
        order: [≤ K], the random numbers of the tokens that are kept.
    """

    def __init__(self, units: NDArray[np.int64], columns: NDArray[np.int64], samples: int) -> None:
        self.units = units
        self.columns = torch.from_numpy(columns)
        self.tokens = 0
        self.order = torch.empty(0, dtype=torch.float64)
        self._room = samples
        self._total = torch.zeros(len(units), dtype=torch.float64)
        self._rows = torch.empty(0, len(units))

    def add(self, coefficients: Tensor, order: Tensor) -> None:
        """Take coefficients [T, n] on T tokens with these random numbers [T]."""
        coefficients = coefficients.cpu()
        self.tokens += len(coefficients)
        self._total += coefficients.sum(dim=0, dtype=torch.float64)
        both = torch.cat([self.order, order])
        least = both.argsort()[: self._room]
        self.order = both[least]
        self._rows = torch.cat([self._rows.to(coefficients.dtype), coefficients])[least]

    def mean(self) -> NDArray[np.floating]:
        """[n]."""
        found: NDArray[np.floating] = (self._total / max(self.tokens, 1)).numpy()
        return found

    def samples(self) -> NDArray[np.floating]:
        """[n, K], filled up with 0."""
        padded = self._rows.new_zeros(len(self.units), self._room)
        padded[:, : len(self._rows)] = self._rows.T
        found: NDArray[np.floating] = padded.numpy()
        return found


class _WriterSeen:
    """Some units of one writer, while forward passes are made."""

    def __init__(self, writer: Writer, start: int, inside: NDArray[np.int64], samples: int) -> None:
        self._writer = writer
        expert, column = np.divmod(inside, writer.width)
        self._experts = np.unique(expert).tolist()
        self.groups = [
            _Group(start + inside[expert == number], column[expert == number], samples) for number in self._experts
        ]

    def watch(self, batch: Batch, order: Tensor) -> RemovableHandle:
        """Take what the batch's items, with these random numbers [P], bring, until the hook is removed."""
        look = self._routed if self._writer.kind == "routed" else self._projected

        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            look(module, batch.pick, order, *args)

        return self._writer.module.register_forward_pre_hook(hook)

    def _projected(
        self, _: nn.Module, pick: Callable[[Tensor], Tensor], order: Tensor, states: Tensor, *__: Tensor
    ) -> None:
        (group,) = self.groups
        group.add(pick(states)[:, group.columns.to(states.device)], order)

    def _routed(
        self,
        module: nn.Module,
        pick: Callable[[Tensor], Tensor],
        order: Tensor,
        hidden: Tensor,
        experts: Tensor,
        gates: Tensor,
    ) -> None:
        hidden, experts, gates = pick(hidden), pick(experts), pick(gates)
        for number, group in zip(self._experts, self.groups, strict=True):
            tokens, slot = (experts == number).nonzero(as_tuple=True)
            if len(tokens):
                one = torch.full((len(tokens), 1), number, device=experts.device)
                coefficients = expert_coefficients(module, hidden[tokens], one, gates[tokens, slot].unsqueeze(-1))[:, 0]
                group.add(coefficients[:, group.columns.to(coefficients.device)], order[tokens.cpu()])
