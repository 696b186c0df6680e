"""Charts over training with fewer checkpoints, for pages: a series of hundreds would make most of a page of 3 MB.

Of more than `MOST_TIMES` checkpoints evenly many are drawn, the first and the last among them; points that stand for
themselves, such as ablations, all. Pictures in files have every checkpoint.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gated_lpi.report.chart import Axis, Chart, Heat, Line, Panel

MOST_TIMES = 122


def thinned(chart: Chart) -> Chart:
    """The chart with at most `MOST_TIMES` checkpoints in each line and map over training."""
    return replace(chart, panels=tuple(map(_panel, chart.panels)))


def kept(count: int) -> NDArray[np.int64]:
    """Which of so many checkpoints are drawn, ascending: all, or every second, third and so on, and the first."""
    every = -(-(count - 1) // (MOST_TIMES - 1)) if count > MOST_TIMES else 1
    return np.unique([*range(count - 1, -1, -every), 0]) if count else np.arange(0)


def _panel(panel: Panel) -> Panel:
    if panel.heat is not None and panel.heat.over_training:
        places = kept(len(panel.heat.columns))
        return replace(panel, heat=_heat(panel.heat, places), x=_axis(panel.x, places))
    if not panel.x.scale:  # not over training
        return panel
    return replace(panel, lines=tuple(map(_line, panel.lines)))


def _line(line: Line) -> Line:
    if line.drawn == "points":
        return line
    places = kept(len(line.x)).tolist()

    def at(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(values[i] for i in places)

    low, high = (None if end is None else at(end) for end in (line.low, line.high))
    hover = tuple(line.hover[i] for i in places)
    return replace(line, x=at(line.x), y=at(line.y), hover=hover, low=low, high=high)


def _heat(heat: Heat, places: NDArray[np.int64]) -> Heat:
    return replace(heat, values=heat.values[:, places], columns=tuple(heat.columns[i] for i in places.tolist()))


def _axis(axis: Axis, places: NDArray[np.int64]) -> Axis:
    """The axis of columns of which these are left, with its ticks where they were among the others."""
    ticks = tuple((float(np.interp(at, places, np.arange(len(places)))), text) for at, text in axis.ticks)
    return replace(axis, ticks=ticks)
