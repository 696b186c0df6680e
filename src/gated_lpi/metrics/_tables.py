"""The parts of a summary: a table per kind of unit, from its series, one for hits, one for experts, one for routing.

A table maps the name of a variable to its dimensions and its values; `summary` lists the names and joins the
tables.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi.metrics._arrays import BoolArray, FloatArray, IntArray
from gated_lpi.metrics._kind_series import AT_CHECKPOINTS, AT_PAIRS, KindSeries, SummaryOptions
from gated_lpi.metrics._set_draws import MEASURES
from gated_lpi.metrics.consolidation import consolidation_step
from gated_lpi.metrics.hits import hit_at_k, hit_interval
from gated_lpi.metrics.layers import mean_pairwise, profile_correlation, relative_spread
from gated_lpi.metrics.routing import load_imbalance, routing_stability, utilisation_entropy
from gated_lpi.metrics.stability import jaccard_chance, jaccard_chance_interval, top_set_stability
from gated_lpi.metrics.topset import set_size

Columns = dict[str, tuple[tuple[str, ...], NDArray[Any]]]


def kind_table(
    series: KindSeries, steps: IntArray, windows: Mapping[str, IntArray], compared: BoolArray, options: SummaryOptions
) -> Columns:
    """Every variable of one kind of unit.

    Args:
        series: of this kind, complete.
        steps: [T], training steps.
        windows: by name, the checkpoint indices [n] of each window.
        compared: [T−1], False for pairs of consecutive checkpoints that must not be compared.
        options: of the summary.
    """
    n = series.units.inside.size
    top = set_size(n, options.fraction)
    here: Columns = {name: (("checkpoint",), np.array(series.columns[name])) for name in AT_CHECKPOINTS}
    pairs: Columns = {name: (("pair",), np.array(series.columns[name], dtype=np.float64)) for name in AT_PAIRS}
    settled = consolidation_step(pairs["stability"][1][compared], steps[:-1][compared], options.stability_threshold)
    return {
        "units": ((), np.array(n)),
        "top_units": ((), np.array(top)),
        **here,
        **pairs,
        **_intervals(series),
        **_stability_chance(n, top, options),
        "consolidation_stability": ((), _step_or_nan(settled)),
        **_layers(series, steps, windows, options),
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


def expert_table(series: KindSeries, options: SummaryOptions) -> Columns:
    """The stability of top sets of experts, beside that of random ones.

    Args:
        series: of the FFN's units, one of which is of an expert at least.
        options: of the summary.
    """
    summed = np.stack(series.experts)
    size = set_size(summed.shape[1], options.fraction)
    stability = [
        float("nan") if np.isnan(summed[i : i + 2]).any() else top_set_stability(summed[i : i + 2], options.fraction)[0]
        for i in range(len(summed) - 1)
    ]
    bounds = jaccard_chance_interval(summed.shape[1], size, options.level)
    return {
        "expert_stability": (("pair",), np.array(stability, dtype=np.float64)),
        "top_experts": ((), np.array(size)),
        "expert_stability_chance": ((), np.array(jaccard_chance(summed.shape[1], size))),
        "expert_stability_chance_low": ((), np.array(bounds.low)),
        "expert_stability_chance_high": ((), np.array(bounds.high)),
    }


def _intervals(series: KindSeries) -> Columns:
    """Intervals of what rests on a top set, over resampled relations, if these were kept."""
    if series.draws is None:
        return {}
    table: Columns = {}
    for name, (low, high) in series.draws.intervals().items():
        table[f"{name}_low"] = ((MEASURES[name],), low)
        table[f"{name}_high"] = ((MEASURES[name],), high)
    return table


def _stability_chance(n: int, top: int, options: SummaryOptions) -> Columns:
    """J_stab of random sets of as many units."""
    bounds = jaccard_chance_interval(n, top, options.level)
    return {
        "stability_chance": ((), np.array(jaccard_chance(n, top))),
        "stability_chance_low": ((), np.array(bounds.low)),
        "stability_chance_high": ((), np.array(bounds.high)),
    }


def _layers(series: KindSeries, steps: IntArray, windows: Mapping[str, IntArray], options: SummaryOptions) -> Columns:
    """Profiles and what follows from them, over layers that have units of this kind; NaN for the others."""
    n_layers = series.n_layers
    present = np.isin(np.arange(n_layers), series.units.layer)
    profiles = np.where(present, np.stack(series.profiles), np.nan)
    own = profiles[:, present]
    defined = np.flatnonzero(~np.isnan(own).any(axis=1))
    pearson, spearman = (np.full((len(own), len(own)), np.nan) for _ in range(2))
    if defined.size:
        pearson[np.ix_(defined, defined)] = profile_correlation(own[defined])
        spearman[np.ix_(defined, defined)] = profile_correlation(own[defined], "spearman")
    spreads = [relative_spread(own[np.intersect1d(rows, defined)]) for rows in windows.values()]
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
