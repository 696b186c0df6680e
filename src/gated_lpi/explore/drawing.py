"""Charts for the browser and as files: what the report draws, with links, and with texts that stay texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from gated_lpi.report.chart import Chart
from gated_lpi.report.figures import DARK, LIGHT, plotly_figure, template
from gated_lpi.report.static import image, matplotlib_figure

OWN = ("<br>", "<extra></extra>")  # markup of the figures' own


def plotly_json(chart: Chart, links: Mapping[str, str]) -> dict[str, Any]:
    """A chart as plotly's data and layout, and where its points lead by their texts.

    Plotly takes `<b>` and the like in texts for markup; here they are escaped, so that a name is shown as it is.
    """
    figure = json.loads(plotly_figure(chart).to_json())
    figure["layout"].pop("template")
    return {
        "data": _escaped(figure["data"]),
        "layout": _escaped(figure["layout"]),
        "links": {_escaped(text): to for text, to in links.items()},
    }


@cache
def templates() -> dict[str, Any]:
    """The colours of figures by scheme."""
    return {"light": template(LIGHT).to_plotly_json(), "dark": template(DARK).to_plotly_json()}


def picture(chart: Chart, form: Literal["png", "svg"]) -> bytes:
    """A chart as the bytes of a file."""
    return image(matplotlib_figure(chart), form)


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if not isinstance(value, str):
        return value
    text = value.replace("&", "&amp;").replace("<", "&lt;")
    for own in OWN:
        text = text.replace(own.replace("<", "&lt;"), own)
    return text
