"""The first figure of a run in which no groups are compared: the measure over training that parts most from chance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi.report.arms import KIND_NAMES, Results, capital
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import Chart
from gated_lpi.report.charts import Measure, series
from gated_lpi.report.clocks import at_step
from gated_lpi.report.estimates import Estimate
from gated_lpi.report.grouped import by_group
from gated_lpi.report.plain_words import named_in_words
from gated_lpi.report.tables import Form, show

MEASURES: tuple[tuple[str, str, Form], ...] = (("stability", "J_stab", "number"), ("gain_top_set", "R_t", "share"))
MOST_GROUPS = 4  # in the panel; of more, the one that parts most


class Parted(NamedTuple):
    """One measure of a group over P pairs of checkpoints, and its chance level.

    Attributes:
        group: its name.
        summary: of the group, of one kind of neuron.
        name, label, form: the measure's variable, its name and how its values are written.
        value, low, high, chance: [P], with the ends of its intervals.
    """

    group: str
    summary: xr.Dataset
    name: str
    label: str
    form: Form
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    chance: NDArray[np.float64]

    @property
    def above(self) -> NDArray[np.bool_]:
        """Where all of the interval is above chance, [P]."""
        return np.asarray(np.minimum(self.low, self.value) > self.chance)

    @property
    def below(self) -> NDArray[np.bool_]:
        """Where all of it is below chance, [P]."""
        return np.asarray(np.maximum(self.high, self.value) < self.chance)

    @property
    def clear(self) -> float:
        """Of the room between chance and 1, or 0, the part that the interval leaves clear; mean over pairs."""
        up = np.where(self.above, (np.minimum(self.low, self.value) - self.chance) / (1 - self.chance), 0.0)
        down = np.where(self.below, 1 - np.maximum(self.high, self.value) / self.chance, 0.0)
        return float((up + down).mean())


def against_chance(results: Results) -> Chart:
    """J_stab or R_t of the run's first kind of neuron with its chance level; no panel where neither has an interval."""
    groups = by_group(results)
    one = max(_over_time(results, groups), key=lambda found: found.clear, default=None)
    if one is None:
        return Chart("against_chance", "", "", ())
    kind = results.kinds[0]
    shown = groups if len(groups) <= MOST_GROUPS else {one.group: groups[one.group]}
    panel = series(Measure("", one.name, one.label, kind, one.form == "share"), shown, results.styles)
    words = capital(named_in_words(one.name))
    caption = (
        f"{words}, over training: {KIND_NAMES[kind]}, by {method_name(results.methods[0])}, with pointwise 95% "
        "intervals as bands and chance dashed."
    )
    return Chart("against_chance", _title(one, several=len(groups) > 1), caption, (panel,), columns=1)


def _over_time(results: Results, groups: dict[str, xr.Dataset]) -> Iterator[Parted]:
    """Both measures of each group that has them with intervals, by the first method."""
    for group, summary in groups.items():
        if not results.kinds or results.kinds[0] not in summary["kind"]:
            continue
        here = summary.sel(kind=results.kinds[0])
        for name, label, form in MEASURES:
            if f"{name}_low" not in here or f"{name}_chance" not in here:
                continue
            ends = (here[f"{name}{end}"].to_numpy().astype(np.float64) for end in ("", "_low", "_high", "_chance"))
            columns = np.stack(np.broadcast_arrays(*ends))
            known = np.isfinite(columns).all(axis=0)
            if known.any():
                times = here.isel(checkpoint=np.flatnonzero(known) + 1)
                yield Parted(group, times, name, label, form, *columns[:, known])


def _title(one: Parted, *, several: bool) -> str:
    """How often the measure is told from chance, and what it is at the end."""
    ways = {"above": int(one.above.sum()), "below": int(one.below.sum())}
    count = len(one.value)
    told = [f"{way} chance at {_of(times, count)}" for way, times in ways.items() if times]
    last = show(Estimate(*(float(column[-1]) for column in (one.value, one.low, one.high))), one.form)
    step = at_step(float(one.summary["step"][-1]), one.summary.attrs)
    of = f" of {one.group}" if several else ""
    return (
        f"{one.label}{of}: {' and '.join(told) or 'nowhere told from chance'}, {last} against "
        f"{show(float(one.chance[-1]), one.form)} at {step}"
    )


def _of(times: int, count: int) -> str:
    return "every checkpoint" if times == count else f"{times} of {count} checkpoints"
