"""Two checkpoints, arms or methods side by side: who is in the top set of one and not of the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from gated_lpi.errors import OptionError
from gated_lpi.explore.arm import Arm, Moment
from gated_lpi.explore.lines import GREY, floats, styles
from gated_lpi.explore.ranking import Ints, rows_of
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import Drawn, Params, View, address
from gated_lpi.explore.workspace import Workspace
from gated_lpi.metrics import jaccard, jaccard_chance, top_set
from gated_lpi.report.arms import KIND_NAMES
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import COLOURS, ArmStyle, Axis, Chart, Line, Panel, category_axis

LISTED = 25  # units of a table on the page
POINTS = 400  # of units in neither top set, or in both, that are drawn
RANKED = 100_000  # units that the correlation is over, at most


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        arm, moment, method: whose scores.
        units: [n], of one kind.
        scores: [n], theirs.
        top: their top set, places among them.
    """

    arm: Arm
    moment: Moment
    method: str
    units: Ints
    scores: NDArray[np.float64]
    top: Ints

    @property
    def words(self) -> str:
        """What it is, in words."""
        return f"{self.arm.name}, {self.moment.key}, {method_name(self.method)}"

    def link(self, place: int, name: str | None = None) -> str:
        """The page of a unit; its short name may be given."""
        name = name or self.arm.units.short(int(self.units[place]))
        return address("unit", arm=self.arm.name, unit=name, checkpoint=self.moment.key, method=self.method)


def compare(workspace: Workspace, params: Params) -> View:
    """Parameters: `arm`, `a` (checkpoint), `method`, and `arm2`, `b`, `method2`; `kind` of neuron."""
    first = workspace.arm(params.text("arm"))
    second = workspace.arm(params.text("arm2") or first.name)
    shared = [kind for kind in first.kinds if kind in second.kinds]
    if not shared:
        raise OptionError(f"{first.name} and {second.name} have no kind of neuron that both have scores of")
    kind = params.one_of("kind", tuple(shared), shared[0])
    method = params.one_of("method", first.methods, first.methods[0])
    default = method if method in second.methods else second.methods[0]
    method2 = params.one_of("method2", second.methods, default)
    before = first.moments[-2] if first is second and method == method2 and len(first.moments) > 1 else None
    one = _side(first, first.moment(params.text("a") or (before.key if before is not None else None)), method, kind)
    other = _side(second, second.moment(params.text("b")), method2, kind)
    alike = _alike(one, other)
    layers = _layers(one, other)
    charts: dict[str, Drawn] = {"layers": Drawn(_layer_chart(workspace, one, other, layers), "layers")}
    sheets: dict[str, Sheet] = {"layers": _layer_table(one, other, layers)}
    said: list[tuple[str, str]] = []
    if alike:
        charts["scatter"] = _scatter(one, other)
        sheets |= {
            "scores": _scores(one, other),
            "entered": _moved("entered", "Only in the top set of the second", one, other),
            "left": _moved("left", "Only in the top set of the first", other, one, swap=True),
        }
        said = _said(one, other)
    values = {
        "one": one,
        "other": other,
        "alike": alike,
        "said": said,
        "kind": kind,
        "kinds": {name: KIND_NAMES[name] for name in shared},
        "arms": {name: name for name in workspace.arms},
        "checkpoints": {side.arm.name: {m.key: m.key for m in side.arm.moments} for side in (one, other)},
        "methods": {side.arm.name: {m: method_name(m) for m in side.arm.methods} for side in (one, other)},
        "before": params.to("compare", a=_step(one, -1), b=_step(other, -1)),
        "after": params.to("compare", a=_step(one, 1), b=_step(other, 1)),
    }
    return View("Compare", "compare.html", values, charts, sheets)


def _step(side: Side, way: int) -> str:
    """The checkpoint before or after a side's; its own at the ends."""
    place = min(max(side.moment.place + way, 0), len(side.arm.moments) - 1)
    return side.arm.moments[place].key


def _side(arm: Arm, moment: Moment, method: str, kind: str) -> Side:
    units = arm.kinds[kind]
    scores = arm.score(method, moment.place)[units].astype(np.float64)
    lives = arm.lives(method)
    if lives is None:
        top = top_set(scores, arm.fraction)
    else:
        top = np.searchsorted(units, arm.of_kind(lives.sets[moment.place], kind))
    return Side(arm, moment, method, units, scores, top)


def _alike(one: Side, other: Side) -> bool:
    """Whether the units of both are the same places of one architecture."""
    if one.arm is other.arm:
        return True
    if one.units.size != other.units.size:
        return False
    columns = ("layer", "expert", "shared", "head", "neuron")
    return all(
        np.array_equal(getattr(one.arm.units, name)[one.units], getattr(other.arm.units, name)[other.units])
        for name in columns
    )


def _said(one: Side, other: Side) -> list[tuple[str, str]]:
    overlap = jaccard(one.top, other.top)
    chance = jaccard_chance(one.units.size, one.top.size) if one.top.size == other.top.size > 0 else float("nan")
    every = slice(None, None, max(1, -(-one.units.size // RANKED)))
    ranks = float("nan")
    if np.ptp(one.scores[every]) > 0 and np.ptp(other.scores[every]) > 0:
        ranks = float(spearmanr(one.scores[every], other.scores[every]).statistic)
    over = "" if every.step == 1 else f", over every {every.step}th"
    return [
        ("overlap of top sets", f"{overlap:.3g} (Jaccard; chance {chance:.2g})"),
        ("in both", f"{np.intersect1d(one.top, other.top).size:,} of {one.top.size:,} and {other.top.size:,}"),
        (f"Spearman of all{over}", f"{ranks:.3g}"),
    ]


def _moved(key: str, title: str, without: Side, within: Side, *, swap: bool = False) -> Sheet:
    """The units that are in the top set of one side and not of the other, greatest first."""
    places = np.setdiff1d(within.top, without.top, assume_unique=True)
    places = places[np.argsort(-within.scores[places], kind="stable")]
    first, second = (within, without) if swap else (without, within)

    def row(place: int) -> dict[str, Any]:
        name = within.arm.units.short(int(within.units[place]))
        return {"unit": name, "first": float(first.scores[place]), "second": float(second.scores[place])}

    def whole() -> dict[str, Any]:
        rows = [row(place) for place in places.tolist()]
        return {column: [one[column] for one in rows] for column in ("unit", "first", "second")}

    shown = places[:LISTED].tolist()
    more = f", the first {LISTED}" if places.size > LISTED else ""
    columns = (
        Col("unit", "unit"),
        Col("first", "first, nats", "number"),
        Col("second", "second, nats", "number"),
    )
    links = [{"unit": within.link(place)} for place in shown]
    return Sheet(key, f"{title}: {places.size:,}{more}.", columns, [row(place) for place in shown], links, whole)


def _scores(one: Side, other: Side) -> Sheet:
    """The scores of all neurons on both sides, those of the greatest second one first."""
    inside = [np.isin(np.arange(one.units.size), side.top) for side in (one, other)]
    sets = np.array(["neither", "first", "second", "both"])[inside[0] + 2 * inside[1]]
    every = np.arange(one.units.size)
    shown = rows_of(other.scores, every, 0, LISTED, descending=True).tolist()
    rows = [
        {"unit": name, "first": float(one.scores[at]), "second": float(other.scores[at]), "top": str(sets[at])}
        for at, name in zip(shown, _names(np.array(shown), other), strict=True)
    ]

    def whole() -> dict[str, Any]:
        order = rows_of(other.scores, every, 0, every.size, descending=True)
        names = ("layer", "expert", "shared", "head", "neuron")
        table = {name: getattr(other.arm.units, name)[other.units[order]] for name in names}
        return table | {"first": one.scores[order], "second": other.scores[order], "top": sets[order]}

    columns = (
        Col("unit", "unit"),
        Col("first", "first, nats", "number"),
        Col("second", "second, nats", "number"),
        Col("top", "top set of"),
    )
    more = f", the first {LISTED}; exports have all" if every.size > LISTED else ""
    caption = f"{every.size:,} neurons by their score in the second{more}."
    return Sheet("scores", caption, columns, rows, [{"unit": other.link(at)} for at in shown], whole)


def _scatter(one: Side, other: Side) -> Drawn:
    groups = {
        "in both": (np.intersect1d(one.top, other.top), ArmStyle(COLOURS[0], "circle")),
        "only in the second": (np.setdiff1d(other.top, one.top), ArmStyle(COLOURS[2], "triangle-up")),
        "only in the first": (np.setdiff1d(one.top, other.top), ArmStyle(COLOURS[1], "diamond")),
    }
    neither = np.ones(one.units.size, dtype=np.bool_)
    neither[one.top] = neither[other.top] = False
    links: dict[str, str] = {}

    def points(label: str, places: Ints, style: ArmStyle, *, faint: bool = False) -> Line:
        few = places[:: max(1, -(-places.size // POINTS))]
        hover = tuple(_names(few, other))
        links.update(zip(hover, map(other.link, few.tolist(), hover), strict=True))
        x, y = floats(one.scores[few]), floats(other.scores[few])
        return Line(label, label, style, x, y, hover, drawn="points", faint=faint)

    lines = [points("in neither", np.flatnonzero(neither), GREY, faint=True)]
    lines += [points(label, places, style) for label, (places, style) in groups.items() if places.size]
    panel = Panel("", Axis(f"{one.words}, nats"), Axis(f"{other.words}, nats"), tuple(lines))
    caption = (
        "Each point is a neuron: its mean score in the first and in the second. Of many neurons of a group, "
        f"{POINTS:,} evenly spaced ones are drawn. Choose a point to see its page."
    )
    return Drawn(Chart("scatter", "Scores beside scores", caption, (panel,), columns=1), "scores", links)


def _names(places: Ints, side: Side) -> list[str]:
    return [side.arm.units.short(int(side.units[place])) for place in places.tolist()]


def _layers(one: Side, other: Side) -> tuple[Ints, Ints]:
    """How many of each side's top set lie in each layer, [layers]."""
    count = 1 + max(int(side.arm.units.layer[side.units].max()) for side in (one, other))
    first, second = (np.bincount(side.arm.units.layer[side.units[side.top]], minlength=count) for side in (one, other))
    return first, second


def _layer_table(one: Side, other: Side, layers: tuple[Ints, Ints]) -> Sheet:
    rows = [
        {
            "layer": layer,
            "first": counts[0],
            "first_share": counts[0] / max(one.top.size, 1),
            "second": counts[1],
            "second_share": counts[1] / max(other.top.size, 1),
        }
        for layer, counts in enumerate(zip(*(of.tolist() for of in layers), strict=True))
    ]
    columns = (
        Col("layer", "layer", "count"),
        Col("first", "first", "count"),
        Col("first_share", "share of the first", "share"),
        Col("second", "second", "count"),
        Col("second_share", "share of the second", "share"),
    )
    caption = f"Members of the top sets by layer. First: {one.words}. Second: {other.words}."
    return Sheet("layers", caption, columns, rows)


def _layer_chart(workspace: Workspace, one: Side, other: Side, layers: tuple[Ints, Ints]) -> Chart:
    """Where in depth the top sets lie."""
    lines = []
    both = styles(workspace.run)
    for label, side, of, drawn in (("first", one, layers[0], "solid"), ("second", other, layers[1], "dashed")):
        style = both[side.arm.name]
        if drawn == "dashed" and style.colour == both[one.arm.name].colour:
            style = ArmStyle(COLOURS[1] if style.colour != COLOURS[1] else COLOURS[0], "square")
        hover = tuple(f"{label}, layer {layer}" for layer in range(of.size))
        x = tuple(float(layer) for layer in range(of.size))
        words = f"{label}: {side.words}"
        lines.append(Line(words, label, style, x, floats(of / max(side.top.size, 1)), hover))
    axis = category_axis("layer", [str(layer) for layer in range(layers[0].size)])
    panel = Panel("", axis, Axis("share of the top set", percent=True), tuple(lines))
    caption = "The share of each top set that lies in each layer."
    return Chart("layers", "Top sets by layer", caption, (panel,), columns=1)
