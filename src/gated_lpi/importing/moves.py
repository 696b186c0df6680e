"""What a tensor of a training framework becomes: one function for each `how` of layouts.toml.

Megatron keeps queries, keys and values of a layer in one matrix, grouped by key-value head: for each of the K key-value
heads the rows of its H/K query heads, then of its key, then of its value, d_h rows each. Gate and up projections are
one matrix, the gate's rows first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from gated_lpi.errors import ModelError


class Heads(NamedTuple):
    """The heads of an attention layer.

    Attributes:
        queries: how many query heads.
        key_values: how many key-value heads, a divisor of that.
    """

    queries: int
    key_values: int


def copied(tensor: Tensor, heads: Heads) -> Tensor:  # noqa: ARG001
    """The tensor as it is."""
    return tensor


def doubled(tensor: Tensor, heads: Heads) -> Tensor:  # noqa: ARG001
    """Twice the tensor: exact in floating point, and undone by a gate of ½."""
    return tensor * 2


def first_half(tensor: Tensor, heads: Heads) -> Tensor:  # noqa: ARG001
    """The first half of the rows: the gate projection."""
    return _halves(tensor)[0]


def second_half(tensor: Tensor, heads: Heads) -> Tensor:  # noqa: ARG001
    """The second half of the rows: the up projection."""
    return _halves(tensor)[1]


def queries(tensor: Tensor, heads: Heads) -> Tensor:
    """The rows of the query heads, [H·d_h, d]."""
    return _grouped(tensor, heads)[:, :-2].reshape(-1, *tensor.shape[1:])


def keys(tensor: Tensor, heads: Heads) -> Tensor:
    """The rows of the keys, [K·d_h, d]."""
    return _grouped(tensor, heads)[:, -2].reshape(-1, *tensor.shape[1:])


def values(tensor: Tensor, heads: Heads) -> Tensor:
    """The rows of the values, [K·d_h, d]."""
    return _grouped(tensor, heads)[:, -1].reshape(-1, *tensor.shape[1:])


MOVES: dict[str, Callable[[Tensor, Heads], Tensor]] = {
    "copied": copied,
    "doubled": doubled,
    "first_half": first_half,
    "second_half": second_half,
    "queries": queries,
    "keys": keys,
    "values": values,
}
ZEROS = "zeros"  # of the shape that the model has; there is nothing to read


def _halves(tensor: Tensor) -> tuple[Tensor, Tensor]:
    if tensor.shape[0] % 2:
        raise ModelError(
            f"a gate and up projection of {tensor.shape[0]} rows has no halves: the layout is another one, choose that"
        )
    first, second = tensor.chunk(2)
    return first, second


def _grouped(tensor: Tensor, heads: Heads) -> Tensor:
    """[K, H/K + 2, d_h, …]."""
    slots = heads.queries // heads.key_values + 2
    rows = tensor.shape[0]
    if heads.queries % heads.key_values or rows % (heads.key_values * slots):
        raise ModelError(
            f"queries, keys and values have {rows} rows, which {heads.queries} heads and {heads.key_values} key-value "
            "heads do not divide; give the model's own numbers (--set num_attention_heads=…, num_key_value_heads=…)"
        )
    return tensor.reshape(heads.key_values, slots, rows // (heads.key_values * slots), *tensor.shape[1:])
