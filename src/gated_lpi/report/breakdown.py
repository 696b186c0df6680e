"""Tables that break a figure down: an ablation by relation, a change into routing and neurons, trust by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.metrics import bootstrap, spearman_within
from gated_lpi.report.arms import KIND_NAMES, ArmResults, Results
from gated_lpi.report.by_method import method_name
from gated_lpi.report.estimates import NAN, Estimate
from gated_lpi.report.tables import Column, Table
from gated_lpi.results.records import AblationRow, AblationTable


def ablations_by_relation(results: Results) -> Table:
    """What every ablation of the largest sets costs of each relation; relations may be tasks."""
    columns = (
        Column("relation"),
        Column("arm"),
        Column("silenced"),
        Column("chosen by"),
        Column("intact HIT@k", "share"),
        Column("HIT@k", "share"),
        Column("random HIT@k, mean", "share"),
        Column("drop", "percent"),
    )
    rows = [(relation, arm, *values) for arm, relation, values in _by_relation(results)]
    caption = (
        "Ablations at the last checkpoint by relation: the same sets as above, ranked on all facts together. Drop: in "
        "% of the relation's intact HIT@k. Relations have few prompts each: read the table across arms, not by cell."
    )
    order = {name: place for place, name in enumerate(dict.fromkeys(row[0] for row in rows))}
    return Table("ablations_by_relation", caption, columns, tuple(sorted(rows, key=lambda row: order[row[0]])))


def _by_relation(results: Results) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    for arm in results.arms:
        if arm.record is None:
            continue
        table = arm.record.ablation
        for row in _largest(table):
            for relation, hit in row.by_relation.items():
                intact = table.by_relation[relation]
                drop = 100 * (1 - hit / intact) if intact else NAN
                values = row.name, method_name(row.method), intact, hit, row.random_by_relation[relation], drop
                yield arm.name, relation, values


def _largest(table: AblationTable) -> list[AblationRow]:
    """Of each method and kind, the ablation of most units that says what it costs of each relation."""
    best: dict[tuple[str, str], AblationRow] = {}
    for row in table.rows:
        known = best.get((row.method, row.kind))
        if row.by_relation and (known is None or row.count > known.count):
            best[row.method, row.kind] = row
    return list(best.values())


def splits(results: Results) -> Table:
    """How much of each change between two checkpoints routing explains."""
    columns = (
        Column("arm"),
        Column("from"),
        Column("to"),
        Column("share that routing explains", "share"),
        Column("layer of the greatest share", "count"),
        Column("share there", "share"),
    )
    caption = (
        "Every change of the units' scores between two checkpoints, split by Shapley's rule into a part of routing "
        "(which experts, which gates) and a part of neurons (coefficients, value vectors, readout). Share: the "
        "absolute parts of routing over those of both, summed over units, with a 95% interval over relations."
    )
    return Table("splits", caption, columns, tuple(row for arm in results.arms for row in _splits(arm)))


def _splits(arm: ArmResults) -> Iterator[tuple[Any, ...]]:
    split = arm.split
    if split is None:
        return
    layers = split["layer_index"].to_numpy()
    for number, record in enumerate(split.attrs["checkpoints"]):
        pair = split.isel(checkpoint=number)
        share = Estimate(*(float(pair[f"routing_share{end}"]) for end in ("", "_low", "_high")))
        by_layer = pair["routing_share_by_layer"].fillna(-1.0).to_numpy()
        top = int(by_layer.argmax())
        yield arm.name, record["before"], record["key"], share, int(layers[top]), float(by_layer[top])


PARTS = ("lower third", "middle third", "upper third")
DRAWS = 200  # of relations, for intervals


class _Trust(NamedTuple):
    """A method's scores of the units whose true effect was measured, and these effects, at the last checkpoint.

    Attributes:
        arm, kind, method: of what, and by which method.
        effect: on what the effect is: "log p" or "margin".
        pairs: [R, 2, n], scores and effects by relation.
        prompts: [R], of each relation.
        layer: [n], of the units.
        layers: how many the arm has.
    """

    arm: str
    kind: str
    method: str
    effect: str
    pairs: NDArray[np.float64]
    prompts: NDArray[np.int64]
    layer: NDArray[np.int64]
    layers: int

    def correlation(self, there: NDArray[np.bool_] | None = None) -> float:
        """Spearman's of the means over prompts, over some of the units."""
        one, other = np.average(self.pairs, axis=0, weights=self.prompts)
        return _rank_correlation(one, other) if there is None else _rank_correlation(one[there], other[there])

    def interval(self) -> Estimate:
        """That over all units, with the basic interval over relations: noise makes correlations of means too low."""
        found = bootstrap(lambda mean: _rank_correlation(*mean), self.pairs, self.prompts, draws=DRAWS)
        low, high = np.clip([2 * found.estimate - found.high, 2 * found.estimate - found.low], -1, 1)
        return Estimate(float(found.estimate), float(low), float(high))


def trust(results: Results) -> Table:
    """How far each method's scores agree with true effects, by third of the layers, where a run measured some."""
    columns = (
        Column("arm"),
        Column("neurons"),
        Column("method"),
        Column("units measured", "count"),
        Column("effect on"),
        Column("all layers", "number"),
        *(Column(part, "number") for part in PARTS),
    )
    caption = (
        "Where a method can be trusted: Spearman correlation of mean scores with the true effect of silencing a unit, "
        "at the last checkpoint, over the units whose effect was measured, with 95% intervals over relations. Also of "
        "the effect on the margin of the target's logit over the best other, which does not saturate as log p does "
        "where the model is sure (scores stay those of log p). With n units chance alone gives up to about ±2/√n. "
        "gated-lpi compare has intervals over units, too."
    )
    rows = []
    for one in _trusted(results):
        third = np.minimum(3 * one.layer // one.layers, 2)
        parts = [one.correlation(third == part) for part in range(3)]
        rows.append((*_who(one), one.layer.size, one.effect, one.interval(), *parts))
    return Table("trust", caption, columns, tuple(rows))


def trust_by_layer(results: Results) -> Table:
    """The same by single layers."""
    columns = (
        Column("arm"),
        Column("neurons"),
        Column("method"),
        Column("effect on"),
        Column("layer", "count"),
        Column("units measured", "count"),
        Column("Spearman", "number"),
    )
    rows = tuple(
        (*_who(one), one.effect, int(layer), int(there.sum()), one.correlation(there))
        for one in _trusted(results)
        for layer in np.unique(one.layer)
        for there in [one.layer == layer]
    )
    caption = "Agreement with true effects by layer, as above. Layers have few measured units: read many together."
    return Table("trust_by_layer", caption, columns, rows)


def _who(one: _Trust) -> tuple[str, str, str]:
    return one.arm, KIND_NAMES[one.kind], method_name(one.method)


def _trusted(results: Results) -> Iterator[_Trust]:
    """What methods and true effects say of the units of each arm that were measured."""
    for arm in results.arms:
        for method in arm.by_method:
            contrast = method.endswith("_contrast")
            truths = {"log p": schema.contrast_of(schema.TRUE_EFFECT) if contrast else schema.TRUE_EFFECT}
            truths |= {} if contrast else {"margin": schema.TRUE_EFFECT_MARGIN}
            for effect, name in truths.items():
                if name in arm.scores:
                    yield from _of_effect(arm, method, effect, name)


def _of_effect(arm: ArmResults, method: str, effect: str, truth: str) -> Iterator[_Trust]:
    last = arm.scores.isel(checkpoint=-1)
    pairs = np.stack([last[name].transpose("relation", "unit").to_numpy().astype(float) for name in (method, truth)], 1)
    layer, kinds = last["layer"].to_numpy(), last["block"].to_numpy().astype(object).astype(str)
    for kind in KIND_NAMES:
        there = np.isfinite(pairs).all(axis=(0, 1)) & (kinds == kind)
        if there.any():
            counts, layers = last["n_prompts"].to_numpy(), int(layer.max()) + 1
            yield _Trust(arm.name, kind, method, effect, pairs[..., there], counts, layer[there], layers)


def _rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Of two scores [n] of the same units, whatever their layers; NaN of fewer than three."""
    return spearman_within(one, other, np.zeros(one.size)) if one.size > 2 else NAN
