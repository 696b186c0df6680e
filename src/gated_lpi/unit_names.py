"""Names of units, heads and experts, and what they mean: "layer 2 expert 5 neuron 17", short "L2 E5 n17". No torch.

The order of units is that of `gated_lpi.models.units`, which lays the tables out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gated_lpi.errors import OptionError

Ints = NDArray[np.int64]

KINDS = ("ffn", "attention", "mixer")
"""Kinds of units, by the kind of block that they are of."""

KIND_NAMES = {"ffn": "FFN neurons", "attention": "attention neurons", "mixer": "mixer neurons"}
"""What pages and messages call units of each kind."""

BLOCK_NAMES = {"ffn": "FFN", "attention": "attention", "mixer": "mixer"}
"""What they call blocks."""

_PART = re.compile(
    r"(?P<what>layer|l|shared expert|shared|s|expert|e|head|h|neuron|n|ffn|attention|attn|mixer)\s*"
    r"(?P<number>\d+)?[\s,]*",
    re.I,
)
_LETTERS = {"layer": "L", "head": "H", "expert": "E", "neuron": "n"}
_MEANING = {
    "l": "layer",
    "s": "shared",
    "shared expert": "shared",
    "e": "expert",
    "h": "head",
    "n": "neuron",
    "attn": "attention",
}
_WITHOUT_NUMBER = frozenset(("shared", *KINDS))
NAMES = (
    '"layer 2 expert 5 neuron 17", short "L2 E5 n17", "L2 shared n4", "L2 n17" (dense FFN), "L3 head 2", "L3 H2 n4", '
    '"L3 mixer H2 n4"'
)


@dataclass(frozen=True)
class UnitTable:
    """Coordinates of every unit of a model: arrays of length N.

    Attributes:
        layer: the unit's layer.
        block: "attention", "mixer" or "ffn".
        expert: routed expert, −1 for dense FFN, shared experts, attention and mixers.
        shared: True for a shared expert's units.
        head: head of the attention or of the mixer, −1 for FFN units and mixers without heads.
        neuron: index within the expert, the FFN, the head or the mixer without heads.
    """

    layer: Ints
    block: NDArray[np.str_]
    expert: Ints
    shared: NDArray[np.bool_]
    head: Ints
    neuron: Ints

    def __len__(self) -> int:
        return len(self.layer)

    def label(self, unit: int) -> str:
        """A unit's name, such as "layer 2 expert 5 neuron 17".

        Raises:
            OptionError: there is no such unit.
        """
        if not 0 <= unit < len(self):
            raise OptionError(f"unit {unit} was given; this model's units are 0 to {len(self) - 1}: give one of these")
        parts = [f"layer {self.layer[unit]}"]
        if self.block[unit] == "mixer":
            parts.append("mixer")
        if self.head[unit] >= 0:
            parts.append(f"head {self.head[unit]}")
        if self.expert[unit] >= 0:
            parts.append(f"expert {self.expert[unit]}")
        if self.shared[unit]:
            parts.append("shared expert")
        return " ".join([*parts, f"neuron {self.neuron[unit]}"])

    def short(self, unit: int) -> str:
        """A unit's short name, such as "L2 E5 n17", which `find` takes too.

        Raises:
            OptionError: there is no such unit.
        """
        return short_name(self.label(unit))

    def find(self, name: str) -> Ints:
        """Indices, [n] ascending, of the unit that a name such as `label` gives means, or of all that it covers.

        Short forms are "L12 E37 n114", "L3 H2 n4", "L12 shared n5" (of a shared expert), "L3 n17" (of a dense FFN),
        "L3 mixer H2 n4" and, of a mixer without heads, "L3 mixer n17"; a name without a neuron, "L3 head 2", "L12 E37",
        "L3 ffn" or "L3 mixer", means every unit of it.

        Raises:
            OptionError: the name cannot be read, or there is no such unit.
        """
        parts = _parsed(name)
        if parts.keys() <= {"layer"}:
            raise _unreadable(name)
        found = self.layer == parts["layer"]
        for key, column in (("head", self.head), ("neuron", self.neuron)):
            if key in parts:
                found = found & (column == parts[key])
        if parts.keys() not in [{"layer", kind} for kind in KINDS]:
            found = found & (self.expert == parts.get("expert", -1)) & (self.shared == ("shared" in parts))
            found = found & ((self.head >= 0) == ("head" in parts)) & ((self.block == "mixer") == ("mixer" in parts))
        for kind in set(KINDS) & parts.keys():
            found = found & (self.block == kind)
        if not found.any():
            raise OptionError(
                f"{name!r} was given, and this model has no such unit: {self._there(parts['layer'])}; give "
                f"names such as {NAMES}"
            )
        return np.flatnonzero(found)

    def _there(self, layer: int) -> str:
        """What a layer has, for whoever named something that it has not."""
        here = self.layer == layer
        if not here.any():
            return f"its layers are 0 to {int(self.layer.max())}"
        parts = []
        mixer = self.block == "mixer"
        for what, column in (
            ("heads", np.where(mixer, -1, self.head)),
            ("mixer heads", np.where(mixer, self.head, -1)),
            ("experts", self.expert),
        ):
            if (column[here] >= 0).any():
                parts.append(f"{what} 0 to {int(column[here].max())}")
        for what, rows in (
            ("neurons of a head", here & (self.head >= 0) & ~mixer),
            ("neurons of a mixer head", here & (self.head >= 0) & mixer),
            ("neurons of the mixer", here & (self.head < 0) & mixer),
            ("neurons of an expert", here & (self.expert >= 0)),
            ("neurons of the shared expert", here & self.shared),
            ("neurons of the FFN", here & (self.block == "ffn") & (self.expert < 0) & ~self.shared),
        ):
            if rows.any():
                parts.append(f"{what} 0 to {int(self.neuron[rows].max())}")
        return f"layer {layer} has {', '.join(parts)}"

    def of_head(self, layer: int, head: int, block: str = "attention") -> Ints:
        """Indices, [n], of the units of a head of a layer's attention, or of its mixer."""
        return np.flatnonzero((self.layer == layer) & (self.head == head) & (self.block == block))


@dataclass(frozen=True)
class GroupTable:
    """Coordinates of heads, or of experts; `len()` is their number G.

    Attributes:
        layer: [G], the layer of each.
        block: [G], "attention", "mixer" or "ffn".
        index: [G], head or expert within the block; −1 for a shared expert.
    """

    layer: Ints
    block: NDArray[np.str_]
    index: Ints

    def __len__(self) -> int:
        return len(self.layer)

    def label(self, group: int) -> str:
        """The name of a head or expert, such as "layer 3 head 2"."""
        kind, index = str(self.block[group]), int(self.index[group])
        of_ffn = "shared expert" if index < 0 else f"expert {index}"
        part = of_ffn if kind == "ffn" else f"{'mixer ' if kind == 'mixer' else ''}head {index}"
        return f"layer {self.layer[group]} {part}"

    def find(self, name: str) -> int:
        """The index of the head or expert that a name means: "layer 3 head 2", "L3 H2", "L12 E37", "L12 shared".

        A mixer's head is "layer 3 mixer head 2", short "L3 mixer H2".

        Raises:
            OptionError: the name cannot be read, or there is no such head or expert.
        """
        parts = _parsed(name)
        what = parts.keys() - {"layer", "mixer"}
        if len(what) != 1 or not what <= {"head", "expert", "shared"} or ("mixer" in parts and "head" not in parts):
            raise _unreadable(name)
        index = -1 if "shared" in parts else parts[what.pop()]
        of_kind = (self.block == "mixer") == ("mixer" in parts)
        found = np.flatnonzero((self.layer == parts["layer"]) & (self.index == index) & of_kind)
        if not found.size:
            here = self.index[(self.layer == parts["layer"]) & of_kind]
            has = f"layer {parts['layer']} has {', '.join(map(str, here.tolist())) or 'none'}"
            raise OptionError(
                f"{name!r} was given, and there is no such one: {has}, and layers are 0 to "
                f"{int(self.layer.max(initial=-1))}; give one that is there"
            )
        return int(found[0])


def short_name(label: str) -> str:
    """The short form of a name as `UnitTable.label` gives it, or of a head's or expert's: "L2 E5 n17", "L3 H2"."""
    short: list[str] = []
    for word in label.replace("shared expert", "shared").split():
        if short and short[-1] in _LETTERS.values() and word.isdecimal():
            short[-1] += word
        else:
            short.append(_LETTERS.get(word, word))
    return " ".join(short)


def _parsed(name: str) -> dict[str, int]:
    """The parts of a name and their numbers, the layer among them; 0 for parts that have none."""
    parts: dict[str, int] = {}
    rest = name.strip()
    while rest:
        match = _PART.match(rest)
        if match is None:
            raise _unreadable(name)
        word = " ".join(match["what"].lower().split())
        what = _MEANING.get(word, word)
        if what in parts or (match["number"] is None) != (what in _WITHOUT_NUMBER):
            raise _unreadable(name)
        parts[what] = int(match["number"] or 0)
        rest = rest[match.end() :]
    if "layer" not in parts:
        raise _unreadable(name)
    return parts


def _unreadable(name: str) -> OptionError:
    return OptionError(f"{name!r} was given, and is no name of units or of a head or expert; give one such as {NAMES}")
