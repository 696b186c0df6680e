"""What a chart shows, in words: the text for those who cannot see it, and for where its picture is not shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gated_lpi.report.chart import Bars, Chart, Heat, Line, Panel

MOST_LINES, MOST_PANELS, MOST_POINTS = 4, 4, 4


def described(chart: Chart) -> str:
    """A sentence for each of the first panels: where lines begin and end, which bars are longest, or where a map is
    darkest."""
    said = [_panel(panel) for panel in chart.panels[:MOST_PANELS]]
    more = len(chart.panels) - MOST_PANELS
    return " ".join([*said, *([f"And {more} more panels."] if more > 0 else [])])


def _panel(panel: Panel) -> str:
    title = f"{panel.title}: ".replace("\n", " ") if panel.title else ""
    if panel.heat is not None:
        return f"{title}{_heat(panel.heat)}."
    named = [line for line in panel.lines if line.in_legend]
    lines = named or [line for line in panel.lines if line.drawn == "solid"]
    bars = [_bars(one, percent=panel.y.percent) for one in panel.bars]
    shown = [text for text in (*bars, *(_line(line, percent=panel.y.percent) for line in lines)) if text]
    more = len(shown) - MOST_LINES
    listed = [*shown[:MOST_LINES], *([f"and {more} more"] if more > 0 else [])]
    return f"{title}{'; '.join(listed) or 'nothing to show'}."


def _line(line: Line, *, percent: bool) -> str:
    known = [place for place, value in enumerate(line.y) if math.isfinite(value)]
    if not known:
        return ""
    if line.drawn == "points":
        return f"{line.label} {', '.join(_point(line, place, percent) for place in known[:MOST_POINTS])}"
    first, last = known[0], known[-1]
    top = max(known, key=lambda place: line.y[place])
    said = f"{line.label} {_point(line, first, percent)}"
    if last == first:
        return said
    highest = f", highest {_point(line, top, percent)}" if top not in (first, last) else ""
    return f"{said}, {_point(line, last, percent)}{highest}"


def _bars(bars: Bars, *, percent: bool) -> str:
    heights = {at: high - low for at, (low, high) in enumerate(zip(bars.low, bars.high, strict=True))}
    known = [at for at, height in heights.items() if math.isfinite(height)]
    if not known:
        return ""
    most, least = max(known, key=heights.__getitem__), min(known, key=heights.__getitem__)
    said = [
        f"{words} by {_number(abs(heights[at]), percent)} at {bars.hover[at]}"
        for words, at, there in (("rise most", most, heights[most] > 0), ("fall most", least, heights[least] < 0))
        if there
    ]
    return f"{bars.label} {', '.join(said) or 'are all 0'}"


def _point(line: Line, place: int, percent: bool) -> str:
    """A value and where it is: the text of a point begins with its line's name."""
    where = line.hover[place].rsplit(", ", 1)[-1]
    return f"{_number(line.y[place], percent)} at {where}" if where else _number(line.y[place], percent)


def _heat(heat: Heat) -> str:
    values = np.asarray(heat.values, dtype=np.float64)
    if not np.isfinite(values).any():
        return "nothing to show"
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    least, most = (_number(float(end), percent=False) for end in (np.nanmin(values), np.nanmax(values)))
    return f"{heat.label} from {least} to {most}, greatest at {_at(heat.rows, row)}, {_at(heat.columns, column)}"


def _at(names: Sequence[str], place: np.intp) -> str:
    return names[int(place)]


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:z.3g}%" if percent else f"{value:z.3g}"
