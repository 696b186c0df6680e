"""How far a method agrees with true effects, measured on a sample of units: overall, by thirds of the layers, by layer.

1. Of every block as many units are sampled, among experts as evenly as they go, and silenced one by one
   (`gated_lpi.TrueEffect`).
2. A method's scores of these units, mean over prompts, are ranked against the true effects. Scales: log p of the
   target; the margin, where methods explain the target against the best other token; and the contrast, if a foil is
   asked for, where both sides are measured against it.
3. Intervals are over prompts and over the units that happened to be sampled, both drawn anew. Chance: the units'
   effects permuted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi.metrics import Agreement, agreement_chance, sampled_agreement_interval

FIGURES = Agreement._fields
ENDS = ("estimate", "low", "high")
THIRDS = ("lower third", "middle third", "upper third")
FRACTION = 0.1  # of the sampled units is a top set: 1% would be one or two
Floats = NDArray[np.float64]


class Part(NamedTuple):
    """Some layers of a model.

    Attributes:
        name: as tables show it.
        units: [N], whether a unit is in it.
    """

    name: str
    units: NDArray[np.bool_]


def parts_of(layer: NDArray[np.int64], n_layers: int) -> list[Part]:
    """All layers, the thirds of them, and each, for units [N] of these layers."""
    third = layer * len(THIRDS) // n_layers
    every = [Part("overall", np.ones(len(layer), dtype=np.bool_))]
    every += [Part(name, third == index) for index, name in enumerate(THIRDS)]
    return every + [Part(f"layer {index}", layer == index) for index in range(n_layers)]


class Held(NamedTuple):
    """A method held against true effects.

    Attributes:
        found: [parts, figures, ends].
        chance: the same of permuted units; its estimate is the mean.
    """

    found: Floats
    chance: Floats


def held_against(scores: xr.DataArray, truth: xr.DataArray, kind: str, n_layers: int, *, draws: int, seed: int) -> Held:
    """Compare scores with true effects.

    Args:
        scores: (prompt, unit), of all units.
        truth: (prompt, unit), NaN where it was not measured.
        kind: of units.
        n_layers: of the model.
        draws: resamples, and permutations.
        seed: of both.
    """
    sampled = sampled_units(truth, kind)
    layer = truth["layer"].to_numpy()[sampled]
    method, effect = (values.to_numpy().astype(np.float64)[:, sampled] for values in (scores, truth))
    parts = parts_of(layer, n_layers)
    found, chance = (np.full((len(parts), len(FIGURES), len(ENDS)), np.nan) for _ in range(2))
    for index, part in enumerate(parts):
        if part.units.sum() < 2:
            continue
        left, right, of = method[:, part.units], effect[:, part.units], layer[part.units]
        near = sampled_agreement_interval(left, right, of, FRACTION, draws=draws, seed=seed)
        null = agreement_chance(left.mean(axis=0), right.mean(axis=0), of, FRACTION, draws=draws, seed=seed)
        found[index], chance[index] = np.transpose(near), np.transpose(null)
    return Held(found, chance)


def sampled_units(truth: xr.DataArray, kind: str) -> NDArray[np.int64]:
    """The units of a kind whose effect was measured, as indices."""
    measured = np.isfinite(truth.to_numpy()).all(axis=0) & (truth["block"].to_numpy() == kind)
    return np.flatnonzero(measured)
