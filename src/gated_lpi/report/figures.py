"""Charts as interactive plotly figures.

from gated_lpi.report import charts, plotly_figure
plotly_figure(charts.stability({"moe": summary}))
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import plotly.graph_objects as go

from gated_lpi.report.chart import DIVERGING, SEQUENTIAL, Axis, Bars, Chart, Heat, Line, Panel

ROW_HEIGHT = 270
MARGINS = {"l": 70, "r": 20, "t": 70, "b": 55}
LIGHT = {"ink": "#1c2024", "grid": "#e3e6ea", "axis": "#8b929a"}
DARK = {"ink": "#e4e6e9", "grid": "#343a41", "axis": "#7b838c"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


def plotly_figure(chart: Chart) -> Any:
    """Draw a chart as a `plotly.graph_objects.Figure`, on the light template."""
    figure = go.Figure(figure_data(chart))
    return figure.update_layout(template=template(LIGHT))


def figure_data(chart: Chart) -> dict[str, Any]:
    """A chart as plotly's data and layout, in plain values and NumPy's arrays, without a template.

    `plotly_figure` has plotly check all of it, which takes it many times as long as to make it.
    """
    drawn = chart.rows * ROW_HEIGHT
    between = 112 if any("\n" in panel.title for panel in chart.panels) else 90
    margins = MARGINS if any(panel.lines or panel.bars for panel in chart.panels) else MARGINS | {"t": 40}
    with_heat = any(panel.heat is not None for panel in chart.panels)
    places = _places(
        chart,
        horizontal=0.2 if with_heat else min(0.13, 0.27 / chart.columns),
        vertical=0.0 if chart.rows == 1 else between / drawn,
    )
    layout: dict[str, Any] = {
        "height": drawn + margins["t"] + margins["b"],
        "margin": margins | ({"r": 75} if with_heat else {}),
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1 + 34 / drawn, "yanchor": "bottom"},
        "hoverlabel": {"namelength": -1},
        "annotations": [],
    }
    data: list[dict[str, Any]] = []
    named: set[str] = set()
    scales: dict[str, str] = {}
    for index, place in enumerate(places):
        suffix = str(index + 1) if index else ""
        axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        panel = chart.panels[index] if index < len(chart.panels) else None
        layout[f"xaxis{suffix}"] = {"anchor": axes["yaxis"], "domain": list(place.across)}
        layout[f"yaxis{suffix}"] = {"anchor": axes["xaxis"], "domain": list(place.up)}
        if panel is None:
            continue
        for way, axis in (("x", panel.x), ("y", panel.y)):
            first = scales.setdefault(f"{way} {axis.scale}", axes[f"{way}axis"]) if axis.scale else axes[f"{way}axis"]
            together = {} if first == axes[f"{way}axis"] else {"matches": first}  # are zoomed as one
            layout[f"{way}axis{suffix}"] |= _axis(axis) | together
        data += [trace | axes for trace in _panel(panel, place, named)]
        if panel.title:
            layout["annotations"].append(_title(panel.title, place, 14 if chart.columns < 4 else 11))
    return {"data": data, "layout": layout}


class _Place(NamedTuple):
    """Where a panel is, as shares of the width and height."""

    across: tuple[float, float]
    up: tuple[float, float]


def _places(chart: Chart, *, horizontal: float, vertical: float) -> list[_Place]:
    """The places of all panels, in reading order, with gaps between them that are shares of the whole."""
    width = (1.0 - horizontal * (chart.columns - 1)) / chart.columns
    height = (1.0 - vertical * (chart.rows - 1)) / chart.rows
    return [
        _Place(
            (column * (width + horizontal), column * (width + horizontal) + width),
            (row * (height + vertical), row * (height + vertical) + height),
        )
        for row in reversed(range(chart.rows))
        for column in range(chart.columns)
    ]


def _title(text: str, place: _Place, size: int) -> dict[str, Any]:
    return {
        "text": _broken(text),
        "font": {"size": size},
        "showarrow": False,
        "x": sum(place.across) / 2.0,
        "xanchor": "center",
        "xref": "paper",
        "y": place.up[1],
        "yanchor": "bottom",
        "yref": "paper",
    }


def template(colours: dict[str, str]) -> Any:
    """A plotly template in these colours: `LIGHT` or `DARK`."""
    axis = {
        "gridcolor": colours["grid"],
        "zerolinecolor": colours["grid"],
        "linecolor": colours["axis"],
        "tickcolor": colours["axis"],
        "showline": True,
        "ticks": "outside",
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 12}},
    }
    transparent = "rgba(0,0,0,0)"
    layout = go.Layout(
        font={"family": FONT, "size": 12, "color": colours["ink"]},
        paper_bgcolor=transparent,
        plot_bgcolor=transparent,
        modebar={"bgcolor": transparent, "color": colours["axis"], "activecolor": colours["ink"]},
        xaxis=axis,
        yaxis=axis,
    )
    return go.layout.Template(layout=layout)


def _broken(text: str) -> str:
    """A text whose lines end as plotly has it."""
    return text.replace("\n", "<br>")


def _panel(panel: Panel, place: _Place, named: set[str]) -> Iterator[dict[str, Any]]:
    """The traces of a panel; `named` are the labels that the legend has already."""
    if panel.heat is not None:
        yield _heat(panel.heat, place)
    for bars in panel.bars:
        yield _bars(bars, panel.y.percent)
    for line in panel.lines:
        yield from _traces(line, panel.y.percent, show=line.in_legend and line.label not in named)
        if line.in_legend:
            named.add(line.label)


def _axis(axis: Axis) -> dict[str, Any]:
    options: dict[str, Any] = {"title": {"text": axis.label}}
    if axis.ticks:
        positions, texts = zip(*axis.ticks, strict=True)
        options |= {
            "tickmode": "array",
            "tickvals": list(positions),
            "ticktext": [text.replace("\n", "<br>") for text in texts],
        }
    if axis.limits is not None:
        options["range"] = list(axis.limits)
    return options | ({"tickformat": ".3~p"} if axis.percent else {})


def _traces(line: Line, percent: bool, *, show: bool) -> list[Any]:
    value = "%{y:.3~p}" if percent else "%{y:.4~g}"
    options: dict[str, Any] = {
        "type": "scatter",
        "x": line.x,
        "y": line.y,
        "mode": {"solid": "lines+markers", "dashed": "lines", "points": "markers"}[line.drawn],
        "name": line.label,
        "legendgroup": line.group,
        "showlegend": show,
        "opacity": 0.4 if line.faint else 1.0,
        "line": {"color": line.style.colour, "width": 2, "dash": "dash" if line.drawn == "dashed" else "solid"},
        "marker": {"symbol": line.style.marker, "size": 6 if line.drawn != "points" or line.faint else 10},
        "text": line.hover,
        "hovertemplate": f"%{{text}}: {value}",
    }
    if line.low is None or line.high is None:
        return [options]
    if line.drawn == "points":
        up = [h - y for h, y in zip(line.high, line.y, strict=True)]
        down = [y - low for low, y in zip(line.low, line.y, strict=True)]
        bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": line.style.colour}
        return [options | {"error_y": bars}]
    return [*_band(line), options]


def _band(line: Line) -> list[Any]:
    """One filled outline for each stretch without gaps."""
    low, high = line.low or (), line.high or ()
    points = list(zip(line.x, low, high, strict=True))
    stretches = [
        list(run) for whole, run in itertools.groupby(points, lambda p: p[1] == p[1] and p[2] == p[2]) if whole
    ]
    return [
        {
            "type": "scatter",
            "x": [p[0] for p in stretch] + [p[0] for p in reversed(stretch)],
            "y": [p[1] for p in stretch] + [p[2] for p in reversed(stretch)],
            "fill": "toself",
            "fillcolor": line.style.colour,
            "opacity": 0.16,
            "mode": "lines",
            "line": {"width": 0, "color": line.style.colour},
            "legendgroup": line.group,
            "showlegend": False,
            "hoverinfo": "skip",
        }
        for stretch in stretches
    ]


def _bars(bars: Bars, percent: bool) -> dict[str, Any]:
    value = "%{customdata:.3~p}" if percent else "%{customdata:.4~g}"
    heights = [high - low for low, high in zip(bars.low, bars.high, strict=True)]
    return {
        "type": "bar",
        "x": bars.x,
        "y": heights,
        "base": bars.low,
        "customdata": heights,
        "text": bars.hover,
        "textposition": "none",
        "hovertemplate": f"%{{text}}: {value}<extra></extra>",
        "name": bars.label,
        "showlegend": False,
        "marker": {"color": [bars.rising if height >= 0 else bars.falling for height in heights]},
    }


def _heat(heat: Heat, place: _Place) -> dict[str, Any]:
    colours = DIVERGING if heat.diverging else SEQUENTIAL
    bottom, top = place.up
    return {
        "type": "heatmap",
        "z": heat.values,
        "zmin": heat.limits[0],
        "zmax": heat.limits[1],
        "colorscale": [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)],
        "customdata": [[f"{row}, {column}" for column in heat.columns] for row in heat.rows],
        "hovertemplate": "%{customdata}: %{z:.4~g}<extra></extra>",
        "colorbar": {
            "title": {"text": heat.label, "side": "right", "font": {"size": 11}},
            "x": place.across[1] + 0.005,
            "xanchor": "left",
            "y": (bottom + top) / 2,
            "len": top - bottom,
            "thickness": 10,
            "tickfont": {"size": 10},
        },
    }
