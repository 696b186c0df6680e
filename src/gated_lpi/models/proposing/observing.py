"""What every module of a transformers model is given and returns in a forward pass, for whoever reads its structure.

Copies are kept, since some models change activations in place; on the CPU, since some are spread over devices. Hooks
are gone when a pass ends, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Change = Callable[[nn.Module, tuple[Any, ...], Any], Any]
"""A forward hook: what a module returns, changed."""


class Call(NamedTuple):
    """One call of a module.

    Attributes:
        ended: the how-manieth call of any module to end this was.
        given: its tensors, in their order: positional ones, then named ones.
        returned: the tensors that it returned.
    """

    ended: int
    given: tuple[Tensor, ...]
    returned: tuple[Tensor, ...]

    @property
    def entering(self) -> Tensor:
        """What the module was given first."""
        return self.given[0]

    @property
    def leaving(self) -> Tensor:
        """What the module returned first."""
        return self.returned[0]


class Observation:
    """One forward pass.

    Attributes:
        ran: names of the modules that were called, whatever they returned.
        logits: [B, S, V].
    """

    def __init__(self, calls: Mapping[str, list[Call]], ran: set[str], logits: Tensor) -> None:
        self._calls = calls
        self.ran = ran
        self.logits = logits

    def calls(self, name: str) -> list[Call]:
        """The calls of a module with tensors in and out, first to last; empty if it was never called."""
        return self._calls.get(name, [])

    def called(self, name: str) -> Call | None:
        """The one call of a module; None if it was called never or more than once."""
        calls = self.calls(name)
        return calls[0] if len(calls) == 1 else None

    def within(self, path: str) -> Iterator[tuple[str, Call]]:
        """Modules inside `path` (itself included) that were called once, in the order in which their calls ended."""
        found = [(name, calls[0]) for name, calls in self._calls.items() if len(calls) == 1 and _inside(name, path)]
        yield from sorted(found, key=lambda one: one[1].ended)


def observe(module: PreTrainedModel, ids: Tensor, changes: Mapping[str, Change] | None = None) -> Observation:
    """Run a model over token ids [B, S] and keep what every module was given and returned.

    Args:
        module: the model, in evaluation mode.
        ids: token ids.
        changes: for names of modules, a hook that changes what it returns.
    """
    calls: dict[str, list[Call]] = {}
    open_calls: dict[str, list[tuple[Tensor, ...]]] = {}
    ran: set[str] = set()
    ended = 0

    def before(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            open_calls.setdefault(name, []).append(_tensors((*args, *_stream_first(kwargs))))

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            nonlocal ended
            ran.add(name)
            given, returned = (
                open_calls[name].pop(),
                _tensors(output if isinstance(output, tuple | list) else (output,)),
            )
            if given and returned:
                calls.setdefault(name, []).append(Call(ended, given, returned))
                ended += 1

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, change in (changes or {}).items():
            hooks.callback(module.get_submodule(name).register_forward_hook(change).remove)
        for name, part in module.named_modules():
            if name:
                hooks.callback(part.register_forward_pre_hook(before(name), with_kwargs=True).remove)
                hooks.callback(part.register_forward_hook(after(name)).remove)
        logits = module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return Observation(calls, ran, logits.detach().to("cpu", copy=True))


def _inside(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _stream_first(kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """The arguments given by name, the residual stream before others."""
    if "hidden_states" in kwargs:
        yield kwargs["hidden_states"]
    yield from (value for name, value in kwargs.items() if name != "hidden_states")


def _tensors(values: Iterable[Any]) -> tuple[Tensor, ...]:
    return tuple(value.detach().to("cpu", copy=True) for value in values if isinstance(value, Tensor))
