"""One arm's scores of units, read one checkpoint at a time.

Whatever the number of checkpoints, the scores of one are in memory here, [R, N] and [N], and whoever takes them decides
how long they stay.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import BoolArray, FloatArray, IntArray, refuse_not_finite
from gated_lpi.unit_names import KINDS


@dataclass(frozen=True)
class KindUnits:
    """The units of one kind, N of them.

    Attributes:
        inside: [N], which of the arm's units they are.
        layer: [N], each unit's layer.
        group: [N], a number for each unit's expert, or for its block where it is of none.
        of_expert: [N], which are of a routed or shared expert.
        block: [N], the block of each unit among those that error bounds are kept of; None if there are none.
    """

    inside: IntArray
    layer: IntArray
    group: IntArray
    of_expert: BoolArray
    block: IntArray | None


class Row(NamedTuple):
    """The units of one kind at one checkpoint.

    Attributes:
        scores: [N], mean over prompts, nats.
        by_relation: [R, N], mean over the prompts of each relation, nats; None if not kept.
        weights: [R], prompts of each relation; None if not kept.
        errors: [N], no mean score is off by more, nats.
    """

    scores: FloatArray
    by_relation: NDArray[Any] | None
    weights: FloatArray | None
    errors: FloatArray


@dataclass(frozen=True)
class Arm:
    """An arm's scores by one method, and its units.

    Attributes:
        scores: as a run stores them.
        method: whose scores are read.
        facts: over which facts.
        kinds: the units of each kind that is there.
    """

    scores: xr.Dataset
    method: str
    facts: schema.WhichFacts
    kinds: dict[str, KindUnits]

    @property
    def name(self) -> str:
        """The variable of its scores by relation."""
        return schema.over_facts(self.method, self.facts)

    @property
    def relations(self) -> int | None:
        """How many relations there are scores of; None if they were not kept."""
        return self.scores.sizes["relation"] if self.name in self.scores else None

    def rows(self) -> Iterator[dict[str, Row | None]]:
        """The units of each kind, one checkpoint after the other; None at checkpoints that know none of the facts.

        Raises:
            OptionError: a score or an error bound is NaN or infinite, or a relation has no prompts.
        """
        fixed = self._prompts() if self.facts == "all" else None
        for checkpoint in range(self.scores.sizes["checkpoint"]):
            if self.facts == "all":
                yield self._row(checkpoint, fixed)
                continue
            weights = _at(self.scores, schema.count_over(self.facts), checkpoint, ("relation",)).astype(np.float64)
            yield self._row(checkpoint, weights) if weights.any() else dict.fromkeys(self.kinds)

    def _row(self, checkpoint: int, weights: FloatArray | None) -> dict[str, Row | None]:
        data = None if weights is None else _at(self.scores, self.name, checkpoint, ("relation", "unit"))
        if data is not None and weights is not None and self.facts != "all":
            data = np.where(weights[:, None] > 0, data, data.dtype.type(0))  # NaN in stores: nothing to be meant over
            mean, named = _mean(data, weights), self.name
        else:
            mean, named = (
                _at(self.scores, schema.mean_of(self.method), checkpoint, ("unit",)),
                schema.mean_of(self.method),
            )
        bounds = self._bounds(checkpoint)
        rows: dict[str, Row | None] = {}
        for kind, units in self.kinds.items():
            scores = mean[units.inside].astype(np.float64)
            by_relation = None if data is None else np.take(data, units.inside, axis=1)
            errors = np.zeros(scores.size) if bounds is None else bounds[units.block]
            for name, values in ((named, scores), (self.name, by_relation), (schema.ERROR_BOUND, errors)):
                if values is not None and not np.isfinite(values).all():
                    self._refuse(name, units)
            rows[kind] = Row(scores, by_relation, weights, errors)
        return rows

    def _prompts(self) -> FloatArray | None:
        if self.method not in self.scores:
            return None
        prompts = self.scores["n_prompts"].to_numpy().astype(np.float64)
        if prompts.shape != (self.scores.sizes["relation"],) or not (prompts > 0).all():
            raise OptionError(
                f"n_prompts is {prompts.tolist()} for {self.scores.sizes['relation']} relations; expected one positive "
                "weight, the number of prompts, per relation. Leave out relations without prompts."
            )
        return prompts

    def _bounds(self, checkpoint: int) -> FloatArray | None:
        """Error bounds of each block's mean scores, [blocks]: the mean over the prompts; of LPI's scores alone."""
        if self.method != schema.LPI or schema.ERROR_BOUND not in self.scores:
            return None
        bound = self.scores[schema.ERROR_BOUND].isel(checkpoint=checkpoint)
        if self.facts == schema.KNOWN:
            bound = bound.isel(prompt=_at(self.scores, schema.TARGET_RANK, checkpoint, ("prompt",)) < schema.KNOWN_K)
        elif self.facts == schema.KNOWN_LAST:
            bound = bound.isel(prompt=_at(self.scores, schema.KNOWN_LAST, checkpoint, ("prompt",)) > 0)
        return np.asarray(bound.mean("prompt").to_numpy(), dtype=np.float64)

    def _refuse(self, name: str, units: KindUnits) -> None:
        """Raise for a variable that is not finite for these units, with the count over all checkpoints."""
        variable = self.scores[name]
        if "unit" in variable.dims:
            variable = variable.isel(unit=units.inside)
        bad = 0
        for checkpoint in range(variable.sizes["checkpoint"]):
            row = variable.isel(checkpoint=checkpoint)
            if self.facts != "all" and "relation" in row.dims:
                row = row.isel(relation=_at(self.scores, schema.count_over(self.facts), checkpoint, ("relation",)) > 0)
            bad += row.size - int(np.count_nonzero(np.isfinite(row.to_numpy())))
        refuse_not_finite(name, bad)


def arm_of(scores: xr.Dataset, method: str, facts: schema.WhichFacts = "all") -> Arm:
    """The units of an arm, kinds apart, and the way to its scores over these facts.

    Raises:
        OptionError: a kind of unit that is not known, or a unit of a block without error bounds.
    """
    layer = scores["layer"].to_numpy().astype(np.int64)
    block = scores["block"].to_numpy().astype(object).astype(str)  # stores give back strings of their own kind
    unknown = sorted(set(block.tolist()) - set(KINDS))
    if unknown:
        raise OptionError(f"`block` holds {', '.join(map(repr, unknown))}; expected {', '.join(map(repr, KINDS))}.")
    group, of_expert = _groups(scores, layer), _of_expert(scores)
    kinds = {}
    for kind in KINDS:
        inside = np.flatnonzero(block == kind)
        if inside.size:
            of_block = _blocks(scores, kind, layer[inside]) if schema.ERROR_BOUND in scores else None
            kinds[kind] = KindUnits(inside, layer[inside], group[inside], of_expert[inside], of_block)
    return Arm(scores, method, facts, kinds)


def _at(scores: xr.Dataset, name: str, checkpoint: int, dims: tuple[str, ...]) -> NDArray[Any]:
    """A variable at one checkpoint, float32 as it is and anything else as float64."""
    values = scores[name].isel(checkpoint=checkpoint).transpose(*dims).to_numpy()
    return np.asarray(values, dtype=np.float32 if values.dtype == np.float32 else np.float64)


def _mean(by_relation: NDArray[Any], weights: FloatArray) -> FloatArray:
    """The mean over relations of [R, N], [N], with these weights."""
    total = np.zeros(by_relation.shape[1])
    for row, weight in zip(by_relation, weights / weights.sum(), strict=True):
        total += weight * row.astype(np.float64)
    return total


def _blocks(scores: xr.Dataset, kind: str, layer: IntArray) -> IntArray:
    """Where among the blocks of error bounds that of each unit is."""
    places = np.full(int(layer.max()) + 1, -1)
    kinds = scores["block_kind"].to_numpy().astype(object).astype(str)
    for index, number in enumerate(scores["block_layer"].to_numpy().tolist()):
        if kinds[index] == kind and number < places.size:
            places[int(number)] = index
    if (places[layer] < 0).any():
        raise OptionError(
            f"`{schema.ERROR_BOUND}` has no {kind} block of layer {int(layer[places[layer] < 0][0])}, of which there "
            "are scores; expected bounds of every block. Pass one arm of a run, as the run store returns it."
        )
    return places[layer]


def _of_expert(scores: xr.Dataset) -> BoolArray:
    """Which units are of a routed or shared expert, [N]; none where the scores do not say."""
    found = np.zeros(scores.sizes["unit"], dtype=np.bool_)
    if "expert" in scores.coords:
        found |= scores["expert"].to_numpy() >= 0
    if "shared" in scores.coords:
        found |= scores["shared"].to_numpy().astype(np.bool_)
    return found


def _groups(scores: xr.Dataset, layer: IntArray) -> IntArray:
    """A number for each unit's routed expert, shared experts or, where it is of none, block within its layer, [N]."""
    expert = scores["expert"].to_numpy().astype(np.int64) if "expert" in scores.coords else np.full(layer.size, -1)
    shared = scores["shared"].to_numpy().astype(np.int64) if "shared" in scores.coords else np.zeros_like(layer)
    per_layer = int(expert.max()) + 3
    return layer * per_layer + np.where(shared > 0, per_layer - 1, expert + 1)
