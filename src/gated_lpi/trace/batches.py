"""Which prompts go through the model together, how they are padded, and where in them something is recorded.

Prompts are padded on the right. Attention is causal, so nothing that stands before the padding sees it, and a position
is the same alone and in a batch, and in a prompt and in one that goes on after it. The padding is not masked besides:
with a sliding window, positions of which nothing is left unmasked would be NaN, and spread.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi.errors import OptionError

TOKENS_AT_ONCE = 768  # in a forward pass, padding included: more takes more memory, and is no faster on a CPU
LOGITS_AT_ONCE = 64  # rows of logits that are computed together

Prompts = Sequence[Sequence[int]]
ItemPositions = Sequence[Sequence[int]]


class Limits(NamedTuple):
    """What is worked on at a time.

    Attributes:
        tokens: tokens in a forward pass, padding included; one prompt alone may have more.
        logits: items whose logits are computed together.
        frugal: whether what is freed goes back to the system between forward passes.
    """

    tokens: int = TOKENS_AT_ONCE
    logits: int = LOGITS_AT_ONCE
    frugal: bool = False


USUAL = Limits()


class Batch(NamedTuple):
    """Prompts padded on the right, and the items in them that are recorded.

    Attributes:
        ids: [B, S], token ids.
        rows: [P], the prompt of each item, an index of `ids`.
        positions: [P], where in that prompt each item is.
    """

    ids: Tensor
    rows: Tensor
    positions: Tensor

    def arguments(self) -> dict[str, Any]:
        """What a transformers model is called with."""
        return {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids), "use_cache": False}

    def pick(self, states: Tensor) -> Tensor:
        """The items' rows of `states`, [B, S, n] or [B·S, n] → [P, n], in memory of their own."""
        apart = states.reshape(len(self.ids), -1, states.shape[-1])
        return apart[self.rows.to(states.device), self.positions.to(states.device)]


def pad(
    prompts: Prompts, positions: ItemPositions | None = None, *, pad_id: int = 0, device: torch.device | None = None
) -> Batch:
    """Pad token ids on the right.

    Args:
        prompts: token ids.
        positions: for each prompt one position or more, −1 being its last token. None: the last token of each.
        pad_id: the token to pad with.
        device: where the tensors are.

    Raises:
        OptionError: there is no prompt, or one has no token; or a prompt without a position, or one that it lacks.
    """
    chosen = resolve_positions(prompts, positions)
    width = max(len(ids) for ids in prompts)
    rows = [row for row, some in enumerate(chosen) for _ in some]
    return Batch(
        ids=torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in prompts], device=device),
        rows=torch.tensor(rows, device=device),
        positions=torch.tensor([position for some in chosen for position in some], device=device),
    )


def resolve_positions(prompts: Prompts, positions: ItemPositions | None = None) -> list[list[int]]:
    """Positions of each prompt, counted from its first token.

    Args:
        prompts: token ids.
        positions: for each prompt one position or more, in any order, repeats kept; −1 is its last token. None: the
            last token of each.

    Raises:
        OptionError: there is no prompt, or one has no token; or a prompt without a position, or one that it lacks.
    """
    _refuse_empty(prompts)
    if positions is None:
        return [[len(ids) - 1] for ids in prompts]
    if len(positions) != len(prompts):
        raise OptionError(
            f"positions for {len(positions)} prompts were given, and {len(prompts)} prompts; expected a sequence of "
            "positions for each prompt"
        )
    return [_of_one(prompt, len(ids), some) for prompt, (ids, some) in enumerate(zip(prompts, positions, strict=True))]


def _of_one(prompt: int, length: int, positions: Sequence[int]) -> list[int]:
    try:
        chosen = [operator.index(position) for position in positions]
    except TypeError as error:
        raise OptionError(
            f"positions {reprlib.repr(positions)} were given for prompt {prompt}; expected a sequence of whole numbers"
        ) from error
    outside = [position for position in chosen if not -length <= position < length]
    if outside or not chosen:
        given = f"position {outside[0]}" if outside else "no position"
        raise OptionError(
            f"{given} was given for prompt {prompt}, which has {length} tokens; expected at least one position, from "
            f"{-length} to {length - 1}"
        )
    return [position % length for position in chosen]


def _refuse_empty(prompts: Prompts) -> None:
    without = sum(len(ids) == 0 for ids in prompts)
    if without or not len(prompts):
        raise OptionError(
            f"{len(prompts)} prompts were given, {without} of them without a token; give at least one prompt, and "
            "one token in each"
        )


def forward_passes(prompts: Prompts, tokens: int = TOKENS_AT_ONCE) -> Iterator[slice]:
    """Cut prompts into runs for one forward pass each: of `tokens` padded tokens at most, or of one prompt."""
    start = width = 0
    for index, ids in enumerate(prompts):
        longer = max(width, len(ids))
        if index > start and longer * (index - start + 1) > tokens:
            yield slice(start, index)
            start, longer = index, len(ids)
        width = longer
    yield slice(start, len(prompts))


def similar_lengths(prompts: Prompts, size: int) -> Iterator[NDArray[np.int64]]:
    """Yield indices, [≤ size], of prompts of similar length together, so that little is padded; evenly many."""
    order = np.argsort([len(ids) for ids in prompts], kind="stable")
    yield from np.array_split(order, max(1, -(-len(order) // size)))
