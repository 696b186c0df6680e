"""Charts over training, and of ablations: each a pure function of summaries or records by arm.

Arms keep their colour and marker: those of `styles`, else by their place in the mapping. Panels in which no arm has
anything to show are left out, so a chart may have fewer panels than its caption speaks of, or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from gated_lpi.report.arms import KIND_NAMES, kinds_of, tokens_known
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import ArmStyle, Axis, Chart, Line, Panel, StepScale, arm_styles, short_number
from gated_lpi.report.clocks import Clock, clock_label, clock_name
from gated_lpi.report.estimates import ablation_drop
from gated_lpi.results.records import AblationRow, ArmRecord

Summaries = Mapping[str, xr.Dataset]
Styles = Mapping[str, ArmStyle]
BANDS = "Bands: 95% intervals, bootstrapped over relations; of replicates, over these around their mean"


class Measure(NamedTuple):
    """A variable of the summary as one panel shows it.

    Attributes:
        title: of the panel.
        name: of the variable.
        label: of the vertical axis.
        kind: "ffn", "attention" or "mixer"; None for a variable that is not by kind of unit.
        percent: whether values are shares, shown in %.
        limits: of the vertical axis; None: those of the values.
    """

    title: str
    name: str
    label: str
    kind: str | None
    percent: bool = False
    limits: tuple[float, float] | None = None


def stability(summaries: Summaries, styles: Styles | None = None) -> Chart:
    """J_stab of consecutive top sets, over steps and, where known, over tokens."""
    styles = styles or arm_styles(summaries)
    counted = {name: summary for name, summary in summaries.items() if tokens_known(summary)}
    clocks: tuple[tuple[Clock, Summaries], ...] = (("step", summaries), ("tokens", counted))
    panels = [
        series(
            Measure(f"{KIND_NAMES[kind]}, by {_names(clock, shown)}", "stability", "J_stab", kind), shown, styles, clock
        )
        for clock, shown in clocks
        for kind in kinds_of(list(shown.values()))
    ]
    return Chart(
        "stability",
        "Top-set stability",
        "Share of the top sets of two consecutive checkpoints that is common to both (Jaccard index), drawn at the "
        "later one. 1: the same neurons. Dashed, in each arm's colour: two random sets of that size, on average. "
        f"{BANDS}.",
        filled(panels),
    )


def concentration(summaries: Summaries, styles: Styles | None = None) -> Chart:
    """R_t, its variant by gain, and the top set's share of importance."""
    measures = (
        ("R_t", "gain_top_set", "share of positive gain"),
        ("Top by gain", "gain_top_by_gain", "share of positive gain"),
        ("Importance share", "importance_share", "share of importance"),
    )
    return Chart(
        "concentration",
        "Concentration of gain and importance",
        "R_t: share of all positive gain since the checkpoint before that falls to the later checkpoint's top set. "
        "Top by gain: the same for as many neurons of greatest gain. Importance share: the top set's share of "
        "positive importance. Dashed: what random sets of that size hold on average; a set that was chosen by the "
        f"values it is scored on exceeds it by construction. {BANDS}.",
        _by_kind(measures, summaries, styles, percent=True),
    )


def evenness(summaries: Summaries, styles: Styles | None = None) -> Chart:
    """Entropy, effective number of units and Gini coefficient of importance."""
    measures = (
        ("Entropy", "entropy", "H / log N"),
        ("Effective number", "effective_units", "exp(H), neurons"),
        ("Gini coefficient", "gini", "Gini"),
    )
    return Chart(
        "entropy",
        "Entropy of importance",
        "Entropy is 1 where all neurons carry the same, 0 where one carries all. The effective number exp(H) also "
        "grows with the number of neurons, which differs between arms. Gini is 0 where even, near 1 where few carry "
        "all.",
        _by_kind(measures, summaries, styles),
    )


def profile_correlation(summaries: Summaries, styles: Styles | None = None) -> Chart:
    """Correlation of each checkpoint's layer profile with the last checkpoint's."""
    with_last = {name: summary.isel(other_checkpoint=-1) for name, summary in summaries.items()}
    return Chart(
        "profile_correlation",
        "Correlation with the last layer profile",
        "Pearson correlation of each checkpoint's layer profile with the last checkpoint's, which is 1 with itself. A "
        "curve that is high from early on belongs to an arm that settled early.",
        _by_kind((("Correlation with the last profile", "profile_pearson", "Pearson correlation"),), with_last, styles),
    )


def hits(summaries: Summaries, styles: Styles | None = None) -> Chart:
    """HIT@k over training with Wilson intervals."""
    styles = styles or arm_styles(summaries)
    recorded = {name: summary for name, summary in summaries.items() if "hit" in summary}
    ks = sorted({int(k) for summary in recorded.values() for k in summary["hit_k"].to_numpy()})
    panels = [
        series(
            Measure(f"HIT@{k}", "hit", "share of prompts", None, percent=True),
            {name: summary.sel(hit_k=k) for name, summary in recorded.items()},
            styles,
        )
        for k in ks
    ]
    return Chart(
        "hits",
        "Recall of facts",
        "Share of prompts whose target is among the k likeliest next tokens. Bands: Wilson's 95% intervals.",
        filled(panels),
        columns=max(len(ks), 1),
    )


def routing(summaries: Summaries, styles: Styles | None = None) -> Chart:
    """How even routing is and how much it changes, over training: mean and range over layers."""
    styles = styles or arm_styles(summaries)
    measures = (
        Measure("Utilisation entropy", "utilisation_entropy", "H(p) / log E", None),
        Measure("Load imbalance", "load_imbalance", "max / mean over experts", None),
        Measure("Routing distance", "routing_distance", "Jensen-Shannon distance", None),
    )
    spread = {name: _over_layers(summary, measures) for name, summary in summaries.items()}
    return Chart(
        "routing",
        "Routing over training",
        "How the prompts of the facts spread over experts. Lines: mean over layers; bands: from the lowest layer to "
        "the highest. Entropy 1 and imbalance 1: evenly. Distance 0: as at the checkpoint before; 1: to other experts.",
        filled([series(measure, spread, styles) for measure in measures]),
        columns=3,
    )


def ablation(records: Mapping[str, ArmRecord | None], styles: Styles | None = None) -> Chart:
    """The drop of HIT@k under each ablation, beside random ones."""
    styles = styles or arm_styles(records)
    done = {name: record for name, record in records.items() if record is not None and record.ablation.rows}
    several = len({row.method for record in done.values() for row in record.ablation.rows}) > 1
    every = [row for record in done.values() for row in record.ablation.rows]
    names = list(dict.fromkeys(row.name for row in every))
    rows = list(dict.fromkeys(_place(row, several) for row in sorted(every, key=lambda row: names.index(row.name))))
    lines = [
        line
        for place, (name, record) in enumerate(done.items())
        for line in _ablation_lines(name, record, rows, several, (place - (len(done) - 1) / 2) * 0.22, styles[name])
    ]
    ks = sorted({record.ablation.k for record in done.values()})
    label = f"HIT@{ks[0]} lost, % of intact" if len(ks) == 1 else "HIT@k lost, % of intact"
    ticks = tuple((float(i), name) for i, name in enumerate(rows))
    panel = Panel("Relative drop of recall", Axis("", ticks), Axis(label), tuple(lines))
    return Chart(
        "ablation",
        "Ablations",
        "Large markers: the top heads or neurons are silenced; bars: Wilson's 95% interval of the ablated HIT@k. Small "
        "faint markers: as many random ones, one marker a draw. Below 0: recall rose.",
        filled([panel]),
        columns=1,
    )


def _by_kind(
    measures: Sequence[tuple[str, str, str]], summaries: Summaries, given: Styles | None, percent: bool = False
) -> tuple[Panel, ...]:
    styles = given or arm_styles(summaries)
    return filled(
        [
            series(Measure(f"{title}, {KIND_NAMES[kind]}", name, label, kind, percent), summaries, styles)
            for title, name, label in measures
            for kind in kinds_of(list(summaries.values()))
        ]
    )


def filled(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """The panels that have something to show."""
    return tuple(panel for panel in panels if panel.lines)


def series(measure: Measure, summaries: Summaries, styles: Styles, clock: Clock = "step") -> Panel:
    """One measure of every arm that has it, over steps or tokens; so of whatever else is by step."""
    scale = StepScale(float(value) for summary in summaries.values() for value in summary[clock].to_numpy())
    lines = [
        line
        for name, summary in summaries.items()
        for line in _arm_lines(measure, name, summary, styles[name], scale, clock)
    ]
    height = Axis(measure.label, percent=measure.percent, limits=measure.limits, scale=measure.name)
    label = clock_label(clock, [summary.attrs for summary in summaries.values()])
    return Panel(measure.title, scale.axis(label, clock), height, tuple(lines))


def _names(clock: Clock, summaries: Summaries) -> str:
    return " or ".join(dict.fromkeys(clock_name(clock, summary.attrs) for summary in summaries.values()))


def _arm_lines(
    measure: Measure, arm: str, summary: xr.Dataset, style: ArmStyle, scale: StepScale, clock: Clock
) -> list[Line]:
    """The arm's curve with its band, and its chance line where there is one."""
    if measure.name not in summary or (measure.kind is not None and measure.kind not in summary["kind"]):
        return []
    here = summary if measure.kind is None else summary.sel(kind=measure.kind)
    values = here[measure.name].to_numpy()
    if not np.isfinite(values).any():
        return []
    times = summary[clock].to_numpy()[len(summary["step"]) - len(values) :]
    x = tuple(scale.position(float(time)) for time in times)
    hover = tuple(f"{arm}, {clock_name(clock, summary.attrs)} {short_number(float(time))}" for time in times)
    common: dict[str, Any] = {"group": arm, "style": style, "x": x, "hover": hover}
    ends: dict[str, Any] = {
        end: _floats(here[f"{measure.name}_{end}"].to_numpy())
        for end in ("low", "high")
        if f"{measure.name}_{end}" in here
    }
    lines = [Line(arm, y=_floats(values), **common, **ends)]
    if f"{measure.name}_chance" in here:
        chance = np.broadcast_to(here[f"{measure.name}_chance"].to_numpy(), values.shape)
        lines.append(Line(f"{arm}, chance", y=_floats(chance), drawn="dashed", in_legend=False, **common))
    return lines


def _over_layers(summary: xr.Dataset, measures: Sequence[Measure]) -> xr.Dataset:
    """Mean, least and greatest over layers of the measures that a summary has, under the names of a band."""
    variables = {}
    for measure in measures:
        if measure.name in summary:
            values = summary[measure.name]
            variables[measure.name] = values.mean("moe_layer")
            variables[f"{measure.name}_low"] = values.min("moe_layer")
            variables[f"{measure.name}_high"] = values.max("moe_layer")
    coords = {name: summary[name] for name in ("step", "tokens") if name in summary.coords}
    return xr.Dataset(variables, coords, summary.attrs)


def _place(row: AblationRow, several: bool) -> str:
    """What an ablation is called on the axis: with its method, where there are several, on lines of its own."""
    return "\n".join([row.name, *wrap(f"by {method_name(row.method)}", 18)]) if several else row.name


def _one_line(place: str) -> str:
    return place.replace("\n", " ")


def _ablation_lines(
    arm: str, record: ArmRecord, rows: Sequence[str], several: bool, offset: float, style: ArmStyle
) -> list[Line]:
    """An arm's drops, and those of its random controls beside them."""
    table = record.ablation
    drops = {_place(row, several): ablation_drop(table, row) for row in table.rows}
    at = {name: rows.index(name) + offset for name in drops}
    common: dict[str, Any] = {"group": arm, "style": style, "drawn": "points"}
    control = [
        (at[name] + 0.06, value, f"{arm}, random for {_one_line(name)}")
        for name in drops
        for value in drops[name].random_drops
    ]
    lines = [
        Line(
            arm,
            x=tuple(at.values()),
            y=tuple(drop.drop.value for drop in drops.values()),
            low=tuple(drop.drop.low for drop in drops.values()),
            high=tuple(drop.drop.high for drop in drops.values()),
            hover=tuple(f"{arm}, {_one_line(name)}" for name in drops),
            **common,
        )
    ]
    if control:
        x, y, hover = zip(*control, strict=True)
        lines.append(Line(f"{arm}, random", x=x, y=y, hover=hover, faint=True, in_legend=False, **common))
    return lines


def _floats(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
