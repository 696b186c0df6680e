"""Density: do the claims' verdicts depend on how many checkpoints were saved, and where?

1. All measures are computed again on every 2nd, 4th, … checkpoint and on grids that are even in tokens or log tokens
   (`metrics.densities`), from the scores: pairs are then of checkpoints farther apart. A verdict *flips* where it is
   supported on some and contradicted on others.
2. J(Δ), the overlap of the top sets of all pairs of checkpoints against the gap between them, does not depend on the
   density; its half-life is compared over replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.claims import Judged, judge
from gated_lpi.claims.curves import mean_and_error
from gated_lpi.claims.judge import LEAST, Answer, Compared
from gated_lpi.claims.series import clock_of, units_of
from gated_lpi.claims.words import leading, scaled, span, unit_words
from gated_lpi.metrics import GapOverlap, densities, overlap_by_gap, top_sets
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Positive, Spec
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._runs import methods_of, with_scores
from gated_lpi.studies.finding import Analysis, Cell, Table, Verdict
from gated_lpi.studies.page import method_name

QUESTION = "Is it an artefact of how densely checkpoints were saved?"
CLAIMS = ("backbone", "consolidation")  # ablations are of one checkpoint


class Options(Spec):
    """Options of the analysis.

    Attributes:
        methods: by whose scores; None: all that the run has.
        kind: of unit.
        least: checkpoints of a density.
        draws: of relations, where there are fewer than three replicates; None: as the run's metrics have it.
    """

    methods: Listed[str] | None = None
    kind: Literal["ffn", "attention", "mixer"] = "ffn"
    least: Positive = 3
    draws: Positive | None = None


class Told(NamedTuple):
    """What a claim's verdict is on one choice of checkpoints.

    Attributes:
        answer: of the claim against a dense group.
        size: of its strongest difference, in the unit that is shown.
        ends: of that one's band.
        measure: which.
        unit: of the difference, in words.
        at: when.
        over: what the band is over.
    """

    answer: Answer
    size: float
    ends: tuple[float, float]
    measure: str
    unit: str
    at: str | None
    over: str


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """The claims' verdicts at every density, which of them flip, and overlap by gap."""
    groups, notes = with_scores(run)
    arms = [arm for names in groups.values() for arm in names]
    methods = methods_of(run, arms, options.methods)
    names = [choice.name for choice in densities(_axis(run, arms[0]), least=options.least)]
    judged: dict[tuple[str, str], Judged] = {}
    gaps: dict[tuple[str, str], GapOverlap] = {}
    total = len(methods) * (len(names) + 1)
    with progress.task("judge the claims at several densities") as advance:
        for number, method in enumerate(methods):
            for place, name in enumerate(names):
                advance(number * (len(names) + 1) + place, total)
                found = _at(run, method, place, options)
                if found is not None:
                    judged[method, name] = found
            for arm in arms:
                overlap = _gaps(run, arm, method, options.kind)
                if overlap is not None:
                    gaps[method, arm] = overlap
    if not any(one.is_about_claims for one in judged.values()):
        return Analysis(notes=[*notes, "the run has not both a mixture-of-experts and a dense group: nothing to judge"])
    told = {
        (method, finding.claim.key, *pair, density): _told(finding.of(*pair), finding.against(*pair))
        for (method, density), one in judged.items()
        for finding in one.findings
        if finding.claim.key in CLAIMS
        for pair in finding.pairs
        if finding.of(*pair)
    }
    if not told:
        notes = [*notes, "nothing has an interval: it takes scores by relation, or three replicates of each group"]
    return Analysis(
        verdicts=_verdicts(told, judged),
        tables=[_table(told, run, arms[0], options), _half_lives(gaps, groups, methods)],
        figures={"gaps": _figure(gaps, groups, methods)},
        notes=notes,
    )


def _at(run: Run, method: str, place: int, options: Options) -> Judged | None:
    """The claims on one density of every arm; None where an arm has no such density."""

    def choose(_arm: str, axis: NDArray[np.float64]) -> NDArray[np.int64]:
        return densities(axis, least=options.least)[place].checkpoints

    try:
        return judge(run, method=method, kind=options.kind, choose=choose, draws=options.draws, with_matched=False)
    except IndexError:  # an arm of fewer checkpoints has fewer densities
        return None


def _told(comparisons: Sequence[Compared], answer: Answer) -> Told:
    lead = leading(comparisons, answer)
    place, c, unit = lead.greatest(), lead.contrast, lead.measure.unit
    size, low, high = (scaled(float(x[place]), unit) for x in (c.estimate, c.low, c.high))
    at = span(lead, place, place).removeprefix("at ") if lead.measure.over_time else None
    return Told(answer, size, (low, high), lead.measure.words, unit_words(unit), at, lead.contrast.over)


def _verdicts(told: dict[tuple[str, str, str, str, str], Told], judged: dict[tuple[str, str], Judged]) -> list[Verdict]:
    claims = {finding.claim.key: finding.claim for one in judged.values() for finding in one.findings}
    found = []
    for method, key, moe, dense in dict.fromkeys(names[:4] for names in told):
        by = {names[4]: one for names, one in told.items() if names[:4] == (method, key, moe, dense)}
        answers = {one.answer for one in by.values()}
        on_all = by.get("all", next(iter(by.values())))
        flips = {"supported", "contradicted"} <= answers
        others = [f"{name} ({one.answer})" for name, one in by.items() if one.answer != on_all.answer]
        single = on_all.over != "replicates"
        open_ = on_all.answer not in ("supported", "contradicted")
        word: Literal["supported", "contradicted", "undecided"] = (
            "contradicted" if flips else "undecided" if others or single or open_ else "supported"
        )
        said = f"{on_all.answer} on all checkpoints"
        said += f", otherwise on {', '.join(others)}" if others else f", and on each of {len(by) - 1} other choices"
        found.append(
            Verdict(
                question=QUESTION,
                claim=f"Whether the claim holds does not depend on the density: {claims[key].claim.rstrip('.')} "
                f"({moe} against {dense})",
                method=method,
                verdict=word,
                effect=100 * sum(one.answer == on_all.answer for one in by.values()) / len(by),
                unit="% of the choices of checkpoints answer alike",
                because=briefly(on_all.answer, len(others), len(by)) if word == "undecided" else "",
                detail=f"{said}. The strongest difference on all: {on_all.measure}{strongest(on_all)}"
                + (". Of these runs alone, as bands are not over replicates." if single else "."),
                would_decide=(
                    "three replicates or more of each group"
                    if single
                    else "more replicates, where a verdict is undecided"
                    if others or open_
                    else "a density at which the verdict turns round"
                ),
            )
        )
    return found


def strongest(told: Told) -> str:
    """A difference with its interval, and where it is."""
    size, low, high = (f"{number:.3g}" for number in (told.size, *told.ends))
    return f", {size} [{low}, {high}]{f' {told.unit}' if told.unit else ''}{f' at {told.at}' if told.at else ''}"


def briefly(answer: str, others: int, choices: int) -> str:
    """Why the verdicts on so many choices of checkpoints do not decide it, as short as a cell of a table is."""
    if not others:
        return "at every density" if answer == "undecided" else f"{answer} at every density"
    return f"{answer} on all checkpoints, otherwise at {others} of {choices - 1} densities"


def _table(told: dict[tuple[str, str, str, str, str], Told], run: Run, arm: str, options: Options) -> Table:
    sizes = {choice.name: choice.checkpoints.size for choice in densities(_axis(run, arm), least=options.least)}
    rows: list[list[Cell]] = [
        [
            key,
            moe,
            dense,
            method_name(method),
            density,
            sizes.get(density),
            one.answer,
            one.measure,
            one.size,
            *one.ends,
            one.at,
        ]
        for (method, key, moe, dense, density), one in told.items()
    ]
    return Table(
        name="densities",
        caption="The verdict on each claim on every choice of checkpoints, with its strongest difference.",
        columns=[
            *(
                "claim",
                "MoE",
                "dense",
                "method",
                "checkpoints",
                "how many",
                "answer",
                "by",
                "difference",
                "low",
                "high",
            ),
            "at",
        ],
        rows=rows,
    )


def _axis(run: Run, arm: str) -> NDArray[np.float64]:
    scores = run.scores(arm)
    return clock_of(scores, np.arange(scores.sizes["checkpoint"]))[1]


def _gaps(run: Run, arm: str, method: str, kind: str) -> GapOverlap | None:
    """J(Δ) of an arm; None with a single checkpoint."""
    scores = run.scores(arm)
    inside = units_of(scores, kind)
    if scores.sizes["checkpoint"] < 2 or not inside.size:
        return None
    means = scores[schema.mean_of(method)].transpose("checkpoint", "unit").to_numpy()[:, inside]
    return overlap_by_gap(top_sets(means, run.experiment.metrics.fraction), _axis(run, arm), inside.size)


def _half_lives(
    gaps: dict[tuple[str, str], GapOverlap], groups: dict[str, tuple[str, ...]], methods: Sequence[str]
) -> Table:
    rows: list[list[Cell]] = []
    for method in methods:
        for group, arms in groups.items():
            lives = [gaps[method, arm].half_life for arm in arms if (method, arm) in gaps]
            logs = np.log2([life.gap for life in lives]) if lives else np.empty(0)
            mean, error = mean_and_error(logs[:, None]) if lives else (np.array([np.nan]), np.array([np.nan]))
            reasons = sorted({life.reason for life in lives if life.reason})
            rows.append(
                [
                    method_name(method),
                    group,
                    len(lives),
                    float(2.0 ** mean[0]),
                    float(2.0 ** (mean[0] - 2 * error[0])),
                    float(2.0 ** (mean[0] + 2 * error[0])),
                    int(np.isnan(logs).sum()),
                    "; ".join(reasons) or None,
                ]
            )
    return Table(
        name="half-lives",
        caption=(
            "The gap at which the overlap of top sets is half-way to chance: geometric mean over replicates, and "
            "twice its "
            "standard error to both sides. It does not depend on how densely checkpoints were saved."
        ),
        columns=["method", "group", "replicates", "half-life, tokens", "low", "high", "without one", "why"],
        rows=rows,
    )


def _figure(
    gaps: dict[tuple[str, str], GapOverlap], groups: dict[str, tuple[str, ...]], methods: Sequence[str]
) -> Figure:
    drawn = Figure(figsize=(3.6 * len(methods) + 0.6, 3.0), layout="constrained")
    for axes, method in zip(drawn.subplots(1, len(methods), squeeze=False, sharey=True)[0], methods, strict=True):
        for number, (group, arms) in enumerate(groups.items()):
            for place, arm in enumerate(arm for arm in arms if (method, arm) in gaps):
                one = gaps[method, arm]
                several = len(arms) >= LEAST
                axes.plot(
                    one.gap,
                    one.overlap,
                    marker=".",
                    color=f"C{number}",
                    alpha=0.5 if several else 1.0,
                    label=group if place == 0 else None,
                )
        chances = {round(one.chance, 6) for (by, _), one in gaps.items() if by == method}
        for chance in sorted(chances):
            axes.axhline(chance, color="0.7", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlabel("gap, tokens")
        axes.set_title(method_name(method), fontsize=9)
        axes.set_ylabel("J(Δ)" if method == methods[0] else "")
    handles, labels = drawn.axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=6, fontsize=8, frameon=False)
    return drawn
