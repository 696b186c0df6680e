"""J(Δ): how alike two top sets are, against how far apart their checkpoints lie.

J_stab of consecutive checkpoints depends on how densely a series was saved: twice as many checkpoints, and every set
has half as long to change. Here all pairs count, and the distance is the axis.

1. J of all pairs s < t, from counts of shared units (one matrix product over the units that are in some set).
2. Their gap: tokens_t − tokens_s, or tokens_t / tokens_s. Pairs are sorted into bins of equal width on the log axis,
   from the smallest gap on; a bin is [edge, next edge).
3. The mean of a bin is weighted. `spacing`: a checkpoint stands for the stretch of training around it (half-way to its
   neighbours; of log tokens where gaps are ratios), a pair for the product of both. So ten checkpoints saved in one
   spell of training count as that spell. `pairs`: every pair counts the same.
4. **Half-life**: the gap at which J has fallen half-way from its value in the first bin to chance, linear in log gap
   between bins. Chance is the exact mean of J of two independent sets.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, IntArray, positive_count
from gated_lpi.metrics._members import members, shared_counts, training_order
from gated_lpi.metrics.stability import jaccard_chance


class HalfLife(NamedTuple):
    """When the overlap of top sets is halved.

    Attributes:
        gap: in tokens, or as a ratio of tokens; NaN where there is none.
        reason: why it is NaN; "" otherwise.
    """

    gap: float
    reason: str


class GapOverlap(NamedTuple):
    """Overlap of top sets by the gap between their checkpoints, over the B bins that hold a pair.

    Attributes:
        low, high: [B], the bins' edges, in tokens or as ratios.
        gap: [B], the weighted geometric mean of the gaps in each bin.
        overlap: [B], the weighted mean of J.
        pairs: [B], how many pairs of checkpoints.
        chance: the exact mean of J of two independent sets of that size.
        half_life: the gap at which J is half-way to chance.
        left_out: how many pairs have no gap on this axis: ratios to a checkpoint at 0 tokens.
    """

    low: FloatArray
    high: FloatArray
    gap: FloatArray
    overlap: FloatArray
    pairs: IntArray
    chance: float
    half_life: HalfLife
    left_out: int


def overlap_matrix(sets: Sequence[ArrayLike] | ArrayLike) -> FloatArray:
    """The Jaccard index of each two of T sets, [T, T]; 1 on the diagonal, and for two empty sets.

    Args:
        sets: T arrays of unit numbers, such as `top_sets(scores)`.

    Raises:
        OptionError: no set, something else than unit numbers, or a unit twice in one set.
    """
    shared = shared_counts(members(sets)[1])
    size = np.diagonal(shared)
    united = size[:, None] + size - shared
    return np.divide(shared, united, out=np.ones_like(shared), where=united > 0)


def overlap_by_gap(
    sets: Sequence[ArrayLike] | ArrayLike,
    tokens: ArrayLike,
    units: int,
    *,
    by: Literal["tokens", "ratio"] = "tokens",
    bins_per_doubling: int = 1,
    weigh: Literal["spacing", "pairs"] = "spacing",
) -> GapOverlap:
    """J(Δ): the overlap of the top sets of all pairs of checkpoints, by the gap between them.

    Args:
        sets: [T, k], the unit numbers of T sets of one size, such as `top_sets(scores)`.
        tokens: [T], what each checkpoint was trained on, strictly ascending.
        units: how many units there are, N; for chance.
        by: the gap is a difference of tokens, or their ratio.
        bins_per_doubling: bins in each factor of two.
        weigh: pairs count by the stretch of training that their checkpoints stand for, or all the same.

    Raises:
        OptionError: sets of several sizes or of units that are not among N, fewer than two checkpoints, tokens that do
            not ascend, or an option outside what it may be.
    """
    if by not in ("tokens", "ratio") or weigh not in ("spacing", "pairs"):
        raise OptionError(
            f"by is {by!r} and weigh {weigh!r}; expected by 'tokens' or 'ratio', weigh 'spacing' or 'pairs'."
        )
    positive_count("bins_per_doubling", bins_per_doubling)
    _, inside = members(sets, units=units)
    sizes = np.unique(inside.sum(axis=1))
    if sizes.size != 1 or sizes[0] == 0 or len(inside) < 2:
        raise OptionError(
            f"{len(inside)} sets of {sizes.tolist()} units were given; expected two or more of one size, above 0."
        )
    at = training_order("tokens", tokens, len(inside))
    overlap = overlap_matrix(sets)
    earlier, later = np.triu_indices(len(at), 1)
    chance = jaccard_chance(units, int(sizes[0]))
    n_pairs = earlier.size
    if by == "ratio":
        defined = at[earlier] > 0
        earlier, later = earlier[defined], later[defined]
    if not earlier.size:
        nothing = np.empty(0)
        none = HalfLife(float("nan"), "no two checkpoints have a ratio of tokens")
        return GapOverlap(
            nothing, nothing, nothing, nothing, np.empty(0, dtype=np.int64), chance, none, n_pairs - earlier.size
        )
    gap = at[later] / at[earlier] if by == "ratio" else at[later] - at[earlier]
    stands_for = _stretch(at, by) if weigh == "spacing" else np.ones(at.size)
    weight = stands_for[earlier] * stands_for[later]
    # Gaps that are equal but for rounding belong to one bin, also where they lie on its edge.
    place = np.floor(np.log2(gap / gap.min()) * bins_per_doubling + 1e-9).astype(np.int64)
    found, bin_of = np.unique(place, return_inverse=True)
    total = np.bincount(bin_of, weight)
    mean = np.bincount(bin_of, weight * overlap[earlier, later]) / total
    middle = np.exp(np.bincount(bin_of, weight * np.log(gap)) / total)
    return GapOverlap(
        low=gap.min() * 2.0 ** (found / bins_per_doubling),
        high=gap.min() * 2.0 ** ((found + 1) / bins_per_doubling),
        gap=middle,
        overlap=mean,
        pairs=np.bincount(bin_of).astype(np.int64),
        chance=chance,
        half_life=half_life(middle, mean, chance),
        left_out=n_pairs - earlier.size,
    )


def half_life(gap: ArrayLike, overlap: ArrayLike, chance: float) -> HalfLife:
    """The gap at which the overlap has first fallen half-way from its first value to chance.

    Args:
        gap: [B], ascending and above 0.
        overlap: [B], at each of them.
        chance: what it falls towards.

    Returns:
        The gap, interpolated linearly in its logarithm; NaN with the reason if there is none.

    Raises:
        OptionError: no gap, or gaps that do not ascend from above 0 with one overlap each.
    """
    at, values = np.asarray(gap, dtype=np.float64), np.asarray(overlap, dtype=np.float64)
    if at.ndim != 1 or at.shape != values.shape or not at.size or at[0] <= 0 or (np.diff(at) <= 0).any():
        raise OptionError(
            f"gap has shape {at.shape} and overlap {values.shape}; expected one overlap for each of the gaps, "
            "which ascend from above 0."
        )
    if not values[0] > chance:
        return HalfLife(float("nan"), f"at the smallest gap the overlap, {values[0]:.3g}, is not above chance")
    half = (values[0] + chance) / 2.0
    below = np.flatnonzero(values <= half)
    if not below.size:
        return HalfLife(float("nan"), f"up to a gap of {at[-1]:.3g} the overlap never falls half-way to chance")
    end = int(below[0])
    part = (values[end - 1] - half) / (values[end - 1] - values[end])
    return HalfLife(float(at[end - 1] * (at[end] / at[end - 1]) ** part), "")


def _stretch(tokens: FloatArray, by: str) -> FloatArray:
    """What each checkpoint stands for, [T]: half of the way to its neighbours, in tokens or log tokens."""
    if by == "tokens":
        axis = tokens
    else:
        axis = np.log(np.where(tokens > 0, tokens, 1.0))
        axis[tokens <= 0] = axis[tokens > 0].min(initial=np.inf)  # stands for nothing itself
    step = np.diff(axis) / 2.0
    return np.asarray(np.append(step, 0.0) + np.append(0.0, step), dtype=np.float64)
