"""A checkpoint's tensors under the names of a layout: prefixes off, what is no weight aside, layers and experts found.

Megatron keeps a layer's tensor under a name with the layer's number, or all layers' in one with the layer as first axis
and no number in the name; both are read. What was read is remembered, so that what no row asked for can be named.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from gated_lpi._common.entries import writable
from gated_lpi.errors import WeightsError
from gated_lpi.importing.layouts import EXPERT, LAYER, Layout
from gated_lpi.importing.metadata import Shape
from gated_lpi.importing.reading import Source

_KEPT = 2  # tensors that several rows take their parts of


class Naming:
    """A source as a layout names it.

    Attributes:
        aside: names that the layout says are no weights, objects among them.
    """

    def __init__(self, source: Source, layout: Layout) -> None:
        self._source = source
        aside = {name for name in source.shapes if layout.is_aside(name)}
        weights = [name for name in source.shapes if name not in aside]
        stripped = {name: name for name in weights}
        while prefix := layout.without_prefix(list(stripped.values())):
            stripped = {name: short.removeprefix(prefix) for name, short in stripped.items()}
        aside |= {name for name, short in stripped.items() if layout.is_aside(short)}
        self._names = {short: name for name, short in stripped.items() if name not in aside}
        self.aside = tuple(sorted(aside | set(source.objects)))
        self._used: set[tuple[str, int | None]] = set()
        self._read: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """All names of weights, without prefixes."""
        return tuple(self._names)

    def layers(self, pattern: str) -> tuple[int, ...]:
        """The layers that have a tensor."""
        numbers = self._numbers(pattern, LAYER)
        if numbers:
            return numbers
        merged = self._names.get(_merged(pattern))
        return () if merged is None else tuple(range(self._source.shapes[merged][0]))

    def shape(self, pattern: str) -> Shape | None:
        """The shape of a tensor, of the first layer that has it; None if there is none."""
        layers = self.layers(pattern) if LAYER in pattern else ()
        name = self._names.get(pattern.replace(LAYER, str(layers[0])) if layers else pattern)
        if name is not None:
            return self._source.shapes[name]
        merged = self._names.get(_merged(pattern))
        return None if merged is None else self._source.shapes[merged][1:]

    def take(self, patterns: Sequence[str], layer: int | None) -> Tensor | None:
        """The first of several tensors that is there, with experts stacked; None if none is.

        Raises:
            WeightsError: it cannot be read, or some experts are missing.
        """
        for pattern in patterns:
            own = pattern if layer is None else pattern.replace(LAYER, str(layer))
            if EXPERT in own:
                experts = self._numbers(own, EXPERT)
                if experts and experts != tuple(range(len(experts))):
                    raise WeightsError(
                        f"of {writable(own)} there are {len(experts)}, up to {experts[-1]}: some are missing, add "
                        "their files"
                    )
                if experts:
                    return torch.stack([self._one(own.replace(EXPERT, str(e)), None) for e in experts])
            elif own in self._names:
                return self._one(own, None)
            elif layer is not None and _merged(pattern) in self._names:
                return self._one(_merged(pattern), layer)
        return None

    def left(self) -> tuple[str, ...]:
        """Names of weights, or of their layers, that were never taken."""
        wanted = {short: {at for name, at in self._used if name == short} for short in self._names}
        return tuple(
            short
            for short, taken in wanted.items()
            if None not in taken and len(taken) < (self._source.shapes[self._names[short]] or (1,))[0]
        )

    def _one(self, short: str, layer: int | None) -> Tensor:
        name = self._names[short]
        self._used.add((short, layer))
        if name not in self._read:
            self._read[name] = self._source.read(name)
            while len(self._read) > _KEPT:
                self._read.popitem(last=False)
        whole = self._read[name]
        return whole if layer is None else whole[layer]

    def _numbers(self, pattern: str, mark: str) -> tuple[int, ...]:
        start, _, end = pattern.partition(mark)
        found = re.compile(re.escape(start) + r"(\d{1,6})" + re.escape(end), re.ASCII)
        return tuple(sorted(int(match[1]) for name in self._names if (match := found.fullmatch(name))))


def _merged(pattern: str) -> str:
    """The name of a tensor that holds all layers: without the layer's number."""
    return pattern.replace(f"{LAYER}.", "")
