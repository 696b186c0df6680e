"""The chart that the verdicts are read from: every measure over training, and where the groups part.

On the left the groups, on the right the differences of a mixture-of-experts group and each dense one, with bands that
hold at all checkpoints at once; a large marker stands wherever a difference is told from 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gated_lpi.claims import Compared, Judged
from gated_lpi.claims.series import COUNTED
from gated_lpi.claims.words import when
from gated_lpi.report.arms import KIND_NAMES, Results
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import GREY, ArmStyle, Axis, Chart, Line, Panel, StepScale
from gated_lpi.report.charts import Measure, filled, series
from gated_lpi.report.grouped import by_group

VARIABLES = {"profile_with_last": "profile_pearson"}  # what a series is called in summaries


def trajectories(results: Results) -> Chart:
    """The counted series of the claims, by the first method, and their differences; no panel where nothing compares."""
    judged = next((one for one in results.judged if one.is_about_claims), None)
    if judged is None:
        return Chart("trajectories", "", "", ())
    panels = [panel for one in _series(judged) for panel in _panels(results, judged, one)]
    caption = (
        f"{method_name(judged.method)}, {KIND_NAMES[judged.kind]}. Left: each group; bands are pointwise 95% "
        f"intervals, "
        "over replicates where there are several, else bootstrapped over relations; dashed: chance. Right: the "
        "mixture of experts less each dense group; bands hold at all checkpoints at once (simultaneous 95%), and large "
        "markers stand where the difference is told from 0 after Holm's correction."
    )
    return Chart("trajectories", "When mixture of experts and dense part", caption, filled(panels))


def _series(judged: Judged) -> list[list[Compared]]:
    """The comparisons of each counted series, of all groups."""
    counted = [one for one in judged.comparisons if one.measure.over_time and one.measure.counted]
    return [[one for one in counted if one.measure is measure] for measure in {one.measure: 1 for one in counted}]


def _panels(results: Results, judged: Judged, compared: list[Compared]) -> Iterator[Panel]:
    measure = compared[0].measure
    percent = measure.unit == "share"
    name = VARIABLES.get(measure.name, measure.name)
    summaries = {
        group: summary if name == measure.name else summary.isel(other_checkpoint=-1)
        for group, summary in by_group(results).items()
    }
    title = measure.words.removeprefix("The ")
    title = title[:1].upper() + title[1:]
    label = "share" if percent else ""
    yield series(Measure(title, name, label, judged.kind, percent), summaries, results.styles)
    yield _difference(compared, title, results.styles, percent)


def _difference(compared: list[Compared], title: str, styles: dict[str, ArmStyle], percent: bool) -> Panel:
    stepwise = all(np.isfinite(one.steps).all() for one in compared)
    clock = "step" if stepwise and compared[0].clock not in COUNTED else compared[0].clock
    axes = [one.steps if clock == "step" else one.at for one in compared]
    scale = StepScale(float(value) for axis in axes for value in axis)
    lines: list[Line] = []
    for one, axis in zip(compared, axes, strict=True):
        if np.isfinite(one.contrast.estimate).any():
            label = f"{one.moe} less {one.dense}"
            lines += _lines(one, label, [scale.position(float(value)) for value in axis], styles[one.dense])
    if lines:
        ends = (min(min(line.x) for line in lines), max(max(line.x) for line in lines))
        grey = ArmStyle(GREY, "circle")
        nil = Line("no difference", "nil", grey, ends, (0.0, 0.0), ("", ""), drawn="dashed", in_legend=False)
        lines.insert(0, nil)
    label = "checkpoint" if clock == "checkpoint" else f"training {clock}"
    across = scale.axis(label, "" if clock == "checkpoint" else clock)
    return Panel(f"{title}, difference", across, Axis("difference", percent=percent), tuple(lines))


def _lines(one: Compared, label: str, x: list[float], style: ArmStyle) -> Iterator[Line]:
    """The difference with its band, and large markers where it is told from 0."""
    hover = [f"{one.moe} less {one.dense}, {when(one, k)}" for k in range(len(x))]
    estimate, low, high = (tuple(float(v) for v in values) for values in one.contrast[:3])
    yield Line(label, one.dense, style, tuple(x), estimate, tuple(hover), low, high, in_legend=False)
    apart = np.flatnonzero(one.higher | one.lower).tolist()
    if apart:
        at, values = tuple(x[k] for k in apart), tuple(estimate[k] for k in apart)
        told = tuple(f"told apart: {hover[k]}" for k in apart)
        yield Line(f"{label}, told apart", one.dense, style, at, values, told, drawn="points", in_legend=False)
