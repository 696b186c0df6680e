"""The page of one fact: when it was learnt, and what carries it, from blocks to heads and experts to neurons."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.explore.arm import Arm, Moment, texts
from gated_lpi.explore.facts import learning, named
from gated_lpi.explore.inside import Block, inside
from gated_lpi.explore.lines import Times, curve, styles, timetable
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import Drawn, Params, View, address
from gated_lpi.explore.workspace import Workspace
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import Axis, Bars, Chart, Heat, Panel, category_axis
from gated_lpi.report.clocks import at_step
from gated_lpi.report.tables import visible
from gated_lpi.report.token_routes import positions, route
from gated_lpi.unit_names import BLOCK_NAMES


def fact(workspace: Workspace, params: Params) -> View:
    """The page of a fact.

    Parameters: `arm`, `prompt` (its place among the arm's), `checkpoint`, `method`, `block` (its place among the
    blocks), `part` (a head or expert of the block).
    """
    arm = workspace.arm(params.text("arm"))
    prompt = params.whole("prompt") or 0
    if "prompt" not in arm.scores.dims or prompt >= arm.scores.sizes["prompt"]:
        raise OptionError(
            f"prompt {prompt} was asked for; arm {arm.name} has {arm.scores.sizes.get('prompt', 0)}: see Facts"
        )
    moment = arm.moment(params.text("checkpoint"))
    method = params.one_of("method", arm.methods, arm.methods[0]) if arm.methods else schema.LPI
    names = {what: str(column[prompt]) for what, column in named(arm).items()}
    charts: dict[str, Drawn] = {}
    sheets: dict[str, Sheet] = {}
    values: dict[str, Any] = {
        "arm": arm,
        "moment": moment,
        "prompt": prompt,
        "names": names,
        "said": [],
        "block": None,
        "part": params.text("part"),
        "block_whole": params.to("fact", part=None),
        "method": method,
        "methods": {one: method_name(one) for one in arm.methods},
        "moments": {one.key: one.key for one in arm.moments},
        "arms": {one: one for one in workspace.arms},
        "before": params.to("fact", prompt=prompt - 1, block=None, part=None) if prompt else "",
        "after": params.to("fact", prompt=prompt + 1, block=None, part=None)
        if prompt + 1 < arm.scores.sizes["prompt"]
        else "",
        "list": address("facts", arm=arm.name, checkpoint=moment.key, relation=names["relation"]),
        "gates_kept": schema.POSITION_GATE in arm.scores,
        "positions_kept": schema.LAYER_POSITION_LPI in arm.scores,
    }
    if schema.TARGET_RANK in arm.scores:
        charts["learning"], sheets["learning"] = _learning(workspace, arm, prompt, moment, params)
        values["said"] = _said(arm, prompt, moment)
    if schema.BASE_LOGPROB in arm.scores and schema.TARGET_LOGPROB in arm.scores:
        steps = _blocks(arm, prompt, moment)
        block = params.whole("block")
        chosen = int(np.argmax(np.diff(steps))) if block is None else block
        if chosen >= len(steps) - 1:
            raise OptionError(f"block {chosen} was asked for; arm {arm.name} has {len(steps) - 1}, counted from 0")
        blocks = block_names(arm)
        sheets["blocks"], charts["blocks"] = _waterfall(arm, steps, blocks, chosen, params)
        values["block"] = blocks[chosen]
        if names["relation"] in arm.relations:
            relation = arm.relations.index(names["relation"])
            found = inside(Block(arm, moment, method, relation, chosen), names["relation"], params)
            charts |= found[0]
            sheets |= found[1]
    if values["positions_kept"]:
        charts["positions"], sheets["positions"] = _positions(arm, prompt, moment)
    if values["gates_kept"]:
        sheets["routes"] = _routes(arm, prompt, moment)
    return View(names["text"], "fact.html", values, charts, sheets)


def block_names(arm: Arm) -> list[str]:
    """Names of the blocks that there are scores of, such as "FFN 3"."""
    kinds, layers = texts(arm.scores["block_kind"]), arm.scores["block_layer"].to_numpy().tolist()
    return [f"{BLOCK_NAMES.get(str(kind), str(kind))} {layer}" for kind, layer in zip(kinds, layers, strict=True)]


def _said(arm: Arm, prompt: int, moment: Moment) -> list[tuple[str, str]]:
    found = {key: float(column[prompt]) for key, column in learning(arm, moment.place).items()}

    def step(value: float) -> str:
        return "never" if np.isnan(value) else at_step(value, arm.scores.attrs)

    return [
        ("rank", f"{int(found['rank']):,} at {moment.key}"),
        ("log p(answer)", "not kept" if np.isnan(found["logprob"]) else f"{found['logprob']:.3g} nats"),
        ("first known", step(found["first"])),
        ("known for good from", step(found["learnt"])),
    ]


def _learning(workspace: Workspace, arm: Arm, prompt: int, moment: Moment, params: Params) -> tuple[Drawn, Sheet]:
    times, style = Times([arm]), styles(workspace.run)[arm.name]
    ranks = arm.over_time(schema.TARGET_RANK)[:, prompt].astype(np.float64)
    panels, known = [], {Col("rank", "rank", "count"): ranks}
    if schema.TARGET_LOGPROB in arm.scores:
        logprob = arm.over_time(schema.TARGET_LOGPROB)[:, prompt]
        line = curve("log p", style, times, arm.moments, logprob, in_legend=False)
        panels.append(Panel("log p(answer)", times.axis, Axis("nats"), (line,)))
        known[Col("logprob", "log p(answer), nats", "number")] = logprob
    worst = int(ranks.max())
    ticks = tuple((float(np.log10(1 + rank)), f"{rank:,}") for rank in (0, 9, 99, 999, 9999, 99999) if rank <= worst)
    line = curve("rank", style, times, arm.moments, np.log10(1 + ranks), in_legend=False)
    panels.append(Panel("Rank of the answer (0 the likeliest)", times.axis, Axis("rank, log scale", ticks), (line,)))
    lines = [line for panel in panels for line in panel.lines]

    def to(one: Moment) -> str:
        return params.to("fact", checkpoint=one.key)

    links = {point: to(one) for line in lines for point, one in zip(line.hover, arm.moments, strict=True)}
    caption = (
        f"How likely the answer is over training. Known is a rank below {schema.KNOWN_K}. Choose a point to see it."
    )
    drawn = Drawn(Chart("learning", "When it was learnt", caption, tuple(panels)), "learning", links)
    words = "The answer's rank, 0 for the likeliest token, and its log-probability at every checkpoint."
    return drawn, timetable("learning", words, arm.moments, known, to, moment)


def _blocks(arm: Arm, prompt: int, moment: Moment) -> NDArray[np.float64]:
    """log p(answer) before each block, and after the last, [B + 1]."""
    base = arm.at(schema.BASE_LOGPROB, moment.place)[prompt].astype(np.float64)
    return np.append(base, float(arm.over_time(schema.TARGET_LOGPROB)[moment.place, prompt]))


def _waterfall(
    arm: Arm, steps: NDArray[np.float64], blocks: list[str], chosen: int, params: Params
) -> tuple[Sheet, Drawn]:
    gains = np.diff(steps)
    rows = [
        {"block": block, "before": float(steps[at]), "gain": float(gains[at]), "after": float(steps[at + 1])}
        for at, block in enumerate(blocks)
    ]
    to = [params.to("fact", block=at, part=None) for at in range(len(blocks))]
    links = [{"block": link} for link in to]
    columns = (
        Col("block", "block"),
        Col("before", "before, nats", "number"),
        Col("gain", "what it adds", "number"),
        Col("after", "after, nats", "number"),
    )
    caption = "log p(answer) read out before and after each block. Choose a block to see what is inside it, below."
    sheet = Sheet("blocks", caption, columns, rows, links, marked=frozenset({chosen}))
    bars = Bars(
        "blocks",
        tuple(float(at) for at in range(len(blocks))),
        tuple(steps[:-1].tolist()),
        tuple(steps[1:].tolist()),
        tuple(blocks),
    )
    axis = category_axis("block", blocks, 16)
    panel = Panel("", axis, Axis("log p(answer), nats"), bars=(bars,))
    chart = Chart(
        "blocks",
        "From block to block",
        f"Each bar goes from log p(answer) before a block of {arm.name} writes to that after it: blue where it rises, "
        "orange where it falls. Choose one to see its heads or experts and neurons.",
        (panel,),
        columns=1,
    )
    return sheet, Drawn(chart, "blocks", dict(zip(blocks, to, strict=True)))


def _positions(arm: Arm, prompt: int, moment: Moment) -> tuple[Drawn, Sheet]:
    at = arm.scores[schema.LAYER_POSITION_LPI].isel(checkpoint=moment.place, prompt=prompt)
    table = at.transpose("attention_block", "position").to_numpy().astype(np.float64)
    table = table[:, np.isfinite(table).any(axis=0)]
    greatest = float(np.nanmax(np.abs(table))) if table.size else 1.0
    layers = [f"layer {layer}" for layer in arm.scores["attention_block_layer"].to_numpy().tolist()]
    columns = positions(at, table.shape[1])
    heat = Heat(table, tuple(layers), tuple(columns), (-greatest or -1.0, greatest or 1.0), "nats", diverging=True)
    ticks = [name.removeprefix("position ") for name in columns]
    panel = Panel("", category_axis("source position", ticks), category_axis("", layers, 24), heat=heat)
    caption = "What attention takes from each source position, summed over each layer's units."
    rows = [
        {"layer": layer} | dict(zip(columns, row, strict=True))
        for layer, row in zip(layers, table.tolist(), strict=True)
    ]
    heads = (Col("layer", "layer"), *(Col(name, name, "number") for name in columns))
    sheet = Sheet("positions", f"{caption[:-1]}, nats.", heads, rows)
    return Drawn(Chart("positions", "From where", caption, (panel,), columns=1), "positions"), sheet


def _routes(arm: Arm, prompt: int, moment: Moment) -> Sheet:
    found = route(arm.scores.isel(checkpoint=moment.place, prompt=prompt))
    kept = [Col("text", "text")] if found.texts else []
    layers = [Col(f"layer {layer}", f"layer {layer}") for layer in found.layers]
    texts = map(visible, found.texts or [""] * len(found.tokens))
    rows = [
        {"position": number, "text": text}
        | {
            column.key: ", ".join(f"{expert} ({gate:.2f})" for expert, gate in taken) or "none"
            for column, taken in zip(layers, token, strict=True)
        }
        for number, (text, token) in enumerate(zip(texts, found.tokens, strict=True))
    ]
    caption = "The experts that took each token of the prompt, by falling gate, which is in brackets."
    return Sheet("routes", caption, (Col("position", "position", "count"), *kept, *layers), rows)
