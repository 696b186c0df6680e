"""Silencing units while the model runs, by hooks: the weights are never changed.

- A unit of attention, of a dense FFN or of a shared expert is a coordinate of its projection's input: it is given
  another value, in a copy.
- A unit of a routed expert is inside the fused experts: what it adds, gate · coefficient · value, is taken off
  their output; what the other value would add is put there.

The other value is 0, the unit's mean over reference tokens, or the coefficient that it had on one of them. Which token
that is depends on the seed and on the tokens up to the position, so a prompt gets the same draws alone and in a batch;
units of one expert, of one FFN or of one attention get theirs from the same token, as they occur together.

Units are silenced at every position, so that later layers see the change as well, or only where the model is read. In
post-norm families the norm acts on what is left, as it would if the column were zero; that differs from subtracting the
unit's scaled contribution.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gated_lpi.errors import OptionError
from gated_lpi.interventions.reference import Reference
from gated_lpi.models import Model, Writer
from gated_lpi.options import At, How
from gated_lpi.trace import expert_coefficients, running_batch

UnitIndices = NDArray[np.int64]


@contextmanager
def silenced(
    model: Model,
    units: UnitIndices,
    how: How = "zero",
    reference: Reference | None = None,
    at: At = "all",
    *,
    seed: int = 0,
) -> Iterator[None]:
    """Silence units inside the `with` block.

    Args:
        model: the model.
        units: [n], indices on the model's unit axis (`model.units`); repeats count once.
        how: what their coefficients become: "zero", their "mean" over the reference, or "resample", what they were on
            one of its tokens. An expert's unit that no token of the reference was routed to becomes 0.
        reference: of these units or more, as `record_coefficients` makes it; for "mean" and "resample".
        at: "all" positions, or "last": those where the model is read (the last of each prompt, unless others are asked
            for), in forward passes of `target_ranks`, `last_logits`, `trace` and what is built on them.
        seed: of the draws of "resample".

    Raises:
        OptionError: an index is not on the axis; `how` or `at` is none of these; the reference is missing or lacks a
            unit; or, inside the block, "last" in a forward pass that the toolkit did not make.
    """
    for name, value, allowed in (("how", how, get_args(How)), ("at", at, get_args(At))):
        if value not in allowed:
            raise OptionError(f"{name}={value!r} was given; expected one of {', '.join(map(repr, allowed))}")
    seen = _Pass(at)
    with ExitStack() as hooks:
        parts = list(model.by_writer(units))
        if how == "resample":
            root = model.module.base_model
            hooks.callback(root.register_forward_pre_hook(seen.begin, with_kwargs=True).remove)
        for part in parts:
            others = _Others(how, reference, part.units, seen, seed)
            hook = _silence_routed if part.writer.kind == "routed" else _silence_input
            hooks.callback(hook(part.writer, torch.from_numpy(part.inside), others, seen).remove)
        yield


def head_units(model: Model, head: int) -> UnitIndices:
    """Indices, [n], of the units of the head at this index of `model.heads`."""
    return model.head_units(head)


class _Pass:
    """What is known of the tokens of the forward pass that is being made, B prompts of S positions, or of a part of it.

    The batch is that of the pass that runs (`running_batch`), or, where a pass does not say its own, the tokens that
    the model is given.
    """

    def __init__(self, at: At) -> None:
        self._at = at
        self._ids: Tensor | None = None
        self._keys: tuple[Tensor, NDArray[np.uint64]] | None = None

    def begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at the tokens, before any layer runs."""
        self._ids = args[0] if args else kwargs["input_ids"]

    @property
    def items(self) -> Tensor | None:
        """Indices within B·S, [n], of the tokens at which units are silenced; None for all.

        Raises:
            OptionError: the pass does not say where its prompts end.
        """
        if self._at == "all":
            return None
        batch = running_batch()
        if batch is None:
            raise OptionError(
                'at="last" was given, and a forward pass does not say where its prompts end; make it by '
                "gated_lpi.trace.last_logits or trace, or by gated_lpi.ablation.target_ranks"
            )
        items: Tensor = (batch.rows * batch.ids.shape[1] + batch.positions).unique()
        return items

    @property
    def keys(self) -> NDArray[np.uint64]:
        """A number for each of the B·S tokens that depends on it and on those before it."""
        batch = running_batch()
        ids = self._ids if batch is None else batch.ids
        assert ids is not None  # a pass that is none of the toolkit's began at the model's front
        if self._keys is None or self._keys[0] is not ids:
            self._keys = ids, _prefix_keys(ids)
        return self._keys[1]


def _prefix_keys(ids: Tensor) -> NDArray[np.uint64]:
    """A number for each of B·S tokens, the same for the same tokens up to it."""
    columns = ids.cpu().numpy().astype(np.uint64).T
    key = np.full(columns.shape[1], 0xCBF29CE484222325, dtype=np.uint64)
    keys = []
    for column in columns:
        key = _mixed(key ^ column)
        keys.append(key)
    return np.stack(keys, axis=1).ravel()


def _mixed(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread the bits of numbers (the finaliser of SplitMix64: Steele et al., OOPSLA 2014)."""
    key = key + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


class _Others:
    """What the coefficients of some units of one writer become."""

    def __init__(self, how: How, reference: Reference | None, units: UnitIndices, seen: _Pass, seed: int) -> None:
        self._seen = seen
        self._seed = seed
        self._units = units
        self._samples = self._mean = None
        if how == "zero":
            return
        if reference is None:
            raise OptionError(
                f"how={how!r} was given without a reference; make one with record_coefficients(model, prompts, units)"
            )
        rows = reference.rows(units)
        if how == "mean":
            self._mean = torch.from_numpy(reference.mean[rows])
        else:
            self._samples, self._kept = torch.from_numpy(reference.samples[rows]), reference.kept[rows]

    @property
    def zero(self) -> bool:
        """Whether all of them become 0 everywhere."""
        return self._mean is None and self._samples is None

    def at(self, tokens: Tensor | None, chosen: slice | NDArray[np.int64], like: Tensor) -> Tensor:
        """The other values, [n, m] or what broadcasts to it.

        Args:
            tokens: [n], indices within B·S; None for all of them.
            chosen: the m units, an index of those that this is of; units of one expert, if the writer is routed.
            like: gives dtype and device.
        """
        if self._mean is not None:
            return self._mean[chosen].to(like)
        if self._samples is None:
            return like.new_zeros(1)
        samples = self._samples[chosen]
        first = int(self._units[chosen][0])
        kept = int(self._kept[chosen][0])
        if not kept:
            return like.new_zeros(1)
        keys = self._seen.keys if tokens is None else self._seen.keys[tokens.cpu().numpy()]
        salt = _mixed(np.array([first], dtype=np.uint64) ^ _mixed(np.array([self._seed], dtype=np.uint64)))
        draws = (_mixed(keys ^ salt) % np.uint64(kept)).astype(np.int64)
        return samples[:, draws].T.to(like)


def _silence_input(writer: Writer, units: Tensor, others: _Others, seen: _Pass) -> RemovableHandle:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given, inside = args[0], units.to(args[0].device)
        items = seen.items
        if others.zero and items is None:
            return (given.index_fill(-1, inside, 0.0), *args[1:])
        states = given.reshape(-1, given.shape[-1]).clone()
        if items is None:
            states[:, inside] = others.at(None, slice(None), states)
        else:
            tokens = items.to(given.device)
            states[tokens.unsqueeze(-1), inside] = others.at(tokens, slice(None), states)
        return (states.view_as(given), *args[1:])

    return writer.module.register_forward_pre_hook(hook)


def _silence_routed(writer: Writer, units: Tensor, others: _Others, seen: _Pass) -> RemovableHandle:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inside = units.to(output.device)
        return output - _routed_change(writer, module, inside, others, seen, *args).view_as(output)

    return writer.module.register_forward_hook(hook)


def _routed_change(
    writer: Writer,
    module: Any,
    units: Tensor,
    others: _Others,
    seen: _Pass,
    hidden: Tensor,
    experts: Tensor,
    gates: Tensor,
) -> Tensor:
    """What `units` (expert · width + neuron) add to the output of the experts less what they shall add: [T, d]."""
    total, items = torch.zeros_like(hidden), seen.items
    for expert in (units // writer.width).unique().tolist():
        here = (units // writer.width == expert).nonzero().squeeze(-1)
        neurons = units[here] % writer.width
        tokens, slot = (experts == expert).nonzero(as_tuple=True)
        if items is not None:
            wanted = torch.isin(tokens, items.to(tokens.device))
            tokens, slot = tokens[wanted], slot[wanted]
        if not len(tokens):
            continue
        one = torch.full((len(tokens), 1), expert, device=experts.device)
        gate = gates[tokens, slot].unsqueeze(-1)
        coefficients = expert_coefficients(module, hidden[tokens], one, gate)[:, 0, neurons]
        change = coefficients - others.at(tokens, here.cpu().numpy(), coefficients)
        values = writer.raw_values(expert)[neurons]
        total.index_add_(0, tokens, gate * (change @ values))
    return total
