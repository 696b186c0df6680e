"""The page of one unit: its score over training with bound and interval, its relations, its expert, what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.explore.arm import Arm, Moment
from gated_lpi.explore.lines import GREY, Times, curve, links_of, styles, timetable
from gated_lpi.explore.portrait import portrait
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import Drawn, Params, View, address
from gated_lpi.explore.workspace import Workspace
from gated_lpi.metrics import bootstrap
from gated_lpi.report.arms import KIND_NAMES
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import Axis, Chart, Heat, Panel, category_axis, short_number
from gated_lpi.report.estimates import Estimate
from gated_lpi.results import TopUnit

DRAWS = 200


def unit(workspace: Workspace, params: Params) -> View:
    """Parameters: `arm`, `unit` (its name), `checkpoint`, `method`."""
    arm = workspace.arm(params.text("arm"))
    place = _place(arm, params.text("unit"))
    moment = arm.moment(params.text("checkpoint"))
    method = params.one_of("method", arm.methods, arm.methods[0])
    short, kind = arm.units.short(place), str(arm.units.block[place])
    mean = arm.curve(schema.mean_of(method), place)
    by_relation = arm.curve(method, place) if method in arm.scores else None
    history = np.full(len(arm.moments), np.nan) if mean is None else mean[:, 0].astype(np.float64)
    history[moment.place] = float(arm.score(method, moment.place)[place])
    interval = _interval(arm, by_relation)
    bound = _bound(arm, method, place)
    here = {"arm": arm.name, "unit": short, "method": method}
    sheets = {"history": _history(arm, history, interval, bound, moment, here)}
    charts = {"curve": _curve(workspace, arm, method, place, history, interval, bound, here)}
    if arm.relations and method in arm.scores:
        known = None if by_relation is None else by_relation[moment.place]
        if known is None or not np.isfinite(known).all():
            known = arm.at(method, moment.place)[:, place]
        sheets["relations"] = _relations(arm, known.astype(np.float64), by_relation, moment)
        if by_relation is not None:
            charts["relations"] = Drawn(_relation_chart(arm, by_relation), "relations")
    expert = _expert(workspace, arm, place, moment, here)
    if expert is not None:
        charts["expert"], sheets["expert"] = expert
    if schema.TRUE_EFFECT in arm.scores:
        sheets["true_effect"] = _true_effect(arm, place, moment)
    sheets |= portrait(arm, place, moment, here)
    described = _described(arm, kind, arm.units.label(place))
    lives = arm.lives(method)
    values = {
        "arm": arm,
        "moment": moment,
        "method": method,
        "methods": {one: method_name(one) for one in arm.methods},
        "name": arm.units.label(place),
        "short": short,
        "kind": KIND_NAMES[kind],
        "facts": list(_said(arm, method, place, kind, moment)),
        "indexed": mean is not None,
        "relations_indexed": by_relation is not None,
        "described": described,
        "last": arm.moments[-1],
        "previous": _neighbour(arm, method, place, kind, moment, -1),
        "next": _neighbour(arm, method, place, kind, moment, 1),
        "moments": {one.key: one.key for one in arm.moments},
        "list": address("units", arm=arm.name, checkpoint=moment.key, method=method, kind=kind),
        "expert": int(arm.units.expert[place]),
    }
    return View(f"{short} of {arm.name}", "unit.html", values, charts, sheets, waits=mean is None or lives is None)


def _place(arm: Arm, asked: str | None) -> int:
    """The unit that a name means.

    Raises:
        OptionError: it means none, or several.
    """
    if not asked:
        raise OptionError("no unit was asked for; search for one under Units, by a name such as L2 E5 n17")
    found = arm.units.find(asked)
    if found.size > 1:
        raise OptionError(f"{asked!r} was asked for, which is {found.size:,} units; search for it under Units")
    return int(found[0])


def _interval(arm: Arm, by_relation: NDArray[Any] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The ends of 95% intervals [T] over relations; None where they are too few or not indexed."""
    if by_relation is None or by_relation.shape[1] < 2 or not np.isfinite(by_relation).all():
        return None
    weights = arm.scores["n_prompts"].to_numpy()
    found = bootstrap(lambda data: data, by_relation.T.astype(np.float64), weights, draws=DRAWS)
    return found.low, found.high


def _bound(arm: Arm, method: str, place: int) -> NDArray[np.float64] | None:
    """[T]: the mean score is off by no more, nats; None where that is not proven."""
    block = arm.block_of(place) if method == schema.LPI and arm.bounds is not None else None
    return None if block is None or arm.bounds is None else arm.bounds[:, block]


def _history(
    arm: Arm,
    history: NDArray[np.float64],
    interval: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    bound: NDArray[np.float64] | None,
    moment: Moment,
    here: dict[str, str],
) -> Sheet:
    low, high = interval if interval is not None else (np.full(len(history), np.nan),) * 2
    gains = np.diff(history, prepend=np.nan)
    lives = arm.lives(here["method"])
    place = _place(arm, here["unit"])
    rows = [
        {
            "checkpoint": one.key,
            "step": one.step,
            "tokens": one.tokens if one.tokens >= 0 else None,
            "score": Estimate(float(history[at]), float(low[at]), float(high[at])),
            "bound": None if bound is None else float(bound[at]),
            "gain": float(gains[at]),
            "top": None if lives is None else "yes" if _inside(lives.sets[at], place) else "no",
        }
        for at, one in enumerate(arm.moments)
    ]
    columns = (
        Col("checkpoint", "checkpoint"),
        Col("step", "step", "count"),
        Col("tokens", "tokens", "count"),
        Col("score", "score, nats", "number"),
        Col("bound", "error at most", "number", hint="proven bound, nats"),
        Col("gain", "gain, nats", "number"),
        Col("top", "top set"),
    )
    links = [{"checkpoint": address("unit", **here, checkpoint=one.key)} for one in arm.moments]

    def whole() -> dict[str, Any]:
        plain = {key: [row[key] for row in rows] for key in ("checkpoint", "step", "tokens", "bound", "gain", "top")}
        return plain | {"score": history, "score_low": low, "score_high": high}

    caption = "Its mean score at every checkpoint, with 95% intervals over relations in square brackets."
    return Sheet("history", caption, columns, rows, links, whole, frozenset({moment.place}))


def _inside(members: NDArray[np.int64], place: int) -> bool:
    at = int(np.searchsorted(members, place))
    return at < members.size and int(members[at]) == place


def _curve(
    workspace: Workspace,
    arm: Arm,
    method: str,
    place: int,
    history: NDArray[np.float64],
    interval: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    bound: NDArray[np.float64] | None,
    here: dict[str, str],
) -> Drawn:
    times, style = Times([arm]), styles(workspace.run)[arm.name]
    ends = {} if interval is None else {"low": interval[0], "high": interval[1]}
    lines = [curve(here["unit"], style, times, arm.moments, history, **ends)]
    if bound is not None and (bound > 0).any():
        for sign, words in ((1, "above"), (-1, "below")):
            label = f"error bound {words}"
            shown = sign > 0
            lines.append(
                curve(
                    label,
                    style,
                    times,
                    arm.moments,
                    history + sign * bound,
                    drawn="dashed",
                    faint=True,
                    in_legend=shown,
                )
            )
    lives = arm.lives(method)
    if lives is not None:
        least = lives.least[str(arm.units.block[place])]
        lines.append(curve("least of the top set", GREY, times, arm.moments, least, drawn="dashed"))
    panel = Panel("", times.axis, Axis("score, nats"), tuple(lines))
    caption = (
        f"Mean score by {method_name(method)}. Band: 95% interval over relations. Dashed in its colour: as far as the "
        "score may be off, proven. Dashed grey: the least score that is enough for the top set. Choose a point to see "
        "that checkpoint."
    )
    links = links_of(lines, arm.moments, "unit", **here)
    return Drawn(Chart("curve", "Score over training", caption, (panel,), columns=1), "history", links)


def _relations(arm: Arm, values: NDArray[np.float64], by_relation: NDArray[Any] | None, moment: Moment) -> Sheet:
    prompts = arm.scores["n_prompts"].to_numpy()
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")
    rows = [
        {"relation": arm.relations[at], "score": float(values[at]), "prompts": int(prompts[at])}
        for at in order.tolist()
    ]
    links = [
        {"relation": address("facts", arm=arm.name, checkpoint=moment.key, relation=row["relation"])} for row in rows
    ]
    columns = (
        Col("relation", "relation"),
        Col("score", "score, nats", "number"),
        Col("prompts", "prompts", "count"),
    )
    caption = f"Its mean score over each relation's prompts at {moment.key}"
    if by_relation is None:
        return Sheet("relations", f"{caption}.", columns, rows, links)

    def whole() -> dict[str, Any]:
        times, relations = by_relation.shape
        return {
            "checkpoint": np.repeat([one.key for one in arm.moments], relations),
            "step": np.repeat([one.step for one in arm.moments], relations),
            "relation": np.tile(arm.relations, times),
            "score": by_relation.reshape(-1),
            "prompts": np.tile(prompts, times),
        }

    return Sheet("relations", f"{caption}; exports have every checkpoint.", columns, rows, links, whole)


def _relation_chart(arm: Arm, by_relation: NDArray[Any]) -> Chart:
    table = by_relation.T.astype(np.float64)
    finite = table[np.isfinite(table)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    diverging = low < 0 < high
    if diverging:
        low, high = -max(-low, high), max(-low, high)
    steps = [short_number(float(one.step)) for one in arm.moments]
    heat = Heat(
        table, arm.relations, tuple(one.key for one in arm.moments), (low, max(high, low + 1e-9)), "nats", diverging
    )
    x, y = category_axis("training step", steps), category_axis("", list(arm.relations), 24)
    caption = "Its mean score over each relation's prompts. Columns are checkpoints in order, not to scale."
    return Chart("relations", "By relation", caption, (Panel("", x, y, heat=heat),), columns=1)


def _expert(
    workspace: Workspace, arm: Arm, place: int, moment: Moment, here: dict[str, str]
) -> tuple[Drawn, Sheet] | None:
    """How often prompts are sent to its expert, and with which gate; None where it has none or that was not kept."""
    if arm.units.expert[place] < 0 or schema.EXPERT_UTILISATION not in arm.scores:
        return None
    layer, expert = int(arm.units.layer[place]), int(arm.units.expert[place])
    group = np.flatnonzero(
        (arm.scores["expert_unit_layer"].to_numpy() == layer) & (arm.scores["expert_unit_expert"].to_numpy() == expert)
    )
    if not group.size:
        return None
    times, style = Times([arm]), styles(workspace.run)[arm.name]
    panels, known = [], {}
    for variable, title, label, percent in (
        (schema.EXPERT_UTILISATION, "Share of prompts", "share of prompts", True),
        (schema.EXPERT_GATE, "Gate", "mean gate", False),
    ):
        if variable not in arm.scores:
            continue
        values = _over_prompts(arm, variable)[:, int(group[0])]
        line = curve(f"L{layer} E{expert}", style, times, arm.moments, values, in_legend=False)
        panels.append(Panel(title, times.axis, Axis(label, percent=percent), (line,)))
        known[Col(variable, label, "share" if percent else "number")] = values
    caption = "How often the prompts' last position is sent to its expert, and with which gate: mean over all prompts."
    links = links_of((line for panel in panels for line in panel.lines), arm.moments, "unit", **here)
    chart = Chart("expert", f"Its expert, L{layer} E{expert}", caption, tuple(panels))

    def to(one: Moment) -> str:
        return address("unit", **here, checkpoint=one.key)

    return Drawn(chart, "expert", links), timetable("expert", caption, arm.moments, known, to, moment)


def _over_prompts(arm: Arm, variable: str) -> NDArray[np.float64]:
    """The mean [T, G] over all prompts of what is kept by relation, or without."""
    values = arm.over_time(variable).astype(np.float64)
    if values.ndim == 2:
        return values
    weights = arm.scores["n_prompts"].to_numpy().astype(np.float64)
    return np.asarray(np.einsum("trg,r->tg", values, weights / weights.sum()))


def _true_effect(arm: Arm, place: int, moment: Moment) -> Sheet:
    values = np.atleast_2d(arm.at(schema.TRUE_EFFECT, moment.place))[:, place].astype(np.float64)
    rows = [
        {"relation": relation, "effect": float(value)}
        for relation, value in zip(arm.relations, values, strict=True)
        if np.isfinite(value)
    ]
    columns = (Col("relation", "relation"), Col("effect", "true effect, nats", "number"))
    caption = "What silencing it takes from log p(target), over each relation's prompts."
    return Sheet("true_effect", caption, columns, rows)


def _described(arm: Arm, kind: str, label: str) -> TopUnit | None:
    """What the run says of the tokens that a unit moves at the last checkpoint; None where it does not."""
    if arm.record is None:
        return None
    return next((one for one in arm.record.top(kind) if one.label == label), None)


def _said(arm: Arm, method: str, place: int, kind: str, moment: Moment) -> Iterator[tuple[str, str]]:
    """What is known of it, in words and numbers."""
    scores = arm.score(method, moment.place)
    score = float(scores[place])
    yield "score", f"{score:.4g} nats at {moment.key}"
    mine = scores[arm.kinds[kind]]
    yield "rank", f"{1 + int((mine > score).sum()):,} of {mine.size:,} {KIND_NAMES[kind]}"
    lives = arm.lives(method)
    if lives is None:
        return
    times, total = int(lives.times[place]), len(arm.moments)
    yield "top sets", f"in {times} of {total}"
    if times:
        yield "first", f"at {arm.moments[int(lives.first[place])].key}"
        yield "survival", f"longest stay {int(lives.longest[place])} checkpoints"
    if np.isfinite(lives.stays[place]):
        yield "stability", f"{float(lives.stays[place]):.0%} of its stays went on at the next checkpoint"


def _neighbour(arm: Arm, method: str, place: int, kind: str, moment: Moment, way: int) -> dict[str, str] | None:
    """The unit of its kind that comes before (−1) or after it (1) by score; None at the ends."""
    among = arm.kinds[kind]
    mine = arm.score(method, moment.place)[among]
    own = mine[np.searchsorted(among, place)]
    alike = np.flatnonzero((mine == own) & ((among < place) if way < 0 else (among > place)))
    if not alike.size:
        beyond = mine[mine > own] if way < 0 else mine[mine < own]
        if not beyond.size:
            return None
        alike = np.flatnonzero(mine == (beyond.min() if way < 0 else beyond.max()))
    other = arm.units.short(int(among[alike[-1 if way < 0 else 0]]))
    return {"name": other, "link": address("unit", arm=arm.name, unit=other, checkpoint=moment.key, method=method)}
