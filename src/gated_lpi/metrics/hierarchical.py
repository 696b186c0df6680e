"""How sure a statistic is over replicates, relations and facts at once, with few replicates.

Data: n replicates (the same arm trained with n seeds), R relations in each, prompts in each relation. The statistic
T_i of replicate i is that of its weighted mean over relations; the estimate is the mean of the T_i. (Units of different
seeds have nothing to do with one another, so scores are never averaged over replicates, only statistics are.)

**What varies.** Seeds; relations, which could have been others; and how seeds and relations go together. As a rule
every replicate is asked the same relations (`shared`), so a relation that is odd is odd in all of them: no number of
replicates averages it out, and the T_i do not show it. With

    A = var(T_i) / n                                        replicates (and 1/n of the rest)
    B = var over draws of relations of mean_i T_i(draw)     relations, drawn once for all replicates
    C = Σ_i var over draws of (T_i − mean T)(draw) / n(n−1)   what A and B both contain

the variance of the estimate is A + B − C, at least A and at least B: two-way random effects, by a bootstrap over
relations in place of mean squares, so that any statistic will do. Bootstrap variances are multiplied by R/(R−1), R the
effective number of relations (Σw)²/Σw². The interval is the estimate ± t·√variance, with Satterthwaite's degrees of
freedom from n−1 for A, R−1 for B, (n−1)(R−1) for C.

**Relations of their own** (`own`): where every replicate has other relations, or nothing is claimed beyond these, A
alone is the variance: what lies below replicates is in it already, and the interval is Student's over the T_i.

**One replicate**: B alone, and `over` says "relations": nothing is said of other seeds. **One relation**: its facts are
drawn in place of relations. With several, facts are not drawn besides: relations' means vary by their facts already,
and a bootstrap that draws facts within drawn relations counts them twice (Davison & Hinkley, *Bootstrap Methods and
their Application*, 1997, §3.8).

**Percentiles** of the bootstrap over replicates and relations stand beside it, to compare with what others publish.
Over 5 replicates they are too narrow, by a factor of √(4/5) and by that of Student's t to the normal distribution.
docs/statistics.md has the measured coverage of both.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, finite, positive_count, require_finite
from gated_lpi.metrics.statistics import quantiles_of_defined, tails

Statistic = Callable[[NDArray[Any]], ArrayLike]
Over = Literal["replicates", "relations", "facts", "nothing"]

_ELEMENTS = 1 << 23  # of resampled means that are held at a time where the statistic takes many


class HierarchicalInterval(NamedTuple):
    """An estimate over replicates and its interval; fields but the last three have the shape [...] of the statistic.

    Attributes:
        estimate: mean over the replicates in which the statistic is defined.
        low, high: ends of the t interval; NaN where fewer than two replicates (or, over relations, no draw) define it.
        error: standard error of the estimate.
        df: its degrees of freedom.
        percentile_low, percentile_high: ends between percentiles of the bootstrap, for comparison: too narrow.
        over: the topmost level that the interval is over: "replicates", "relations" (one replicate: says nothing of
            other seeds), "facts" (one relation besides), "nothing" (no interval).
        levels: all levels that are in it.
        replicates: how many there were; of a difference, in each group.
    """

    estimate: FloatArray
    low: FloatArray
    high: FloatArray
    error: FloatArray
    df: FloatArray
    percentile_low: FloatArray
    percentile_high: FloatArray
    over: Over
    levels: tuple[str, ...]
    replicates: tuple[int, ...]


class Group(NamedTuple):
    """The replicates of one arm, resampled.

    Attributes:
        values: [n, ...], the statistic of each replicate.
        change: [n, B, ...], what each draw of relations adds to it.
    """

    values: FloatArray
    change: FloatArray


class Resampled(NamedTuple):
    """What is known of the replicates of one arm, or two.

    Attributes:
        groups: one, or two to be subtracted.
        drawn: "relations", or "facts" where there is one relation.
        size: the effective number of those; 1: there is nothing to draw.
        shared: whether all replicates have the same.
    """

    groups: tuple[Group, ...]
    drawn: Literal["relations", "facts"]
    size: float
    shared: bool


class Parts(NamedTuple):
    """Deviations of which the variance of an estimate is made, for the K elements of the statistic, flattened.

    Attributes:
        estimate: [K].
        replicates: for each group, deviations [n, K] of its replicates from their mean; NaN where undefined.
        relations: [B, K], deviations of the estimate over draws.
        both: for each group, [n, B, K], those of single replicates from their mean in each draw.
        correction: what bootstrap variances are multiplied by.
        relations_df: degrees of freedom of relations (or facts).
        over, levels: as in the interval.
    """

    estimate: FloatArray
    replicates: tuple[FloatArray, ...]
    relations: FloatArray
    both: tuple[FloatArray, ...]
    correction: float
    relations_df: float
    over: Over
    levels: tuple[str, ...]


def replicate_values(
    data: Iterable[Any],
    weights: Any = None,
    statistic: Statistic | None = None,
    *,
    facts: bool = False,
    vectorised: bool = False,
) -> FloatArray:
    """The statistic of each replicate's weighted mean, [n, ...]; arguments as in `hierarchical_interval`."""
    leaves = _leaves("data", data, weights, facts)
    return np.stack([_statistics(one, one.weights[None], statistic, vectorised)[0] for one in leaves])


def hierarchical_interval(
    data: Iterable[Any],
    weights: Any = None,
    statistic: Statistic | None = None,
    *,
    relations: Literal["shared", "own"] = "shared",
    facts: bool = False,
    vectorised: bool = False,
    draws: int = 400,
    level: float = 0.95,
    seed: int = 0,
) -> HierarchicalInterval:
    """A statistic's mean over replicates, with its interval over replicates and relations.

    Args:
        data: n replicates, each [R, ...], the mean over the prompts of each relation; with `facts`, each a list of R
            arrays [F_r, ...] of the relation's facts. They are read one at a time, so a generator will do.
        weights: [R], the number of prompts of each relation, the same for all replicates, or n such lists; with
            `facts`, R arrays [F_r], or n such lists. None: all alike.
        statistic: takes a mean of shape [...] and returns a number or an array; None: the mean itself. It is called
            n · (draws + 1) times.
        relations: "shared": all replicates have the same, in the same order, and others could have been asked; "own":
            each has its own, or nothing is claimed beyond these.
        facts: data goes down to facts.
        vectorised: the statistic takes many means at once, [draws, ...], and returns one result for each.
        draws: of relations.
        level: of the interval.
        seed: of the draws.

    Raises:
        OptionError: no replicate, shapes that do not go together, weights that are not positive, NaN or infinite data,
            no draws, or `level` outside (0, 1).
    """
    found = resample([data], weights, statistic, relations, facts, vectorised, draws, seed)
    return _interval(found, level, seed)


def hierarchical_difference(
    a: Iterable[Any],
    b: Iterable[Any],
    weights: Any = None,
    statistic: Statistic | None = None,
    *,
    paired: bool = False,
    relations: Literal["shared", "own"] = "shared",
    facts: bool = False,
    vectorised: bool = False,
    draws: int = 400,
    level: float = 0.95,
    seed: int = 0,
) -> HierarchicalInterval:
    """The difference of two groups of replicates, a less b, with its interval.

    Variances over replicates may differ between the groups (Welch). `shared` relations are drawn once for both groups,
    so what they do to both alike falls out.

    Args:
        a, b: the replicates of two arms, each as in `hierarchical_interval`; numbers of replicates may differ.
        paired: replicate i of both arms shares seed and order of data; differences are then taken within pairs.
        weights, statistic, relations, facts, vectorised, draws, level, seed: as in `hierarchical_interval`; the same
            for both groups.

    Raises:
        OptionError: as there, or pairs of groups with different numbers of replicates.
    """
    found = resample([a, b], weights, statistic, relations, facts, vectorised, draws, seed)
    return _interval(differences(found) if paired else found, level, seed)


def differences(resampled: Resampled) -> Resampled:
    """Two groups of pairs as the one group of their differences.

    Raises:
        OptionError: groups with different numbers of replicates.
    """
    a, b = resampled.groups
    if len(a.values) != len(b.values):
        raise OptionError(
            f"paired groups have {len(a.values)} and {len(b.values)} replicates; expected one partner for each. "
            "Leave out those without, or compare with paired=False."
        )
    return resampled._replace(groups=(Group(a.values - b.values, a.change - b.change),))


def parts_of(resampled: Resampled) -> Parts:
    """What the variance of the mean of one group, or of the difference of two, is made of."""
    groups, drawn, size, shared = resampled
    flat = [Group(g.values.reshape(len(g.values), -1), g.change.reshape(*g.change.shape[:2], -1)) for g in groups]
    means = [_mean(g.values, 0) for g in flat]
    single = min(len(g.values) for g in flat) == 1
    over: Over = "replicates" if not single else "nothing" if size <= 1 else drawn
    levels: tuple[str, ...] = () if single else ("replicates",)
    if size > 1 and (single or shared):
        levels += (drawn,)
    common = [_mean(g.change, 0) for g in flat]
    return Parts(
        estimate=means[0] - means[1] if len(means) == 2 else means[0],
        replicates=tuple(g.values - mean for g, mean in zip(flat, means, strict=True)),
        relations=common[0] - common[1] if len(common) == 2 else common[0],
        both=tuple(g.change - mean for g, mean in zip(flat, common, strict=True)),
        correction=size / (size - 1.0) if size > 1 else float("nan"),
        relations_df=max(size - 1.0, 1.0),
        over=over,
        levels=levels,
    )


def errors_of(parts: Parts) -> tuple[FloatArray, FloatArray]:
    """The standard error of the estimate and its degrees of freedom, [K] each; NaN where it cannot be told."""
    k = parts.estimate.size
    if parts.over == "nothing":
        return np.full(k, np.nan), np.full(k, np.nan)
    variance, below = np.zeros(k), np.zeros(k)  # and Σ variance² / degrees of freedom
    least = np.zeros(k)
    if "replicates" in parts.levels:
        for deviation in parts.replicates:
            n = (~np.isnan(deviation)).sum(axis=0)
            one = _over(_variance(deviation, 0), n)
            variance, below = variance + one, below + _over(one**2, n - 1.0)
        least = variance.copy()
    if len(parts.levels) == 2 or parts.over != "replicates":
        shared = parts.correction * _variance(parts.relations, 0)
        variance, below = variance + shared, below + shared**2 / parts.relations_df
        least = np.maximum(least, shared)
    if len(parts.levels) == 2:
        for deviation in parts.both:
            n = (~np.isnan(deviation)).any(axis=1).sum(axis=0)
            spread = _variance(deviation, 1)
            spread = np.where(np.isnan(spread), 0.0, spread).sum(axis=0)
            one = parts.correction * _over(spread, n * (n - 1.0))
            variance, below = variance - one, below + _over(one**2, (n - 1.0) * parts.relations_df)
    variance = np.maximum(variance, least)
    # Not below that of the level with the fewest: Satterthwaite's can vanish where a difference of variances does.
    least_df = min(
        [len(deviation) - 1.0 for deviation in parts.replicates if "replicates" in parts.levels]
        + [parts.relations_df for level in parts.levels if level != "replicates"]
    )
    df = np.fmax(_over(variance**2, below), least_df)
    return np.sqrt(variance), np.where(np.isnan(variance), np.nan, df)


def student(df: FloatArray, level: float) -> FloatArray:
    """The factor of the standard error that gives an interval of that level, [...]; NaN where df is."""
    return np.asarray(stdtrit(df, tails(level)[1]), dtype=np.float64)


def _interval(resampled: Resampled, level: float, seed: int) -> HierarchicalInterval:
    groups, parts = resampled.groups, parts_of(resampled)
    shape = groups[0].values.shape[1:]
    error, df = errors_of(parts)
    half = student(df, level) * error
    samples = [_percentile_draws(g, np.random.default_rng([seed, place])) for place, g in enumerate(groups)]
    low, high = quantiles_of_defined(samples[0] - samples[1] if len(samples) == 2 else samples[0], tails(level))
    if parts.over == "nothing":
        low, high = np.full(shape, np.nan), np.full(shape, np.nan)
    return HierarchicalInterval(
        estimate=parts.estimate.reshape(shape),
        low=(parts.estimate - half).reshape(shape),
        high=(parts.estimate + half).reshape(shape),
        error=error.reshape(shape),
        df=df.reshape(shape),
        percentile_low=low,
        percentile_high=high,
        over=parts.over,
        levels=parts.levels,
        replicates=tuple(len(g.values) for g in groups),
    )


def _percentile_draws(group: Group, generator: np.random.Generator) -> FloatArray:
    """The mean over drawn replicates of the statistic on drawn relations, [B, ...]."""
    n, draws = group.change.shape[:2]
    counts = generator.multinomial(n, np.full(n, 1.0 / n), size=draws).T.reshape(
        n, draws, *[1] * (group.values.ndim - 1)
    )
    resampled = group.values[:, None] + group.change
    defined = ~np.isnan(resampled)
    return _over(np.where(defined, resampled * counts, 0.0).sum(axis=0), (defined * counts).sum(axis=0))


class _Leaves(NamedTuple):
    """One replicate, flattened: [L, M] data of L relations or facts, their weights [L], the relation of each [L]."""

    data: NDArray[Any]
    weights: FloatArray
    relation: NDArray[np.int64]
    shape: tuple[int, ...]


def resample(
    arms: Sequence[Iterable[Any]],
    weights: Any,
    statistic: Statistic | None,
    relations: str,
    facts: bool,
    vectorised: bool,
    draws: int,
    seed: int,
) -> Resampled:
    """The statistic of every replicate of one arm, or two, and its change over draws of relations or facts."""
    if relations not in ("shared", "own"):
        raise OptionError(f"relations is {relations!r}; expected 'shared' or 'own'.")
    positive_count("draws", draws)
    names = ("data",) if len(arms) == 1 else ("a", "b")
    shared, generator = relations == "shared", np.random.default_rng(seed)
    first: _Leaves | None = None
    same: FloatArray | None = None
    groups, size, one_relation = [], np.inf, True
    for name, arm in zip(names, arms, strict=True):
        values, changes = [], []
        for one in _leaves(name, arm, weights, facts):
            if first is None:
                first = one._replace(data=one.data[:0])
                same = _drawn(one, draws, generator) if shared else None
            elif shared and not _alike(one, first):
                raise OptionError(
                    "replicates differ in their relations, facts or weights; expected the same in all, in the same "
                    "order. Align them, or pass relations='own' where each has relations of its own."
                )
            drawn = _drawn(one, draws, generator) if same is None else same
            values.append(_statistics(one, one.weights[None], statistic, vectorised)[0])
            changes.append(_statistics(one, drawn, statistic, vectorised) - values[-1])
            size, one_relation = min(size, _effective(one)), one_relation and one.relation[-1] == 0
        groups.append(Group(np.stack(values), np.stack(changes)))
    return Resampled(tuple(groups), "facts" if facts and one_relation else "relations", float(size), shared)


def _alike(one: _Leaves, other: _Leaves) -> bool:
    """Whether two replicates have the same relations and facts, with the same weights."""
    return np.array_equal(one.relation, other.relation) and np.array_equal(one.weights, other.weights)


def _leaves(name: str, data: Iterable[Any], weights: Any, facts: bool) -> Iterator[_Leaves]:
    """The replicates one at a time, checked; what was read of one need not be kept for the next."""
    shape: tuple[int, ...] | None = None
    for place, replicate in enumerate(data):
        rows = [np.asarray(relation) for relation in replicate] if facts else [np.asarray(replicate)]
        if not rows or any(row.ndim == 0 or not row.shape[0] or row.shape[1:] != rows[0].shape[1:] for row in rows):
            raise OptionError(
                f"{name}[{place}] has parts of shapes {[row.shape for row in rows]}; expected "
                f"{'a list of [facts, ...] for each relation' if facts else '[relations, ...]'}, none of them empty."
            )
        if shape not in (None, rows[0].shape[1:]):
            raise OptionError(
                f"{name}[{place}] has shape {rows[0].shape[1:]} below relations and those before {shape}; expected one."
            )
        shape = rows[0].shape[1:]
        sizes = [row.shape[0] for row in rows]
        joined = (np.concatenate(rows) if facts else rows[0]).reshape(sum(sizes), -1)
        joined = joined if joined.dtype == np.float32 else joined.astype(np.float64)
        require_finite(f"{name}[{place}]", joined)
        relation = np.repeat(np.arange(len(rows)), sizes) if facts else np.arange(sizes[0])
        yield _Leaves(joined, _weights(weights, place, sizes, facts), relation.astype(np.int64), shape)
    if shape is None:
        raise OptionError(f"{name} holds no replicate; expected one array of relations for each.")


def _weights(weights: Any, place: int, sizes: list[int], facts: bool) -> FloatArray:
    """The weights of one replicate's relations or facts, [L]."""
    if weights is None:
        return np.ones(sum(sizes))
    depth = _depth(weights)
    own = weights[place] if depth > (2 if facts else 1) and place < len(weights) else weights
    parts = [finite("weights", part, ndim=1) for part in (own if facts else [own])]
    if [part.size for part in parts] != sizes or not all((part > 0).all() for part in parts):
        raise OptionError(
            f"weights of replicate {place} are for {[part.size for part in parts]} entries, its data has {sizes}; "
            "expected a positive number of prompts for each. Leave out relations and facts without prompts."
        )
    return np.concatenate(parts)


def _depth(value: Any) -> int:
    return 0 if np.isscalar(value) or getattr(value, "ndim", 1) == 0 else 1 + _depth(value[0])


def _effective(one: _Leaves) -> float:
    """The effective number of relations, (Σw)²/Σw²; of facts if there is one relation; 1 if one of them is all."""
    per_relation = np.bincount(one.relation, one.weights)
    weights = one.weights if per_relation.size == 1 else per_relation
    return float(weights.sum() ** 2 / (weights**2).sum()) if weights.size > 1 else 1.0


def _drawn(one: _Leaves, draws: int, generator: np.random.Generator) -> FloatArray:
    """Weights [B, L] of draws of relations with replacement; of facts if there is one relation."""
    n_relations = int(one.relation.max()) + 1
    if n_relations == 1:
        n = one.relation.size
        return np.asarray(generator.multinomial(n, np.full(n, 1.0 / n), size=draws) * one.weights, dtype=np.float64)
    counts = generator.multinomial(n_relations, np.full(n_relations, 1.0 / n_relations), size=draws)
    return np.asarray(counts[:, one.relation] * one.weights, dtype=np.float64)


def _statistics(one: _Leaves, weights: FloatArray, statistic: Statistic | None, vectorised: bool) -> FloatArray:
    """The statistic of weighted means, [B, ...], for weights [B, L]."""
    share = (weights / weights.sum(axis=1, keepdims=True)).astype(one.data.dtype)
    if statistic is not None and not vectorised:
        return np.stack([np.asarray(statistic((row @ one.data).reshape(one.shape)), dtype=np.float64) for row in share])
    at_once = max(1, _ELEMENTS // max(1, one.data.shape[1]))
    found = []
    for start in range(0, len(share), at_once):
        means = (share[start : start + at_once] @ one.data).reshape(-1, *one.shape)
        found.append(np.asarray(means if statistic is None else statistic(means), dtype=np.float64))
    return np.concatenate(found)


def _over(part: ArrayLike, whole: ArrayLike) -> FloatArray:
    """Part over whole, NaN where the whole is not above 0."""
    top, bottom = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    result = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result


def _mean(values: FloatArray, axis: int) -> FloatArray:
    """The mean over an axis of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    return _over(np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis))


def _variance(values: FloatArray, axis: int) -> FloatArray:
    """The unbiased variance over an axis of what is defined; NaN where fewer than two are."""
    defined = ~np.isnan(values)
    centred = np.where(defined, values - np.expand_dims(_mean(values, axis), axis), 0.0)
    return _over((centred**2).sum(axis=axis), defined.sum(axis=axis) - 1.0)
