"""Faithfulness: what the facts lose when the units that a method ranks highest are silenced, and when all else is.

1. Units are ranked by their mean score over one half of the facts; the model is then asked the other half (`asked`).
2. The top shares are silenced ("silenced"), or all but these ("kept"), each time beside random sets of as many units,
   from anywhere and from the same layers, and beside the damage: the loss on unrelated text, the recall of facts of
   other relations (`gated_lpi.ablate`). Random sets from anywhere do not depend on the method, and are drawn once.
3. Of the curves: CPR and CMD of what is kept, the drop that silencing brings (its mean height over shares on a log
   scale), and the drop at equal damage, with intervals over prompts (`gated_lpi.metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi.ablation import Control, ablate
from gated_lpi.ablation.ablating import MEASURES
from gated_lpi.metrics import (
    bootstrap,
    curve_area,
    drop_at_damage,
    drop_at_damage_interval,
    faithfulness_areas,
    faithfulness_intervals,
)
from gated_lpi.models import Model

MODES = ("silenced", "kept")
CONTROLS: tuple[Control, ...] = ("random", "layer")
AREAS = ("cpr", "cmd", "drop")
SCALES = ("logprob", "margin")
DAMAGES = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Losses on text above the intact model's, nats per token, at which drops are compared."""
BY_PROMPT = ("target_rank", "target_logprob", "target_margin")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bench:
    """A model and how it is ablated.

    Attributes:
        model: the model.
        shares: [K], of the units of a kind that are silenced or kept, ascending.
        control_draws: random sets of each control.
        options: more of `ablate`, with its facts.
    """

    model: Model
    shares: Sequence[float]
    control_draws: int
    options: Mapping[str, Any]

    def run(self, scores: xr.DataArray, kind: str, mode: str, random: xr.Dataset | None) -> xr.Dataset:
        """One curve; `random`: an earlier one of the same kind and mode, whose random sets serve again."""
        wanted = CONTROLS if random is None else CONTROLS[1:]
        found = ablate(
            self.model,
            scores=scores,
            kind=kind,
            share=self.shares,
            complement=mode == "kept",
            controls=wanted,
            draws=self.control_draws,
            **self.options,
        )
        if random is None:
            return found
        drawn = [name for name in found.data_vars if "control" in found[name].dims]
        again = random[drawn].sel(control=[CONTROLS[0]]).assign_coords(row=found["row"])
        whole = xr.concat([again, found[drawn]], "control", coords="minimal", compat="override")
        return found.drop_dims("control").assign(whole.data_vars)

    def nothing(self, scores: xr.DataArray, kind: str) -> xr.Dataset:
        """With all units of a kind silenced."""
        return ablate(self.model, scores=scores, kind=kind, share=0.0, complement=True, controls=(), **self.options)

    @property
    def evaluations(self) -> int:
        """How often `run` asks the model everything, for a first curve."""
        return 1 + len(self.shares) * (1 + len(CONTROLS) * self.control_draws)


class Summary(NamedTuple):
    """Numbers of a method's two curves; K shares, C controls, D random sets.

    Attributes:
        area: [areas, scales, 3]: estimate, low, high.
        area_control: [areas, scales, C, D].
        drop: [scales, damages, 3], the drop where the loss on text is first so much greater.
        drop_control: [scales, damages, C], of the means over random sets.
    """

    area: Floats
    area_control: Floats
    drop: Floats
    drop_control: Floats


def summarised(
    silenced: xr.Dataset, kept: xr.Dataset, nothing: xr.Dataset, shares: Sequence[float], *, draws: int, seed: int
) -> Summary:
    """Areas and drops at equal damage of a method's two curves.

    Args:
        silenced, kept: from `Bench.run`.
        nothing: from `Bench.nothing`.
        shares: [K].
        draws: resamples of prompts.
        seed: of them.
    """
    n_draws = silenced.sizes["draw"]
    area, drop = np.full((len(AREAS), len(SCALES), 3), np.nan), np.full((len(SCALES), len(DAMAGES), 3), np.nan)
    area_control = np.full((len(AREAS), len(SCALES), len(CONTROLS), n_draws), np.nan)
    drop_control = np.full((len(SCALES), len(DAMAGES), len(CONTROLS)), np.nan)
    damage = (silenced["text_loss"] - silenced["text_loss_intact"]).to_numpy()
    damage_control = _over_draws(silenced, "text_loss") - float(silenced["text_loss_intact"])
    options: dict[str, int] = {"draws": draws, "seed": seed}
    for index, scale in enumerate(SCALES):
        whole, empty = (one.to_numpy() for one in (kept[f"target_{scale}_intact"], nothing[f"target_{scale}"][0]))
        left = kept[f"target_{scale}"].to_numpy().T
        found = faithfulness_intervals(shares, left, whole, empty, **options)
        area[:2, index] = [[float(end) for end in one[:3]] for one in found]
        lost = whole[:, None] - silenced[f"target_{scale}"].to_numpy().T
        height = bootstrap(lambda mean: log_height(shares, mean), lost, np.ones(len(lost)), **options)
        area[2, index] = [float(end) for end in height[:3]]
        drop[index] = np.transpose(drop_at_damage_interval(damage, lost, DAMAGES, **options)[:3])
        random = float(whole.mean()) - _over_draws(silenced, scale)
        for control in range(len(CONTROLS)):
            drop_control[index, :, control] = drop_at_damage(damage_control[control], random[control], DAMAGES)
            for one in range(n_draws):
                where = {"control": control, "draw": one}
                values = kept[f"{scale}_control"].isel(where).to_numpy()
                fallen = float(whole.mean()) - silenced[f"{scale}_control"].isel(where).to_numpy()
                ends = float(whole.mean()), float(empty.mean())
                area_control[:2, index, control, one] = faithfulness_areas(shares, values, *ends)
                area_control[2, index, control, one] = log_height(shares, fallen)
    return Summary(area, area_control, drop, drop_control)


def log_height(shares: Sequence[float], values: Floats) -> float:
    """Mean height of a curve [K] over shares on a log scale; NaN for one share."""
    logs = np.log(np.asarray(shares, dtype=np.float64))
    if len(logs) < 2:
        return float("nan")
    return curve_area((logs - logs[0]) / (logs[-1] - logs[0]), values)


def _over_draws(found: xr.Dataset, name: str) -> Floats:
    """The mean over random sets of a measure, [C, K]."""
    mean = found[f"{name}_control"].mean("draw").transpose("control", "row")
    return np.asarray(mean.to_numpy(), dtype=np.float64)


def stacked(curves: Sequence[xr.Dataset], shares: Sequence[float]) -> xr.Dataset:
    """What was measured along some curves, over (curve, share) and `tested` facts.

    Args:
        curves: from `Bench.run`, of the same facts.
        shares: [K].
    """
    parts = []
    for one in curves:
        names = [*MEASURES, *(f"{name}_control" for name in MEASURES), *BY_PROMPT]
        part = one.reset_coords(["n_units"])[[*names, "n_units"]].drop_vars(["row", "share", "relation", "subject"])
        part = part.drop_vars(["object", "target_id"]).rename(row="share", prompt="tested")
        parts.append(part.assign_coords(share=list(shares)))
    return xr.concat(parts, "curve")


def intact(curve: xr.Dataset) -> xr.Dataset:
    """What the intact model does on the same facts, text and others."""
    names = [f"{name}_intact" for name in (*MEASURES, *BY_PROMPT)]
    kept = curve[names].rename(prompt="tested")
    return kept.drop_vars("target_id").rename(
        relation="tested_relation", subject="tested_subject", object="tested_object"
    )
