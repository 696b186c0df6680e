"""The first page: what was found, and the measures over training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import xarray as xr

from gated_lpi.explore.lines import led, styles
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import Drawn, Params, View, address
from gated_lpi.explore.workspace import Workspace
from gated_lpi.report.arms import KIND_NAMES, Results, tokens_known
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import Chart
from gated_lpi.report.charts import Measure, Styles, filled, series
from gated_lpi.report.clocks import Clock
from gated_lpi.report.estimates import Estimate
from gated_lpi.report.grouped import by_group

OVER_PAIRS = ("stability", "gain_top_set")


def overview(workspace: Workspace, params: Params) -> View:
    """Verdicts, diagnosis, and J_stab, R_t, entropy and HIT@k over training.

    Parameters: `kind` of neuron, `method`, `clock` ("tokens" or "step").
    """
    arms, found = workspace.arms, workspace.findings
    results = found.results
    values: dict[str, Any] = {
        "arms": [
            {
                "name": arm.name,
                "what": "mixture of experts" if arm.is_moe else "dense",
                "moments": len(arm.moments),
                "units": len(arm.units),
                "last": arm.moments[-1].key,
                "link": address("checkpoint", arm=arm.name),
            }
            for arm in arms.values()
        ],
        "missing": workspace.missing,
        "error": found.error,
        "writer": workspace.writer,
    }
    if results is None:
        return View("Overview", "overview.html", values | {"results": False}, waits=not arms or not found.error)
    methods = tuple(results.methods)
    kind = params.one_of("kind", tuple(results.kinds), results.kinds[0]) if results.kinds else ""
    method = params.one_of("method", methods, methods[0]) if methods else ""
    with_tokens = all(tokens_known(arm.summary) for arm in results.arms)
    clocks: tuple[Clock, ...] = ("tokens", "step") if with_tokens else ("step",)
    clock: Clock = "tokens" if params.one_of("clock", clocks, clocks[0]) == "tokens" else "step"
    shown = _by(results, method) if method else results
    chart, links = led(_chart(shown, styles(workspace.run), kind, clock), arms, shown)
    values |= {
        "results": True,
        "said": found.said,
        "kinds": {one: KIND_NAMES[one] for one in results.kinds},
        "methods": {one: method_name(one) for one in methods},
        "clocks": {one: one for one in clocks},
        "kind": kind,
        "method": method,
        "clock": clock,
    }
    charts = {"measures": Drawn(chart, "measures", links)} if chart.panels else {}
    sheets = {"measures": _table(shown, kind)}
    return View("Overview", "overview.html", values, charts, sheets, waits=found.said is None)


def _by(results: Results, method: str) -> Results:
    """The results with the summaries by one method in the place of the first one's."""
    arms = tuple(replace(arm, summary=arm.by_method.get(method, arm.summary)) for arm in results.arms)
    return replace(results, arms=arms)


def _chart(results: Results, given: Styles, kind: str, clock: Clock) -> Chart:
    summaries = by_group(results)
    known = {name: one for name, one in summaries.items() if clock in one.coords}
    words = KIND_NAMES.get(kind, "")
    panels = [
        series(measure, known, given, clock)
        for measure in (
            Measure(f"J_stab, {words}", "stability", "J_stab", kind),
            Measure(f"R_t, {words}", "gain_top_set", "share of positive gain", kind, percent=True),
            Measure(f"Entropy, {words}", "entropy", "H / log N", kind),
        )
    ]
    recalled = {name: one.sel(hit_k=10) for name, one in known.items() if "hit" in one}
    panels.append(series(Measure("HIT@10", "hit", "share of prompts", None, percent=True), recalled, given, clock))
    return Chart(
        "measures",
        "Measures over training",
        "J_stab: share of two consecutive top sets that is common to both. R_t: share of all gain since the checkpoint "
        "before that falls to the top set. Entropy: 1 where all neurons carry the same. HIT@10: recall of the facts. "
        "Bands: 95% intervals; dashed: chance. Choose a point to see its checkpoint.",
        filled(panels),
    )


def _table(results: Results, kind: str) -> Sheet:
    rows = [row for arm in results.arms for row in _rows(arm.name, arm.summary, arm.checkpoints, kind)]
    links = [{"checkpoint": address("checkpoint", arm=row["arm"], checkpoint=row["checkpoint"])} for row in rows]
    columns = (
        Col("checkpoint", "checkpoint"),
        Col("arm", "arm"),
        Col("step", "step", "count"),
        Col("tokens", "tokens", "count"),
        Col("J_stab", "J_stab", "number"),
        Col("R_t", "R_t", "share"),
        Col("entropy", "entropy", "number"),
        Col("hit_10", "HIT@10", "share"),
    )
    caption = "The numbers of the chart, with 95% intervals in square brackets."
    return Sheet("measures", caption, columns, [_shown(row) for row in rows], links, lambda: _columns(rows))


def _rows(arm: str, summary: xr.Dataset, checkpoints: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    by_kind = summary.sel(kind=kind) if kind else summary
    measures = {"J_stab": "stability", "R_t": "gain_top_set", "entropy": "entropy"}
    recalled = summary.sel(hit_k=10) if "hit" in summary else summary
    for place, record in enumerate(checkpoints):
        row: dict[str, Any] = {"arm": arm, "checkpoint": record["key"], "step": record["step"]}
        row["tokens"] = record.get("tokens")
        for key, variable in measures.items():
            at = place - 1 if variable in OVER_PAIRS else place
            row |= _ends(key, by_kind, variable, at)
        row |= _ends("hit_10", recalled, "hit", place)
        yield row


def _ends(key: str, summary: xr.Dataset, variable: str, at: int) -> dict[str, float]:
    """A value with the ends of its interval; NaN for what is not there."""

    def value(name: str) -> float:
        return float(summary[name].to_numpy()[at]) if name in summary and at >= 0 else float("nan")

    return {key: value(variable), f"{key}_low": value(f"{variable}_low"), f"{key}_high": value(f"{variable}_high")}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    joined = {
        key: Estimate(row[key], row[f"{key}_low"], row[f"{key}_high"]) for key in ("J_stab", "R_t", "entropy", "hit_10")
    }
    return row | joined


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
