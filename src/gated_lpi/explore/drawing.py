"""Charts for the browser and as files: what the report draws, with links, and with texts that stay texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import numpy as np

from gated_lpi._common.entries import printable
from gated_lpi.report.chart import Chart
from gated_lpi.report.figures import DARK, LIGHT, figure_data, template
from gated_lpi.report.static import image, matplotlib_figure

BARE = 30  # pixels above a chart that has no legend
OWN = ("<br>", "<extra></extra>")  # markup of the figures' own


def plotly_json(chart: Chart, links: Mapping[str, str]) -> dict[str, Any]:
    """A chart as plotly's data and layout, and where its points lead by their texts.

    Plotly takes `<b>` and the like in texts for markup; here they are escaped, so that a name is shown as it is.
    """
    figure = figure_data(chart)
    if not any(trace.get("showlegend", False) for trace in figure["data"]):
        margin = figure["layout"]["margin"]
        spare = margin["t"] - BARE
        figure["layout"] |= {"margin": margin | {"t": BARE}, "height": figure["layout"]["height"] - spare}
    return {
        "data": _plain(figure["data"]),
        "layout": _plain(figure["layout"]),
        "links": {_plain(text): to for text, to in links.items()},
    }


@cache
def templates() -> dict[str, Any]:
    """The colours of figures by scheme."""
    return {"light": template(LIGHT).to_plotly_json(), "dark": template(DARK).to_plotly_json()}


def picture(chart: Chart, form: Literal["png", "svg"]) -> bytes:
    """A chart as the bytes of a file."""
    return image(matplotlib_figure(chart), form)


def _plain(value: Any) -> Any:
    """Values as JSON has them, texts escaped; a gap is null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, str):
        return value
    text = printable(value).replace("&", "&amp;").replace("<", "&lt;")
    for own in OWN:
        text = text.replace(own.replace("<", "&lt;"), own)
    return text
