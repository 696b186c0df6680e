"""Charts of what a sceptic asks: is it the neurons or the routing, is it the method, is it damage to the whole model?

Each is a pure function of summaries, agreements or records by arm, as those in `charts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import xarray as xr

from gated_lpi.report.arms import KIND_NAMES, ArmResults, kinds_of
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import GREY, MARKERS, ArmStyle, Axis, Chart, Line, Panel, arm_styles
from gated_lpi.report.charts import BANDS, Measure, filled, series
from gated_lpi.report.estimates import ablation_damage, ablation_drop
from gated_lpi.report.routing_share import has_null
from gated_lpi.results import ArmRecord

WHOLE = (-0.03, 1.03)  # of shares: small multiples are read against one another
ALONE = "routing alone"
Styles = Mapping[str, ArmStyle]


def routing_null(arms: tuple[ArmResults, ...], styles: Styles | None = None) -> Chart:
    """J_stab and R_t of the FFN beside what routing alone gives and chance, over training: a row for each MoE arm."""
    styles = styles or arm_styles([arm.name for arm in arms])
    measures = (("J_stab", "stability", "J_stab", False), ("R_t", "gain_top_set", "share of positive gain", True))
    panels = [
        series(
            Measure(f"{arm.name}: {title}", name, label, "ffn", percent, WHOLE),
            _beside(arm, name),
            {arm.name: styles[arm.name], ALONE: ArmStyle(GREY, "square")},
        )
        for arm in arms
        if has_null(arm)
        for title, name, label, percent in measures
    ]
    return Chart(
        "routing_null",
        "Neurons or routing",
        "J_stab and R_t of FFN neurons as observed, and in grey with neurons permuted within their experts, which "
        f"leaves only what the routing does. Dashed: random sets. {BANDS}; of routing alone, over permutations.",
        filled(panels),
    )


def routing_split(splits: Mapping[str, xr.Dataset], styles: Styles | None = None) -> Chart:
    """The share of the change between consecutive checkpoints that routing explains, over training."""
    shown = {name: split for name, split in splits.items() if "routing_share" in split}
    measure = Measure("Routing's share of the change", "routing_share", "share of the change", None, True, WHOLE)
    panels = [series(measure, shown, styles or arm_styles(splits))] if shown else []
    return Chart(
        "routing_split",
        "Changes split into routing and neurons",
        "The change of every neuron's score since the checkpoint before is split into a part of the routing and a part "
        "of the neurons (Shapley); shown is the routing's share of both parts' sizes. 0%: nothing but neurons changed; "
        f"100%: nothing but routing. {BANDS}.",
        filled(panels),
        columns=1,
    )


def by_method(arms: tuple[ArmResults, ...], styles: Styles | None = None) -> Chart:
    """J_stab and R_t over training by each method: a row for each method, a column for each measure and kind."""
    methods = list(dict.fromkeys(method for arm in arms for method in arm.by_method))
    if len(methods) < 2:
        return Chart("methods", "", "", ())
    styles = styles or arm_styles([arm.name for arm in arms])
    kinds = kinds_of([arm.summary for arm in arms])
    measures = (("J_stab", "stability", False), ("R_t", "gain_top_set", True))
    panels = [
        series(
            Measure(f"{method_name(method)}:\n{title}, {KIND_NAMES[kind]}", name, "", kind, percent, WHOLE),
            {arm.name: arm.by_method[method] for arm in arms if method in arm.by_method},
            styles,
        )
        for method in methods
        for kind in kinds
        for title, name, percent in measures
    ]
    return Chart(
        "methods",
        "J_stab and R_t by each method",
        f"A row of panels for each method by which neurons were scored, all on one scale. Dashed: chance. {BANDS}.",
        filled(panels),
        columns=2 * len(kinds),
    )


def agreement(agreements: Mapping[str, xr.Dataset], styles: Styles | None = None) -> Chart:
    """How far the rankings of two methods agree at every checkpoint, by kind of neuron and pair of methods."""
    styles = styles or arm_styles(agreements)
    pairs = list(dict.fromkeys(pair for found in agreements.values() for pair in _pairs(found)))
    panels = [
        series(
            Measure(
                f"{method_name(one)} and {method_name(other)}:\n{KIND_NAMES[kind]}",
                "spearman_within",
                "Spearman within layers",
                kind,
                limits=(-1.05, 1.05),
            ),
            {
                name: found.isel(comparison=_pairs(found).index((one, other)))
                for name, found in agreements.items()
                if (one, other) in _pairs(found)
            },
            styles,
        )
        for one, other in pairs
        for kind in kinds_of(list(agreements.values()))
    ]
    return Chart(
        "method_agreement",
        "Agreement of the methods",
        "Spearman correlation of two methods' mean scores, ranked within layers and pooled, at every checkpoint. 1: "
        "the same order; dashed: 0, chance. Pooled over layers it would flatter.",
        filled(panels),
    )


def damage(records: Mapping[str, ArmRecord | None], styles: Styles | None = None) -> Chart:
    """The drop of HIT@k against the damage to all else, of chosen sets and random ones, by what is silenced."""
    styles = styles or arm_styles(records)
    done = {name: record for name, record in records.items() if record is not None}
    methods = list(dict.fromkeys(row.method for record in done.values() for row in record.ablation.rows))
    titles = {"head": "Heads silenced", "unit": "FFN neurons silenced"}
    panels = [
        Panel(
            title,
            Axis("loss on unrelated text, nats per token more than intact", scale="loss"),
            Axis("HIT@k lost, % of intact", scale="drop"),
            tuple(
                line
                for name, record in done.items()
                for method in methods
                for line in _damage_lines(name, record, kind, method, methods, styles[name])
            ),
        )
        for kind, title in titles.items()
    ]
    return Chart(
        "damage",
        "Drop against damage",
        "What silencing takes from recall of the facts, against what it does to the model as such: its loss on text "
        "that has nothing to do with them. High and to the left: the facts alone are hit. Large markers: the chosen "
        "sets, with Wilson's 95% interval; small faint ones: as many random ones. Rankings compare at the same damage.",
        filled(panels),
    )


def _beside(arm: ArmResults, name: str) -> dict[str, xr.Dataset]:
    """What was observed of a measure, with its chance, and what routing alone gives, under one name."""
    summary = arm.summary
    alone = {
        f"{name}{end}": summary[f"{name}_routing_null{end}"].variable
        for end in ("", "_low", "_high")
        if f"{name}_routing_null{end}" in summary
    }
    coords = {place: summary[place] for place in ("step", "tokens", "kind") if place in summary.coords}
    return {arm.name: summary, ALONE: xr.Dataset(alone, coords, summary.attrs)}


def _pairs(found: xr.Dataset) -> list[tuple[str, str]]:
    """The methods of each comparison."""
    return list(zip(found["method"].to_numpy().tolist(), found["other_method"].to_numpy().tolist(), strict=True))


def _damage_lines(
    arm: str, record: ArmRecord, kind: str, method: str, methods: Sequence[str], style: ArmStyle
) -> list[Line]:
    """One arm's sets of one kind that were chosen by one method, and random ones, where damage was measured."""
    table = record.ablation
    rows = [row for row in table.rows if row.kind == kind and row.method == method]
    measured = [(row, found) for row in rows if (found := ablation_damage(table, row)) is not None]
    if not measured:
        return []
    label = arm if len(methods) == 1 else f"{arm}, by {method_name(method)}"
    look = style if len(methods) == 1 else ArmStyle(style.colour, MARKERS[methods.index(method) % len(MARKERS)])
    drops = [ablation_drop(table, row) for row, _ in measured]
    chosen = Line(
        label,
        label,
        look,
        x=tuple(found.rise for _, found in measured),
        y=tuple(drop.drop.value for drop in drops),
        hover=tuple(f"{label}, {row.name}, loss {found.rise:+.3g} nats" for row, found in measured),
        low=tuple(drop.drop.low for drop in drops),
        high=tuple(drop.drop.high for drop in drops),
        drawn="points",
    )
    control = [
        (x, y, f"{arm}, random for {row.name}, loss {x:+.3g} nats")
        for (row, found), drop in zip(measured, drops, strict=True)
        for x, y in zip(found.random_rises, drop.random_drops, strict=False)
    ]
    if not control:
        return [chosen]
    x, y, hover = zip(*control, strict=True)
    return [
        chosen,
        Line(f"{label}, random", label, look, x, y, hover, drawn="points", faint=True, in_legend=False),
    ]
