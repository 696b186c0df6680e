"""Charts of analyses: lines over training steps, tokens or shares, one panel a measure, a band where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from gated_lpi.report import matplotlib_figure
from gated_lpi.report.chart import Axis, Chart, Line, Panel, StepScale, arm_styles
from gated_lpi.studies._intervals import Estimate


class Curve(NamedTuple):
    """One line.

    Attributes:
        x: positions, ascending.
        y: an estimate at each.
    """

    x: Sequence[float]
    y: Sequence[Estimate]


class Lines(NamedTuple):
    """One panel.

    Attributes:
        title: above it.
        label: of what is drawn upwards.
        curves: by name.
        percent: whether values are shares, shown in %.
    """

    title: str
    label: str
    curves: Mapping[str, Curve]
    percent: bool = False


def lines(name: str, title: str, x_label: str, panels: Sequence[Lines]) -> Figure:
    """Draw panels of lines whose names keep their colours from panel to panel."""
    names = list(dict.fromkeys(key for panel in panels for key in panel.curves))
    styles = arm_styles(names)
    scale = StepScale([x for panel in panels for curve in panel.curves.values() for x in curve.x])
    drawn = tuple(
        Panel(
            panel.title,
            scale.axis(x_label),
            Axis(panel.label, percent=panel.percent),
            tuple(
                Line(
                    label=key,
                    group=key,
                    style=styles[key],
                    x=tuple(scale.position(x) for x in curve.x),
                    y=tuple(one.value for one in curve.y),
                    hover=tuple(f"{x:g}" for x in curve.x),
                    low=tuple(one.low for one in curve.y),
                    high=tuple(one.high for one in curve.y),
                )
                for key, curve in panel.curves.items()
            ),
        )
        for panel in panels
    )
    return matplotlib_figure(Chart(name, title, "", drawn, columns=min(2, len(drawn))))
