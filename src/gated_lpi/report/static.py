"""Charts as matplotlib figures for papers, by the object interface: no window, no global state.

from gated_lpi.report import charts, matplotlib_figure
matplotlib_figure(charts.stability({"moe": summary})).savefig("stability.pdf")
"""

from __future__ import annotations

import io
import itertools
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gated_lpi.report.chart import DIVERGING, SEQUENTIAL, Axis, Chart, Heat, Line, Marker, Panel

PANEL_INCHES = (3.6, 2.5)
KEY_INCHES, LETTER_INCHES = 0.5, 0.06  # of an entry of the legend
LEGEND_ROWS, LEGEND_INCHES = 3, 0.18  # rows of entries that there is room for, and what each further one takes
MARKERS: dict[Marker, str] = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "cross": "P",
    "star": "*",
}
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "gated-lpi",
    "text.parse_math": False,  # names of relations and arms may hold dollar signs
}


class NotebookFigure(Figure):
    """A figure that a notebook shows, whether or not pyplot is there, which these figures do without."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=144)
        return buffer.getvalue()


def matplotlib_figure(chart: Chart) -> Figure:
    """Draw a chart as a `matplotlib.figure.Figure` with an Agg canvas."""
    with matplotlib.rc_context(STYLE):
        width, height = PANEL_INCHES
        size = (width * chart.columns, height * chart.rows + 0.35)
        layout = ConstrainedLayoutEngine()
        figure = NotebookFigure(figsize=size, layout=layout)
        FigureCanvasAgg(figure)
        grid = figure.subplots(chart.rows, chart.columns, squeeze=False)
        cells = grid.ravel()
        for axes, panel in zip(cells, chart.panels, strict=False):
            _draw_panel(figure, axes, panel)
        for axes in cells[len(chart.panels) :]:
            axes.set_axis_off()
        _legend(figure, list(cells))
        layout.execute(figure)
        figure.set_layout_engine("none")  # laid out once, for every format that it is saved in
    return figure


def image(figure: Figure, kind: str) -> bytes:
    """A drawn figure as the bytes of a "png" or "svg" file; the same figure gives the same bytes."""
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _draw_panel(figure: Figure, axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    if panel.heat is not None:
        _heat(figure, axes, panel.heat)
    for bars in panel.bars:
        heights = [high - low for low, high in zip(bars.low, bars.high, strict=True)]
        colours = [bars.rising if height >= 0 else bars.falling for height in heights]
        axes.bar(bars.x, heights, bottom=bars.low, color=colours, label=f"_{bars.label}")
    for line in panel.lines:
        _line(axes, line)
    _dress(axes, panel.x, "x")
    _dress(axes, panel.y, "y")


def _dress(axes: Axes, axis: Axis, which: str) -> None:
    side = axes.xaxis if which == "x" else axes.yaxis
    side.set_label_text(axis.label)
    if axis.limits is not None:
        (axes.set_xlim if which == "x" else axes.set_ylim)(*axis.limits)
    if axis.ticks:
        positions, texts = zip(*axis.ticks, strict=True)
        side.set_ticks(positions, texts)
        return
    side.set_major_locator(MaxNLocator(5))
    if axis.percent:
        side.set_major_formatter(PercentFormatter(1.0))


def _line(axes: Axes, line: Line) -> None:
    points = line.drawn == "points"
    axes.plot(
        line.x,
        line.y,
        color=line.style.colour,
        linestyle={"solid": "-", "dashed": "--", "points": "none"}[line.drawn],
        linewidth=1.2,
        marker="none" if line.drawn == "dashed" else MARKERS[line.style.marker],
        markersize=5.0 if points and not line.faint else 3.0,
        alpha=0.4 if line.faint else 1.0,
        label=line.label if line.in_legend else f"_{line.label}",  # the underscore keeps it out of the legend
    )
    if line.low is None or line.high is None:
        return
    if points:
        y = np.asarray(line.y)
        around = np.stack([y - line.low, line.high - y])
        axes.errorbar(line.x, y, around.clip(min=0), fmt="none", ecolor=line.style.colour, elinewidth=1)
    else:
        axes.fill_between(line.x, line.low, line.high, color=line.style.colour, alpha=0.16, lw=0)


def _heat(figure: Figure, axes: Axes, heat: Heat) -> None:
    colours = LinearSegmentedColormap.from_list("scale", DIVERGING if heat.diverging else SEQUENTIAL)
    low, high = heat.limits
    drawn = axes.imshow(heat.values, origin="lower", aspect="auto", cmap=colours, vmin=low, vmax=high)
    axes.grid(visible=False)
    figure.colorbar(drawn, ax=axes, label=heat.label)


def _legend(figure: Figure, cells: list[Axes]) -> None:
    found = itertools.chain.from_iterable(zip(*axes.get_legend_handles_labels(), strict=True) for axes in cells)
    handles = {label: handle for handle, label in found}
    if handles:
        room = figure.get_figwidth() / (KEY_INCHES + LETTER_INCHES * max(map(len, handles)))
        columns = max(1, min(len(handles), 6, int(room)))
        more = -(-len(handles) // columns) - LEGEND_ROWS
        figure.set_figheight(figure.get_figheight() + LEGEND_INCHES * max(more, 0))  # of many arms, or no axes are left
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=columns)
