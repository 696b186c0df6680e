"""Charts as the data that plotly.js draws in a page: with a layout for narrow pages, and with texts that stay texts.

1. plotly.js takes `<b>` and the like in texts for markup; here they are escaped, so that a name is shown as it is.
2. Of series of hundreds of checkpoints some are drawn (`thinned`).
3. What a page's script can put together is written once: the text of a map's cell is made of its row's and its column's
   name, and lists that figures share, such as steps, are `lists` that each figure refers to.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from gated_lpi._common.entries import printable
from gated_lpi.report.chart import Chart
from gated_lpi.report.figures import DARK, LIGHT, figure_data, template
from gated_lpi.report.thinned import thinned

OWN = ("<br>", "<extra></extra>")  # markup of the figures' own
DIGITS = 5  # significant ones of a number that is drawn, of which four are shown
SHARED = 16  # from how many items on a list is worth a reference


def figure_json(chart: Chart) -> dict[str, Any]:
    """Data and layout of a chart; where it has columns, a second layout with all panels below one another.

    Colour bars stand beside their panels, so that they have places of their own in the second.
    """
    chart = thinned(chart)
    figure = figure_data(chart)
    traces = [trace for trace in figure["data"] if trace["type"] == "heatmap"]
    maps = [panel.heat for panel in chart.panels if panel.heat is not None]
    for trace, heat in zip(traces, maps, strict=True):
        del trace["customdata"]
        trace["meta"] = {"rows": heat.rows, "columns": heat.columns}
    drawn = {"data": plain(figure["data"]), "layout": plain(figure["layout"])}
    if chart.columns > 1:
        narrow = figure_data(replace(chart, columns=1))
        bars = [trace.get("colorbar") for trace in narrow["data"]]
        drawn["narrow"] = {"layout": plain(narrow["layout"]), "bars": plain(bars)}
    return drawn


def with_shared_lists(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures by name, and the lists that are in them more than once, in whose place stands {"shared": their place}."""
    counted: Counter[str] = Counter()
    places: dict[str, int] = {}
    lists: list[Any] = []

    def count(value: Any) -> None:
        if _may_be_shared(value):
            counted[json.dumps(value)] += 1
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            count(item)

    def referring(value: Any) -> Any:
        if _may_be_shared(value):
            text = json.dumps(value)
            if counted[text] < 2:
                return value
            if text not in places:
                places[text] = len(lists)
                lists.append(value)
            return {"shared": places[text]}
        if isinstance(value, dict):
            return {key: referring(item) for key, item in value.items()}
        return [referring(item) for item in value] if isinstance(value, list) else value

    count(figures)
    referred = referring(figures)
    return {"lists": lists, "figures": referred}


def _may_be_shared(value: Any) -> bool:
    """Whether a value is a long list of numbers or texts."""
    return isinstance(value, list) and len(value) >= SHARED and not any(isinstance(one, dict | list) for one in value)


@cache
def templates() -> dict[str, Any]:
    """The colours of figures by scheme."""
    return {"light": template(LIGHT).to_plotly_json(), "dark": template(DARK).to_plotly_json()}


def plain(value: Any) -> Any:
    """Values as JSON has them: texts escaped, numbers as exact as they can be seen, a gap as null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if not isinstance(value, str):
        return value
    text = printable(value).replace("&", "&amp;").replace("<", "&lt;")
    for own in OWN:
        text = text.replace(own.replace("<", "&lt;"), own)
    return text
