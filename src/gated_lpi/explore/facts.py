"""All facts of an arm as a table: which are known at a checkpoint, and since when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.explore.arm import Arm, Moment, texts
from gated_lpi.explore.lines import GREY, Times, curve, styles, timetable
from gated_lpi.explore.ranking import Ints, rows_of
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import Drawn, Params, View, address
from gated_lpi.explore.workspace import Workspace
from gated_lpi.metrics import hit_interval
from gated_lpi.report.chart import Axis, Chart, Panel
from gated_lpi.report.tables import Form

PAGE = 50
COLUMNS: dict[str, tuple[str, Form]] = {
    "rank": ("rank", "count"),
    "logprob": ("log p, nats", "number"),
    "first": ("first known at step", "count"),
    "learnt": ("known for good from step", "count"),
}


def facts(workspace: Workspace, params: Params) -> View:
    """Facts by any column.

    Parameters: `arm`, `checkpoint`; filters `relation`, `state` ("known", "unknown"), `text`; `sort`, `order`, `page`.
    """
    arm = workspace.arm(params.text("arm"))
    if schema.TARGET_RANK not in arm.scores:
        raise OptionError(f"arm {arm.name} keeps no ranks of targets, so what it knows is not known here")
    moment = arm.moment(params.text("checkpoint"))
    sort = params.one_of("sort", ("order", *COLUMNS), "order")
    descending = params.one_of("order", ("descending", "ascending"), "ascending") == "descending"
    names = named(arm)
    values = learning(arm, moment.place)
    among = _chosen(arm, names, values, params)
    pages = max(1, -(-among.size // PAGE))
    page = min(max(params.whole("page") or 1, 1), pages)
    key = np.arange(len(names["relation"])) if sort == "order" else values[sort]
    shown = rows_of(key, among, (page - 1) * PAGE, PAGE, descending=descending)

    def heading(key: str) -> Col:
        label, form = COLUMNS[key]
        mine = key == sort
        order = "descending" if mine and not descending else "ascending"
        way = ("descending" if descending else "ascending") if mine else None
        return Col(key, label, form, params.to("facts", sort=key, order=order, page=None), way)

    def table(rows: Ints) -> dict[str, Any]:
        return {what: names[what][rows] for what in names} | {what: values[what][rows] for what in values}

    rows = [
        {what: names[what][one] for what in names} | {what: float(values[what][one]) for what in values}
        for one in shown.tolist()
    ]
    method = params.text("method") if params.text("method") in arm.methods else None
    links = [
        {"text": address("fact", arm=arm.name, prompt=one, checkpoint=moment.key, method=method)}
        for one in shown.tolist()
    ]
    columns = (Col("text", "prompt"), Col("object", "answer"), Col("relation", "relation"), *map(heading, COLUMNS))
    sheet = Sheet(
        "facts",
        f"Facts of {arm.name} at {moment.key}. Rank 0 is the likeliest token; known is a rank below {schema.KNOWN_K}.",
        columns,
        rows,
        links,
        lambda: table(rows_of(key, among, 0, among.size, descending=descending)),
    )
    values_shown = {
        "arm": arm,
        "moment": moment,
        "count": int(among.size),
        "known": int((values["rank"][among] < schema.KNOWN_K).sum()),
        "total": len(names["relation"]),
        "page": page,
        "pages": pages,
        "earlier": params.to("facts", page=page - 1) if page > 1 else "",
        "later": params.to("facts", page=page + 1) if page < pages else "",
        "given": {key: params.text(key) or "" for key in ("relation", "state", "text")},
        "choices": {
            "arm": {name: name for name in workspace.arms},
            "checkpoint": {one.key: one.key for one in arm.moments},
            "relation": {"": "all"} | {one: one for one in dict.fromkeys(names["relation"].tolist())},
            "state": {"": "all", "known": "known here", "unknown": "not known here"},
        },
    }
    charts, sheets = {}, {"facts": sheet}
    if among.size:
        charts["known"], sheets["known"] = _known(workspace, arm, moment, among, params)
    return View("Facts", "facts.html", values_shown, charts, sheets)


def _known(workspace: Workspace, arm: Arm, moment: Moment, among: Ints, params: Params) -> tuple[Drawn, Sheet]:
    """How many of the facts that are listed are known at each checkpoint."""
    known = arm.over_time(schema.TARGET_RANK) < schema.KNOWN_K
    counts, share = known[:, among].sum(axis=1), known[:, among].mean(axis=1)
    ends = np.array([hit_interval(int(count), among.size) for count in counts])
    times, style = Times([arm]), styles(workspace.run)[arm.name]
    lines = [curve("facts listed", style, times, arm.moments, share, low=ends[:, 0], high=ends[:, 1])]
    if among.size < known.shape[1]:
        lines.append(curve(f"all of {arm.name}", GREY, times, arm.moments, known.mean(axis=1), drawn="dashed"))

    def to(one: Moment) -> str:
        return params.to("facts", checkpoint=one.key, page=None)

    links = {point: to(one) for line in lines for point, one in zip(line.hover, arm.moments, strict=True)}
    panel = Panel("", times.axis, Axis("share of facts", percent=True), tuple(lines))
    caption = (
        f"Share of the {among.size:,} facts of the table that are known. Band: Wilson's 95% interval. Choose a point "
        "to see that checkpoint."
    )
    values = {
        Col("known", "known", "count"): counts,
        Col("share", "share", "share"): share,
        Col("share_low", "from", "share", hint="low end of its 95% interval"): ends[:, 0],
        Col("share_high", "to", "share", hint="high end of its 95% interval"): ends[:, 1],
    }
    words = f"How many of the {among.size:,} facts of the table are known at each checkpoint."
    chart = Chart("known", "Facts known", caption, (panel,), columns=1)
    return Drawn(chart, "known", links), timetable("known", words, arm.moments, values, to, moment)


def named(arm: Arm) -> dict[str, NDArray[Any]]:
    """Text, subject, object and relation of every prompt, [P] each; numbers of prompts where texts were not kept."""
    n = arm.scores.sizes["prompt"]
    numbers = np.array([f"prompt {number}" for number in range(1, n + 1)])
    places = {"text": "text", "subject": "subject", "object": "object", "relation": "prompt_relation"}
    return {
        what: texts(arm.scores[name]) if name in arm.scores.coords else numbers if what == "text" else np.full(n, "")
        for what, name in places.items()
    }


def learning(arm: Arm, place: int) -> dict[str, NDArray[Any]]:
    """Of every prompt [P] the rank and log p(target) at a checkpoint, and the steps at which it was first known, and
    since which it always was; NaN for never."""
    ranks = arm.over_time(schema.TARGET_RANK)
    known = ranks < schema.KNOWN_K
    steps = np.array([float(one.step) for one in arm.moments])
    since = np.logical_and.accumulate(known[::-1], axis=0)[::-1]  # known here and ever after
    first = np.where(known.any(axis=0), steps[known.argmax(axis=0)], np.nan)
    learnt = np.where(since.any(axis=0), steps[since.argmax(axis=0)], np.nan)
    logprob = (
        arm.over_time(schema.TARGET_LOGPROB)[place]
        if schema.TARGET_LOGPROB in arm.scores
        else np.full(ranks.shape[1], np.nan)
    )
    return {"rank": ranks[place], "logprob": logprob, "first": first, "learnt": learnt}


def _chosen(arm: Arm, names: Mapping[str, NDArray[Any]], values: Mapping[str, NDArray[Any]], params: Params) -> Ints:
    kept = np.ones(arm.scores.sizes["prompt"], dtype=np.bool_)
    relation, state, text = params.text("relation"), params.text("state"), params.text("text")
    if relation:
        kept &= names["relation"] == relation
    if state:
        kept &= (values["rank"] < schema.KNOWN_K) == (params.one_of("state", ("known", "unknown"), "known") == "known")
    if text:
        found = np.char.find(np.char.lower(names["text"]), text.lower()) >= 0
        kept &= found | (np.char.find(np.char.lower(names["object"]), text.lower()) >= 0)
    return np.flatnonzero(kept)
