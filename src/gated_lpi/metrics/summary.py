"""Every summary metric of one arm of a run, in one labelled dataset.

`summarise` takes the scores of one arm, as a run stores them:

    lpi_mean            (checkpoint, unit)               mean score over prompts, nats
    lpi                 (checkpoint, relation, unit)     the same per relation; if absent, no intervals
    target_rank         (checkpoint, prompt)             if absent, no HIT@k
    expert_utilisation  (checkpoint, relation, expert_unit)  share of prompts routed; absent for dense models;
                                                         without relations in stores of earlier versions
    error_bound         (checkpoint, prompt, block_index)  nats; if absent, scores count as exact
    lpi_known           (checkpoint, relation, unit)     over known facts alone; and `lpi_known_last`
    n_known             (checkpoint, relation)           how many prompts' they are, and `n_known_last`
    known_last          (checkpoint, prompt)             which they are at the end
    with coordinates `step`, `tokens`, `stage` (checkpoint), `layer`, `block` (unit), `n_prompts` (relation),
    `expert_unit_layer` and `expert_unit_expert` (expert_unit; −1 for shared experts, which are not routed to)
    and, if known, `weights_sha256` (checkpoint), `expert` and `shared` (unit)

and returns, with `kind` "ffn" and "attention" kept apart throughout:

    units, top_units                                (kind)               how many, and how many in a top set
    ties                                            (kind, checkpoint)   units that only their order left out
    undecided                                       (kind, checkpoint)   units whose error bounds leave open whether
                                                                         they belong to the top set (ties included)
    stability                                  ±, ? (kind, pair)         J_stab
    gain_top_set                               ±, ? (kind, pair)         R_t
    stability_routing_null                     ±    (kind, pair)         J_stab if units of one expert (one block, where
                                                                         there is none) are permuted; ± over draws
    stability_given_counts                          (kind, pair)         0: no more is shared than that; 1: as much as
                                                                         the experts' numbers of top units allow
    gain_top_set_routing_null                       (kind, pair)         R_t under the same permutation
    expert_stability                              ? (pair)               J of the top_experts experts of greatest summed
                                                                         importance; absent where there are none
    gain_top_by_gain                           ±    (kind, pair)         R_t for the units of greatest gain
    positive_gain                                   (kind, pair)         what both are shares of, nats
    importance_share                           ±, ? (kind, checkpoint)   the top set's share of importance
    entropy, effective_units, gini                  (kind, checkpoint)
    layer_profile                                   (kind, checkpoint, layer)   NaN: no such units there
    profile_pearson, profile_spearman               (kind, checkpoint, other_checkpoint)
    rho_avg, rho_avg_spearman, rho_pairs            (kind, window)       mean over pairs, and how many
    sigma_rel, sigma_rel_median, sigma_rel_layer    (kind, window[, layer])
    consolidation_stability, consolidation_profile  (kind)               a step; NaN: never settled
    hit                                        ±    (checkpoint, hit_k)  Wilson's interval
    known_prompts                                   (checkpoint)         over known facts only: how many prompts' are
    utilisation_entropy, load_imbalance             (checkpoint, moe_layer)
    routing_distance                                (pair, moe_layer)    Jensen-Shannon

± : `…_low` and `…_high` beside it, a bootstrap over relations unless said otherwise. ? : `…_chance`,
`…_chance_low` and `…_chance_high`, for random sets of as many units; for stabilities they do not depend on the
pair. A `pair` is two consecutive checkpoints, with coordinates `pair_step` and `pair_next_step`. The profile
consolidates once its Pearson correlation with the last checkpoint's stays above the threshold; the last
checkpoint itself does not count. Where neither kind of unit was scored, `kind` is empty and nothing over it is there.

Consecutive checkpoints with one `weights_sha256` are one set of weights under two names. Everything over such a pair
is refused: it is NaN, consolidation is judged without it, and the attribute `refused_pairs` says which and why.

Scores of units are read a checkpoint at a time, so memory does not grow with the number of checkpoints: `_arm` reads
them, `_kind_series` turns each into numbers, with the bootstrap of `_set_draws`, and `_tables` makes columns of these.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.datasets import as_expected
from gated_lpi.errors import OptionError
from gated_lpi.metrics._arm import arm_of
from gated_lpi.metrics._arrays import BoolArray, IntArray
from gated_lpi.metrics._kind_series import KindSeries, SummaryOptions
from gated_lpi.metrics._set_draws import SetDraws
from gated_lpi.metrics._tables import Columns, expert_table, hit_table, kind_table, routing_table
from gated_lpi.metrics.relations import over_relations

SUMMARY_VERSION = 3  # of what is computed here: another number, and summaries that were kept are computed anew
HIT_KS = (1, 5, 10)


def summarise(
    scores: xr.Dataset,
    *,
    fraction: float = 0.01,
    windows: Mapping[str, tuple[int, int]] | None = None,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
    stability_threshold: float = 0.5,
    profile_threshold: float = 0.95,
    method: str = schema.LPI,
    facts: schema.WhichFacts = "all",
) -> xr.Dataset:
    """Summarise one arm by every metric; the module docstring lists what goes in and what comes out.

    Args:
        scores: one arm of a run, checkpoints in training order.
        fraction: share of the units in a top set.
        windows: name → (first step, last step), both included, for ρ_avg and σ_rel; steps of every stage count.
            None: "all", and "late", the later half of the checkpoints with the middle one.
        draws: bootstrap draws, and random sets drawn for chance intervals.
        level: of all intervals.
        seed: of both kinds of draw.
        stability_threshold: J_stab above which top sets count as consolidated.
        profile_threshold: correlation with the last profile above which profiles count as consolidated.
        method: whose scores are summarised, such as "grad_x_act": the name of their variable, with `…_mean` beside it.
        facts: "all"; or "known" at each checkpoint, or "known_last", at the arm's last one. Relations weigh as many
            prompts as are known then, `known_prompts` in all; where there are none all is NaN.

    Raises:
        OptionError: a variable, dimension or coordinate is missing, a score is NaN, a window holds no
            checkpoint, or an option is outside what it may be.
    """
    options = SummaryOptions(fraction, level, draws, seed, stability_threshold, profile_threshold)
    units = "unit" in scores.dims or schema.mean_of(method) in scores
    if facts != "all":
        _require_known(scores, method, facts)
    elif units:
        _require(scores, schema.mean_of(method), ("checkpoint", "unit"), ("step", "layer", "block"))
    else:
        _require(scores, schema.BASE_LOGPROB, ("checkpoint", "prompt", "block_index"), ("step", "block_layer"))
    steps = scores["step"].to_numpy().astype(np.int64)
    rows = _window_rows(steps, windows)
    layer = scores["layer" if units else "block_layer"].to_numpy().astype(np.int64)
    n_layers = int(layer.max()) + 1
    refused = _refused_pairs(scores)
    series = _series(scores, method, facts, n_layers, options) if units else {}
    tables = [kind_table(one, steps, rows, ~refused, options) for one in series.values()]
    variables: Columns = {
        name: (("kind", *dims), np.stack([table[name][1] for table in tables]))
        for name, (dims, _) in (tables[0].items() if tables else ())
    }
    coords: dict[str, Any] = {
        "kind": np.array(list(series), dtype=str),
        "layer": np.arange(n_layers),
        "other_step": ("other_checkpoint", steps),
        "pair_step": ("pair", steps[:-1]),
        "pair_next_step": ("pair", steps[1:]),
        "window": list(rows),
        "window_first_step": ("window", [int(steps[index].min()) for index in rows.values()]),
        "window_last_step": ("window", [int(steps[index].max()) for index in rows.values()]),
    }
    for name in ("step", "tokens", "stage"):
        if name in scores.coords:
            coords[name] = ("checkpoint", _plain_text(scores[name].to_numpy()))
    if "ffn" in series and series["ffn"].experts:
        variables |= expert_table(series["ffn"], options)
    for table, extra in (_hits(scores, level), _routing(scores)):
        variables |= table
        coords |= extra
    over: dict[str, str] = {} if facts == "all" else {"facts": facts}
    if over:
        known = scores[schema.count_over(facts)].sum("relation").to_numpy().astype(np.int64)
        variables["known_prompts"] = (("checkpoint",), known)
    counted = schema.step_unit(scores.attrs)
    over |= {} if counted == schema.STEPS else {schema.STEP_UNIT: counted}
    summary = xr.Dataset(variables, coords, attrs=asdict(options) | {"method": method} | over)
    return as_expected(_refuse(summary, refused, scores) if refused.any() else summary)


def _series(
    scores: xr.Dataset, method: str, facts: schema.WhichFacts, n_layers: int, options: SummaryOptions
) -> dict[str, KindSeries]:
    """The series of each kind of unit, from one reading of the scores, a checkpoint at a time."""
    if facts == "all" and method in scores:
        _require(scores, method, ("checkpoint", "relation", "unit"), ("n_prompts",))
    if method == schema.LPI and schema.ERROR_BOUND in scores:
        _require(scores, schema.ERROR_BOUND, ("checkpoint", "prompt", "block_index"), ("block_layer", "block_kind"))
    arm = arm_of(scores, method, facts)
    series = {}
    for kind, units in arm.kinds.items():
        resampled = None
        if arm.relations is not None:
            resampled = SetDraws(arm.relations, units.inside.size, fraction=options.fraction, **options.drawn)
        series[kind] = KindSeries(units, n_layers, options, resampled)
    for rows in arm.rows():
        for kind, row in rows.items():
            if row is None:
                series[kind].skip()
            else:
                series[kind].add(row)
    return series


def _require_known(scores: xr.Dataset, method: str, facts: schema.WhichFacts) -> None:
    """Check that there are scores over known facts."""
    if facts not in get_args(schema.WhichFacts):
        raise OptionError(f"facts is {facts!r}; expected one of {', '.join(map(repr, get_args(schema.WhichFacts)))}.")
    counts, name = schema.count_over(facts), schema.over_facts(method, facts)
    _require(scores, name, ("checkpoint", "relation", "unit"), ("step", "layer", "block", counts))
    _require(scores, counts, ("checkpoint", "relation"), ())


def summary_to_json(summary: xr.Dataset) -> dict[str, Any]:
    """The summary as plain dicts, lists, strings and numbers, for `json.dumps(..., allow_nan=False)`.

    The layout is that of `xarray.Dataset.to_dict`. JSON has no NaN and no infinity: both become None.
    """
    return {str(key): _plain(value) for key, value in summary.to_dict().items()}


def _plain_text(values: NDArray[Any]) -> NDArray[Any]:
    """Strings that a store gives back as its own kind, as NumPy's plain ones; numbers as they are."""
    return values if values.dtype.kind in "biuf" else values.astype(object).astype(str)


def _refused_pairs(scores: xr.Dataset) -> BoolArray:
    """Which pairs of consecutive checkpoints [T−1] have identical weights."""
    if "weights_sha256" not in scores.coords:
        return np.zeros(scores.sizes["checkpoint"] - 1, dtype=np.bool_)
    digest = scores["weights_sha256"].to_numpy().astype(object).astype(str)
    return np.asarray((digest[:-1] == digest[1:]) & (digest[:-1] != ""), dtype=np.bool_)


def _refuse(summary: xr.Dataset, refused: BoolArray, scores: xr.Dataset) -> xr.Dataset:
    """Blank every number of the refused pairs, and say so."""
    wanted = xr.DataArray(~refused, dims="pair")
    over_pairs = [name for name, variable in summary.data_vars.items() if "pair" in variable.dims]
    names = scores["checkpoint_key" if "checkpoint_key" in scores.coords else "step"].to_numpy().tolist()
    digest = scores["weights_sha256"].to_numpy().tolist()
    reasons = [
        f"{names[i]} and {names[i + 1]}: the same weights (SHA-256 {str(digest[i])[:12]})"
        for i in np.flatnonzero(refused).tolist()
    ]
    blank = {name: summary[name].where(wanted).transpose(*summary[name].dims) for name in over_pairs}
    return summary.assign(blank).assign_attrs(refused_pairs=reasons)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _require(scores: xr.Dataset, variable: str, dims: tuple[str, ...], coords: tuple[str, ...]) -> None:
    """Check that `variable` is there with these dimensions, none empty, and that the coordinates are."""
    missing = [name for name in (variable, *coords) if name not in scores.variables]
    if missing:
        raise OptionError(
            f"the scores have no {', '.join(missing)}; `{variable}` needs {', '.join((variable, *coords))}. "
            "Pass one arm of a run, as the run store returns it."
        )
    array = scores[variable]
    if set(array.dims) != set(dims) or not all(array.sizes[dim] for dim in dims):
        raise OptionError(
            f"`{variable}` has dimensions {dict(array.sizes)}; expected ({', '.join(dims)}), none empty. "
            "Select one arm of the run, or reduce the others."
        )


def _window_rows(steps: IntArray, windows: Mapping[str, tuple[int, int]] | None) -> dict[str, IntArray]:
    """The checkpoint indices of each window."""
    everything = np.arange(steps.size)
    if windows is None:
        return {"all": everything, "late": everything[steps.size // 2 :]}
    rows = {name: np.flatnonzero((steps >= first) & (steps <= last)) for name, (first, last) in windows.items()}
    for name, index in rows.items():
        if not index.size:
            raise OptionError(
                f"window {name!r} is {windows[name]} and holds no checkpoint; steps are {steps.tolist()}. "
                "Give (first step, last step), both included."
            )
    return rows


def _hits(scores: xr.Dataset, level: float) -> tuple[Columns, dict[str, Any]]:
    if schema.TARGET_RANK not in scores:
        return {}, {}
    _require(scores, schema.TARGET_RANK, ("checkpoint", "prompt"), ())
    ranks = scores[schema.TARGET_RANK].transpose("checkpoint", "prompt").to_numpy()
    return hit_table(ranks, HIT_KS, level), {"hit_k": list(HIT_KS)}


def _routing(scores: xr.Dataset) -> tuple[Columns, dict[str, Any]]:
    if schema.EXPERT_UTILISATION not in scores:
        return {}, {}
    coords = ("expert_unit_layer", "expert_unit_expert")
    by_relation = ("relation",) if "relation" in scores[schema.EXPERT_UTILISATION].dims else ()
    _require(scores, schema.EXPERT_UTILISATION, ("checkpoint", *by_relation, "expert_unit"), coords)
    routed = np.flatnonzero(scores["expert_unit_expert"].to_numpy() >= 0)
    overall = over_relations(scores, schema.EXPERT_UTILISATION)
    utilisation = overall.transpose("checkpoint", "expert_unit").to_numpy()[:, routed]
    layer = scores["expert_unit_layer"].to_numpy()[routed].astype(np.int64)
    moe_layers = np.unique(layer)
    if not moe_layers.size:
        return {}, {}
    return routing_table(utilisation.astype(np.float64), layer, moe_layers), {"moe_layer": moe_layers}
