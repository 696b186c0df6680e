"""Frozen routers: forward passes of one checkpoint with the routing of another.

1. `record_routing` keeps, for each prompt and layer, which experts every token is sent to, with what gates and logits.
2. `replayed` gives these to another checkpoint on the same prompts, at every position, whatever its own routers say.
3. `transplanted` lets the routers of another checkpoint decide, on this one's hidden states.

Both replace what a router returns, which is all that the experts know of it. Which prompts a batch holds is seen by
their token ids where they go in: a row is a recorded prompt and, after it, padding, which keeps its own routing and is
seen by no position before it. So it works under every caller that runs whole forward passes, gradients included; the
gates that are replayed are constants to them.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from gated_lpi.errors import ModelError, OptionError
from gated_lpi.models import Model
from gated_lpi.trace import USUAL, LayerRouting, Limits, pad_id, running_batch, trace_routing

Ids = tuple[int, ...]
RouterOutput = tuple[Tensor, Tensor, Tensor]  # logits [T, E], gates [T, k], experts [T, k]


@dataclass(frozen=True)
class RecordedRouting:
    """What a model's routers did with some prompts, at every position.

    Attributes:
        layers: [L], the layers that have routed experts.
        n_experts: [L], how many each of them has.
        experts_per_token: k, how many of them a token is sent to.
        prompts: by token ids, for each of the layers, experts and gates [S, k] and the router's logits [S, E].
    """

    layers: tuple[int, ...]
    n_experts: tuple[int, ...]
    experts_per_token: int
    prompts: Mapping[Ids, tuple[LayerRouting, ...]]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """The different lengths of the prompts, longest first."""
        return tuple(sorted({len(ids) for ids in self.prompts}, reverse=True))

    def find(self, row: Sequence[int], padding: int) -> Ids | None:
        """The longest recorded prompt that a row of a batch holds with nothing but padding after it; None if none."""
        for length in self.lengths:
            ids = tuple(row[:length])
            if ids in self.prompts and all(token == padding for token in row[length:]):
                return ids
        return None


def record_routing(model: Model, prompts: Sequence[Sequence[int]], *, limits: Limits = USUAL) -> RecordedRouting:
    """Run the model over prompts and keep what its routers do, for `replayed`.

    Args:
        model: from `load_model` or `wrap_model`.
        prompts: token ids; repeats are kept once.
        limits: what is worked on at a time.

    Raises:
        OptionError: the model has no routed experts; or there is no prompt, or one has no token.
    """
    layers, n_experts = _experts_of(model, "its routing cannot be recorded")
    different = list(dict.fromkeys(tuple(map(int, ids)) for ids in prompts))
    found = dict(zip(different, trace_routing(model, different, limits=limits), strict=True))
    return RecordedRouting(layers, n_experts, model.experts_per_token, found)


@contextmanager
def replayed(model: Model, recorded: RecordedRouting) -> Iterator[None]:
    """Route the recorded prompts as recorded in whole forward passes inside the `with` block.

    A forward pass over another prompt, or one that begins behind the embeddings, is an error.

    Args:
        model: from `load_model` or `wrap_model`.
        recorded: from `record_routing`, of this model or another with as many experts in the same layers.

    Raises:
        OptionError: the model has no routed experts, or other ones; and, in a forward pass, a prompt that was not
            recorded.
        ModelError: in a forward pass, the model is not given token ids.
    """
    _refuse_other_experts(
        model, recorded.layers, recorded.n_experts, recorded.experts_per_token, "the recorded routing"
    )
    replay = _Replay(recorded, pad_id(model))
    base = model.module.base_model
    with ExitStack() as hooks:
        hooks.callback(base.register_forward_pre_hook(replay.enter, with_kwargs=True).remove)
        hooks.callback(base.register_forward_hook(replay.leave, always_call=True).remove)
        for layer, router in enumerate(_routers(model)):
            hooks.callback(router.register_forward_hook(partial(replay.choose, layer)).remove)
        yield


@contextmanager
def transplanted(model: Model, other: Model) -> Iterator[None]:
    """Let the routers of another checkpoint choose, on this model's hidden states, inside the `with` block.

    Args:
        model: from `load_model` or `wrap_model`.
        other: whose routers, weights and rule, decide.

    Raises:
        OptionError: one of them has no routed experts, or they differ in experts, layers or width.
    """
    layers, n_experts = _experts_of(other, "its routers cannot be transplanted")
    _refuse_other_experts(model, layers, n_experts, other.experts_per_token, "the other model")
    mine, theirs = (one.readout.weight.shape[1] for one in (model, other))
    if mine != theirs:
        raise OptionError(
            f"the other model's residual stream has {theirs} numbers and this one's {mine}, so its routers cannot read "
            "it; give a checkpoint of the same model"
        )
    with ExitStack() as hooks:
        for router, foreign in zip(_routers(model), _routers(other), strict=True):
            hooks.callback(router.register_forward_hook(partial(_ask, foreign)).remove)
        yield


class _Batch(NamedTuple):
    """The prompts of a batch that is run: its shape [B, S], its prompts, and the places of their tokens in B·S."""

    shape: tuple[int, int]
    prompts: tuple[tuple[LayerRouting, ...], ...]
    places: Tensor


class _Replay:
    """The routing that is replayed, and the batch that is being run."""

    def __init__(self, recorded: RecordedRouting, padding: int) -> None:
        self._recorded = recorded
        self._padding = padding
        self._batch: _Batch | None = None
        self._ids: Tensor | None = None

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See which prompts go in."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise ModelError(
                "the model was run on embeddings while routing is replayed, which is found by token ids; give input_ids"
            )
        self._see(ids)

    def _see(self, ids: Tensor) -> None:
        rows = ids.tolist()
        prompts = [self._found(row) for row in rows]
        width = ids.shape[1]
        places = [row * width + position for row, ids in enumerate(prompts) for position in range(len(ids))]
        routing = tuple(self._recorded.prompts[prompt] for prompt in prompts)
        self._batch, self._ids = _Batch((len(rows), width), routing, torch.tensor(places)), ids

    def leave(self, *_: object) -> None:
        """Forget the prompts: what comes after the forward pass is none of theirs."""
        self._batch = self._ids = None

    def choose(self, layer: int, _: nn.Module, __: Any, output: RouterOutput) -> RouterOutput:
        """What was recorded, at the prompts' positions, in place of what a router returns."""
        logits, gates, experts = output
        running = running_batch()
        if running is not None and running.ids is not self._ids:  # a pass that is taken up again, past the embeddings
            self._see(running.ids)
        if self._batch is None or self._batch.shape[0] * self._batch.shape[1] != len(logits):
            raise ModelError(
                "experts were run outside a forward pass over token ids while routing is replayed, so their prompt "
                "is not known; run the whole model"
            )
        seen = [prompt[layer] for prompt in self._batch.prompts]
        return (
            self._placed(logits, [one.logits for one in seen]),
            self._placed(gates, [one.gates for one in seen]),
            self._placed(experts, [one.experts for one in seen]),
        )

    def _placed(self, own: Tensor, recorded: Sequence[Tensor]) -> Tensor:
        assert self._batch is not None
        return own.index_copy(0, self._batch.places.to(own.device), torch.cat(list(recorded)).to(own))

    def _found(self, row: Sequence[int]) -> Ids:
        found = self._recorded.find(row, self._padding)
        if found is None:
            raise OptionError(
                f"the prompt of token ids {reprlib.repr(list(row))} (padding included) is run while routing is "
                f"replayed, and was not recorded; recorded are {len(self._recorded.prompts)} prompts: give it to "
                "record_routing too"
            )
        return found


def _ask(foreign: nn.Module, _: nn.Module, args: tuple[Tensor, ...], output: RouterOutput) -> RouterOutput:
    """What another router makes of the same hidden states; past its hooks, which may be this one."""
    weight = cast(Tensor, foreign.weight)
    found = foreign.forward(args[0].to(weight))
    logits, gates, experts = (theirs.to(own) for theirs, own in zip(found, output, strict=True))
    return logits, gates, experts


def _routers(model: Model) -> list[nn.Module]:
    return [cast(nn.Module, writer.router) for _, writer in model.routed()]


def _experts_of(model: Model, consequence: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Layers with routed experts, and how many each has."""
    routed = list(model.routed())
    if not routed:
        raise OptionError(
            f"this {model.family.name} model has no routed experts, so {consequence}; give a mixture-of-experts model"
        )
    return tuple(block.layer for block, _ in routed), tuple(writer.n_experts for _, writer in routed)


def _refuse_other_experts(
    model: Model, layers: tuple[int, ...], n_experts: tuple[int, ...], k: int, source: str
) -> None:
    mine = _experts_of(model, "its routing cannot be held")
    if (*mine, model.experts_per_token) == (layers, n_experts, k):
        return
    given, expected = (
        f"{chosen} of {'/'.join(map(str, sorted(set(experts))))} experts in layers {', '.join(map(str, there))}"
        for there, experts, chosen in ((layers, n_experts, k), (*mine, model.experts_per_token))
    )
    raise OptionError(
        f"{source} has {given}, and this model {expected}; routing can be taken over from a checkpoint with as many "
        "experts in the same layers"
    )
