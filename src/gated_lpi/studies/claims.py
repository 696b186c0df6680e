"""Claims: the publication's three, judged over all of training, against every dense group, by every method.

The rules are those of `gated_lpi.claims`. A verdict is on a claim against one dense group, by one method, and shows its
strongest measure; the table has all of them. A claim about arms is one about other seeds too: what rests on relations
or prompts of single training runs is undecided here, and its detail says what it would be for these runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from gated_lpi.claims import Finding, Judged, judge
from gated_lpi.claims.curves import curve
from gated_lpi.claims.judge import Answer, Compared
from gated_lpi.claims.publication import BACKBONE, CONSOLIDATION
from gated_lpi.claims.series import Facts, facts_kept
from gated_lpi.claims.words import (
    FACT_WORDS,
    KIND_WORDS,
    leading,
    over,
    scaled,
    sentence,
    span,
    unit_words,
    would_decide,
)
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Positive, Spec
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._runs import methods_of, with_scores
from gated_lpi.studies.finding import Analysis, Cell, Table, Verdict
from gated_lpi.studies.finding import Answer as Word
from gated_lpi.studies.page import method_name


class Options(Spec):
    """Options of the analysis.

    Attributes:
        methods: by whose scores; None: all that the run has.
        kinds: of unit: "ffn", "attention".
        draws: of relations, where there are fewer than three replicates; None: as the run's metrics have it.
        known: whether to judge over known facts alone, too, where the run kept them.
    """

    methods: Listed[str] | None = None
    kinds: Listed[Literal["ffn", "attention", "mixer"]] = ("ffn",)
    draws: Positive | None = None
    known: bool = True


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """A verdict on every claim against every dense group by every method, all measures, and their course."""
    groups, notes = with_scores(run)
    arms = [arm for names in groups.values() for arm in names]
    methods = methods_of(run, arms, options.methods)
    asked = [
        (method, kind, facts)
        for method in methods
        for facts in facts_of(run, arms, method)
        for kind in options.kinds
        if options.known or facts == "all"
    ]
    asked.sort(
        key=lambda one: (one[2] != "all", one[2], options.kinds.index(one[1]))
    )  # what the claims are about first
    judged: list[Judged] = []
    with progress.task("judge the claims") as advance:
        for done, (method, kind, facts) in enumerate(asked):
            advance(done, len(asked))
            found = judge(run, method=method, kind=kind, facts=facts, draws=options.draws)
            if found is not None and found.is_about_claims:
                judged.append(found)
    if not judged:
        return Analysis(notes=[*notes, "the run has not both a mixture-of-experts and a dense group: nothing to judge"])
    return Analysis(
        verdicts=[verdict for one in judged for verdict in verdicts(one)],
        tables=[table(judged)],
        figures={"trajectories": figure([one for one in judged if one.facts == "all"])},
        notes=notes,
    )


def verdicts(judged: Judged) -> Iterator[Verdict]:
    """One for each claim against each dense group."""
    about = [KIND_WORDS[judged.kind]] if judged.kind != "ffn" else []
    about += [FACT_WORDS[judged.facts]] if judged.facts != "all" else []
    for finding in judged.findings:
        for moe, dense in finding.pairs:
            several = f"{moe} against {dense}" if len({one for one, _ in finding.pairs}) > 1 else f"against {dense}"
            yield _verdict(finding, moe, dense, several, ", ".join(about), judged.method)


def word(answer: Answer, lead: Compared) -> Word:
    """An answer as findings have it: mixed ones, and those that speak for single runs alone, are undecided."""
    if answer == "mixed" or lead.contrast.over != "replicates":
        return "undecided"
    return answer


def _verdict(finding: Finding, moe: str, dense: str, groups: str, variation: str, method: str) -> Verdict:
    told, answer = finding.of(moe, dense), finding.against(moe, dense)
    claim = f"{finding.claim.claim.rstrip('.')} ({', '.join(filter(None, (groups, variation)))})"
    if not told:
        return Verdict(
            question=finding.claim.question,
            claim=claim,
            method=method,
            verdict="undecided",
            detail="nothing has an interval",
            would_decide=would_decide(told, answer),
            variation=variation,
        )
    lead = leading(told, answer)
    place, c = lead.greatest(), lead.contrast
    said = word(answer, lead)
    start = "Measures or times disagree. " if answer == "mixed" else ""
    start += "" if said == answer or answer == "mixed" else f"{answer.capitalize()} for these runs alone. "
    others = [sentence(one) for one in told if one is not lead and one.told]
    beyond = float(c.low[place]) > 0 or float(c.high[place]) < 0
    return Verdict(
        question=finding.claim.question,
        claim=claim,
        method=method,
        verdict=said,
        **effect_of(lead),
        detail=f"{start}{' '.join([sentence(lead), *others])} Bands are {over(lead)}.",
        would_decide=would_decide(told, answer),
        because=_because(answer, said, lead) if beyond else "",
        variation=variation,
    )


def effect_of(lead: Compared) -> dict[str, Any]:
    """The fields of a verdict that say how large the greatest difference of a measure is."""
    place, c, unit = lead.greatest(), lead.contrast, lead.measure.unit
    size, low, high = (scaled(float(x[place]), unit) for x in (c.estimate, c.low, c.high))
    return {
        "effect": size,
        "low": low,
        "high": high,
        "unit": f"{unit_words(unit)}, {_within(lead.measure.words)}".removeprefix(", "),
    }


def _because(answer: Answer, said: Word, lead: Compared) -> str:
    """Why an effect whose own interval leaves out 0 is undecided."""
    if said != "undecided":
        return ""
    if answer == "mixed":
        return "measures or times disagree"
    return "not after correction for all comparisons" if lead.contrast.over == "replicates" else "of single runs alone"


def _within(words: str) -> str:
    """The words of a measure as they are within a sentence."""
    return words[0].lower() + words[1:] if words.startswith(("The ", "Entropy ")) else words


def table(judged: Sequence[Judged]) -> Table:
    """Every comparison."""
    rows: list[list[Cell]] = []
    for one in judged:
        for finding in one.findings:
            for compared in (*finding.comparisons, *finding.matched):
                rows.append(_row(one, finding.claim.key, compared))
    return Table(
        name="claims",
        caption=(
            "Every measure of every claim: the greatest difference, MoE less dense, with its simultaneous 95% band, in "
            "percentage points, doublings of tokens or the measure's own unit. p is Holm's over the family of counted "
            "measures; what is not in it stands beside it."
        ),
        columns=[
            *("claim", "measure", "units", "facts", "method", "MoE", "dense", "difference", "low", "high", "at"),
            *("told apart", "answer", "p (Holm)", "in the family", "over"),
        ],
        rows=rows,
    )


def _row(judged: Judged, claim: str, one: Compared) -> list[Cell]:
    place, c, unit = one.greatest(), one.contrast, one.measure.unit
    numbers: list[Cell] = [None if place < 0 else scaled(float(x[place]), unit) for x in (c.estimate, c.low, c.high)]
    if one.measure.over_time:
        spans = [f"higher {span(one, *ends)}" for ends in one.stretches("higher")]
        spans += [f"lower {span(one, *ends)}" for ends in one.stretches("lower")]
    else:
        spans = ["higher"] if one.higher.any() else ["lower"] if one.lower.any() else []
    return [
        claim,
        one.measure.words + (" at equal numbers" if one.matched else ""),
        judged.kind,
        judged.facts,
        method_name(judged.method),
        one.moe,
        one.dense,
        *numbers,
        span(one, place, place).removeprefix("at ") if one.measure.over_time and place >= 0 else None,
        "; ".join(spans) or None,
        one.answer if one.judged else None,
        one.adjusted,
        "yes" if one.family and not one.matched else "no",
        over(one),
    ]


def figure(judged: Sequence[Judged]) -> Figure:
    """The counted series by group: a row for each measure, a column for each method and kind of unit."""
    counted = [m for claim in (BACKBONE, CONSOLIDATION) for m in claim.measures if m.over_time and m.counted]
    every = [arm.series for one in judged for arm in one.series.values()]
    measures = [m for m in counted if any(m.name in one and np.isfinite(one[m.name]).any() for one in every)]
    measures = measures or counted[:1]
    drawn = Figure(figsize=(3.4 * len(judged) + 1.2, 2.1 * len(measures)), layout="constrained")
    cells = drawn.subplots(len(measures), len(judged), squeeze=False, sharex="col", sharey="row")
    stepwise = True
    for column, one in enumerate(judged):
        for row, measure in enumerate(measures):
            axes = cells[row, column]
            colours = {}
            for group in one.groups:
                found = curve([one.series[arm] for arm in group.arms], measure.name)
                if found is None:
                    continue
                stepwise &= bool(np.isfinite(found.steps).all())
                x = found.steps if np.isfinite(found.steps).all() else found.at
                (line,) = axes.plot(x, found.mean, marker=".", label=group.name)
                colours[group.name] = line.get_color()
                axes.fill_between(x, found.low, found.high, alpha=0.15, color=line.get_color(), linewidth=0)
            _mark(axes, [c for c in one.comparisons if c.measure is measure], colours)
            axes.set_xscale("symlog", linthresh=1)
            if row == 0:
                axes.set_title(f"{method_name(one.method)}, {KIND_WORDS[one.kind]}", fontsize=9)
            if column == 0:
                axes.set_ylabel(measure.words.removeprefix("The "), fontsize=8)
    for axes in cells[-1]:
        axes.set_xlabel("step" if stepwise else "tokens")
    handles, labels = cells[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=6, fontsize=8, frameon=False)
    return drawn


def _mark(axes: object, compared: Sequence[Compared], colours: dict[str, str]) -> None:
    """A row of squares at the bottom for each dense group, where the MoE group is told apart from it."""
    for place, one in enumerate(compared):
        apart = one.higher | one.lower
        x = one.steps if np.isfinite(one.steps).all() else one.at
        if apart.any():
            axes.plot(  # type: ignore[attr-defined]
                x[apart],
                np.full(int(apart.sum()), 0.02 + 0.04 * place),
                linestyle="none",
                marker="s",
                markersize=3.5,
                color=colours.get(one.dense, "0.5"),
                transform=axes.get_xaxis_transform(),  # type: ignore[attr-defined]
            )


def facts_of(run: Run, arms: Sequence[str], method: str) -> list[Facts]:
    """Over which facts all arms have scores."""
    each = [facts_kept(run.scores(arm), method) for arm in arms]
    return [facts for facts in each[0] if all(facts in others for others in each)]
