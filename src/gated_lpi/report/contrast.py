"""The first figure: where over training two groups differ most, by the first method, and the groups' curves there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gated_lpi.claims import Compared
from gated_lpi.claims.words import interval, span, taken_back, when
from gated_lpi.report.arms import KIND_NAMES, Results, capital, tokens_known
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import Chart, Line, Panel
from gated_lpi.report.charts import Measure, series
from gated_lpi.report.clocks import Clock
from gated_lpi.report.grouped import by_group
from gated_lpi.report.plain_words import measured_in_words
from gated_lpi.report.trajectories import VARIABLES

MOST_GROUPS = 4  # in one panel; of more, the two that are compared


def strongest(results: Results) -> Compared | None:
    """The comparison over training of most standard errors, by the first method: told apart, if any is."""
    found = [one for one in _over_time(results) if one.greatest() >= 0]
    return max(found, key=_strength, default=None)


def contrast(results: Results) -> Chart:
    """The groups in the measure that tells two of them apart most clearly; no panel where nothing is compared."""
    one = strongest(results)
    panel = None if one is None else _panel(results, one)
    if one is None or panel is None:
        return Chart("contrast", "", "", ())
    caption = (
        f"{capital(measured_in_words(one.measure))}, over training: {KIND_NAMES[one.kind]}, by "
        f"{method_name(results.methods[0])}. {_drawn(panel)}"
        + (f"Large markers: {one.moe} is told from {one.dense} there." if one.told else _untold(one))
    )
    return Chart("contrast", _title(one), caption, (panel,), columns=1)


def _untold(one: Compared) -> str:
    """That the groups are told apart nowhere, with the greatest difference."""
    place = one.greatest()
    return (
        f"{one.moe} and {one.dense} are nowhere told apart: the greatest difference is {interval(one, place)} at "
        f"{when(one, place)}{taken_back(one, place)}."
    )


def _drawn(panel: Panel) -> str:
    """What bands and dashed lines are, as far as there are any."""
    parts = ["bands: pointwise 95% intervals"] if any(line.low is not None for line in panel.lines) else []
    parts += ["dashed: chance"] if any(line.drawn == "dashed" for line in panel.lines) else []
    return f"{capital('; '.join(parts))}. " if parts else ""


def _over_time(results: Results) -> Iterator[Compared]:
    first = next(iter(results.methods), None)
    for judged in results.judged:
        if judged.method == first and judged.facts == "all":
            yield from (one for one in judged.comparisons if one.measure.over_time and one.measure.counted)


def _strength(one: Compared) -> tuple[bool, bool, float]:
    place, c = one.greatest(), one.contrast
    size, error = abs(float(c.estimate[place])), float(c.error[place])
    return one.told, one.judged, size / error if error > 0 else size / one.measure.smallest


def _title(one: Compared) -> str:
    """What is seen, as a title has it."""
    name = f"{one.measure.words}: "
    place = one.greatest()
    if not one.told:
        return f"{name}{one.moe} and {one.dense} are not told apart"
    way = "higher" if one.contrast.estimate[place] > 0 else "lower"
    stretches = [span(one, *ends) for ends in one.stretches("higher" if way == "higher" else "lower")]
    times = stretches[0] if len(stretches) == 1 else f"over {len(stretches)} stretches of training"
    said = f"{name}{way} in {one.moe} than in {one.dense} {times}, by"
    most = interval(one, place, size=True)
    return f"{said} {most}" if times == f"at {when(one, place)}" else f"{said} up to {most} at {when(one, place)}"


def _panel(results: Results, one: Compared) -> Panel | None:
    name = VARIABLES.get(one.measure.name, one.measure.name)
    groups = by_group(results)
    shown = list(groups) if len(groups) <= MOST_GROUPS else [one.moe, one.dense]
    known = {group: summary for group, summary in groups.items() if group in shown}
    if not {one.moe, one.dense} <= known.keys():  # replicates that were not saved at the same steps
        return None
    if name != one.measure.name:
        known = {group: summary.isel(other_checkpoint=-1) for group, summary in known.items()}
    in_steps = bool(one.steps.size) and bool(np.isfinite(one.steps).all())
    clock: Clock = "tokens" if not in_steps and all(tokens_known(s) for s in known.values()) else "step"
    percent = one.measure.unit == "share"
    measure = Measure("", name, one.measure.words, one.kind, percent)
    panel = series(measure, known, results.styles, clock)
    if not panel.lines:
        return None
    return replace(panel, lines=(*panel.lines, *_told(panel, one, clock, known[one.moe][clock].to_numpy())))


def _told(panel: Panel, one: Compared, clock: Clock, times: NDArray[np.generic]) -> Iterator[Line]:
    """Large markers on the first group's curve where it is told from the other, by the times of its checkpoints."""
    line = next((line for line in panel.lines if line.label == one.moe), None)
    if line is None:
        return
    axis = one.steps if clock == "step" else one.at
    apart = {float(axis[k]) for k in np.flatnonzero(one.higher | one.lower).tolist()}
    places = [i for i, time in enumerate(times[-len(line.y) :]) if float(time) in apart and math.isfinite(line.y[i])]
    if places:
        yield replace(
            line,
            label=f"{one.moe}, told from {one.dense}",
            x=tuple(line.x[i] for i in places),
            y=tuple(line.y[i] for i in places),
            hover=tuple(f"{line.hover[i]}: told from {one.dense}" for i in places),
            low=None,
            high=None,
            drawn="points",
            in_legend=False,
        )
