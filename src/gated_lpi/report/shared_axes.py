"""Small multiples that can be read against one another: panels of one measure begin and end at the same values.

Axes say by `Axis.scale` what they are read against; which values that takes is only known once all panels are there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from gated_lpi.report.chart import Axis, Chart, Panel

ROOM = 0.04  # left at either end, of the whole


def alike(chart: Chart) -> Chart:
    """The chart with the same limits on all axes of one scale; axes that have limits, or no scale, are left."""
    across = _limits(chart, "x")
    up = _limits(chart, "y")
    panels = tuple(replace(panel, x=_with(panel.x, across), y=_with(panel.y, up)) for panel in chart.panels)
    return replace(chart, panels=panels)


def _with(axis: Axis, limits: dict[str, tuple[float, float]]) -> Axis:
    return axis if axis.limits is not None or axis.scale not in limits else replace(axis, limits=limits[axis.scale])


def _limits(chart: Chart, which: str) -> dict[str, tuple[float, float]]:
    """Least and greatest value by scale, with room; scales of a single panel have their own."""
    found: dict[str, list[float]] = {}
    panels: dict[str, int] = {}
    for panel in chart.panels:
        scale = getattr(panel, which).scale
        if scale and panel.lines:
            panels[scale] = panels.get(scale, 0) + 1
            found.setdefault(scale, []).extend(_values(panel, which))
    ends = {scale: (min(values), max(values)) for scale, values in found.items() if values and panels[scale] > 1}
    room = {scale: ROOM * (high - low) for scale, (low, high) in ends.items()}
    return {scale: (low - room[scale], high + room[scale]) for scale, (low, high) in ends.items() if high > low}


def _values(panel: Panel, which: str) -> Iterator[float]:
    for line in panel.lines:
        for values in (line.x,) if which == "x" else (line.y, line.low or (), line.high or ()):
            yield from (value for value in values if math.isfinite(value))
