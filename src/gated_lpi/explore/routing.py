"""How an arm's routers behave: load over training, how settled they are, who is chosen with whom, what is wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.explore.arm import Arm, Moment
from gated_lpi.explore.lines import Times, curve, led, links_of, measured_at, styles, timetable
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import Drawn, Params, View, address
from gated_lpi.explore.workspace import Workspace
from gated_lpi.metrics import co_activation, router_saturation
from gated_lpi.report import charts
from gated_lpi.report.chart import Axis, Chart, Heat, Panel, category_axis, short_number

LISTED = 25  # pairs of experts on the page


def routing(workspace: Workspace, params: Params) -> View:
    """Parameters: `arm`, `layer`, `checkpoint` (of co-activation)."""
    moe = routed(workspace)
    if not moe:
        return View("Routing", "routing.html", {"arm": None, "dense": ", ".join(workspace.arms)})
    asked = params.text("arm")
    if asked and asked not in moe:
        raise OptionError(f"arm {asked!r} was asked for, which has no routed experts; {', '.join(moe)} have")
    arm = moe[asked] if asked else next(iter(moe.values()))
    moment = arm.moment(params.text("checkpoint"))
    layers = _layers(arm)
    layer = int(params.one_of("layer", tuple(map(str, layers)), str(layers[0])))
    load = _load(arm, layer)
    drawn = {"load": Drawn(_load_chart(arm, layer, load), "load")}
    sheets = {"load": _load_table(arm, layer, load, moment)}
    found = {
        "saturation": _saturation(workspace, arm, layers, layer, moment),
        "summary": _summary(workspace, arm, moment),
        "together": _together(arm, layer, moment),
    }
    for name, one in found.items():
        if one is not None:
            drawn[name], sheets[name] = one
    said = workspace.findings.said
    values = {
        "arm": arm,
        "moment": moment,
        "layer": layer,
        "arms": {one: one for one in moe},
        "layers": {str(one): str(one) for one in layers},
        "moments": {one.key: one.key for one in arm.moments},
        "alarms": None if said is None else [one for one in said.alarms if one.arm == arm.name],
        "unjudged": [] if said is None else [line for line in said.unjudged if line.startswith(f"{arm.name}:")],
    }
    return View("Routing", "routing.html", values, drawn, sheets)


def routed(workspace: Workspace) -> dict[str, Arm]:
    """The arms that keep what their routers did."""
    return {name: arm for name, arm in workspace.arms.items() if schema.EXPERT_UTILISATION in arm.scores}


def _layers(arm: Arm) -> list[int]:
    """The layers with routed experts."""
    routed = arm.scores["expert_unit_expert"].to_numpy() >= 0
    return sorted(set(arm.scores["expert_unit_layer"].to_numpy()[routed].tolist()))


def _group(arm: Arm, layer: int) -> NDArray[np.int64]:
    """Where a layer's routed experts are among all, in their order."""
    expert = arm.scores["expert_unit_expert"].to_numpy()
    mine = np.flatnonzero((arm.scores["expert_unit_layer"].to_numpy() == layer) & (expert >= 0))
    return mine[np.argsort(expert[mine])]


def _load(arm: Arm, layer: int) -> NDArray[np.float64]:
    """[T, E]: share of all prompts that are sent to each expert of a layer."""
    values = arm.over_time(schema.EXPERT_UTILISATION)[..., _group(arm, layer)].astype(np.float64)
    if values.ndim == 2:
        return np.asarray(values)
    weights = arm.scores["n_prompts"].to_numpy().astype(np.float64)
    return np.asarray(np.einsum("tre,r->te", values, weights / weights.sum()))


def _names(layer: int, count: int) -> tuple[str, ...]:
    """Names of a layer's experts, as tables and the search have them."""
    return tuple(f"L{layer} E{number}" for number in range(count))


def _load_chart(arm: Arm, layer: int, load: NDArray[np.float64]) -> Chart:
    experts = _names(layer, load.shape[1])
    steps = [short_number(float(one.step)) for one in arm.moments]
    greatest = float(load.max()) or 1.0
    heat = Heat(load.T, experts, tuple(one.key for one in arm.moments), (0.0, greatest), "share of prompts")
    ticks = [str(number) for number in range(load.shape[1])]
    panel = Panel("", category_axis("training step", steps), category_axis("expert", ticks, 16), heat=heat)
    caption = (
        "Share of prompts whose last position is sent to each expert. Columns are checkpoints in order, not to scale; "
        "a column sums to the number of experts per token."
    )
    return Chart("load", f"Load of layer {layer}", caption, (panel,), columns=1)


def _load_table(arm: Arm, layer: int, load: NDArray[np.float64], moment: Moment) -> Sheet:
    shares = load[moment.place].tolist()
    rows = [{"expert": name, "share": share} for name, share in zip(_names(layer, len(shares)), shares, strict=True)]
    links = [{"expert": address("units", arm=arm.name, checkpoint=moment.key, q=row["expert"])} for row in rows]

    def whole() -> dict[str, Any]:
        times, experts = load.shape
        return {
            "checkpoint": np.repeat([one.key for one in arm.moments], experts),
            "step": np.repeat([one.step for one in arm.moments], experts),
            "layer": np.full(load.size, layer),
            "expert": np.tile(np.arange(experts), times),
            "share": load.reshape(-1),
        }

    columns = (Col("expert", "expert"), Col("share", "share of prompts", "share"))
    caption = f"Load of layer {layer} at {moment.key}; exports have every checkpoint."
    return Sheet("load", caption, columns, rows, links, whole)


def _saturation(
    workspace: Workspace, arm: Arm, layers: list[int], layer: int, moment: Moment
) -> tuple[Drawn, Sheet] | None:
    """How much of the last checkpoint's routing is there already; None where routing was not kept by relation."""
    values = arm.over_time(schema.EXPERT_UTILISATION).astype(np.float64)
    if values.ndim != 3:
        return None
    every = np.array([router_saturation(values[..., _group(arm, one)]) for one in layers])
    times, style = Times([arm]), styles(workspace.run)[arm.name]
    mine = every[layers.index(layer)]
    ends = {"low": every.min(axis=0), "high": every.max(axis=0)}
    label = f"layer {layer}"
    lines = (
        curve("mean of all layers", style, times, arm.moments, every.mean(axis=0), drawn="dashed", **ends),
        curve(label, style, times, arm.moments, mine),
    )
    panel = Panel("", times.axis, Axis("share", percent=True), lines)
    caption = (
        "Share of the routing of the last checkpoint that is there already, by relation. Dashed: mean over layers, "
        "with their range. Choose a point to see its checkpoint."
    )
    links = links_of(lines, arm.moments, "checkpoint", arm=arm.name)
    known = {
        Col("layer", label, "share"): mine,
        Col("mean", "mean of all layers", "share"): every.mean(axis=0),
        Col("lowest", "lowest layer", "share"): ends["low"],
        Col("highest", "highest layer", "share"): ends["high"],
    }
    words = "Share of the routing of the last checkpoint that is there already, by relation."
    sheet = timetable("saturation", words, arm.moments, known, partial(_checkpoint, arm), moment)
    return Drawn(Chart("saturation", "Router saturation", caption, (panel,), columns=1), "saturation", links), sheet


def _checkpoint(arm: Arm, moment: Moment) -> str:
    """The page of a checkpoint."""
    return address("checkpoint", arm=arm.name, checkpoint=moment.key)


def _summary(workspace: Workspace, arm: Arm, moment: Moment) -> tuple[Drawn, Sheet] | None:
    """How even routing is and how much it changes, over all layers; None until that is known."""
    results = workspace.findings.results
    if results is None or arm.name not in results.summaries:
        return None
    drawn = charts.routing({arm.name: results.summaries[arm.name]}, styles(workspace.run))
    chart, links = led(drawn, {arm.name: arm}, results)
    if not chart.panels:
        return None
    moments = measured_at(results, arm)
    known = {}
    for panel in chart.panels:
        (line,) = panel.lines
        before = (np.nan,) * (len(moments) - len(line.y))
        key, words = panel.title.lower().replace(" ", "_"), panel.title.lower()
        known[Col(key, f"{words}, mean", "number")] = (*before, *line.y)
        for end, values in (("lowest", line.low), ("highest", line.high)):
            known[Col(f"{key}_{end}", end, "number", hint=f"{words} of the {end} layer")] = (*before, *(values or ()))
    words = "How even routing is and how much it changes: mean over layers, lowest and highest layer."
    sheet = timetable("summary", words, moments, known, partial(_checkpoint, arm), moment)
    return Drawn(chart, "summary", links), sheet


def _together(arm: Arm, layer: int, moment: Moment) -> tuple[Drawn, Sheet] | None:
    """Which experts are chosen together; None where single positions were not kept."""
    if schema.POSITION_GATE not in arm.scores:
        return None
    gates = (
        arm.scores[schema.POSITION_GATE].isel(checkpoint=moment.place).transpose("prompt", "position", "expert_unit")
    )
    tokens = gates.to_numpy()[..., _group(arm, layer)]
    tokens = tokens.reshape(-1, tokens.shape[-1])
    routed = (tokens[np.isfinite(tokens).all(axis=1)] > 0).astype(np.float64)
    if not len(routed):
        return None
    table = co_activation(routed)
    names = _names(layer, len(table))
    finite = table[np.isfinite(table)]
    heat = Heat(table, names, names, (0.0, float(finite.max()) if finite.size else 1.0), "over chance")
    ticks = [str(number) for number in range(len(table))]
    panel = Panel("", category_axis("expert", ticks), category_axis("expert", ticks, 16), heat=heat)
    caption = "How often two experts are chosen for one token, over what even routing gives: 1 is chance."
    chart = Chart("together", f"Chosen together, layer {layer} at {moment.key}", caption, (panel,), columns=1)
    return Drawn(chart, "together"), _pairs(arm, layer, moment, table)


def _pairs(arm: Arm, layer: int, moment: Moment, table: NDArray[np.float64]) -> Sheet:
    """Pairs of experts, from [E, E], those that are chosen together most often first."""
    one, other = np.triu_indices(len(table), 1)
    order = np.argsort(-np.nan_to_num(table[one, other], nan=-np.inf), kind="stable")
    one, other = one[order], other[order]
    values = table[one, other]
    rows = [
        {"expert": f"L{layer} E{a}", "other": f"L{layer} E{b}", "over": value}
        for a, b, value in zip(*(of[:LISTED].tolist() for of in (one, other, values)), strict=True)
    ]
    links = [
        {key: address("units", arm=arm.name, checkpoint=moment.key, q=row[key]) for key in ("expert", "other")}
        for row in rows
    ]
    columns = (Col("expert", "expert"), Col("other", "with"), Col("over", "over chance", "number"))
    more = f", the first {LISTED} of {values.size:,}" if values.size > LISTED else ""
    caption = f"Pairs of experts of layer {layer} at {moment.key}, most often chosen together first{more}."
    return Sheet("together", caption, columns, rows, links, lambda: {"expert": one, "other": other, "over": values})
