"""How long units stay in the top set, and which of them stay for good.

**Churn.** Of two consecutive sets, births are in the later only and deaths in the earlier only; the rate is deaths over
the size of the earlier set. Two independent sets have a rate of 1 − k/N, k the size of the later one.

**Survival** (Kaplan & Meier 1958, by `scipy.stats.ecdf`; Greenwood's variance on the log-log scale).
1. A *membership* is a spell of consecutive checkpoints at which a unit is in the set. It begins at the first of them
   and ends at the first checkpoint where the unit is missing; a unit that comes back begins another.
2. Its length in tokens is known to the distance of two checkpoints: both ends are dated late. A death between
   checkpoints cannot be seen if the unit is back by the next, so memberships look the longer the fewer checkpoints.
3. Memberships that last to the last checkpoint are right-censored there. Those of the first checkpoint began at an
   unknown time before; they count from there, or not at all (`from_first=False`).
4. The interval takes memberships for independent. Units of one run are not (they share facts, routing and training), so
   it says how well this run's curve is known; arms are compared over replicates.

**Backbone.** The units in at least 90% of the top sets from a checkpoint on, beside two nulls, both with sets of the
same sizes, drawn anew for each checkpoint:
- *independent*: uniform random sets;
- *routing*: units permuted within their expert (in a dense FFN or attention: their block), as in `routing_null`.
A unit of group g, of n_g units of which a_tg are in the set of checkpoint t, is in it with probability a_tg/n_g,
independently over t. So its number of sets is Poisson-binomial and the expected backbone exact; independent sets are
the case of one group. Within a checkpoint units exclude one another, which the spread has to know: numbers of units
that have missed 0, 1, 2, … sets so far are drawn checkpoint by checkpoint (multivariate hypergeometric), never the
units.
"""

import math
import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import CensoredData, ecdf

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import BoolArray, FloatArray, IntArray, finite, positive_count
from gated_lpi.metrics._members import members, training_order
from gated_lpi.metrics.statistics import tails


class Churn(NamedTuple):
    """What changes from each set to the next, [T−1] each.

    Attributes:
        births: units that are in the later set only.
        deaths: units that are in the earlier set only.
        rate: deaths over the size of the earlier set; NaN if it is empty.
        chance: the rate of two independent random sets of these sizes.
    """

    births: IntArray
    deaths: IntArray
    rate: FloatArray
    chance: FloatArray


class Survival(NamedTuple):
    """The share of memberships that last longer than a number of tokens: a step function.

    Attributes:
        tokens: [M], ascending, the lengths at which a membership ends or is censored.
        survival: [M], the share that lasts longer than that.
        low, high: [M], ends of the pointwise interval; NaN where it is not defined (nothing has ended, or all have).
        at_risk: [M], how many memberships were known to last at least as long.
        memberships: how many there are.
        censored: how many of them last to the last checkpoint.
        median: the least length that at most half of them exceed; NaN if more than half last longer than can be seen.
    """

    tokens: FloatArray
    survival: FloatArray
    low: FloatArray
    high: FloatArray
    at_risk: IntArray
    memberships: int
    censored: int
    median: float


class BackboneNull(NamedTuple):
    """The backbone under a null.

    Attributes:
        mean: its expected size, exact.
        low, high: ends of the interval of its size over draws.
        importance: its expected share of importance, exact; NaN where none was given, or nothing is positive.
    """

    mean: float
    low: float
    high: float
    importance: float


class Backbone(NamedTuple):
    """The units that stay in the top set.

    Attributes:
        units: their numbers, ascending.
        size: how many they are.
        importance: their share of all positive importance; NaN where none was given, or nothing is positive.
        sets: how many top sets were looked at.
        needed: in how many of them a unit of the backbone is at least.
        independent: the same under independent random sets.
        routing: the same with units permuted within their groups; None if no groups were given.
    """

    units: IntArray
    size: int
    importance: float
    sets: int
    needed: int
    independent: BackboneNull
    routing: BackboneNull | None


def churn(sets: Sequence[ArrayLike] | ArrayLike, units: int) -> Churn:
    """Births, deaths and rate of churn from each of T sets to the next, [T−1].

    Args:
        sets: T arrays of unit numbers, such as `top_sets(scores)`.
        units: how many units there are, N; for chance.

    Raises:
        OptionError: no set, numbers outside 0..N−1, or a unit twice in one set.
    """
    _, inside = members(sets, units=positive_count("units", units))
    before, after = inside[:-1], inside[1:]
    deaths = (before & ~after).sum(axis=1)
    size = before.sum(axis=1)
    rate = np.divide(deaths, size, out=np.full(size.shape, np.nan), where=size > 0)
    chance = np.where(size > 0, 1.0 - after.sum(axis=1) / units, np.nan)
    return Churn((after & ~before).sum(axis=1).astype(np.int64), deaths.astype(np.int64), rate, chance)


def membership_survival(
    sets: Sequence[ArrayLike] | ArrayLike, tokens: ArrayLike, *, from_first: bool = True, level: float = 0.95
) -> Survival:
    """Kaplan–Meier survival of memberships of T sets over tokens.

    Args:
        sets: T arrays of unit numbers, such as `top_sets(scores)`.
        tokens: [T], strictly ascending.
        from_first: count the memberships of the first set, which may be older, as beginning there; False leaves them
            out.
        level: of the pointwise interval.

    Raises:
        OptionError: fewer than two sets, tokens that do not ascend, no membership, or `level` outside (0, 1).
    """
    tails(level)
    _, inside = members(sets)
    at = training_order("tokens", tokens, len(inside))
    length, ended = _memberships(inside, at, from_first)
    if len(inside) < 2 or not length.size:
        raise OptionError(
            f"{len(inside)} sets have {length.size} memberships that can be followed; expected two or more sets and a "
            "unit that is in one before the last. Pass more checkpoints."
        )
    curve = ecdf(CensoredData(uncensored=length[ended], right=length[~ended])).sf
    with warnings.catch_warnings():  # where nothing or all has ended the formula gives no interval: NaN, as we say
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = curve.confidence_interval(confidence_level=level, method="log-log")
    times = np.asarray(curve.quantiles, dtype=np.float64)
    share = np.asarray(curve.probabilities, dtype=np.float64)
    half = np.flatnonzero(share <= 0.5 + 1e-12)
    return Survival(
        tokens=times,
        survival=share,
        low=np.asarray(interval.low.probabilities, dtype=np.float64),
        high=np.asarray(interval.high.probabilities, dtype=np.float64),
        at_risk=(length.size - np.searchsorted(np.sort(length), times)).astype(np.int64),
        memberships=int(length.size),
        censored=int((~ended).sum()),
        median=float(times[half[0]]) if half.size else float("nan"),
    )


def backbone(
    sets: Sequence[ArrayLike] | ArrayLike,
    units: int,
    *,
    after: int = 0,
    share: float = 0.9,
    importance: ArrayLike | None = None,
    group: ArrayLike | None = None,
    draws: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> Backbone:
    """The units that are in at least a share of the top sets from a checkpoint on, beside two nulls.

    Args:
        sets: T arrays of unit numbers, such as `top_sets(scores)`.
        units: how many units there are, N.
        after: index of the first checkpoint whose set counts.
        share: of the sets that a unit of the backbone is in.
        importance: [N], scores by whose positive part its share is measured, such as the mean over those checkpoints.
        group: [N], a number from 0 on for the expert (or the dense block) of each unit; without it no routing null.
        draws: from each null, for the interval of the size.
        level: share of the draws that lies inside the interval.
        seed: of the draws.

    Raises:
        OptionError: no set from `after` on, numbers outside 0..N−1, another number of importances or groups than N, or
            an option outside what it may be.
    """
    quantiles = tails(level)
    if not 0 <= after < len(sets) or not 0.0 < share <= 1.0:  # type: ignore[arg-type]
        raise OptionError(
            f"after is {after} and share {share}; expected the index of one of {len(sets)} checkpoints"  # type: ignore[arg-type]
            " and a share above 0 and up to 1."
        )
    positive_count("draws", draws)
    known, inside = members(list(sets)[after:], units=positive_count("units", units))  # type: ignore[arg-type]
    n_sets = len(inside)
    needed = math.ceil(Fraction(str(float(share))) * n_sets)
    found = known[inside.sum(axis=0) >= needed]
    weight = None if importance is None else np.maximum(finite("importance", importance, ndim=1), 0.0)
    groups = None if group is None else np.asarray(group)
    for name, given in (("importance", weight), ("group", groups)):
        if given is not None and given.shape != (units,):
            raise OptionError(f"{name} has shape {given.shape}; expected one entry for each of {units} units.")
    if groups is not None and (groups.dtype.kind not in "iu" or groups.min() < 0):
        raise OptionError(f"group is of type {groups.dtype}; expected numbers from 0 on, one for each unit's group.")

    def under(of_unit: IntArray) -> BackboneNull:
        size = np.bincount(of_unit)
        inside_of = np.stack([np.bincount(of_unit[known[row]], minlength=size.size) for row in inside])
        probability = _backbone_probability(inside_of / np.maximum(size, 1), n_sets - needed)
        sizes = _backbone_sizes(size, inside_of, n_sets - needed, draws, np.random.default_rng(seed))
        low, high = np.quantile(sizes, quantiles)
        held = float("nan")
        if weight is not None and weight.sum() > 0:
            held = float(np.bincount(of_unit, weight, minlength=size.size) @ probability / weight.sum())
        return BackboneNull(float(size @ probability), float(low), float(high), held)

    total = 0.0 if weight is None else float(weight.sum())
    return Backbone(
        units=found,
        size=int(found.size),
        importance=float(weight[found].sum()) / total if weight is not None and total > 0 else float("nan"),
        sets=n_sets,
        needed=needed,
        independent=under(np.zeros(units, dtype=np.int64)),
        routing=None if groups is None else under(groups.astype(np.int64)),
    )


def _memberships(inside: BoolArray, tokens: FloatArray, from_first: bool) -> tuple[FloatArray, BoolArray]:
    """Lengths in tokens of all memberships of a mask [T, U], and whether each has ended by the last checkpoint."""
    n, units = inside.shape
    outside = np.zeros((1, units), dtype=np.bool_)
    # Unit by unit, so that the first beginning and the first end that follows belong together.
    _, begin = np.nonzero((inside & ~np.concatenate([outside, inside[:-1]])).T)
    _, last = np.nonzero((inside & ~np.concatenate([inside[1:], outside])).T)
    ended = last < n - 1
    length = tokens[np.minimum(last + 1, n - 1)] - tokens[begin]
    # Those that begin at the last checkpoint have been followed for no time at all.
    kept = (begin < n - 1) & ((begin > 0) | from_first)
    return length[kept], ended[kept]


def _backbone_probability(chance: FloatArray, misses: int) -> FloatArray:
    """The probability that a unit of each group misses at most so many sets, [G], from that of being in each [T, G]."""
    missed = np.zeros((misses + 1, chance.shape[1]))
    missed[0] = 1.0
    for inside in chance:
        missed[1:] = missed[1:] * inside + missed[:-1] * (1.0 - inside)
        missed[0] *= inside
    return np.asarray(missed.sum(axis=0), dtype=np.float64)


def _backbone_sizes(
    size: IntArray, inside: IntArray, misses: int, draws: int, generator: np.random.Generator
) -> IntArray:
    """Sizes of the backbone over draws, [draws], for groups of so many units [G] with so many in each set [T, G]."""
    possible = (inside == 0).sum(axis=0) <= misses  # other groups' units miss too many sets whatever is drawn
    size, inside = size[possible], inside[:, possible]
    missed = np.zeros((misses + 1, draws, size.size), dtype=np.int64)  # units that have missed 0, 1, … sets so far
    missed[0] = size
    for members_of in inside:
        places = np.broadcast_to(members_of, (draws, size.size)).copy()
        others = np.broadcast_to(size, (draws, size.size)).copy()
        stay = np.empty_like(missed)
        for count, units in enumerate(missed):  # of the places of this set, how many fall to units of each count
            others -= units
            stay[count] = generator.hypergeometric(units, others, places)
            places -= stay[count]
        fallen = missed - stay
        missed = stay
        missed[1:] += fallen[:-1]
    return np.asarray(missed.sum(axis=(0, 2)), dtype=np.int64)
