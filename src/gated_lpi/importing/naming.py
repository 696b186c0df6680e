"""A checkpoint's tensors under the names of a layout: prefixes off, what is no weight aside, layers and experts found.

Megatron keeps a layer's tensor under a name with the layer's number, or all layers' in one with the layer as first axis
and no number in the name; both are read. What was read is remembered, so that what no row asked for can be named.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence

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

    Args:
        source: the checkpoint.
        layout: how its framework names tensors.
        own: for a layout whose names are the model's own: those of the model.

    Attributes:
        aside: names that the layout says are no weights, objects among them.

    Raises:
        WeightsError: what would do nothing if it were 0 is not 0.
    """

    def __init__(self, source: Source, layout: Layout, own: Collection[str] = ()) -> None:
        self._source, self._layout = source, layout
        aside = {name for name in source.shapes if layout.is_aside(name)}
        weights = [name for name in source.shapes if name not in aside]
        stripped = _stripped(weights, layout, own)
        for name, short in stripped.items():
            if layout.does_nothing(short):
                _refuse_values(source, name, short, layout)
                aside.add(name)
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
        return () if _merged(pattern) not in self._names else tuple(range(self._merged_layers(pattern)))

    def _merged_layers(self, pattern: str) -> int:
        """How many layers a tensor holds that holds all of them.

        Raises:
            WeightsError: it holds some of them.
        """
        name = _merged(pattern)
        shape = self._source.shapes[self._names[name]]
        held = shape[0] if shape else 0
        total = held if pattern == self._layout.layer else len(self.layers(self._layout.layer))
        if held != total:
            raise WeightsError(
                f"{writable(name)}, of shape {list(shape)}, holds {held} layers in one tensor, and the model has "
                f"{total}: which of them these are, no name says. Write the checkpoint with a tensor for each layer, "
                f"such as {writable(pattern.replace(LAYER, str(total - 1)))}"
            )
        return held

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
                    return _stacked(own, [self._one(own.replace(EXPERT, str(e)), None) for e in experts])
            elif own in self._names:
                return self._one(own, None)
            elif layer is not None and _merged(pattern) in self._names:
                self._merged_layers(pattern)
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


def _stacked(pattern: str, experts: list[Tensor]) -> Tensor:
    """Experts [n, m] as one tensor [E, n, m]; they must be alike."""
    if len({(one.shape, one.dtype) for one in experts}) > 1:
        shapes = sorted({f"{list(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in experts})
        raise WeightsError(
            f"the experts {writable(pattern)} are of {len(shapes)} forms ({', '.join(shapes[:3])}), expected are "
            "experts of one: the checkpoint is of another kind of model, or damaged; download it again"
        )
    return torch.stack(experts)


def _stripped(names: Sequence[str], layout: Layout, own: Collection[str]) -> dict[str, str]:
    """Names without what a framework puts before all of them; of the model's `own` as many as can be."""
    if own:
        votes = Counter(start for name in names for start, rest in _cuts(name) if rest in own)
        prefix = max(votes, key=lambda start: votes[start], default="")
        return {name: name.removeprefix(prefix) for name in names}
    found = {name: name for name in names}
    while prefix := layout.without_prefix(list(found.values())):
        found = {name: short.removeprefix(prefix) for name, short in found.items()}
    return found


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    """A name as what stands before, up to a dot, and the rest; the whole name first."""
    at = 0
    while at >= 0:
        yield name[:at], name[at:]
        at = name.find(".", at) + 1 or -1


def _refuse_values(source: Source, name: str, short: str, layout: Layout) -> None:
    if bool(source.read(name).float().any()):
        raise WeightsError(
            f"{writable(short)} is not 0, and models of the layout {layout.name} have no place for it: without it they "
            "would compute something else. Choose another layout, or a checkpoint that was trained without it"
        )


def _merged(pattern: str) -> str:
    """The name of a tensor that holds all layers: without the layer's number."""
    return pattern.replace(f"{LAYER}.", "")
