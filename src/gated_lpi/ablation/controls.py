"""Random sets to hold an ablation against, matched to what was chosen.

| control | as many units … | answers |
|---|---|---|
| random | of the same kind, FFN, attention or mixer | would any do? |
| layer | in each layer | is it more than the layers that they are in? |
| expert | in each expert, shared expert or block | is it more than the experts that they are in? |

Heads are replaced by heads, for "layer" and "expert" by heads of the same layer. Sets are drawn without replacement
from all there are, the chosen ones among them, so that a choice made at random is one draw more. Where a choice takes
most of a layer or expert, its matched sets are mostly the choice itself: `shared` says how far.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gated_lpi.models import Model
from gated_lpi.unit_names import KINDS

Ints = NDArray[np.int64]
Control = Literal["random", "layer", "expert"]


class Chosen(NamedTuple):
    """What is silenced.

    Attributes:
        units: [n], indices on the model's axis of units, by themselves.
        heads: [m], indices of the model's heads.
    """

    units: Ints
    heads: Ints

    def indices(self, model: Model) -> Ints:
        """All units that this is, [·], ascending, each once."""
        return np.unique(np.concatenate([self.units, *(model.head_units(int(head)) for head in self.heads)]))


def draw(model: Model, chosen: Chosen, control: Control, generator: np.random.Generator) -> Chosen:
    """One random set that is matched to what was chosen."""
    of_mixers = (model.heads.block == "mixer").astype(np.int64)
    heads = of_mixers if control == "random" else 2 * model.heads.layer + of_mixers
    return Chosen(
        _matched(chosen.units, unit_groups(model, control), generator), _matched(chosen.heads, heads, generator)
    )


def shared(chosen: Ints, drawn: Iterable[Ints]) -> float:
    """Mean share of the drawn units that are chosen ones."""
    return float(np.mean([np.isin(units, chosen).mean() for units in drawn]))


def unit_groups(model: Model, control: Control) -> Ints:
    """A number for the group of each of the model's units, [N]: within it, units are exchanged for one another."""
    table = model.units
    group: Ints = np.select([table.block == kind for kind in KINDS], range(len(KINDS)))
    if control != "random":
        group += len(KINDS) * table.layer
    if control == "expert":
        experts = int(table.expert.max()) + 3
        group = group * experts + np.where(table.shared, experts - 1, table.expert + 1)
    return group


def _matched(chosen: Ints, groups: Ints, generator: np.random.Generator) -> Ints:
    wanted = np.bincount(groups[chosen], minlength=int(groups.max(initial=0)) + 1)
    order = generator.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    sizes = np.bincount(groups, minlength=len(wanted))
    place = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[place < wanted[groups[order]]])
