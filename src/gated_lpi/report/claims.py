"""What a run shows of the publication's three claims for mixture-of-experts (MoE) models, whichever way it fell.

The claims are judged over all of training by `gated_lpi.claims`; here the answers are put into words for the page: one
sentence a claim, with its greatest difference and when that was; what it would take to decide; and every measure by
every method as a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gated_lpi.claims import Compared, Finding, Judged
from gated_lpi.claims.publication import Direction
from gated_lpi.claims.words import FACT_WORDS, decide_sentence, finding_sentence, over, sentence, span
from gated_lpi.report.arms import KIND_NAMES, Results
from gated_lpi.report.by_method import method_name
from gated_lpi.report.estimates import Estimate
from gated_lpi.report.findings import settling
from gated_lpi.report.lead import one_sentence
from gated_lpi.report.tables import Column, Form, Table, listing, show


@dataclass(frozen=True)
class Claim:
    """One claim of the publication, and what is observed here.

    Attributes:
        question: the claim as a question about this run.
        reported: what the publication reports.
        answer: "Supported", "Contradicted", "Mixed" or "Undecided"; "… in these runs" where no band is over
            replicates, so that nothing is said of other seeds; "Not judged" where nothing has a band.
        lead: the answer against every dense group, with its greatest difference and when that was.
        short: its effect against every dense group, in one sentence of plain words.
        decides: what it would take to decide it, or to undo the decision.
        sentences: what is observed here, a measure each.
    """

    question: str
    reported: str
    answer: str
    lead: str
    short: str
    decides: str
    sentences: tuple[str, ...]


def claims(results: Results) -> tuple[Claim, ...]:
    """The three claims, in the publication's order; none where the run has not both kinds of arm."""
    lead = next((one for one in results.judged if one.is_about_claims), None)
    if results.lacks is not None or lead is None:
        return ()
    return tuple(_claim(results, lead, place) for place in range(len(lead.findings)))


def table(results: Results) -> Table:
    """Every comparison that the claims rest on, by every method."""
    columns = (
        Column("measure"),
        Column("neurons"),
        Column("method"),
        Column("MoE"),
        Column("dense"),
        Column("claimed"),
        Column("answer"),
        Column("greatest difference"),
        Column("at"),
        Column("told apart"),
        Column("p, Holm", "number"),
        Column("in the family"),
    )
    rows = tuple(
        _row(judged, one)
        for place in range(3)
        for judged in results.judged
        if judged.is_about_claims
        for one in (*judged.findings[place].comparisons, *judged.findings[place].matched)
    )
    caption = (
        "What the claims rest on. Differences are MoE less dense, with simultaneous 95% bands over all checkpoints. p: "
        "Holm's correction over the family of counted measures by one method over one kind of neuron; measures that "
        "are not in it, and those at equal numbers of neurons, stand beside it and decide nothing."
    )
    return Table("claims", caption, columns, rows)


def _claim(results: Results, lead: Judged, place: int) -> Claim:
    finding = lead.findings[place]
    return Claim(
        finding.claim.question,
        finding.claim.reported,
        _answer(finding),
        finding_sentence(finding) if finding.judged else _nothing(results, finding),
        one_sentence(finding) if finding.judged else _nothing(results, finding),
        f"What would change this: {decide_sentence(finding)}" if finding.judged else "",
        tuple(_observed(results, place)),
    )


def _answer(finding: Finding) -> str:
    if not finding.judged:
        return "Not judged"
    judged = [one for pair in finding.pairs for one in finding.of(*pair)]
    single = finding.answer != "undecided" and all(one.contrast.over != "replicates" for one in judged)
    return finding.answer.capitalize() + (" in these runs" if single else "")


def _nothing(results: Results, finding: Finding) -> str:
    if finding.comparisons:
        return "No measure has an interval in both a mixture-of-experts and a dense arm."
    lacking = [arm.name for arm in results.arms if arm.record is None]
    if finding.claim.key == "robustness" and lacking:
        return f"Nothing to compare: ablations were not run for {listing(lacking)}."
    return "Nothing to compare: what this rests on was not scored or not run, or no arm has a pair of checkpoints."


def _observed(results: Results, place: int) -> Iterator[str]:
    """A sentence for every counted measure, by the first method; then over what, and what other methods say."""
    abouts = [one for one in results.judged if one.is_about_claims]
    first = abouts[0].method
    for judged in abouts:
        finding = judged.findings[place]
        if judged.method == first and judged.facts == "all":
            yield from (sentence(one) for one in finding.comparisons if one.measure.counted)
            yield from (sentence(one) for one in finding.matched if one.told)
        elif finding.judged:
            by = f"By {method_name(judged.method)}, {KIND_NAMES[judged.kind]}{_over(judged)}"
            yield f"{by}: {finding_sentence(finding)}"
    if abouts[0].findings[place].claim.key == "consolidation":
        yield from (settling(results, kind) for kind in results.kinds)
    if abouts[0].findings[place].claim.key == "robustness":
        yield from (f"{arm.name}: ablations not run." for arm in results.arms if arm.record is None)
    overs = dict.fromkeys(over(one) for one in abouts[0].findings[place].comparisons if one.judged)
    if overs:
        yield f"Bands are {listing(list(overs))}."


def _over(judged: Judged) -> str:
    """Over which facts, where it is not all."""
    return "" if judged.facts == "all" else f", over {FACT_WORDS[judged.facts]}"


def _row(judged: Judged, one: Compared) -> tuple[Any, ...]:
    place, c, unit = one.greatest(), one.contrast, one.measure.unit
    form: Form = "share" if unit == "share" else "percent" if unit == "percent" else "number"
    ends = (float(x[place]) for x in (c.estimate, c.low, c.high))
    greatest = show(Estimate(*ends) if place >= 0 else None, form)
    if one.measure.over_time:
        ways: tuple[Direction, ...] = ("higher", "lower")
        told = "; ".join(f"{way} {span(one, *stretch)}" for way in ways for stretch in one.stretches(way))
    else:
        told = "higher" if one.higher.any() else "lower" if one.lower.any() else ""
    return (
        one.measure.words,
        KIND_NAMES[one.kind] + _over(judged) if unit != "percent" else None,
        method_name(judged.method),
        one.moe,
        one.dense,
        one.measure.claimed,
        one.answer if one.judged else None,
        greatest + {"doublings": " doublings", "factors": " factors of two"}.get(unit, ""),
        span(one, place, place).removeprefix("at ") if one.measure.over_time and place >= 0 else None,
        told or None,
        one.adjusted,
        "at equal numbers" if one.matched else "yes" if one.family else "no",
    )
