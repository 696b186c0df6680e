"""The parts of a summary, computed on plain arrays: a table per kind of unit, one for hits, one for routing.

A table maps the name of a variable to its dimensions and its values; `summary` lists the names and joins the
tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi.metrics._arrays import BoolArray, FloatArray, IntArray
from gated_lpi.metrics.concentration import entropy, gain_concentration, importance_share
from gated_lpi.metrics.consolidation import consolidation_step
from gated_lpi.metrics.hits import hit_at_k, hit_interval
from gated_lpi.metrics.layers import layer_profile, mean_pairwise, profile_correlation, relative_spread
from gated_lpi.metrics.routing import load_imbalance, routing_stability, utilisation_entropy
from gated_lpi.metrics.routing_null import expert_stability, gain_routing_null, null_of_sets
from gated_lpi.metrics.stability import jaccard_chance, jaccard_chance_interval, top_set_stability
from gated_lpi.metrics.statistics import bootstrap, random_share_chance
from gated_lpi.metrics.topset import set_size, top_mask, top_set_ties, top_set_undecided

Columns = dict[str, tuple[tuple[str, ...], NDArray[Any]]]


@dataclass(frozen=True)
class SummaryOptions:
    """The options of a summary, as recorded in its attributes.

    Attributes:
        fraction: share of the units in a top set.
        level: of all intervals.
        draws: bootstrap draws, and random sets drawn for chance intervals.
        seed: of both kinds of draw.
        stability_threshold: J_stab from which on top sets count as consolidated.
        profile_threshold: correlation with the last profile from which on profiles count as consolidated.
    """

    fraction: float
    level: float
    draws: int
    seed: int
    stability_threshold: float
    profile_threshold: float


@dataclass(frozen=True)
class KindScores:
    """The units of one kind in one arm. T checkpoints, N units, R relations.

    Attributes:
        scores: [T, N], mean over prompts, nats.
        by_relation: [R, T, N], mean over the prompts of each relation, nats; None if not kept.
        prompts: [R], prompts of each relation; None if not kept.
        layer: [N], each unit's layer.
        group: [N], a number for each unit's expert, or for its block where it is of none.
        errors: [T, N], no mean score is off by more, nats.
        compared: [T−1], one for each pair: False for pairs of consecutive checkpoints that must not be compared.
    """

    scores: FloatArray
    by_relation: NDArray[Any] | None
    prompts: IntArray | None
    layer: IntArray
    group: IntArray
    errors: FloatArray
    compared: BoolArray


def kind_table(
    units: KindScores, n_layers: int, steps: IntArray, windows: Mapping[str, IntArray], options: SummaryOptions
) -> Columns:
    """Every variable of one kind of unit.

    Args:
        units: scores of this kind.
        n_layers: layers of the model.
        steps: [T], training steps.
        windows: by name, the checkpoint indices [n] of each window.
        options: of the summary.
    """
    top = set_size(units.scores.shape[1], options.fraction)
    stability = top_set_stability(units.scores, options.fraction)
    ties = np.array([top_set_ties(row, options.fraction) for row in units.scores])
    undecided = [
        top_set_undecided(row, errors, options.fraction) for row, errors in zip(units.scores, units.errors, strict=True)
    ]
    evenness = entropy(units.scores)
    return {
        "units": ((), np.array(units.scores.shape[1])),
        "top_units": ((), np.array(top)),
        "ties": (("checkpoint",), ties),
        "undecided": (("checkpoint",), np.array(undecided)),
        "entropy": (("checkpoint",), evenness.normalised),
        "effective_units": (("checkpoint",), evenness.effective_units),
        "gini": (("checkpoint",), evenness.gini),
        "consolidation_stability": (
            (),
            _step_or_nan(
                consolidation_step(stability[units.compared], steps[:-1][units.compared], options.stability_threshold)
            ),
        ),
        **_shares(units, options),
        **_chance(units.scores, top, options),
        **_routing_null(units.scores, units.group, options),
        **_layers(units, n_layers, steps, windows, options),
    }


def hit_table(ranks: NDArray[Any], ks: tuple[int, ...], level: float) -> Columns:
    """HIT@k of `ranks` [T, P] with Wilson intervals, (checkpoint, hit_k)."""
    shares = np.array([[hit_at_k(row, k) for k in ks] for row in ranks])
    prompts = ranks.shape[1]
    bounds = np.array([[hit_interval(round(share * prompts), prompts, level) for share in row] for row in shares])
    dims = ("checkpoint", "hit_k")
    return {"hit": (dims, shares), "hit_low": (dims, bounds[..., 0]), "hit_high": (dims, bounds[..., 1])}


def routing_table(utilisation: FloatArray, layer: IntArray, moe_layers: IntArray) -> Columns:
    """The routing measures.

    Args:
        utilisation: [T, units], share of prompts routed to each expert.
        layer: [units], the layer that each expert lies in.
        moe_layers: [L], the layers that have routed experts.
    """
    by_layer = [utilisation[:, layer == number] for number in moe_layers]
    here, pair = ("checkpoint", "moe_layer"), ("pair", "moe_layer")
    return {
        "utilisation_entropy": (here, np.stack([utilisation_entropy(one) for one in by_layer], axis=-1)),
        "load_imbalance": (here, np.stack([load_imbalance(one) for one in by_layer], axis=-1)),
        "routing_distance": (pair, np.stack([routing_stability(one) for one in by_layer], axis=-1)),
    }


def _shares(units: KindScores, options: SummaryOptions) -> Columns:
    """Stability and concentration, with a bootstrap interval over relations if these were kept."""
    series = _set_series(units.scores, options.fraction)
    dims = {name: ("checkpoint",) if name == "importance_share" else ("pair",) for name in series}
    table: Columns = {name: (dims[name], values) for name, values in series.items()}
    gains = gain_concentration(units.scores[:-1], units.scores[1:], options.fraction)
    table["positive_gain"] = (("pair",), gains.positive_gain)
    if units.by_relation is None or units.prompts is None:
        return table
    interval = bootstrap(
        lambda mean: np.concatenate(list(_set_series(mean, options.fraction).values())),
        units.by_relation,
        units.prompts,
        draws=options.draws,
        level=options.level,
        seed=options.seed,
    )
    cuts = np.cumsum([values.size for values in series.values()])[:-1]
    for name, low, high in zip(series, np.split(interval.low, cuts), np.split(interval.high, cuts), strict=True):
        table[f"{name}_low"] = (dims[name], low)
        table[f"{name}_high"] = (dims[name], high)
    return table


def _set_series(scores: NDArray[Any], fraction: float) -> dict[str, FloatArray]:
    """The measures of `scores` [T, N] that rest on a top set: [T−1] for pairs, [T] for the share."""
    gains = gain_concentration(scores[:-1], scores[1:], fraction)
    return {
        "stability": top_set_stability(scores, fraction),
        "gain_top_set": gains.top_set,
        "gain_top_by_gain": gains.top_by_gain,
        "importance_share": importance_share(scores, fraction),
    }


def _chance(scores: FloatArray, top: int, options: SummaryOptions) -> Columns:
    """What random sets of the same size would have scored."""
    n = scores.shape[1]
    bounds = jaccard_chance_interval(n, top, options.level)
    table: Columns = {
        "stability_chance": ((), np.array(jaccard_chance(n, top))),
        "stability_chance_low": ((), np.array(bounds.low)),
        "stability_chance_high": ((), np.array(bounds.high)),
    }
    for name, dim, values in (
        ("gain_top_set", "pair", np.diff(scores, axis=0)),
        ("importance_share", "checkpoint", scores),
    ):
        chance = random_share_chance(
            values, options.fraction, draws=options.draws, level=options.level, seed=options.seed
        )
        table[f"{name}_chance"] = ((dim,), chance.mean)
        table[f"{name}_chance_low"] = ((dim,), chance.low)
        table[f"{name}_chance_high"] = ((dim,), chance.high)
    return table


def _routing_null(scores: FloatArray, group: IntArray, options: SummaryOptions) -> Columns:
    """What is left of J_stab and R_t when the units of each expert or block are exchanged for one another."""
    inside = top_mask(scores, options.fraction)
    nulls = [
        null_of_sets(a, b, group, draws=options.draws, level=options.level, seed=options.seed)
        for a, b in pairwise(inside)
    ]
    gains = [gain_routing_null(a, b, group, options.fraction) for a, b in pairwise(scores)]
    columns = {
        "stability_routing_null": [null.mean for null in nulls],
        "stability_routing_null_low": [null.low for null in nulls],
        "stability_routing_null_high": [null.high for null in nulls],
        "stability_given_counts": [null.given_counts for null in nulls],
        "gain_top_set_routing_null": gains,
    }
    return {name: (("pair",), np.array(values, dtype=np.float64)) for name, values in columns.items()}


def expert_table(units: KindScores, of_expert: BoolArray, options: SummaryOptions) -> Columns:
    """The stability of top sets of experts, beside that of random ones.

    Args:
        units: scores of the FFN's units.
        of_expert: [N], which of them are of a routed or shared expert; one at least.
        options: of the summary.
    """
    expert = np.where(of_expert, units.group, -1)
    count = np.unique(expert[of_expert]).size
    size = set_size(count, options.fraction)
    bounds = jaccard_chance_interval(count, size, options.level)
    return {
        "expert_stability": (("pair",), expert_stability(units.scores, expert, options.fraction)),
        "top_experts": ((), np.array(size)),
        "expert_stability_chance": ((), np.array(jaccard_chance(count, size))),
        "expert_stability_chance_low": ((), np.array(bounds.low)),
        "expert_stability_chance_high": ((), np.array(bounds.high)),
    }


def _layers(
    units: KindScores, n_layers: int, steps: IntArray, windows: Mapping[str, IntArray], options: SummaryOptions
) -> Columns:
    """Profiles and what follows from them, over layers that have units of this kind; NaN for the others."""
    present = np.isin(np.arange(n_layers), units.layer)
    profiles = np.where(present, layer_profile(units.scores, units.layer, n_layers), np.nan)
    own = profiles[:, present]
    pearson, spearman = profile_correlation(own), profile_correlation(own, "spearman")
    spreads = [relative_spread(own[rows]) for rows in windows.values()]
    by_layer = np.full((len(windows), n_layers), np.nan)
    by_layer[:, present] = [spread.per_layer for spread in spreads]
    pairs = [mean_pairwise(pearson[np.ix_(rows, rows)]) for rows in windows.values()]
    rank_pairs = [mean_pairwise(spearman[np.ix_(rows, rows)]) for rows in windows.values()]
    matrix = ("checkpoint", "other_checkpoint")
    settled = consolidation_step(pearson[:-1, -1], steps[:-1], options.profile_threshold)
    return {
        "layer_profile": (("checkpoint", "layer"), profiles),
        "profile_pearson": (matrix, pearson),
        "profile_spearman": (matrix, spearman),
        "rho_avg": (("window",), np.array([pair.mean for pair in pairs])),
        "rho_avg_spearman": (("window",), np.array([pair.mean for pair in rank_pairs])),
        "rho_pairs": (("window",), np.array([pair.pairs for pair in pairs])),
        "sigma_rel": (("window",), np.array([spread.mean for spread in spreads])),
        "sigma_rel_median": (("window",), np.array([spread.median for spread in spreads])),
        "sigma_rel_layer": (("window", "layer"), by_layer),
        "consolidation_profile": ((), _step_or_nan(settled)),
    }


def _step_or_nan(step: int | None) -> FloatArray:
    return np.array(np.nan if step is None else step, dtype=np.float64)
