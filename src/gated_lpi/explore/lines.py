"""Curves over training, as charts and tables have them: where points stand, what they are called, where they lead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi.explore.arm import Arm, Moment
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import address
from gated_lpi.report.arms import Results
from gated_lpi.report.chart import ArmStyle, Axis, Chart, Line, StepScale, group_styles
from gated_lpi.report.clocks import Clock, clock_label
from gated_lpi.results import Run

GREY = ArmStyle("#7f868d", "circle")
DENSE = 40  # points beyond which markers would cover the curve: the lines are thinner and bear none


class Times:
    """The axis of training of some arms.

    Args:
        arms: whose checkpoints stand on it.
        clock: by what; "tokens" where all say how many they have seen.
    """

    def __init__(self, arms: Iterable[Arm], clock: Clock | None = None) -> None:
        arms = list(arms)
        moments = [moment for arm in arms for moment in arm.moments]
        self._counted = [arm.scores.attrs for arm in arms]
        known = all(moment.tokens >= 0 for moment in moments)
        self.clock: Clock = clock if clock is not None and (known or clock == "step") else "tokens" if known else "step"
        self._scale = StepScale(float(self._of(moment)) for moment in moments)

    @property
    def axis(self) -> Axis:
        """For a panel."""
        return self._scale.axis(clock_label(self.clock, self._counted))

    def at(self, moments: Sequence[Moment]) -> tuple[float, ...]:
        """Where checkpoints stand."""
        return tuple(self._scale.position(float(self._of(moment))) for moment in moments)

    def _of(self, moment: Moment) -> int:
        return moment.tokens if self.clock == "tokens" else moment.step


def styles(run: Run) -> Mapping[str, ArmStyle]:
    """Colour and marker of every arm and group, the same on every page; replicates have their group's colour."""
    return group_styles(run.experiment.groups)


def measured_at(results: Results, arm: Arm) -> list[Moment]:
    """The checkpoints that an arm's summary is of, which may have become more since."""
    return [arm.moment(record["key"]) for record in results.arm(arm.name).checkpoints]


def curve(
    label: str,
    style: ArmStyle,
    times: Times,
    moments: Sequence[Moment],
    values: NDArray[Any] | Sequence[float],
    **more: Any,
) -> Line:
    """A line over checkpoints, whose points are called after it and them; `more` are fields of `Line`."""
    for end in ("low", "high"):
        if more.get(end) is not None:
            more[end] = floats(more[end])
    hover = tuple(name(label, moment) for moment in moments)
    return Line(label, more.pop("group", label), style, times.at(moments), floats(values), hover, **more)


def name(label: str, moment: Moment) -> str:
    """What a point is called."""
    return f"{label}, {moment.key}"


def links_of(lines: Iterable[Line], moments: Sequence[Moment], page: str, **params: Any) -> dict[str, str]:
    """Where the points of lines over these checkpoints lead: to a page with each as its `checkpoint`."""
    return {
        point: address(page, **params, checkpoint=moment.key)
        for line in lines
        for point, moment in zip(line.hover, moments, strict=True)
    }


def timetable(
    name: str,
    caption: str,
    moments: Sequence[Moment],
    values: Mapping[Col, NDArray[Any] | Sequence[float]],
    to: Callable[[Moment], str],
    now: Moment | None = None,
) -> Sheet:
    """A table of values over checkpoints.

    Args:
        name, caption: as `Sheet` has them.
        moments: the checkpoints, T of them.
        values: by column, [T] each.
        to: where a checkpoint leads.
        now: the one that is marked; None for none.
    """
    rows = [
        {"checkpoint": one.key, "step": one.step, "tokens": one.tokens if one.tokens >= 0 else None}
        | {column.key: float(of[at]) for column, of in values.items()}
        for at, one in enumerate(moments)
    ]
    columns = (Col("checkpoint", "checkpoint"), Col("step", "step", "count"), Col("tokens", "tokens", "count"), *values)
    links = [{"checkpoint": to(one)} for one in moments]
    marked = frozenset(at for at, one in enumerate(moments) if one == now)
    return Sheet(name, caption, columns, rows, links, marked=marked)


def floats(values: NDArray[Any] | Sequence[float]) -> tuple[float, ...]:
    """Numbers as charts take them."""
    return tuple(float(value) for value in np.asarray(values, dtype=np.float64))


def led(chart: Chart, arms: Mapping[str, Arm], results: Results) -> tuple[Chart, dict[str, str]]:
    """A chart of lines by arm or group, its points called after their checkpoints, and the one that each leads to.

    Points of a mean over replicates lead to the first of these, and say so.
    """
    links: dict[str, str] = {}
    panels = []
    for panel in chart.panels:
        lines = []
        for line in panel.lines:
            names = (line.group,) if line.group in arms else results.groups.get(line.group, ())
            arm = arms.get(names[0]) if names else None
            if arm is not None:
                moments = measured_at(results, arm)[-len(line.y) :]
                to = f" (leads to {arm.name})" if len(names) > 1 else ""
                hover = tuple(f"{name(line.label, moment)}{to}" for moment in moments)
                links |= {
                    point: address("checkpoint", arm=arm.name, checkpoint=moment.key)
                    for point, moment in zip(hover, moments, strict=True)
                }
                line = replace(line, hover=hover)
            lines.append(line)
        panels.append(replace(panel, lines=tuple(lines)))
    return replace(chart, panels=tuple(panels)), links
