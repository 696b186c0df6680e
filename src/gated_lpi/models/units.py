"""The axis of everything that gets a score: units, heads and experts of a model, in one fixed order.

Order of units: layer; within it attention, then FFN; within a block routed experts before shared ones, expert by
expert, neuron by neuron. Ties between scores are broken by this order. Nobody else counts along it: `UnitAxis` says
where a unit is, and which units a writer has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gated_lpi.errors import OptionError
from gated_lpi.models.blocks import Block, Writer

Ints = NDArray[np.int64]

_PART = re.compile(
    r"(?P<what>layer|l|shared expert|shared|s|expert|e|head|h|neuron|n|ffn|attention|attn)\s*(?P<number>\d+)?[\s,]*",
    re.I,
)
_MEANING = {
    "l": "layer",
    "s": "shared",
    "shared expert": "shared",
    "e": "expert",
    "h": "head",
    "n": "neuron",
    "attn": "attention",
}
_WITHOUT_NUMBER = frozenset(("shared", "ffn", "attention"))
NAMES = '"layer 2 expert 5 neuron 17", short "L2 E5 n17", "L2 shared n4", "L2 n17" (dense FFN), "L3 head 2", "L3 H2 n4"'


class Places(NamedTuple):
    """Where units are: arrays of the shape of what was asked for, single numbers for a single unit.

    Attributes:
        block: index in the model's `blocks`.
        writer: index in the block's `writers`.
        expert: which of the writer's value matrices, 0 unless it holds routed experts.
        column: the unit's row in `Block.values(writer, expert)`, its column in the projection.
    """

    block: Ints
    writer: Ints
    expert: Ints
    column: Ints


class WriterUnits(NamedTuple):
    """Some of the units of one writer, in ascending order, each once.

    Attributes:
        block: the block that the writer is of.
        writer: the writer.
        start: where the writer's first unit is on the model's axis.
        inside: [n], indices within the writer, expert · width + column.
    """

    block: Block
    writer: Writer
    start: int
    inside: Ints

    @property
    def units(self) -> Ints:
        """These units on the model's axis, [n]."""
        return self.start + self.inside


class UnitAxis:
    """The order in which the units of `blocks` stand after each other."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._writers = [(b, w) for b, block in enumerate(blocks) for w in range(len(block.writers))]
        self._starts = np.cumsum([0, *(blocks[b].writers[w].n_units for b, w in self._writers)], dtype=np.int64)
        self._widths = np.array([blocks[b].writers[w].width for b, w in self._writers], dtype=np.int64)
        self._of_blocks = np.cumsum([0, *(block.n_units for block in blocks)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, units: ArrayLike) -> Places:
        """Find the block, writer, expert and column of each of `units` [...]; their order and repeats are kept.

        Raises:
            OptionError: something is no index on the axis.
        """
        units = self._checked(units)
        row = np.searchsorted(self._starts, units, side="right") - 1
        block, writer = np.array(self._writers, dtype=np.int64)[row].T
        expert, column = np.divmod(units - self._starts[row], self._widths[row])
        return Places(block.T, writer.T, expert, column)

    def by_writer(self, units: ArrayLike | None = None) -> Iterator[WriterUnits]:
        """Sort units [n], each of which counts once, by writer; writers without any are left out. None: every unit.

        Raises:
            OptionError: something is no index on the axis.
        """
        units = np.arange(len(self)) if units is None else np.unique(self._checked(units))
        cuts = np.searchsorted(units, self._starts)
        for (b, w), start, first, end in zip(self._writers, self._starts, cuts, cuts[1:], strict=False):
            if first < end:
                yield WriterUnits(self._blocks[b], self._blocks[b].writers[w], int(start), units[first:end] - start)

    def of_block(self, index: int) -> slice:
        """The units of the block at this index of the model's `blocks`."""
        index = range(len(self._blocks))[index]
        return slice(int(self._of_blocks[index]), int(self._of_blocks[index + 1]))

    def _checked(self, units: ArrayLike) -> Ints:
        given = np.asarray(units)
        if given.size and given.dtype.kind not in "iu":
            raise OptionError(
                f"units of type {given.dtype} were given; expected indices, whole numbers from 0 to {len(self) - 1}"
            )
        outside = given[(given < 0) | (given >= len(self))]
        if outside.size:
            raise OptionError(
                f"unit {outside[0]} was given ({outside.size} of {given.size} are out of range); this model's units "
                f"are 0 to {len(self) - 1}"
            )
        return given.astype(np.int64)


@dataclass(frozen=True)
class UnitTable:
    """Coordinates of every unit of a model: arrays of length N.

    Attributes:
        layer: the unit's layer.
        block: "attention" or "ffn".
        expert: routed expert, −1 for dense FFN, shared experts and attention.
        shared: True for a shared expert's units.
        head: attention head, −1 for FFN units.
        neuron: index within the expert, the FFN or the head.
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
            raise OptionError(f"unit {unit} was given; this model's units are 0 to {len(self) - 1}")
        parts = [f"layer {self.layer[unit]}"]
        if self.head[unit] >= 0:
            parts.append(f"head {self.head[unit]}")
        if self.expert[unit] >= 0:
            parts.append(f"expert {self.expert[unit]}")
        if self.shared[unit]:
            parts.append("shared expert")
        return " ".join([*parts, f"neuron {self.neuron[unit]}"])

    def find(self, name: str) -> Ints:
        """Indices, [n] ascending, of the unit that a name such as `label` gives means, or of all that it covers.

        Short forms are "L12 E37 n114", "L3 H2 n4", "L12 shared n5" (of a shared expert), "L3 n17" (of a dense FFN); a
        name without a neuron, "L3 head 2", "L12 E37" or "L3 ffn", means every unit of it.

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
        if parts.keys() not in ({"layer", "ffn"}, {"layer", "attention"}):
            found = found & (self.expert == parts.get("expert", -1)) & (self.shared == ("shared" in parts))
            found = found & ((self.head >= 0) == ("head" in parts))
        for kind in {"ffn", "attention"} & parts.keys():
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
        for what, column in (("heads", self.head), ("experts", self.expert)):
            if (column[here] >= 0).any():
                parts.append(f"{what} 0 to {int(column[here].max())}")
        for what, rows in (
            ("neurons of a head", here & (self.head >= 0)),
            ("neurons of an expert", here & (self.expert >= 0)),
            ("neurons of the shared expert", here & self.shared),
            ("neurons of the FFN", here & (self.block == "ffn") & (self.expert < 0) & ~self.shared),
        ):
            if rows.any():
                parts.append(f"{what} 0 to {int(self.neuron[rows].max())}")
        return f"layer {layer} has {', '.join(parts)}"

    def of_head(self, layer: int, head: int) -> Ints:
        """Indices, [n], of the units of a layer's attention head."""
        return np.flatnonzero((self.layer == layer) & (self.head == head))


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


def unit_table(blocks: Sequence[Block]) -> UnitTable:
    """Lay out the units of `blocks`, in their order."""
    parts = [_writer_units(block, writer) for block in blocks for writer in block.writers]
    return UnitTable(
        layer=np.concatenate([part.layer for part in parts]),
        block=np.concatenate([part.block for part in parts]),
        expert=np.concatenate([part.expert for part in parts]),
        shared=np.concatenate([part.shared for part in parts]),
        head=np.concatenate([part.head for part in parts]),
        neuron=np.concatenate([part.neuron for part in parts]),
    )


def _writer_units(block: Block, writer: Writer) -> UnitTable:
    n = writer.n_units
    index = np.arange(n, dtype=np.int64)
    absent = np.full(n, -1, dtype=np.int64)
    head_width = writer.width // writer.n_heads if writer.n_heads else writer.width
    return UnitTable(
        layer=np.full(n, block.layer, dtype=np.int64),
        block=np.full(n, block.kind, dtype="<U9"),
        expert=index // writer.width if writer.kind == "routed" else absent,
        shared=np.full(n, writer.kind == "shared"),
        head=index // head_width if writer.n_heads else absent,
        neuron=index % head_width,
    )


@dataclass(frozen=True)
class GroupTable:
    """Coordinates of heads, or of experts; `len()` is their number G.

    Attributes:
        layer: [G], the layer of each.
        index: [G], head or expert within the layer; −1 for a shared expert.
    """

    layer: Ints
    index: Ints

    def __len__(self) -> int:
        return len(self.layer)

    def find(self, name: str) -> int:
        """The index of the head or expert that a name means: "layer 3 head 2", "L3 H2", "L12 E37", "L12 shared".

        Raises:
            OptionError: the name cannot be read, or there is no such head or expert.
        """
        parts = _parsed(name)
        what = parts.keys() - {"layer"}
        if len(what) != 1 or not what <= {"head", "expert", "shared"}:
            raise _unreadable(name)
        index = -1 if "shared" in parts else parts[what.pop()]
        found = np.flatnonzero((self.layer == parts["layer"]) & (self.index == index))
        if not found.size:
            here = self.index[self.layer == parts["layer"]]
            has = f"layer {parts['layer']} has {', '.join(map(str, here.tolist())) or 'none'}"
            raise OptionError(
                f"{name!r} was given, and there is no such one: {has}, and layers are 0 to "
                f"{int(self.layer.max(initial=-1))}; give one that is there"
            )
        return int(found[0])


def head_table(blocks: Sequence[Block]) -> GroupTable:
    """Attention heads in the order layer, head."""
    return _groups([(b.layer, range(w.n_heads)) for b in blocks for w in b.writers if w.kind == "attention"])


def expert_table(blocks: Sequence[Block]) -> GroupTable:
    """Experts in the order layer, routed experts, shared expert; empty for a dense model."""
    return _groups(
        [
            (b.layer, range(w.n_experts) if w.kind == "routed" else range(-1, 0))
            for b in blocks
            for w in b.writers
            if w.kind in ("routed", "shared")
        ]
    )


def _groups(rows: Sequence[tuple[int, range]]) -> GroupTable:
    return GroupTable(
        layer=np.array([layer for layer, indices in rows for _ in indices], dtype=np.int64),
        index=np.array([i for _, indices in rows for i in indices], dtype=np.int64),
    )
