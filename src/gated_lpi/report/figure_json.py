"""Charts as the data that plotly.js draws in a page: with a layout for narrow pages, and with texts that stay texts.

plotly.js takes `<b>` and the like in texts for markup; here they are escaped, so that a name is shown as it is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from gated_lpi._common.entries import printable
from gated_lpi.report.chart import Chart
from gated_lpi.report.figures import DARK, LIGHT, figure_data, template

OWN = ("<br>", "<extra></extra>")  # markup of the figures' own
DIGITS = 6  # significant ones of a number that is drawn


def figure_json(chart: Chart) -> dict[str, Any]:
    """Data and layout of a chart; where it has columns, a second layout with all panels below one another.

    Colour bars stand beside their panels, so that they have places of their own in the second.
    """
    figure = figure_data(chart)
    drawn = {"data": plain(figure["data"]), "layout": plain(figure["layout"])}
    if chart.columns > 1:
        narrow = figure_data(replace(chart, columns=1))
        bars = [trace.get("colorbar") for trace in narrow["data"]]
        drawn["narrow"] = {"layout": plain(narrow["layout"]), "bars": plain(bars)}
    return drawn


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
