"""Experts ranked from scores that are there: by LPI, by gradients, or by LPI that has held still over checkpoints.

For routed expert e of a layer at checkpoint t, with prompts x:

- `lpi`: I_t(e), the mean over prompts of the expert's LPI (`expert_lpi`: log p(target) with all that the expert writes,
  less without; 0 on prompts that are not routed to it).
- `grad_x_act`: the sum over the expert's units of the mean over prompts of gradient times activation, which to first
  order is what the expert adds to log p(target).
- `lpi_stable`: I_t(e) · s_t(e). p_t(e) being the vector of the mean LPIs of its units,

      s_t(e) = mean over the pairs (τ, τ') of consecutive checkpoints up to t, the last `pairs` of them,
               of max(0, cos(p_τ(e), p_τ'(e))),

  between 0 and 1: an importance counts as far as the neurons that carry it stayed the same. An expert without any LPI
  at one of two checkpoints has a cosine of 0 there.

`lpi_stable` is a definition of this project. It does for an expert what J_stab (arXiv 2601.08383) does for a model, by
profiles in place of top sets: of the 1% of units that a top set holds, most experts of a small model have none, so that
their overlap is not defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.metrics.relations import over_relations

PAIRS = 3

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class ExpertRanking(NamedTuple):
    """Scores of the E routed experts of each of L layers; the higher, the later an expert is removed.

    Attributes:
        by: the name of the ranking.
        layers: [L], the layers that have routed experts.
        scores: [L, E]; equal scores are told apart by the order of experts: later ones are removed first.
    """

    by: str
    layers: Ints
    scores: Floats

    def order(self) -> Ints:
        """[L, E], the experts of each layer, highest score first."""
        return np.argsort(-self.scores, axis=1, kind="stable").astype(np.int64)


def rank_from_scores(
    by: str, scores: xr.Dataset, past: Sequence[xr.Dataset] = (), *, pairs: int = PAIRS
) -> ExpertRanking:
    """Rank experts by scores of one checkpoint, and for `lpi_stable` of those before it.

    Args:
        by: "lpi", "lpi_stable" or "grad_x_act".
        scores: of the checkpoint: what `attribute` returns, or a row of a run's `Run.scores(arm)`.
        past: the same of checkpoints before it, oldest first; for `lpi_stable`.
        pairs: how many pairs of consecutive checkpoints count, the last ones.

    Raises:
        OptionError: another ranking; scores without what it needs; or no past, or one of another model.
    """
    if by == "grad_x_act":
        layers, units = _units_by_expert(scores, schema.GRAD_X_ACT)
        return ExpertRanking(by, layers, units.sum(axis=-1))
    if by not in ("lpi", "lpi_stable"):
        raise OptionError(
            f"by={by!r} was given; scores rank experts by 'lpi', 'lpi_stable' or 'grad_x_act': give one of these"
        )
    layers, importance = _by_expert(scores)
    if by == "lpi":
        return ExpertRanking(by, layers, importance)
    return ExpertRanking(by, layers, importance * expert_stability([*past, scores], pairs=pairs))


def expert_stability(series: Sequence[xr.Dataset], *, pairs: int = PAIRS) -> Floats:
    """s_t(e) of every routed expert at the last of some checkpoints: see the head of this file.

    Args:
        series: scores with LPI of units, oldest first; two at least.
        pairs: how many pairs of consecutive checkpoints count, the last ones.

    Returns:
        [L, E], between 0 and 1.

    Raises:
        OptionError: fewer than two checkpoints, other experts or units in one of them, or `pairs` below 1.
    """
    if pairs < 1:
        raise OptionError(f"pairs={pairs} was given; expected a whole number of at least 1")
    refuse_no_past(series[:-1])
    profiles = [_units_by_expert(scores, schema.LPI)[1] for scores in series[-pairs - 1 :]]
    shapes = {profile.shape for profile in profiles}
    if len(shapes) > 1:
        raise OptionError(
            f"the checkpoints before this one have (layers, experts, neurons) {sorted(shapes)}; expected the same "
            "model: give the run that it is of"
        )
    found: Floats = np.stack([_cosine(a, b) for a, b in pairwise(profiles)]).mean(axis=0)
    return found


def refuse_no_past(past: Sequence[xr.Dataset]) -> None:
    """Refuse to say what has held still of a checkpoint without any before it.

    Raises:
        OptionError: there is none.
    """
    if not past:
        raise OptionError(
            "stability (by='lpi_stable') needs scores of checkpoints before this one, and none were given; give a run "
            "with earlier checkpoints of the same model (--against), or rank by 'lpi'"
        )


def _cosine(first: Floats, second: Floats) -> Floats:
    """max(0, cos) of the vectors along the last axis; 0 where one of them is 0."""
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    products = (first * second).sum(axis=-1)
    found: Floats = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0).clip(0.0, 1.0)
    return found


def _by_expert(scores: xr.Dataset) -> tuple[Ints, Floats]:
    """LPI of the routed experts: their layers [L], and means over prompts [L, E]."""
    if schema.EXPERT_LPI not in scores:
        raise OptionError(
            f"the scores have no {schema.EXPERT_LPI}; attribute with 'experts' among the units, a model with routed "
            "experts"
        )
    values = _mean(scores, schema.EXPERT_LPI)
    expert = scores["expert_unit_expert"].to_numpy()
    return _square(scores["expert_unit_layer"].to_numpy()[expert >= 0], values[expert >= 0])


def _units_by_expert(scores: xr.Dataset, name: str) -> tuple[Ints, Floats]:
    """Scores of the units of routed experts: the layers [L], and means over prompts [L, E, width]."""
    name = schema.mean_of(name) if schema.mean_of(name) in scores else name
    if name not in scores:
        raise OptionError(
            f"the scores have no {name}; attribute by this method with 'ffn' among the units, or name it in the "
            "experiment's attribution.methods"
        )
    values, expert = _mean(scores, name), scores["expert"].to_numpy()
    chosen = expert >= 0
    layers, flat = _square(scores["layer"].to_numpy()[chosen], values[chosen])
    width = int((chosen & (scores["layer"].to_numpy() == layers[0]) & (expert == 0)).sum())
    return layers, flat.reshape(len(layers), -1, width)


def _mean(scores: xr.Dataset, name: str) -> Floats:
    values = over_relations(scores, name)
    found: Floats = (values.mean("prompt") if "prompt" in values.dims else values).to_numpy().astype(np.float64)
    return found


def _square(layer: NDArray[np.int64], values: Floats) -> tuple[Ints, Floats]:
    layers, counts = np.unique(layer, return_counts=True)
    if len(layers) == 0 or len(set(counts.tolist())) > 1:
        raise OptionError(
            "the scores are of a model without routed experts, or with more of them in some layers than in others; "
            "expected a mixture-of-experts model with as many in each layer"
        )
    return layers.astype(np.int64), values.reshape(len(layers), -1)
