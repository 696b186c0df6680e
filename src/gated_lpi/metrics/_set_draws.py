"""The bootstrap over relations of what rests on a top set, fed one checkpoint after the other.

It is the bootstrap of `statistics`, for arms whose scores by relation are never in memory at once:

1. Every draw counts how often each relation came up, the same at all checkpoints. With the prompts of each relation
   as weights that gives a matrix of shares [draws, R], and S·D the resampled means of a checkpoint's scores D [R, N].
   It is multiplied in chunks of units and in blocks of draws, added up in float64 and rounded to the precision of D: a
   number hardly depends on how the work is cut up, or on the library of matrix products.
2. Of a checkpoint's draws the top sets are kept until the next one has come, a bit for each unit; its resampled means
   are not, they are made again from its scores where a gain is taken.
3. What is left of a checkpoint is a number for each draw and measure. Intervals run between percentiles of these, over
   the draws in which a measure was defined.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gated_lpi.metrics._arrays import FloatArray, positive_count, ratio
from gated_lpi.metrics.statistics import quantiles_of_defined, resample_counts, tails
from gated_lpi.metrics.topset import greatest, set_size

MEASURES = {
    "stability": "pair",
    "gain_top_set": "pair",
    "gain_top_by_gain": "pair",
    "importance_share": "checkpoint",
}
"""What is resampled, and whether it is of a checkpoint or of it and the one before."""

PRODUCT = 2**18  # multiplications of one matrix product: too few for threads, which would only wait for one another
BLOCK = 16  # draws at most
ROOM = 2**27  # bytes for the resampled means and gains of a block of draws, or one draw's


class _Checkpoint(NamedTuple):
    """What is kept of a checkpoint until the next one has come.

    Attributes:
        by_relation: [R, N], its scores.
        shares: [draws, R], of each relation in each draw; NaN where no relation of a draw has any weight.
        tops: [draws, N / 8], the top set of each draw, a bit for each unit.
    """

    by_relation: NDArray[Any]
    shares: FloatArray
    tops: NDArray[np.uint8]


class _Block(NamedTuple):
    """Resampled scores of a block of b draws.

    Attributes:
        means: [b, N], in the precision of the scores.
        gains: [b, N], what of the change since the checkpoint before is positive; of no meaning at the first.
    """

    means: NDArray[Any]
    gains: NDArray[Any]


class SetDraws:
    """Resampled measures of one kind of unit.

    Args:
        relations: R.
        units: N.
        fraction: share of the units in a top set.
        draws: number of resamples.
        level: share of the draws that lies inside an interval.
        seed: of the draws, which are those of `statistics.bootstrap`.

    Raises:
        OptionError: no draws, `level` outside (0, 1) or `fraction` outside (0, 1].
    """

    def __init__(self, relations: int, units: int, *, fraction: float, draws: int, level: float, seed: int) -> None:
        self._counts = resample_counts(relations, positive_count("draws", draws), seed)
        self._tails = tails(level)
        self._top = set_size(units, fraction)
        self._before: _Checkpoint | None = None
        self._ends: dict[str, list[tuple[FloatArray, FloatArray]]] = {name: [] for name in MEASURES}
        self._started = False

    def add(self, by_relation: NDArray[Any], weights: NDArray[Any]) -> None:
        """Take in the next checkpoint.

        Args:
            by_relation: [R, N], finite, the mean over the prompts of each relation.
            weights: [R], the number of these prompts, none negative. Where all are 0 nothing is defined.
        """
        shares = _shares(self._counts, weights)
        draws, n = shares.shape[0], by_relation.shape[1]
        tops = np.zeros((draws, (n + 7) // 8), dtype=np.uint8)
        samples = {name: np.full(draws, np.nan) for name in MEASURES}
        before = self._before
        room = _room(draws, by_relation)
        for rows in _blocks(draws, len(room.means)):
            block = _resampled(by_relation, shares[rows], before, rows, room)
            for at, draw in enumerate(range(rows.start, rows.stop)):
                if np.isnan(shares[draw, 0]):
                    continue
                inside = greatest(block.means[at], self._top)
                tops[draw] = _packed(inside, n)
                samples["importance_share"][draw] = _share_inside(np.maximum(block.means[at], 0), inside)
                if before is None or np.isnan(before.shares[draw, 0]):
                    continue
                shared = int(np.bitwise_count(tops[draw] & before.tops[draw]).sum())
                samples["stability"][draw] = shared / (2 * self._top - shared)
                gains = block.gains[at]
                samples["gain_top_set"][draw] = _share_inside(gains, inside)
                samples["gain_top_by_gain"][draw] = _share_inside(gains, greatest(gains, self._top))
        for name, dim in MEASURES.items():
            if dim == "checkpoint" or self._started:
                self._ends[name].append(quantiles_of_defined(samples[name], self._tails))
        self._before, self._started = _Checkpoint(by_relation, shares, tops), True

    def skip(self) -> None:
        """Take in a checkpoint of which there are no scores."""
        for name, dim in MEASURES.items():
            if dim == "checkpoint" or self._started:
                self._ends[name].append((np.array(np.nan), np.array(np.nan)))
        self._before, self._started = None, True

    def intervals(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Both ends of each measure's interval, [T] or [T−1]; NaN where no draw defined it."""
        return {
            name: (np.array([low for low, _ in ends], dtype=float), np.array([high for _, high in ends], dtype=float))
            for name, ends in self._ends.items()
        }


def _shares(counts: NDArray[np.int64], weights: NDArray[Any]) -> FloatArray:
    """The share of each relation in each resampled mean, [draws, R]; rows of NaN where they add up to nothing."""
    weighted = counts * np.asarray(weights, dtype=np.float64)
    return ratio(weighted, np.broadcast_to(weighted.sum(axis=-1, keepdims=True), weighted.shape))


def _room(draws: int, by_relation: NDArray[Any]) -> _Block:
    """Room for a block of up to `BLOCK` draws, so many that it takes no more than `ROOM`, or one draw."""
    n = by_relation.shape[1]
    size = max(1, min(draws, BLOCK, ROOM // (2 * n * by_relation.itemsize)))
    means = np.empty((size, n), dtype=by_relation.dtype)
    return _Block(means, np.empty_like(means))


def _blocks(draws: int, size: int) -> Iterator[slice]:
    """The draws, in slices of this size."""
    for start in range(0, draws, size):
        yield slice(start, min(start + size, draws))


def _resampled(
    by_relation: NDArray[Any], shares: FloatArray, before: _Checkpoint | None, rows: slice, room: _Block
) -> _Block:
    """The means of a block of draws, and their gains over the checkpoint before; both in `room`."""
    size, n = shares.shape[0], by_relation.shape[1]
    chunk = max(64, PRODUCT // shares.size)
    buffers = (np.empty((shares.shape[1], chunk)), np.empty((size, chunk)), np.empty((size, chunk)))
    for start in range(0, n, chunk):
        units = slice(start, min(start + chunk, n))
        data, now, earlier = (buffer[:, : units.stop - start] for buffer in buffers)
        np.copyto(data, by_relation[:, units])
        np.matmul(shares, data, out=now)
        room.means[:size, units] = now
        if before is not None:
            np.copyto(data, before.by_relation[:, units])
            np.matmul(before.shares[rows], data, out=earlier)
            now -= earlier
            room.gains[:size, units] = np.maximum(now, 0.0, out=now)
    return room


def _share_inside(positive: NDArray[Any], inside: NDArray[np.int64]) -> float:
    """The share of Σ positive [N] inside [k], at most 1 in spite of rounding; NaN where it is 0."""
    total = float(positive.sum(dtype=np.float64))
    return min(float(positive[inside].sum(dtype=np.float64)) / total, 1.0) if total > 0 else float("nan")


def _packed(members: NDArray[np.int64], n: int) -> NDArray[np.uint8]:
    """A set of n units as bits, [n / 8]."""
    mask = np.zeros(n, dtype=np.bool_)
    mask[members] = True
    return np.packbits(mask)
