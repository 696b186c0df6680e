"""Keeping what is asked for of the prompt axis, reduced while the scores stream in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi.errors import ModelError, OptionError
from gated_lpi.options import Keep
from gated_lpi.score_schema import KNOWN, KNOWN_K, KNOWN_LAST, OF_UNITS

Floats = NDArray[np.floating]
Members = Callable[[NDArray[np.int64]], NDArray[np.bool_]]  # indices of prompts [P'] → whether each is in a part


@dataclass(frozen=True)
class KnownFacts:
    """That scores of units are meant over known facts, too.

    Attributes:
        now: [P], whether each prompt's fact is known to the model; None: as the ranks of its own targets say.
        at_end: [P], whether it is known to the arm's last checkpoint; None: nobody knows.
    """

    now: NDArray[np.bool_] | None = None
    at_end: NDArray[np.bool_] | None = None

    def parts(self, ranks: NDArray[np.int64]) -> dict[str, Members]:
        """The parts of the prompts, by their names in `score_schema`; `ranks` [P] are there once prompts are scored."""
        now, at_end = self.now, self.at_end
        found: dict[str, Members] = {KNOWN: lambda prompts: ranks[prompts] < KNOWN_K if now is None else now[prompts]}
        if at_end is not None:
            found[KNOWN_LAST] = lambda prompts: at_end[prompts]
        return found


class Collector:
    """Collects per-prompt arrays as prompts, as means over each relation, or as the mean over all prompts.

    Arrays come in pieces, block by block, which `result` lays out one after the other. Means are accumulated in float64
    and handed out in the dtype that came in.

    Args:
        keep: "prompts", "relations" or "mean".
        relations: the relation of every prompt, P names.
        parts: by name, parts of the prompts over which scores of units are meant as well, under `NAME_PART`.

    Raises:
        OptionError: another value of `keep`.
    """

    def __init__(self, keep: Keep, relations: Sequence[str], parts: Mapping[str, Members] | None = None) -> None:
        if keep not in get_args(Keep):
            raise OptionError(f"keep={keep!r} was given; expected one of {', '.join(get_args(Keep))}")
        self.keep = keep
        self.names = list(dict.fromkeys(relations))
        column = {name: i for i, name in enumerate(self.names)}
        self._relation = np.array([column[name] for name in relations])
        self.counts = np.bincount(self._relation, minlength=len(self.names))
        self._parts = dict(parts or {})
        self._part_of: dict[str, str] = {}
        self._sums: dict[str, dict[int, Floats]] = {}
        self._dtypes: dict[str, np.dtype[np.floating]] = {}

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the leading dimensions of the arrays that `result` hands out."""
        return {"prompts": ("prompt",), "relations": ("relation",), "mean": ()}[self.keep]

    @property
    def collected(self) -> tuple[str, ...]:
        """Names that something was added under."""
        return tuple(self._sums)

    def add(self, name: str, piece: int, prompts: NDArray[np.int64], values: Floats) -> None:
        """Take the values of some prompts; each prompt comes once for a name and piece.

        Args:
            name: what they are values of.
            piece: where they stand among the arrays of this name: the block's index.
            prompts: [P'], indices of the prompts.
            values: [P', N].
        """
        self._add(name, piece, prompts, values)
        for part, members in self._parts.items() if name in OF_UNITS else ():
            inside = members(prompts)
            self._part_of[f"{name}_{part}"] = part
            self._add(f"{name}_{part}", piece, prompts[inside], values[inside])

    def members(self) -> dict[str, NDArray[np.bool_]]:
        """Which prompts are in each part, [P]; known once all have come."""
        return {part: members(np.arange(len(self._relation))) for part, members in self._parts.items()}

    def counts_of(self, part: str) -> NDArray[np.int64]:
        """How many prompts of each relation are in a part, [R]; known once all have come."""
        inside = self.members()[part]
        return np.bincount(self._relation[inside], minlength=len(self.names)).astype(np.int64)

    def _add(self, name: str, piece: int, prompts: NDArray[np.int64], values: Floats) -> None:
        pieces = self._sums.setdefault(name, {})
        if piece not in pieces:
            rows = {"prompts": len(self._relation), "relations": len(self.names), "mean": 1}[self.keep]
            dtype = values.dtype if self.keep == "prompts" else np.dtype(np.float64)
            pieces[piece] = np.zeros((rows, values.shape[1]), dtype)
            self._dtypes[name] = values.dtype
        total = pieces[piece]
        if self.keep == "prompts":
            total[prompts] = values
        elif self.keep == "mean":
            total[0] += values.sum(axis=0, dtype=np.float64)
        else:
            for relation in np.unique(self._relation[prompts]):
                total[relation] += values[self._relation[prompts] == relation].sum(axis=0, dtype=np.float64)

    def result(self, name: str) -> Floats:
        """The collected array, [P, N], [R, N] or [N], pieces in ascending order; handed out once, then forgotten."""
        pieces = self._sums.pop(name)
        counts = self.counts_of(self._part_of[name]) if name in self._part_of else self.counts
        widths = [pieces[piece].shape[1] for piece in sorted(pieces)]
        found = np.empty((len(next(iter(pieces.values()))), sum(widths)), self._dtypes[name])
        start = 0
        for piece, width in zip(sorted(pieces), widths, strict=True):
            found[:, start : start + width] = self._mean(pieces.pop(piece), counts)
            start += width
        return found[0] if self.keep == "mean" else found

    def _mean(self, total: Floats, counts: NDArray[np.int64]) -> Floats:
        """Means of sums; NaN where there is nothing to be meant over."""
        if self.keep == "prompts":
            return total
        over = counts[:, None] if self.keep == "relations" else counts.sum(keepdims=True)[:, None]
        return np.divide(total, over, out=np.full_like(total, np.nan), where=over > 0)


def finite_array(name: str, scores: Tensor, *, missing: bool = False) -> Floats:
    """Scores as an array.

    Args:
        name: what they are.
        scores: any shape.
        missing: whether NaN stands for what was not measured.

    Raises:
        ModelError: some are not finite.
    """
    scores = scores.detach().cpu()
    values: Floats = (scores.float() if scores.dtype == torch.bfloat16 else scores).numpy()  # which numpy has not
    bad = np.isinf(values) if missing else ~np.isfinite(values)
    if bad.any():
        raise ModelError(
            f"{int(bad.sum())} of {values.size} values of {name} are not finite; the model's activations overflow in "
            "this dtype. Load it with dtype='float64', or leave this checkpoint out"
        )
    return values
