"""Sweep: how a summary measure depends on an option of training, with its replicates.

1. The measure of each arm is one number: its last value, its mean over checkpoints, or the area under its curve over
   log tokens (its mean height there).
2. It is held against the arm's value of the option: Spearman's ρ over arms, with a p-value by permuting values among
   arms, and Bonett and Wright's interval, which holds the truth in 95 to 99 of 100 simulated sweeps of three replicates
   (resampling these within each value does in 70 to 87).
3. That is done by every method, side by side.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gated_lpi._common.flatten import flatten
from gated_lpi.errors import OptionError
from gated_lpi.metrics import trajectory_area
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Positive, Spec, Text, Whole
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._intervals import cells, over_replicates
from gated_lpi.studies._replicates import SIGNIFICANT, rank_correlation
from gated_lpi.studies._runs import methods_of, with_scores
from gated_lpi.studies.finding import Analysis, Answer, Table, Verdict
from gated_lpi.studies.page import method_name
from gated_lpi.training.spec import ArmKind

Floats = NDArray[np.float64]


class Options(Spec):
    """Options of the analysis.

    Attributes:
        key: the option of training, dotted: "load_balancing", "size.experts".
        measure: a variable of summaries, such as "importance_share", "stability", "entropy", "hit", "load_imbalance".
        at: the "last" value, the "mean" over checkpoints, or the "area" over log tokens.
        kind: "ffn" or "attention" units, where the measure tells them apart.
        hit_k: of "hit".
        train: the kind of arm; None: those of whom the option has more than one value.
        methods: by whose scores; None: all that the run has.
        rises: whether the measure is claimed to rise with the option (true) or to fall; None: nothing is claimed.
        question, claim: how the page says it; by default made of the above.
        draws: permutations.
        seed: of these.
    """

    key: Text
    measure: Text
    at: Literal["last", "mean", "area"] = "last"
    kind: Literal["ffn", "attention", "mixer"] = "ffn"
    hit_k: Positive = 10
    train: ArmKind | None = None
    methods: Listed[str] | None = None
    rises: bool | None = None
    question: str = ""
    claim: str = ""
    draws: Positive = Field(default=5000, le=10**6)
    seed: Whole = 0

    @model_validator(mode="after")
    def _claimed(self) -> Options:
        if self.claim and self.rises is None:
            raise ValueError(f"claim = {self.claim!r} was given without `rises`, which says what would bear it out")
        return self


class Trend(NamedTuple):
    """How a measure goes with an option.

    Attributes:
        rho: Spearman's, over arms.
        low, high: its 95% interval; NaN below four arms.
        p: two-sided, by permutation.
    """

    rho: float
    low: float
    high: float
    p: float


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """The measure against the option by every method: a table, a figure and the trend."""
    groups, notes = with_scores(run)
    values = _values(run, groups, options)
    scored = {group: arms for group, arms in groups.items() if group in values}
    methods = methods_of(run, [arm for arms in scored.values() for arm in arms], options.methods)
    measured: dict[str, dict[str, list[float]]] = {}
    with progress.task(f"measure {options.measure}") as advance:
        for done, method in enumerate(methods):
            advance(done, len(methods))
            measured[method] = {
                group: [_measure(run.summary(arm, method), options) for arm in arms] for group, arms in scored.items()
            }
    places = _places(list(values.values()))
    trends = {
        method: trend([places[values[g]] for g in scored], list(by.values()), options)
        for method, by in measured.items()
    }
    rows: list[list[str | float | int | None]] = [
        [method_name(method), group, str(values[group]), *cells(over_replicates(found))]
        for method, by_group in measured.items()
        for group, found in by_group.items()
    ]
    what = f"{options.measure}, {_AT[options.at]}"
    tables = [
        Table(
            name="values",
            caption=f"{what}, by {options.key} (mean over replicates with its interval).",
            columns=["method", "group", options.key, options.measure, "low", "high", "replicates"],
            rows=rows,
        ),
        Table(
            name="trend",
            caption=f"Spearman's rho of {what} with {options.key}, over arms.",
            columns=["method", "rho", "low", "high", "p (permutation)"],
            rows=[[method_name(method), *found] for method, found in trends.items()],
        ),
    ]
    verdicts = [] if options.rises is None else [_verdict(method, found, options) for method, found in trends.items()]
    figure = _figure(measured, values, places, options)
    return Analysis(verdicts=verdicts, tables=tables, figures={"sweep": figure}, notes=notes)


_AT = {"last": "at the last checkpoint", "mean": "mean over checkpoints", "area": "mean height over log tokens"}


def _values(run: Run, groups: dict[str, tuple[str, ...]], options: Options) -> dict[str, Any]:
    """The option's value of each group that has it.

    Raises:
        OptionError: there is no such option, or it has one value.
    """
    arms = {arm.name: arm for arm in run.experiment.arms}
    found: dict[str, dict[str, Any]] = {}
    for group, names in groups.items():
        first = arms[names[0]]
        if first.train is None or options.train not in (None, first.train):
            continue
        training = flatten(run.experiment.training_of(first).model_dump(mode="json"))
        if options.key not in training:
            raise OptionError(
                f"key = {options.key!r} was given; options of training are {', '.join(training)}: give one of these"
            )
        found.setdefault(first.train, {})[group] = training[options.key]
    varying = [by_group for by_group in found.values() if len(set(map(str, by_group.values()))) > 1]
    if not varying:
        raise OptionError(
            f"{options.key} has one value in each kind of arm of this run, so nothing can be held against it; sweep it "
            "with [grid], or name another key"
        )
    return {group: value for by_group in varying for group, value in by_group.items()}


def _places(values: list[Any]) -> dict[Any, float]:
    """Where each value is on the axis: numbers where they are, others in their order."""
    if all(isinstance(value, int | float) for value in values):
        return {value: float(value) for value in values}
    return {value: float(place) for place, value in enumerate(dict.fromkeys(values))}


def _measure(summary: xr.Dataset, options: Options) -> float:
    """One number of an arm.

    Raises:
        OptionError: summaries have no such variable.
    """
    if options.measure not in summary:
        names = sorted(str(name) for name in summary.data_vars if not str(name).endswith(("_low", "_high")))
        raise OptionError(
            f"measure = {options.measure!r} was given; summaries have {', '.join(names)}: give one of these"
        )
    array = summary[options.measure]
    chosen: dict[str, Any] = {"kind": options.kind, "hit_k": options.hit_k}
    array = array.sel({dim: value for dim, value in chosen.items() if dim in array.dims})
    along = next((dim for dim in ("checkpoint", "pair") if dim in array.dims), None)
    array = array.mean([dim for dim in array.dims if dim != along], skipna=True)
    values = np.atleast_1d(array.to_numpy().astype(np.float64))
    if along is None:
        return float(values[0])
    if options.at == "area":
        return float(trajectory_area(values, _seen(summary, along)).mean)
    known = values[np.isfinite(values)]
    if not known.size:
        return math.nan
    return float(known[-1] if options.at == "last" else known.mean())


def _seen(summary: xr.Dataset, along: str) -> Floats:
    """Tokens, or steps where those are not known, at each checkpoint or the later one of a pair."""
    name = "tokens" if "tokens" in summary.coords and (summary["tokens"].to_numpy() >= 0).all() else "step"
    seen: Floats = summary[name].to_numpy().astype(np.float64)
    return seen if along == "checkpoint" else seen[1:]


def trend(places: list[float], values: list[list[float]], options: Options) -> Trend:
    """Spearman's ρ of values with places, by group.

    Args:
        places: [G], of groups.
        values: [G], one value a replicate; those that are NaN are left out.
        options: draws and seed.
    """
    x = np.concatenate([np.full(len(group), place) for place, group in zip(places, values, strict=True)])
    y = np.concatenate([np.asarray(group, dtype=np.float64) for group in values])
    found = rank_correlation(x, y, draws=options.draws, seed=options.seed)
    return Trend(found.rho, found.low, found.high, found.p)


def _verdict(method: str, found: Trend, options: Options) -> Verdict:
    word: Answer = "undecided"
    if found.p < SIGNIFICANT and not found.low <= 0 <= found.high:
        word = "supported" if (found.rho > 0) == options.rises else "contradicted"
    way = "rises" if options.rises else "falls"
    return Verdict(
        question=options.question or f"What does {options.key} do to {options.measure}?",
        claim=options.claim or f"{options.measure} {way} with {options.key}",
        method=method,
        verdict=word,
        effect=found.rho,
        low=found.low,
        high=found.high,
        unit="rho",
        detail=f"Spearman's rho over arms, {_AT[options.at]}, p = {found.p:.3g} by permutation",
        would_decide="more values of the option and more replicates, whose number sets how small p can be",
    )


def _figure(
    measured: dict[str, dict[str, list[float]]], values: dict[str, Any], places: dict[Any, float], options: Options
) -> Figure:
    figure = Figure(figsize=(4.2 * max(len(measured), 1), 3.4), layout="constrained")
    panels = figure.subplots(1, max(len(measured), 1), squeeze=False)[0]
    numbers = sorted(places.values())
    for axes, (method, by_group) in zip(panels, measured.items(), strict=True):
        for group, found in by_group.items():
            place, mean = places[values[group]], over_replicates(found)
            axes.plot([place] * len(found), found, ".", color="0.6")
            ends = [[0.0], [0.0]] if math.isnan(mean.low) else [[mean.value - mean.low], [mean.high - mean.value]]
            axes.errorbar([place], [mean.value], yerr=ends, fmt="o", color="#2c7fb8", capsize=3)
        axes.set_title(method_name(method), fontsize=10)
        axes.set_xlabel(options.key)
        if numbers[0] >= 0 and numbers[-1] > 20 * (min((n for n in numbers if n > 0), default=1)):
            axes.set_xscale("symlog", linthresh=min(n for n in numbers if n > 0))
        axes.set_xticks(list(places.values()), [str(value) for value in places])
    panels[0].set_ylabel(f"{options.measure}\n({_AT[options.at]})", fontsize=8)
    return figure
