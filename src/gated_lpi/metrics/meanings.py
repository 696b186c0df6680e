"""What the variables of a summary are, in a line each, as xarray shows it in plots and files: `long_name`, `units`."""

from __future__ import annotations

import xarray as xr

from gated_lpi import score_schema as schema

ENDS = {
    "_chance_low": "lower end of the interval of what chance gives of ",
    "_chance_high": "upper end of the interval of what chance gives of ",
    "_chance": "what chance gives of ",
    "_low": "lower end of the interval of ",
    "_high": "upper end of the interval of ",
}
ONE, NATS, STEPS = "1", "nats", "steps"
"""Units; "1" is a count, a share or another number without any. `STEPS` are what the arm's `step` counts."""

MEANINGS: dict[str, tuple[str, str]] = {
    "units": ("number of units", ONE),
    "top_units": ("units in a top set", ONE),
    "ties": ("units that only their order left out of the top set", ONE),
    "undecided": ("units whose error bounds leave open whether they are in the top set", ONE),
    "stability": ("J_stab, overlap of consecutive top sets", ONE),
    "gain_top_set": ("R_t, the top set's share of positive gain", ONE),
    "gain_top_by_gain": ("R_t of the units of greatest gain", ONE),
    "positive_gain": ("positive gain of all units", NATS),
    "stability_routing_null": ("J_stab if units of one expert are permuted", ONE),
    "stability_given_counts": ("J_stab between the routing null (0) and what counts by expert allow (1)", ONE),
    "gain_top_set_routing_null": ("R_t if units of one expert are permuted", ONE),
    "expert_stability": ("overlap of consecutive sets of top experts", ONE),
    "top_experts": ("experts in such a set", ONE),
    "importance_share": ("the top set's share of importance", ONE),
    "entropy": ("entropy of importance, H / log N", ONE),
    "effective_units": ("effective number of units", ONE),
    "gini": ("Gini coefficient of importance", ONE),
    "layer_profile": ("layer's share of importance", ONE),
    "profile_pearson": ("Pearson correlation of two layer profiles", ONE),
    "profile_spearman": ("Spearman correlation of two layer profiles", ONE),
    "rho_avg": ("rho_avg, mean Pearson correlation of layer profiles", ONE),
    "rho_avg_spearman": ("mean Spearman correlation of layer profiles", ONE),
    "rho_pairs": ("pairs of checkpoints that rho_avg is over", ONE),
    "sigma_rel": ("sigma_rel, relative spread of layers over time, mean", ONE),
    "sigma_rel_median": ("relative spread of layers over time, median", ONE),
    "sigma_rel_layer": ("relative spread of a layer over time", ONE),
    "consolidation_stability": ("step from which J_stab stays above its threshold", STEPS),
    "consolidation_profile": ("step from which the layer profile stays like the last one", STEPS),
    "hit": ("HIT@k", ONE),
    "known_prompts": ("prompts whose facts are known", ONE),
    "utilisation_entropy": ("entropy of experts' use, H / log E", ONE),
    "load_imbalance": ("most used expert over the mean", ONE),
    "routing_distance": ("Jensen-Shannon distance of experts' use at two checkpoints", ONE),
    "window_first_step": ("first step of the window", STEPS),
    "window_last_step": ("last step of the window", STEPS),
    "step": ("training step", STEPS),
    "other_step": ("training step of the other checkpoint", STEPS),
    "pair_step": ("training step of the pair's earlier checkpoint", STEPS),
    "pair_next_step": ("training step of the pair's later checkpoint", STEPS),
    "tokens": ("training tokens", "tokens"),
}
"""By variable: what it is, and in which unit."""


def labelled(summary: xr.Dataset) -> xr.Dataset:
    """A summary, or several as one dataset, with `long_name` and `units` of all that is in `MEANINGS`.

    An interval's ends and what chance gives are of the variable that they stand beside.
    """
    counted = schema.step_unit(summary.attrs)
    found = summary.copy()
    for name in map(str, found.variables):
        end = next((end for end in ENDS if name.endswith(end) and name.removesuffix(end) in MEANINGS), "")
        if name.removesuffix(end) in MEANINGS:
            said, unit = MEANINGS[name.removesuffix(end)]
            found[name].attrs |= {"long_name": ENDS.get(end, "") + said, "units": counted if unit == STEPS else unit}
    return found
