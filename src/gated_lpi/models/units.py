"""The axis of everything that gets a score: units, heads and experts of a model, in one fixed order.

Order of units: layer; within it attention, then FFN; within a block routed experts before shared ones, expert by
expert, neuron by neuron. Ties between scores are broken by this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gated_lpi.models.blocks import Block, Writer

Ints = NDArray[np.int64]


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
    """Coordinates of heads, or of experts: `layer` [G] and `index` [G] (head or expert; −1 if shared)."""

    layer: Ints
    index: Ints

    def __len__(self) -> int:
        return len(self.layer)


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
