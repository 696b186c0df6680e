"""What is shown of a model in training at one step: a few of the summary's metrics, of this step and the one before.

The numbers are those that `gated_lpi.metrics.summarise` gives for the same two checkpoints, so that a live curve and
the report of the run say the same. FFN units unless the name says attention or mixer; means over layers of what is by
layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from gated_lpi import score_schema as schema
from gated_lpi.diagnosis import Finding
from gated_lpi.metrics import dead_experts, summarise
from gated_lpi.unit_names import KINDS

_OTHERS = KINDS[1:]  # kinds of units beside those of FFNs

METRICS = {
    "hit_at_10": "HIT@10, the share of prompts whose target is among the 10 likeliest tokens",
    "j_stab": "J_stab: the overlap of the top set with that of the observation before",
    "rho": "Pearson correlation of the layer profile with that of the observation before",
    "r_t": "R_t: the top set's share of all gains since the observation before",
    "top_share": "the top set's share of importance",
    "entropy": "entropy of importance over units, 1 if even",
    "load_imbalance": "the busiest expert's load over the mean load at the prompts' last positions, mean over layers",
    "dead_experts": "the share of experts with less than a tenth of an even load over all positions, mean over layers",
    **{f"{kind}/j_stab": f"J_stab of {kind} units" for kind in _OTHERS},
    **{f"{kind}/r_t": f"R_t of {kind} units" for kind in _OTHERS},
    **{f"{kind}/top_share": f"the top set's share of the importance of {kind} units" for kind in _OTHERS},
    **{f"{kind}/entropy": f"entropy of importance over {kind} units" for kind in _OTHERS},
}
"""What is measured, by name, with its meaning. One that cannot be had (of a pair at the first step) is left out."""

_OF_KIND = {"top_share": "importance_share", "entropy": "entropy"}
_OF_PAIR = {"j_stab": "stability", "r_t": "gain_top_set"}


@dataclass(frozen=True)
class Observation:
    """A model in training, looked at once.

    Attributes:
        step: optimizer steps done.
        tokens: tokens seen; None where they are not counted.
        key: its name in the store, "step-STEP".
        metrics: by the names of `METRICS`; those that cannot be had are left out.
        scored: whether it was scored now; else it was in the store already.
        seconds: what this observation took.
        share_of_training_time: of the time since the monitor began, the share that all observations took.
        alarms: what is wrong with training over the last observations (`gated_lpi.diagnosis`).
        new_alarms: those of them whose like was not wrong at the observation before.
    """

    step: int
    tokens: int | None
    key: str
    metrics: dict[str, float] = field(default_factory=dict)
    scored: bool = True
    seconds: float = 0.0
    share_of_training_time: float = 0.0
    alarms: tuple[Finding, ...] = ()
    new_alarms: tuple[Finding, ...] = ()

    def logs(self, prefix: str = "gated_lpi/") -> dict[str, float]:
        """Everything as numbers under names that start with `prefix`, as loggers take them; alarms as 0 or 1."""
        alarmed = {finding.name.replace(" ", "_") for finding in self.alarms}
        numbers = {
            **self.metrics,
            "seconds": round(self.seconds, 4),
            "share_of_training_time": round(self.share_of_training_time, 6),
            "alarms": float(len(self.alarms)),
            **{f"alarm/{name}": 1.0 for name in sorted(alarmed)},
        }
        return {f"{prefix}{name}": value for name, value in numbers.items()}


def measure(scores: xr.Dataset, method: str, fraction: float) -> dict[str, float]:
    """The metrics of the last of one or two checkpoints, those that are finite.

    Args:
        scores: an arm's scores at the checkpoint and at the one before, if there is one.
        method: whose scores are summarised.
        fraction: share of the units in a top set.
    """
    plain = scores.drop_vars(method, errors="ignore")  # by relation, which only intervals are made of
    summary = summarise(plain, fraction=fraction, draws=1, method=method)
    found: dict[str, float] = {}
    if "hit" in summary:
        found["hit_at_10"] = float(summary["hit"].sel(hit_k=10)[-1])
    for kind, prefix in (("ffn", ""), *((other, f"{other}/") for other in _OTHERS)):
        if kind not in summary["kind"].to_numpy():
            continue
        one = summary.sel(kind=kind)
        found |= {prefix + name: float(one[of][-1]) for name, of in _OF_KIND.items()}
        if summary.sizes["pair"]:
            found |= {prefix + name: float(one[of][-1]) for name, of in _OF_PAIR.items()}
            if kind == "ffn" and "refused_pairs" not in summary.attrs:
                found["rho"] = float(one["profile_pearson"][-1, -2])
    if "load_imbalance" in summary:
        found["load_imbalance"] = float(summary["load_imbalance"][-1].mean())
        found["dead_experts"] = _dead(plain.isel(checkpoint=-1))
    return {name: found[name] for name in METRICS if math.isfinite(found.get(name, math.nan))}


def _dead(scores: xr.Dataset) -> float:
    """The share of dead experts over every position that is kept, else over last positions, mean over layers."""
    if schema.POSITION_GATE in scores:
        gates = scores[schema.POSITION_GATE].transpose("expert_unit", ...).to_numpy()
        inside = ~np.isnan(gates).any(axis=0)
        load = (gates[:, inside] > 0).mean(axis=1)
    else:
        share = scores[schema.EXPERT_UTILISATION]
        load = (share.weighted(scores["n_prompts"]).mean("relation") if "relation" in share.dims else share).to_numpy()
    layer, routed = scores["expert_unit_layer"].to_numpy(), scores["expert_unit_expert"].to_numpy() >= 0
    layers = [load[routed & (layer == number)] for number in np.unique(layer[routed])]
    return float(np.mean([float(dead_experts(one)) for one in layers]))
