"""Ablation curves: what silencing the top FFN units costs, by each method, beside random sets of as many.

At chosen checkpoints of every arm the top 0.1% to 30% of the FFN units are silenced, and as many random ones, from
anywhere ("random") and from the same layers ("layer"). Drops are those of HIT@1 and HIT@10 (percentage points) and of
log p (nats), mean over the arms of a group. The facts that are asked are those that units were ranked on, as in a run's
own ablations; `gated-lpi compare` asks others.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.experiments import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Positive, Spec, Whole
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._intervals import Estimate, over_replicates
from gated_lpi.studies._runs import checkpoints_of, each, methods_of, with_scores
from gated_lpi.studies.finding import Analysis, Table, Verdict, judged
from gated_lpi.studies.page import method_name

Place = Literal["middle", "last"]
CONTROLS = ("random", "layer")
MEASURES = ("hit_1", "hit_k", "logprob")
FACTORS = {"hit_1": 100.0, "hit_k": 100.0, "logprob": 1.0}
Floats = NDArray[np.float64]


class Options(Spec):
    """Options of the analysis.

    Attributes:
        shares: of the FFN units, ascending.
        judged: the share that the verdict is on; one of them.
        at: which checkpoints: the "middle" one (nearest to half of the steps) and the "last".
        methods: by whose scores; None: all that the run has.
        draws: random sets of each control.
        k: of HIT@k.
        seed: of the draws.
    """

    shares: Listed[float] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    judged: float = Field(default=0.01, gt=0, le=1)
    at: Listed[Place] = ("middle", "last")
    methods: Listed[str] | None = None
    draws: Positive = 5
    k: Positive = 10
    seed: Whole = 0


class Curve(NamedTuple):
    """What silencing costs in one arm at one checkpoint; K shares.

    Attributes:
        chosen: drops by method and measure, [K].
        random: those of the mean over random sets by method, control and measure, [K].
    """

    chosen: dict[str, dict[str, Floats]]
    random: dict[str, dict[str, dict[str, Floats]]]


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """Drops along shares by method, control, group and checkpoint, and whether the top units cost more than random."""
    if options.judged not in options.shares:
        raise OptionError(f"judged = {options.judged} is not among shares = {list(options.shares)}; name one of them")
    groups, notes = with_scores(run)
    arms = [arm for names in groups.values() for arm in names]
    methods = methods_of(run, arms, options.methods)
    where = checkpoints_of(run)
    facts = run.experiment.facts.load()
    asked = [(arm, place) for arm in arms for place in options.at]
    arguments = []
    for arm, place in asked:
        scores = run.scores(arm)
        row = _row(scores, place)
        checkpoint = where[arm][str(scores["checkpoint_key"].to_numpy()[row])]
        kept = scores[[schema.mean_of(method) for method in methods]].isel(checkpoint=row).load()
        arguments.append((run.experiment, checkpoint, facts, kept.drop_attrs(), methods, options))
    found = dict(zip(asked, each(run, measure, arguments, "silence top units", progress), strict=True))
    curves = {
        (group, place): [found[arm, place] for arm in names] for group, names in groups.items() for place in options.at
    }
    return Analysis(
        verdicts=[
            _verdict(group, names, curves, method, options) for group, names in groups.items() for method in methods
        ],
        tables=[_table(curves, methods, options)],
        figures={place: _figure(curves, place, methods, options) for place in options.at},
        notes=notes,
    )


def _row(scores: xr.Dataset, place: Place) -> int:
    steps = scores["step"].to_numpy()
    return len(steps) - 1 if place == "last" else int(np.abs(steps - steps[-1] / 2).argmin())


def measure(
    experiment: Experiment,
    checkpoint: Any,
    facts: FactSet,
    scores: xr.Dataset,
    methods: tuple[str, ...],
    options: Options,
    progress: Progress,
) -> Curve:
    """The curves of one checkpoint, by every method; may be called in another process."""
    from gated_lpi.comparison.curves import Bench
    from gated_lpi.runs.access import load_checkpoint, on_this_machine

    del progress
    spec = experiment.facts
    asked = {
        "facts": facts,
        "templates": spec.templates,
        "on_error": spec.on_error,
        "bos": spec.bos,
        "answer": experiment.attribution.answer,
        "text": experiment.ablation.text or None,
        "k": options.k,
        "seed": options.seed,
    }
    chosen, random = {}, {}
    with on_this_machine(checkpoint, experiment.storage) as local:
        model = load_checkpoint(local, experiment.storage)
        bench = Bench(model, options.shares, options.draws, asked)
        first: xr.Dataset | None = None
        for method in methods:
            result = bench.run(scores[schema.mean_of(method)], "ffn", "silenced", first)
            first = result if first is None else first
            intact = {name: float(result[f"{name}_intact"]) for name in MEASURES}
            chosen[method] = {name: FACTORS[name] * (intact[name] - result[name].to_numpy()) for name in MEASURES}
            random[method] = {
                control: {
                    name: FACTORS[name]
                    * (intact[name] - result[f"{name}_control"].sel(control=control).mean("draw").to_numpy())
                    for name in MEASURES
                }
                for control in CONTROLS
            }
    return Curve(chosen, random)


Curves = dict[tuple[str, Place], list[Curve]]


def _over(curves: list[Curve], method: str, control: str | None, name: str) -> list[Estimate]:
    """A drop at each share over the arms of a group; of a control, or of the chosen units."""
    rows = [(one.chosen[method] if control is None else one.random[method][control])[name] for one in curves]
    return [over_replicates(list(column)) for column in zip(*rows, strict=True)]


def _lines(methods: tuple[str, ...]) -> list[tuple[str, str, str | None]]:
    """What is drawn and tabulated: a label, a method, a control. Random sets from anywhere are those of all methods."""
    lines: list[tuple[str, str, str | None]] = [("random", methods[0], "random")]
    for method in methods:
        lines += [(method_name(method), method, None), (f"random, in layers of {method_name(method)}", method, "layer")]
    return lines


def _table(curves: Curves, methods: tuple[str, ...], options: Options) -> Table:
    rows: list[list[str | float | int | None]] = []
    for (group, place), several in curves.items():
        for label, method, control in _lines(methods):
            by = {name: _over(several, method, control, name) for name in MEASURES}
            for i, share in enumerate(options.shares):
                hit = by["hit_k"][i]
                numbers = [by["hit_1"][i].value, hit.value, hit.low, hit.high, by["logprob"][i].value]
                rows.append([group, place, label, f"{100 * share:g}%", *numbers, len(several)])
    return Table(
        name="drops",
        caption="What silencing costs: drops of recall in percentage points and of log p in nats, mean over arms, with "
        f"the interval of HIT@{options.k}. Random sets are as many units from anywhere, or from the same layers.",
        columns=[
            *("group", "checkpoint", "silenced", "share", "HIT@1 drop", f"HIT@{options.k} drop", "low", "high"),
            *("log p drop", "arms"),
        ],
        rows=rows,
    )


def _verdict(group: str, names: tuple[str, ...], curves: Curves, method: str, options: Options) -> Verdict:
    place = "last" if "last" in options.at else options.at[0]
    at = options.shares.index(options.judged)
    excess = over_replicates(
        [one.chosen[method]["hit_k"][at] - one.random[method]["layer"]["hit_k"][at] for one in curves[group, place]]
    )
    share = f"{100 * options.judged:g}%"
    return Verdict(
        question="Do the units of greatest importance carry the facts?",
        claim=f"{group}: silencing the top {share} of FFN units costs more HIT@{options.k} than random units of the "
        "same layers",
        method=method,
        verdict=judged(excess.low, excess.high, claimed="above"),
        effect=excess.value,
        low=excess.low,
        high=excess.high,
        unit="percentage points",
        detail=f"{place} checkpoint of {len(names)} arms, beside {options.draws} random sets in each",
        would_decide="more replicates; a greater share, where too few units are silenced to show",
    )


def _figure(curves: Curves, place: Place, methods: tuple[str, ...], options: Options) -> Figure:
    groups = [group for group, at in curves if at == place]
    figure = Figure(figsize=(3.2 * len(groups) + 1.6, 3.2), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    x = [100 * share for share in options.shares]
    for axes, group in zip(panels, groups, strict=True):
        for label, method, control in _lines(methods):
            drops = _over(curves[group, place], method, control, "hit_k")
            style = {None: "-", "random": ":", "layer": "--"}[control]
            colour = "0.5" if control == "random" else f"C{methods.index(method)}"
            axes.plot(x, [one.value for one in drops], style, color=colour, marker=".", label=label)
            if control is None:
                ends = [[one[i] for one in drops] for i in (1, 2)]
                axes.fill_between(x, *ends, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xlabel("FFN units silenced, %")
        axes.set_title(group, fontsize=9)
    panels[0].set_ylabel(f"drop of HIT@{options.k}, percentage points", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7, frameon=False)
    return figure
