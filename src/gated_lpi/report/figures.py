"""Charts as interactive plotly figures.

from gated_lpi.report import charts, plotly_figure
plotly_figure(charts.stability({"moe": summary}))
"""

from __future__ import annotations

import itertools
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gated_lpi.report.chart import DIVERGING, SEQUENTIAL, Axis, Chart, Heat, Line, Panel

ROW_HEIGHT = 270
MARGINS = {"l": 70, "r": 20, "t": 70, "b": 55}
LIGHT = {"ink": "#1c2024", "grid": "#e3e6ea", "axis": "#8b929a"}
DARK = {"ink": "#e4e6e9", "grid": "#343a41", "axis": "#7b838c"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


def plotly_figure(chart: Chart) -> Any:
    """Draw a chart as a `plotly.graph_objects.Figure`, on the light template."""
    drawn = chart.rows * ROW_HEIGHT
    between = 112 if any("\n" in panel.title for panel in chart.panels) else 90
    spacing = 0.0 if chart.rows == 1 else between / drawn
    margins = MARGINS if any(panel.lines for panel in chart.panels) else MARGINS | {"t": 40}
    with_heat = any(panel.heat is not None for panel in chart.panels)
    figure = make_subplots(
        chart.rows,
        chart.columns,
        subplot_titles=[_broken(panel.title) for panel in chart.panels],
        horizontal_spacing=0.2 if with_heat else min(0.13, 0.27 / chart.columns),
        vertical_spacing=spacing,
    )
    named: set[str] = set()
    for index, panel in enumerate(chart.panels):
        place = {"row": index // chart.columns + 1, "col": index % chart.columns + 1}
        _add_panel(figure, panel, place, named)
    figure.update_annotations(font_size=14 if chart.columns < 4 else 11)
    figure.update_layout(
        template=template(LIGHT),
        height=drawn + margins["t"] + margins["b"],
        margin=margins | ({"r": 75} if with_heat else {}),
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1 + 34 / drawn, "yanchor": "bottom"},
        hoverlabel={"namelength": -1},
    )
    return figure


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


def _add_panel(figure: Any, panel: Panel, place: dict[str, int], named: set[str]) -> None:
    if panel.heat is not None:
        subplot = figure.get_subplot(**place)
        figure.add_trace(_heat(panel.heat, subplot), **place)
    for line in panel.lines:
        for trace in _traces(line, panel.y.percent, show=line.in_legend and line.label not in named):
            figure.add_trace(trace, **place)
        if line.in_legend:
            named.add(line.label)
    figure.update_xaxes(_axis(panel.x), **place)
    figure.update_yaxes(_axis(panel.y), **place)


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
        return [go.Scatter(**options)]
    if line.drawn == "points":
        up = [h - y for h, y in zip(line.high, line.y, strict=True)]
        down = [y - low for low, y in zip(line.low, line.y, strict=True)]
        bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": line.style.colour}
        return [go.Scatter(**options, error_y=bars)]
    return [*_band(line), go.Scatter(**options)]


def _band(line: Line) -> list[Any]:
    """One filled outline for each stretch without gaps."""
    low, high = line.low or (), line.high or ()
    points = list(zip(line.x, low, high, strict=True))
    stretches = [
        list(run) for whole, run in itertools.groupby(points, lambda p: p[1] == p[1] and p[2] == p[2]) if whole
    ]
    return [
        go.Scatter(
            x=[p[0] for p in stretch] + [p[0] for p in reversed(stretch)],
            y=[p[1] for p in stretch] + [p[2] for p in reversed(stretch)],
            fill="toself",
            fillcolor=line.style.colour,
            opacity=0.16,
            mode="lines",
            line={"width": 0, "color": line.style.colour},
            legendgroup=line.group,
            showlegend=False,
            hoverinfo="skip",
        )
        for stretch in stretches
    ]


def _heat(heat: Heat, subplot: Any) -> Any:
    colours = DIVERGING if heat.diverging else SEQUENTIAL
    right = subplot.xaxis.domain[1]
    bottom, top = subplot.yaxis.domain
    return go.Heatmap(
        z=heat.values,
        zmin=heat.limits[0],
        zmax=heat.limits[1],
        colorscale=[[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)],
        customdata=[[f"{row}, {column}" for column in heat.columns] for row in heat.rows],
        hovertemplate="%{customdata}: %{z:.4~g}<extra></extra>",
        colorbar={
            "title": {"text": heat.label, "side": "right", "font": {"size": 11}},
            "x": right + 0.005,
            "xanchor": "left",
            "y": (bottom + top) / 2,
            "len": top - bottom,
            "thickness": 10,
            "tickfont": {"size": 10},
        },
    )
