"""Tables that break a figure down: an ablation by relation or task, a change of scores into routing and neurons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gated_lpi.report.arms import ArmResults, Results
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
