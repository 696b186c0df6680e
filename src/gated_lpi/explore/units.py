"""All units of an arm as a table: searched, filtered and sorted here, and sent a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.explore.arm import Arm, Moment
from gated_lpi.explore.lines import GREY, floats, styles
from gated_lpi.explore.ranking import Ints, rows_of
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import Drawn, Params, View, address
from gated_lpi.explore.workspace import Workspace
from gated_lpi.report.arms import KIND_NAMES
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import Axis, Chart, Line, Panel
from gated_lpi.report.tables import Form

PAGE = 50
ENTIRE = ("layer", "expert", "head")
LEAST = {
    "score": "least_score",
    "gain": "least_gain",
    "stays": "least_stays",
    "times": "least_times",
    "longest": "least_longest",
}
COLUMNS: dict[str, tuple[str, Form, str]] = {
    "score": ("score, nats", "number", "mean over the prompts"),
    "gain": ("gain, nats", "number", "score less that at the checkpoint before"),
    "times": ("top sets", "count", "in how many checkpoints' top sets it is"),
    "stays": ("stability", "share", "how often a stay in the top set went on at the next checkpoint"),
    "longest": ("survival", "count", "longest unbroken stay in top sets, in checkpoints"),
    "first": ("first at step", "count", "the first checkpoint whose top set has it"),
    "true_effect": ("true effect, nats", "number", "what silencing it takes from log p(target); of a sample of units"),
    "layer": ("layer", "count", ""),
    "expert": ("expert", "count", "of routed experts"),
    "head": ("head", "count", "of attention"),
}


def units(workspace: Workspace, params: Params) -> View:
    """Units by any column.

    Parameters: `arm`, `checkpoint`, `method`, `relation`; `q`, a name of units; filters `kind`, `layer`, `expert`,
    `head`, `top` ("now", "ever"), and least values as `LEAST` has them; `sort`, `order` and `page`.
    """
    arm = workspace.arm(params.text("arm"))
    if not arm.kinds:
        raise OptionError(f"arm {arm.name} has no scores of neurons: its attribution.units leaves them out")
    moment = arm.moment(params.text("checkpoint"))
    if params.text("method") in schema.SAMPLED:
        raise OptionError(
            f"method={params.text('method')!r} was given, which is measured of a sample of units and ranks none; "
            f"expected one of {', '.join(arm.methods)}. True effects are a column of the table: sort=true_effect"
        )
    method = params.one_of("method", arm.methods, arm.methods[0])
    relation = arm.relation(params.text("relation"))
    sort = params.one_of("sort", COLUMNS, "score")
    descending = params.one_of("order", ("descending", "ascending"), "descending") == "descending"
    gains = relation is None or sort == "gain" or params.number(LEAST["gain"]) is not None
    values = columns(arm, moment, method, relation, gains=gains)
    among, problem = _chosen(arm, moment, method, values, params)
    query = params.text("q")
    if query and not problem and among.size == 1:
        to = address("unit", arm=arm.name, unit=arm.units.short(int(among[0])), checkpoint=moment.key, method=method)
        return View("Units", "units.html", redirect=to)
    pages = max(1, -(-among.size // PAGE))
    page = min(max(params.whole("page") or 1, 1), pages)
    shown = rows_of(values[sort], among, (page - 1) * PAGE, PAGE, descending=descending)
    sheet = _sheet(arm, moment, method, values, shown, among, params, sort, descending)
    first = (page - 1) * PAGE + 1
    charts = {"listed": _listed(workspace, arm, sheet, sort, first)} if shown.size else {}
    return View(
        "Units",
        "units.html",
        {
            "arm": arm,
            "moment": moment,
            "method": method,
            "problem": problem,
            "count": int(among.size),
            "total": len(arm.units),
            "page": page,
            "pages": pages,
            "first": first,
            "last": first - 1 + len(shown),
            "earlier": params.to("units", page=page - 1) if page > 1 else "",
            "later": params.to("units", page=page + 1) if page < pages else "",
            "choices": _choices(workspace, arm),
            "least": LEAST,
            "column_names": {key: COLUMNS[key][0] for key in COLUMNS},
            "given": {key: params.text(key) or "" for key in _KEYS},
            "descending": descending,
            "sort": sort,
        },
        charts,
        {"units": sheet},
        waits=arm.lives(method) is None,
    )


_KEYS = ("q", "kind", "layer", "expert", "head", "relation", "top", *LEAST.values())


def columns(
    arm: Arm, moment: Moment, method: str, relation: int | None, *, gains: bool = True
) -> dict[str, NDArray[Any]]:
    """What every unit has at a checkpoint, [N] each; NaN where it has nothing.

    Gains over one relation take the scores of all relations at two checkpoints, so they may be left out.
    """
    n = len(arm.units)
    score = arm.score(method, moment.place, relation)
    nothing = np.full(n, np.nan, dtype=np.float32)
    gain = score - arm.score(method, moment.place - 1, relation) if moment.place and gains else nothing
    found = {name: getattr(arm.units, name) for name in ENTIRE} | {"score": score, "gain": gain}
    effect = arm.true_effect(moment.place, relation)
    found["true_effect"] = nothing if effect is None else effect
    lives = arm.lives(method)
    if lives is None:
        return found | dict.fromkeys(("times", "stays", "longest", "first"), nothing)
    steps = np.array([*(one.step for one in arm.moments), np.nan])
    return found | {"times": lives.times, "stays": lives.stays, "longest": lives.longest, "first": steps[lives.first]}


def _chosen(
    arm: Arm, moment: Moment, method: str, values: Mapping[str, NDArray[Any]], params: Params
) -> tuple[Ints, str]:
    """The units that the filters leave, ascending, and what is wrong with the search; "" for nothing."""
    kept = np.ones(len(arm.units), dtype=np.bool_)
    kind = params.one_of("kind", ("", *arm.kinds), "")
    if kind:
        kept &= arm.units.block == kind
    for name in ENTIRE:
        wanted = params.whole(name)
        if wanted is not None:
            kept &= values[name] == wanted
    for name, key in LEAST.items():
        least = params.number(key)
        if least is not None:
            with np.errstate(invalid="ignore"):
                kept &= values[name] >= (least / 100 if name == "stays" else least)
    top, lives = params.one_of("top", ("", "now", "ever"), ""), arm.lives(method)
    if top and lives is not None:
        inside = np.zeros(len(arm.units), dtype=np.bool_)
        inside[lives.sets[moment.place] if top == "now" else np.flatnonzero(lives.times)] = True
        kept &= inside
    problem = ""
    query = params.text("q")
    if query:
        named = np.zeros(len(arm.units), dtype=np.bool_)
        try:
            named[arm.units.find(query)] = True
        except OptionError as error:
            problem = str(error)
        kept &= named
    return np.flatnonzero(kept), problem


def _sheet(
    arm: Arm,
    moment: Moment,
    method: str,
    values: Mapping[str, NDArray[Any]],
    shown: Ints,
    among: Ints,
    params: Params,
    sort: str,
    descending: bool,
) -> Sheet:
    def heading(key: str) -> Col:
        label, form, hint = COLUMNS[key]
        mine = key == sort
        order = "ascending" if mine and descending else "descending"
        to = params.to("units", sort=key, order=order, page=None)
        return Col(key, label, form, to, ("descending" if descending else "ascending") if mine else None, hint)

    def whole() -> dict[str, Any]:
        order = rows_of(values[sort], among, 0, among.size, descending=descending)
        names = ("layer", "expert", "shared", "head", "neuron")
        table = {"kind": arm.units.block[order]} | {name: getattr(arm.units, name)[order] for name in names}
        return table | {key: values[key][order] for key in COLUMNS if key not in table}

    lives = arm.lives(method)
    inside = set() if lives is None else set(lives.sets[moment.place].tolist())
    rows = list(_rows(arm, values, shown, inside))
    links = [
        {"unit": address("unit", arm=arm.name, unit=row["unit"], checkpoint=moment.key, method=method)} for row in rows
    ]
    absent = {key for key in ENTIRE if not (values[key] >= 0).any()}
    absent |= set() if np.isfinite(values["true_effect"]).any() else {"true_effect"}
    keys = [key for key in COLUMNS if key not in absent]
    present = (Col("unit", "unit"), *map(heading, keys), Col("kind", "neurons"), Col("now", "in the top set"))
    relation = params.text("relation")
    over = f", scores over {relation} alone (gains where the table is sorted by them)" if relation else ""
    caption = (
        f"Neurons of {arm.name} at {moment.key} by {method_name(method)}"
        f"{over}. Top sets are of mean scores, "
        f"{arm.fraction:.3%} of each kind of neuron."
    )
    return Sheet("units", caption, present, rows, links, whole)


def _listed(workspace: Workspace, arm: Arm, sheet: Sheet, sort: str, first: int) -> Drawn:
    """The values by which the rows of a page are sorted, from place `first` on."""
    label, form, _ = COLUMNS[sort]
    lines = []
    for words, inside, style in (
        ("in the top set", "yes", styles(workspace.run)[arm.name]),
        ("not in it", "no", GREY),
    ):
        rows = {first + at: row for at, row in enumerate(sheet.rows) if row["now"] == inside}
        if rows:
            values = [float("nan") if row[sort] is None else row[sort] for row in rows.values()]
            hover = tuple(row["unit"] for row in rows.values())
            lines.append(Line(words, words, style, floats(list(rows)), floats(values), hover, drawn="points"))
    panel = Panel("", Axis("place in the table"), Axis(label, percent=form == "share"), tuple(lines))
    caption = "The rows of the table below, by the column that it is sorted by. Choose a point to see its page."
    links = {row["unit"]: link["unit"] for row, link in zip(sheet.rows, sheet.links, strict=True)}
    return Drawn(Chart("listed", f"Neurons by {label}", caption, (panel,), columns=1), "units", links)


def _rows(arm: Arm, values: Mapping[str, NDArray[Any]], shown: Ints, inside: set[int]) -> Iterator[dict[str, Any]]:
    for unit in shown.tolist():
        row: dict[str, Any] = {"unit": arm.units.short(unit), "kind": KIND_NAMES[str(arm.units.block[unit])]}
        for key, column in values.items():
            value = float(column[unit])
            row[key] = None if key in ENTIRE and value < 0 else value
        yield row | {"now": "yes" if unit in inside else "no"}


def _choices(workspace: Workspace, arm: Arm) -> dict[str, Any]:
    layers = range(int(arm.units.layer.max()) + 1)
    return {
        "arm": {name: name for name in workspace.arms},
        "checkpoint": {one.key: one.key for one in arm.moments},
        "method": {one: method_name(one) for one in arm.methods},
        "kind": {"": "all"} | {one: KIND_NAMES[one] for one in arm.kinds},
        "layer": {"": "all"} | {str(one): str(one) for one in layers},
        "relation": {"": "all prompts"} | {one: one for one in arm.relations},
        "top": {"": "all", "now": "in the top set now", "ever": "ever in a top set"},
    }
