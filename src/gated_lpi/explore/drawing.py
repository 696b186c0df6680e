"""Charts for the browser and as files: what the report draws, with links, and with texts that stay texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gated_lpi.report.chart import Chart
from gated_lpi.report.figure_json import plain, templates
from gated_lpi.report.figures import figure_data
from gated_lpi.report.static import image, matplotlib_figure

__all__ = ["picture", "plotly_json", "templates"]

BARE = 30  # pixels above a chart that has no legend


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
        "data": plain(figure["data"]),
        "layout": plain(figure["layout"]),
        "links": {plain(text): to for text, to in links.items()},
    }


def picture(chart: Chart, form: Literal["png", "svg"]) -> bytes:
    """A chart as the bytes of a file."""
    return image(matplotlib_figure(chart), form)
