"""How much of the stability of top sets is the routing's: units permuted within each expert.

Whether a unit is in a top set depends on itself and on how often its expert is routed to. If the neurons of an expert
are exchanged for one another at one of two checkpoints, all that is left is which experts carry importance, and how
much of it each. (Of a dense FFN or of attention the group is the block: what is left is the layer.)

1. Expert g has n_g units, of which a_g are in the earlier top set and b_g in the later one, k each in all. After the
   permutation X_g ~ Hypergeometric(n_g, a_g, b_g) of them are shared, independently; so no unit is ever moved, numbers
   are drawn.  X = Σ X_g,  J = X / (2k − X),  E[X] = Σ a_g·b_g / n_g.
2. **Given the counts.** With these a_g and b_g at most Σ min(a_g, b_g) units can be shared. Of the way from E[X] to
   there, the observed overlap has gone the share (X − E[X]) / (Σ min(a_g, b_g) − E[X]): 0 where experts explain
   everything, 1 where within them the sets are the same.
3. **R_t** under the same permutation (of the earlier checkpoint, so that the top set stays): the expected gain of the
   top set over the expected gain of all units,

       Σ_{u∈S_t} ḡ(u) / Σ_u ḡ(u),   ḡ(u) = mean over the units v of u's group of max(I_t(u) − I_{t−1}(v), 0),

   exact, by sorting each group once. It is a ratio of expectations; that of the ratio differs by what the sum over all
   units varies, a few in ten thousand for 4,000 units.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import BoolArray, FloatArray, IntArray, finite, positive_count
from gated_lpi.metrics.stability import top_set_stability
from gated_lpi.metrics.statistics import tails
from gated_lpi.metrics.topset import top_mask


class RoutingNull(NamedTuple):
    """The Jaccard index of two top sets beside what routing alone gives.

    Attributes:
        observed: J of the sets themselves.
        mean: mean J over draws.
        low, high: ends of the interval of J over draws.
        overlap: how many units the sets share.
        expected_overlap: E[X], exact.
        given_counts: the share of the way from E[X] to the greatest overlap that the counts of the experts allow; NaN
            where they leave no choice.
    """

    observed: float
    mean: float
    low: float
    high: float
    overlap: int
    expected_overlap: float
    given_counts: float


def routing_null(
    before: ArrayLike,
    after: ArrayLike,
    group: ArrayLike,
    fraction: float = 0.01,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> RoutingNull:
    """J_stab of two checkpoints, beside that of units permuted within their groups.

    Args:
        before, after: [N], scores at the two checkpoints.
        group: [N], a number from 0 on for the expert (or the dense block) of each unit.
        fraction: share of the units in a top set.
        draws: number of permutations.
        level: share of the draws that lies inside the interval.
        seed: of the draws.

    Raises:
        OptionError: shapes that differ, NaN or infinite scores, no draws, `fraction` outside (0, 1] or `level` outside
            (0, 1).
    """
    first, second, groups = _checked(before, after, group)
    return null_of_sets(
        top_mask(first, fraction), top_mask(second, fraction), groups, draws=draws, level=level, seed=seed
    )


def null_of_sets(
    a: BoolArray, b: BoolArray, group: IntArray, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> RoutingNull:
    """The same of two sets, given as masks [N] with as many members."""
    quantiles = tails(level)
    n_groups = int(group.max()) + 1
    sizes = np.bincount(group, minlength=n_groups)
    in_a = np.bincount(group[a], minlength=n_groups)
    in_b = np.bincount(group[b], minlength=n_groups)
    both = (in_a > 0) & (in_b > 0)
    sizes, in_a, in_b = sizes[both], in_a[both], in_b[both]
    k, overlap = int(a.sum()), int((a & b).sum())
    generator = np.random.default_rng(seed)
    shape = (positive_count("draws", draws), int(both.sum()))
    shared = generator.hypergeometric(in_a, sizes - in_a, in_b, size=shape).sum(axis=-1)
    index = shared / (2.0 * k - shared)
    low, high = np.quantile(index, quantiles)
    expected = float((in_a * in_b / sizes).sum())
    room = float(np.minimum(in_a, in_b).sum()) - expected
    return RoutingNull(
        observed=overlap / (2.0 * k - overlap),
        mean=float(index.mean()),
        low=float(low),
        high=float(high),
        overlap=overlap,
        expected_overlap=expected,
        given_counts=(overlap - expected) / room if room > 1e-9 else float("nan"),
    )


def gain_routing_null(previous: ArrayLike, current: ArrayLike, group: ArrayLike, fraction: float = 0.01) -> float:
    """R_t with the units of the earlier checkpoint permuted within their groups; NaN where no gain is expected.

    Args:
        previous, current: [N], scores at the two checkpoints.
        group: [N], a number from 0 on for the expert (or the dense block) of each unit.
        fraction: share of the units in a top set.

    Raises:
        OptionError: shapes that differ, NaN or infinite scores, or `fraction` outside (0, 1].
    """
    before, after, groups = _checked(previous, current, group)
    gain = _expected_gain(before, after, groups)
    total = float(gain.sum())
    return float(gain[top_mask(after, fraction)].sum()) / total if total > 0 else float("nan")


def expert_stability(scores: ArrayLike, expert: ArrayLike, fraction: float = 0.01) -> FloatArray:
    """J of the top sets of *experts*, by the summed importance of their units: [T−1].

    Args:
        scores: [T, N].
        expert: [N], a number from 0 on for the expert of each unit, −1 for units of none.
        fraction: share of the experts in a top set, ceil(fraction · experts) of them.

    Raises:
        OptionError: NaN or infinite scores, no unit of an expert, shapes that differ, or `fraction` outside (0, 1].
    """
    return top_set_stability(expert_sums(scores, expert), fraction)


def expert_sums(scores: ArrayLike, expert: ArrayLike) -> FloatArray:
    """The summed importance of each expert's units, [T, E], experts by their numbers; arguments as above.

    Raises:
        OptionError: NaN or infinite scores, no unit of an expert, or shapes that differ.
    """
    values, experts = finite("scores", scores, ndim=2), np.asarray(expert)
    if experts.shape != values.shape[1:] or not (experts >= 0).any():
        raise OptionError(
            f"expert has shape {experts.shape}, and {int((experts >= 0).sum())} units are of an expert; expected the "
            f"expert of each of {values.shape[1]} units, -1 for units of none"
        )
    inside = experts >= 0
    numbers, place = np.unique(experts[inside], return_inverse=True)
    return np.stack([np.bincount(place, weights=row[inside], minlength=numbers.size) for row in values])


def _checked(before: ArrayLike, after: ArrayLike, group: ArrayLike) -> tuple[FloatArray, FloatArray, IntArray]:
    first, second = finite("the earlier scores", before, ndim=1), finite("the later scores", after, ndim=1)
    groups = np.asarray(group)
    if not first.shape == second.shape == groups.shape or groups.dtype.kind not in "iu" or groups.min() < 0:
        raise OptionError(
            f"scores of shapes {first.shape} and {second.shape} were given with groups of shape {groups.shape} and "
            f"type {groups.dtype}; expected the same units in both, and a number from 0 on for the group of each"
        )
    return first, second, groups.astype(np.int64)


def _expected_gain(before: FloatArray, after: FloatArray, groups: IntArray) -> FloatArray:
    """Mean of max(after(u) − before(v), 0) over the units v of u's group: [N]."""
    gain = np.empty(after.size)
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        lower = np.sort(before[rows])
        below = np.searchsorted(lower, after[rows])
        gain[rows] = (after[rows] * below - np.concatenate([[0.0], np.cumsum(lower)])[below]) / rows.size
    return np.maximum(gain, 0.0, out=gain)
