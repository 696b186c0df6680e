"""One checkpoint of an arm: where it comes from, how its importance lies over layers, and what leads on from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gated_lpi import score_schema as schema
from gated_lpi.explore.arm import Arm, Moment
from gated_lpi.explore.lines import styles
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import Drawn, Params, View, address
from gated_lpi.explore.workspace import Workspace
from gated_lpi.metrics import hit_interval
from gated_lpi.report.arms import KIND_NAMES
from gated_lpi.report.chart import ArmStyle, Axis, Chart, Line, Panel, category_axis
from gated_lpi.report.estimates import Estimate

SAID = ("commit", "weights_sha256", "reconstruction_error", "coverage", "seconds", "family", "stored_dtype")


def checkpoint(workspace: Workspace, params: Params) -> View:
    """Parameters: `arm`, `checkpoint`, `method`."""
    arm = workspace.arm(params.text("arm"))
    moment = arm.moment(params.text("checkpoint"))
    method = params.one_of("method", arm.methods, arm.methods[0]) if arm.methods else ""
    before = arm.moments[moment.place - 1] if moment.place else None
    after = arm.moments[moment.place + 1] if moment.place + 1 < len(arm.moments) else None
    values: dict[str, Any] = {
        "arm": arm,
        "moment": moment,
        "method": method,
        "before": _link(arm, before),
        "after": _link(arm, after),
        "units": address("units", arm=arm.name, checkpoint=moment.key),
        "facts": address("facts", arm=arm.name, checkpoint=moment.key),
        "compare": before and address("compare", arm=arm.name, a=before.key, b=moment.key),
        "routing": address("routing", arm=arm.name, checkpoint=moment.key) if arm.is_moe else "",
    }
    sheets = {"about": _about(arm, moment)}
    charts = {}
    if method and arm.kinds:
        sheets["layers"] = _layers(arm, method, moment)
        charts["layers"] = Drawn(_profile(arm, sheets["layers"], styles(workspace.run)[arm.name]), "layers")
    return View(f"{arm.name}, {moment.key}", "checkpoint.html", values, charts, sheets)


def _link(arm: Arm, moment: Moment | None) -> dict[str, str] | None:
    """The name and address of another checkpoint."""
    if moment is None:
        return None
    return {"name": moment.key, "link": address("checkpoint", arm=arm.name, checkpoint=moment.key)}


def _about(arm: Arm, moment: Moment) -> Sheet:
    record = arm.scores.attrs["checkpoints"][moment.place]
    rows: list[dict[str, Any]] = [
        {"what": "training step", "value": f"{moment.step:,}"},
        {"what": "training tokens", "value": f"{moment.tokens:,}" if moment.tokens >= 0 else "not known"},
    ]
    if schema.TARGET_RANK in arm.scores:
        ranks = arm.over_time(schema.TARGET_RANK)[moment.place]
        for k in (1, 10):
            estimate = Estimate(float((ranks < k).mean()), *hit_interval(int((ranks < k).sum()), ranks.size))
            rows.append({"what": f"HIT@{k}", "value": _share(estimate)})
    rows += [{"what": key.replace("_", " "), "value": str(record[key])} for key in SAID if record.get(key)]
    return Sheet("about", "What is known of this checkpoint.", (Col("what", "what"), Col("value", "value")), rows)


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"


def _layers(arm: Arm, method: str, moment: Moment) -> Sheet:
    """Importance, and members of the top set, of every layer and kind."""
    scores = arm.score(method, moment.place).astype(np.float64)
    lives = arm.lives(method)
    layers = range(int(arm.units.layer.max()) + 1)
    rows, links = [], []
    for kind, units in arm.kinds.items():
        layer = arm.units.layer[units]
        total = np.bincount(layer, scores[units], len(layers))
        inside = None if lives is None else arm.of_kind(lives.sets[moment.place], kind)
        tops = None if inside is None else np.bincount(arm.units.layer[inside], minlength=len(layers))
        for one in layers:
            rows.append(
                {
                    "layer": one,
                    "kind": KIND_NAMES[kind],
                    "importance": float(total[one]),
                    "top": None if tops is None else int(tops[one]),
                }
            )
            to = address("units", arm=arm.name, checkpoint=moment.key, kind=kind, layer=one, method=method)
            links.append({"layer": to})
    columns = (
        Col("layer", "layer", "count"),
        Col("kind", "neurons"),
        Col("importance", "importance, nats", "number", hint="sum of their mean scores"),
        Col("top", "in the top set", "count"),
    )
    return Sheet("layers", "Importance of each layer, the sum of its neurons' mean scores.", columns, rows, links)


def _profile(arm: Arm, sheet: Sheet, style: ArmStyle) -> Chart:
    panels = []
    for kind in arm.kinds:
        rows = [row for row in sheet.rows if row["kind"] == KIND_NAMES[kind]]
        line = Line(
            arm.name,
            arm.name,
            style,
            tuple(float(row["layer"]) for row in rows),
            tuple(row["importance"] for row in rows),
            tuple(f"layer {row['layer']}" for row in rows),
            in_legend=False,
        )
        axis = category_axis("layer", [str(row["layer"]) for row in rows])
        panels.append(Panel(KIND_NAMES[kind], axis, Axis("nats"), (line,)))
    return Chart("layers", "Importance by layer", "The sum of the mean scores of each layer's neurons.", tuple(panels))
