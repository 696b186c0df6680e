"""The units of greatest mean importance, and the tokens whose logits their value vectors raise and lower."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi.facts import EncodedPrompt
from gated_lpi.models import Model
from gated_lpi.prompting import token_texts
from gated_lpi.results.records import TopUnit
from gated_lpi.trace import trace
from gated_lpi.unit_names import KINDS

N_TOKENS = 8
BATCH = 256


@torch.no_grad()
def describe_top_units(
    model: Model, encoded: Sequence[EncodedPrompt], importance: NDArray[np.floating], count: int
) -> dict[str, tuple[TopUnit, ...]]:
    """Describe the units of each kind with the greatest importance, greatest first.

    The readout of a value vector, W_U·(γ ⊙ C·v), is what its unit adds to the logits per unit of coefficient. The mean
    coefficient over the prompts (gate included, 0 where the expert is not routed to) tells the usual sign.

    Args:
        model: the model.
        encoded: the prompts.
        importance: [N], nats; NaN where a unit has no score. A kind without scores has no top units.
        count: how many of each kind.

    Returns:
        The units of each kind; none of a kind that the model lacks.
    """
    best = {kind: units.tolist() for kind, units in top_of_each_kind(model.units.block, importance, count).items()}
    if not any(best.values()):
        return dict.fromkeys(KINDS, ())
    coefficients = _mean_coefficients(model, encoded)

    def describe(unit: int) -> TopUnit:
        effect = model.readout.directions(model.value(unit).to(model.readout.weight.device))
        return TopUnit(
            label=model.label(unit),
            block=str(model.units.block[unit]),
            layer=int(model.units.layer[unit]),
            expert=int(model.units.expert[unit]),
            head=int(model.units.head[unit]),
            neuron=int(model.units.neuron[unit]),
            lpi=float(importance[unit]),
            mean_coefficient=float(coefficients[unit]),
            promoted=_moved_most(model, effect),
            suppressed=_moved_most(model, -effect),
        )

    return {kind: tuple(map(describe, units)) for kind, units in best.items()}


def top_of_each_kind(
    kinds: NDArray[np.str_], importance: NDArray[np.floating], count: int
) -> dict[str, NDArray[np.int64]]:
    """The units of each kind with the greatest importance, greatest first.

    Args:
        kinds: [N], the kind of each unit.
        importance: [N]; NaN where a unit has no score, which is none of the top ones.
        count: how many of each kind.
    """
    found = {}
    for kind in KINDS:
        units = np.flatnonzero((kinds == kind) & ~np.isnan(importance))
        found[kind] = units[np.argsort(-importance[units], kind="stable")[:count]]
    return found


def _moved_most(model: Model, effect: Tensor) -> tuple[str, ...]:
    return token_texts(model, effect.topk(min(N_TOKENS, len(effect))).indices.tolist())


def _mean_coefficients(model: Model, encoded: Sequence[EncodedPrompt]) -> NDArray[np.float64]:
    """Mean of scale · gate · coefficient over prompts, [N]."""
    total = np.zeros(len(model.units))
    for first in range(0, len(encoded), BATCH):
        traced = trace(model, [item.ids for item in encoded[first : first + BATCH]])
        for units, slab in traced.slabs(model):
            total[units] += slab.coefficients.sum(dim=0).double().cpu().numpy()
    return total / len(encoded)
