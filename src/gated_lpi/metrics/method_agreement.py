"""Do the methods of a run say the same of its units, checkpoint by checkpoint?

For every two methods, of their mean scores over prompts: Spearman within layers, pooled (`agreement`), whose chance
is 0, and the overlap of their top sets beside that of independent ones. The interval of the correlation is a
bootstrap over relations, made the basic one as `agreement_interval` does, and given for the last checkpoint alone: it
takes two rankings of all units a draw.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, IntArray
from gated_lpi.metrics.agreement import spearman_within
from gated_lpi.metrics.statistics import bootstrap
from gated_lpi.metrics.topset import set_size, top_mask
from gated_lpi.score_schema import mean_of
from gated_lpi.unit_names import KINDS


def method_agreement(
    scores: xr.Dataset,
    methods: Sequence[str],
    *,
    fraction: float = 0.01,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Compare every two methods by which the units of an arm were scored.

    Args:
        scores: one arm of a run: `METHOD_mean (checkpoint, unit)` of each method and, for intervals, `METHOD
            (checkpoint, relation, unit)`, with `step`, `layer` and `block`.
        methods: names of their variables; fewer than two give a dataset with no comparison.
        fraction: share of the units in a top set.
        draws: number of resamples of relations.
        level: of the interval.
        seed: of the draws.

    Returns:
        `spearman_within` (comparison, kind, checkpoint) with `…_low` and `…_high`, NaN but at the last checkpoint, and
            `…_chance`; `overlap`, the share of one top set that is in the other's, with `overlap_chance` (kind). The
            coordinates `method` and `other_method` say what a comparison is of.

    Raises:
        OptionError: a variable or coordinate is missing, or an option is outside what it may be.
    """
    needed = ["step", "layer", "block", *map(mean_of, methods)]
    missing = [name for name in needed if name not in scores.variables]
    if missing:
        raise OptionError(
            f"the scores have no {', '.join(missing)}; methods are compared by {', '.join(needed)}. Name methods that "
            "the run has, as Run.methods gives them."
        )
    block = scores["block"].to_numpy().astype(object).astype(str)
    layer = scores["layer"].to_numpy().astype(np.int64)
    inside = {kind: np.flatnonzero(block == kind) for kind in KINDS if (block == kind).any()}
    pairs = list(combinations(methods, 2))
    means = {name: scores[mean_of(name)].transpose("checkpoint", "unit").to_numpy() for name in methods}
    shape = (len(pairs), len(inside), scores.sizes["checkpoint"])
    rho, overlap = np.full(shape, np.nan), np.full(shape, np.nan)
    low, high = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, (one, other) in enumerate(pairs):
        for j, units in enumerate(inside.values()):
            for t, (a, b) in enumerate(zip(means[one][:, units], means[other][:, units], strict=True)):
                rho[i, j, t] = spearman_within(a, b, layer[units])
                shared = int((top_mask(a, fraction) & top_mask(b, fraction)).sum())
                overlap[i, j, t] = shared / set_size(units.size, fraction)
            if {one, other} <= set(scores.data_vars):
                low[i, j, -1], high[i, j, -1] = _interval(scores, (one, other), units, layer, draws, level, seed)
    over = ("comparison", "kind", "checkpoint")
    chance = [set_size(units.size, fraction) / units.size for units in inside.values()]
    return xr.Dataset(
        {
            "spearman_within": (over, rho),
            "spearman_within_low": (over, low),
            "spearman_within_high": (over, high),
            "spearman_within_chance": ((), 0.0),
            "overlap": (over, overlap),
            "overlap_chance": ("kind", np.array(chance)),
        },
        {
            "method": ("comparison", np.array([one for one, _ in pairs], dtype=str)),
            "other_method": ("comparison", np.array([other for _, other in pairs], dtype=str)),
            "kind": np.array(list(inside), dtype=str),
            **{name: ("checkpoint", scores[name].to_numpy()) for name in ("step", "tokens") if name in scores.coords},
        },
    )


def _interval(
    scores: xr.Dataset, methods: tuple[str, str], units: IntArray, layer: IntArray, draws: int, level: float, seed: int
) -> tuple[float, float]:
    """The basic interval over relations of two methods' correlation within layers at the last checkpoint."""
    last = [
        scores[name].isel(checkpoint=-1).transpose("relation", "unit").to_numpy()[:, units].astype(np.float64)
        for name in methods
    ]

    def correlation(mean: Any) -> FloatArray:
        return np.array(spearman_within(mean[0], mean[1], layer[units]))

    prompts = scores["n_prompts"].to_numpy()
    found = bootstrap(correlation, np.stack(last, axis=1), prompts, draws=draws, level=level, seed=seed)
    ends = np.clip([2 * found.estimate - found.high, 2 * found.estimate - found.low], -1, 1)
    return float(ends[0]), float(ends[1])
