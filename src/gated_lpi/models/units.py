"""The axis of everything that gets a score: units, heads and experts of a model, in one fixed order.

Order of units: layer; within it attention, then another mixer, then FFN, whichever it has; within a block routed
experts before shared ones, expert by expert, neuron by neuron. Ties between scores are broken by this order. Nobody
else counts along it: `UnitAxis` says where a unit is, and which units a writer has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError
from gated_lpi.models.blocks import Block, Writer
from gated_lpi.unit_names import GroupTable as GroupTable  # whose place this is for importers
from gated_lpi.unit_names import Ints as Ints
from gated_lpi.unit_names import UnitTable as UnitTable


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
                f"are 0 to {len(self) - 1}: give some of these"
            )
        return given.astype(np.int64)


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


def head_table(blocks: Sequence[Block]) -> GroupTable:
    """Heads of attention and of mixers that have some, in the order layer, block, head."""
    return _groups([(b, range(w.n_heads)) for b in blocks for w in b.writers])


def expert_table(blocks: Sequence[Block]) -> GroupTable:
    """Experts in the order layer, routed experts, shared expert; empty for a dense model."""
    return _groups(
        [
            (b, range(w.n_experts) if w.kind == "routed" else range(-1, 0))
            for b in blocks
            for w in b.writers
            if w.kind in ("routed", "shared")
        ]
    )


def _groups(rows: Sequence[tuple[Block, range]]) -> GroupTable:
    return GroupTable(
        layer=np.array([block.layer for block, indices in rows for _ in indices], dtype=np.int64),
        block=np.array([block.kind for block, indices in rows for _ in indices], dtype="<U9"),
        index=np.array([i for _, indices in rows for i in indices], dtype=np.int64),
    )
