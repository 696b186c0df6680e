"""Charts of depth: layer profiles, base log-probabilities and expert utilisation, as pure functions by arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.metrics.relations import over_relations
from gated_lpi.report.arms import KIND_NAMES
from gated_lpi.report.chart import ArmStyle, Axis, Chart, Heat, Line, Panel, arm_styles, category_axis, short_number
from gated_lpi.report.clocks import clock_label, clock_name
from gated_lpi.report.token_routes import positions
from gated_lpi.unit_names import BLOCK_NAMES

ROW_TICKS = 16
MOST_LAYERS = 3  # of an arm, whose utilisation by relation is drawn
MOST_PROMPTS = 4  # of an arm, whose attention is shown by position


def layer_profiles(summaries: Mapping[str, xr.Dataset]) -> Chart:
    """Importance of each layer at each checkpoint, by arm and kind; one colour scale for each kind."""
    limits = {kind: _limits([_profile(s, kind) for s in summaries.values()]) for kind in KIND_NAMES}
    panels = [
        Panel(
            f"{name}: {KIND_NAMES[kind]}",
            category_axis(clock_label("step", [summary.attrs]), _steps(summary)),
            category_axis("layer", [str(layer) for layer in summary["layer"].to_numpy()], ROW_TICKS),
            heat=Heat(
                _profile(summary, kind).T,
                tuple(f"layer {layer}" for layer in summary["layer"].to_numpy()),
                tuple(f"{clock_name('step', summary.attrs)} {step}" for step in _steps(summary)),
                limits[kind],
                "nats",
                diverging=limits[kind][0] < 0,
                over_training=True,
            ),
        )
        for name, summary in summaries.items()
        for kind in KIND_NAMES
        if kind in summary["kind"]
    ]
    return Chart(
        "layer_profiles",
        "Layer profiles",
        "Importance of each layer, the sum over its neurons of their mean score, at each checkpoint: nats, averaged "
        "over prompts. Columns are checkpoints in order, not to scale. Arms share a colour scale for each kind of "
        "neuron; where it is red and blue, white is 0 and blue is negative.",
        tuple(panels),
        columns=max(len({panel.title.split(": ")[1] for panel in panels}), 1),
    )


def base_logprob(scores: Mapping[str, xr.Dataset], styles: Mapping[str, ArmStyle] | None = None) -> Chart:
    """Mean log p(target | base) by block: of all arms at their last checkpoint, and of each arm over training."""
    styles = styles or arm_styles(scores)
    recorded = {name: arm for name, arm in scores.items() if schema.BASE_LOGPROB in arm}
    if not recorded:
        return Chart("base_logprob", "", "", ())
    means = {name: arm[schema.BASE_LOGPROB].mean("prompt").to_numpy() for name, arm in recorded.items()}
    blocks = {name: _block_names(arm) for name, arm in recorded.items()}
    limits = _limits(list(means.values()))
    lines = tuple(
        Line(
            name,
            name,
            styles[name],
            tuple(float(i) for i in range(mean.shape[1])),
            tuple(float(value) for value in mean[-1]),
            tuple(f"{name}, before {block}" for block in blocks[name]),
        )
        for name, mean in means.items()
    )
    deepest = max(recorded.values(), key=lambda arm: arm.sizes["block_index"])
    panels = [Panel("Last checkpoint", _depth_axis(deepest), Axis("log p(target | base), nats"), lines)]
    panels += [
        Panel(
            f"{name}: over training",
            category_axis(clock_label("step", [scores[name].attrs]), _steps(scores[name])),
            category_axis("before block", blocks[name], ROW_TICKS),
            heat=Heat(
                mean.T,
                tuple(f"before {block}" for block in blocks[name]),
                tuple(f"{clock_name('step', scores[name].attrs)} {step}" for step in _steps(scores[name])),
                limits,
                "nats",
                over_training=True,
            ),
        )
        for name, mean in means.items()
    ]
    return Chart(
        "base_logprob",
        "Base log-probability by depth (logit lens)",
        "Mean over prompts of log p(target) read out from the residual stream just before each block writes to it. "
        "A unit's score is a gain on this. Where it is far below a uniform guess, a large score of an early block "
        "can mean no more than that it moves the readout to where it works at all.",
        tuple(panels),
    )


def utilisation(scores: Mapping[str, xr.Dataset]) -> Chart:
    """Share of prompts routed to each expert of each layer at the last checkpoint, by arm with routed experts."""
    tables = {name: table for name, arm in scores.items() if (table := _utilisation(arm)) is not None}
    highest = max((float(np.nanmax(table)) for table, _ in tables.values()), default=1.0)
    panels = tuple(
        Panel(
            f"{name}: last checkpoint",
            category_axis("expert", [str(i) for i in range(table.shape[1])]),
            category_axis("layer", [str(layer) for layer in layers], ROW_TICKS),
            heat=Heat(
                table,
                tuple(f"layer {layer}" for layer in layers),
                tuple(f"expert {i}" for i in range(table.shape[1])),
                (0.0, highest),
                "share of prompts",
            ),
        )
        for name, (table, layers) in tables.items()
    )
    return Chart(
        "expert_utilisation",
        "Expert utilisation",
        "Share of prompts whose last position is routed to each expert. Even routing is one colour everywhere; a "
        "row sums to the number of experts per token.",
        panels,
        columns=1,
    )


def utilisation_by_relation(scores: Mapping[str, xr.Dataset]) -> Chart:
    """Share of each relation's prompts routed to each expert at the last checkpoint: a few layers of each MoE arm."""
    tables = {
        f"{name}: layer {layer}": (_by_relation(arm, layer), arm["relation"].to_numpy())
        for name, arm in scores.items()
        if "relation" in arm.get(schema.EXPERT_UTILISATION, xr.DataArray()).dims
        for layer in _some(_moe_layers(arm), MOST_LAYERS)
    }
    panels = tuple(
        Panel(
            title,
            category_axis("expert", [str(i) for i in range(table.shape[1])]),
            category_axis("", [_short(str(name)) for name in relations], ROW_TICKS),
            heat=Heat(
                table,
                tuple(str(name) for name in relations),
                tuple(f"expert {i}" for i in range(table.shape[1])),
                (0.0, 1.0),
                "share of prompts",
            ),
        )
        for title, (table, relations) in tables.items()
    )
    return Chart(
        "utilisation_by_relation",
        "Expert utilisation by relation",
        "Share of each relation's prompts whose last position is routed to each expert, at the last checkpoint. Rows "
        f"that differ are relations with experts of their own. Of arms with more MoE layers than {MOST_LAYERS}: the "
        "first, the last and one between.",
        panels,
        columns=1,
    )


def attention_positions(scores: Mapping[str, xr.Dataset]) -> Chart:
    """What attention takes from each source position of a few prompts at the last checkpoint, by layer."""
    tables: dict[str, NDArray[np.float64]] = {}
    layers: dict[str, list[int]] = {}
    columns: dict[str, list[str]] = {}
    for name, arm in scores.items():
        if schema.LAYER_POSITION_LPI not in arm:
            continue
        relations = arm["prompt_relation"].to_numpy().astype(object).astype(str)
        first = [int(np.flatnonzero(relations == one)[0]) for one in dict.fromkeys(relations.tolist())]
        for prompt in first[:MOST_PROMPTS]:
            last = arm[schema.LAYER_POSITION_LPI].isel(checkpoint=-1, prompt=prompt)
            table = last.transpose("attention_block", "position").to_numpy().astype(np.float64)
            title = f"{name}: {_short(str(relations[prompt]))}"
            tables[title] = table[:, np.isfinite(table).any(axis=0)]
            layers[title] = arm["attention_block_layer"].to_numpy().tolist()
            columns[title] = positions(last, tables[title].shape[1])
    low, high = _limits(list(tables.values()))
    panels = tuple(
        Panel(
            title,
            category_axis("source position", [str(i) for i in range(table.shape[1])]),
            category_axis("layer", [str(layer) for layer in layers[title]], ROW_TICKS),
            heat=Heat(
                table,
                tuple(f"layer {layer}" for layer in layers[title]),
                tuple(columns[title]),
                (low, high),
                "nats",
                diverging=low < 0 < high,
            ),
        )
        for title, table in tables.items()
    )
    return Chart(
        "attention_positions",
        "What attention takes from where",
        "Gated-LPI of each layer's attention units by source position, summed over units, at the last checkpoint: the "
        f"first prompt of each of the first {MOST_PROMPTS} relations or tasks. Positions count from 0; the answer is "
        "predicted at the last one.",
        panels,
        columns=1,
    )


def _by_relation(scores: xr.Dataset, layer: int) -> NDArray[np.float64]:
    """[relations, experts] of one layer at the last checkpoint."""
    expert = scores["expert_unit_expert"].to_numpy()
    mine = np.flatnonzero((scores["expert_unit_layer"].to_numpy() == layer) & (expert >= 0))
    last = scores[schema.EXPERT_UTILISATION].isel(checkpoint=-1, expert_unit=mine[np.argsort(expert[mine])])
    values: NDArray[np.float64] = last.transpose("relation", "expert_unit").to_numpy().astype(np.float64)
    return values


def _moe_layers(scores: xr.Dataset) -> list[int]:
    """The layers that have routed experts."""
    routed = scores["expert_unit_expert"].to_numpy() >= 0
    return sorted(set(scores["expert_unit_layer"].to_numpy()[routed].tolist()))


def _some(layers: Sequence[int], most: int) -> list[int]:
    """At most so many layers, evenly spaced, the first and the last among them."""
    if len(layers) <= most:
        return list(layers)
    return [layers[round(i * (len(layers) - 1) / (most - 1))] for i in range(most)]


def _short(name: str, longest: int = 22) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _profile(summary: xr.Dataset, kind: str) -> NDArray[np.float64]:
    if kind not in summary["kind"]:
        return np.empty((0, 0))
    values: NDArray[np.float64] = summary["layer_profile"].sel(kind=kind).transpose("checkpoint", "layer").to_numpy()
    return values


def _limits(tables: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Least and greatest of all values; symmetric about 0 if they have both signs."""
    values = np.concatenate([table[np.isfinite(table)] for table in tables]) if tables else np.zeros(0)
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if low < 0 < high:
        return -max(-low, high), max(-low, high)
    return (0.0, high) if low >= 0 else (low, high)


def _steps(dataset: xr.Dataset) -> list[str]:
    return [short_number(float(step)) for step in dataset["step"].to_numpy()]


def _block_names(scores: xr.Dataset) -> list[str]:
    pairs = zip(scores["block_layer"].to_numpy(), scores["block_kind"].to_numpy(), strict=True)
    return [f"{BLOCK_NAMES.get(str(kind), kind)} {layer}" for layer, kind in pairs]


def _depth_axis(scores: xr.Dataset) -> Axis:
    """Blocks in order, with the layer's number at the first block of each."""
    layers, first = np.unique(scores["block_layer"].to_numpy(), return_index=True)
    labelled = category_axis("", [str(layer) for layer in layers])
    return Axis("layer", tuple((float(first[int(at)]), text) for at, text in labelled.ticks))


def _utilisation(scores: xr.Dataset) -> tuple[NDArray[np.float64], list[int]] | None:
    """[layers, experts] at the last checkpoint and the layers' numbers; NaN where a layer has fewer experts."""
    if schema.EXPERT_UTILISATION not in scores:
        return None
    last = over_relations(scores.isel(checkpoint=-1), schema.EXPERT_UTILISATION).to_numpy()
    layer, expert = scores["expert_unit_layer"].to_numpy(), scores["expert_unit_expert"].to_numpy()
    routed = expert >= 0
    layers = _moe_layers(scores)
    if not layers:
        return None
    table = np.full((len(layers), int(expert.max()) + 1), np.nan)
    table[np.searchsorted(layers, layer[routed]), expert[routed]] = last[routed]
    return table, layers
