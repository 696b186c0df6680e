"""The first screen's sentences: each question of a report with its verdict and its effect, in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from gated_lpi.claims import Compared, Finding
from gated_lpi.claims.publication import Direction
from gated_lpi.claims.words import SHORT_UNITS, interval, leading, taken_back, when, written
from gated_lpi.report.arms import Results, capital
from gated_lpi.report.by_method import findings, method_name
from gated_lpi.report.estimates import Estimate, read
from gated_lpi.report.findings import RELIABLE_RECALL, recall
from gated_lpi.report.plain_words import briefly, measured_in_words
from gated_lpi.report.routing_share import explained
from gated_lpi.report.tables import listing, show

Tone = Literal["supported", "contradicted", "mixed", "undecided"]
HALF = 0.5
LAST = -1


class Answered(NamedTuple):
    """A question of the report.

    Attributes:
        question: asked of this run.
        verdict: in a word or two.
        tone: how it is shown.
        sentence: by how much, when, and how sure.
        anchor: the section that has more.
    """

    question: str
    verdict: str
    tone: Tone
    sentence: str
    anchor: str


def one_sentence(finding: Finding) -> str:
    """A claim's effect against every dense group, in one sentence."""
    named: set[str] = set()
    answers = {finding.against(*pair) for pair in finding.pairs}
    clauses = []
    for moe, dense in finding.pairs:
        clause = _clause(finding, moe, dense, named)
        clauses.append(clause if len(answers) == 1 else f"{finding.against(moe, dense)} against {dense}: {clause}")
    return capital("; ".join(clauses) + ".")


def _clause(finding: Finding, moe: str, dense: str, named: set[str]) -> str:
    """The effect against one dense group; `named` are the measures that the sentence has explained."""
    told = finding.of(moe, dense)
    if not told:
        return f"nothing has an interval in both {moe} and {dense}"
    answer = finding.against(moe, dense)
    one = leading(told, answer)
    if answer == "mixed":
        return ", but ".join(_way(of, way, named) for of, way in _both(told))
    if one.told:
        return _way(one, "higher" if one.higher.any() else "lower", named)
    if answer == "contradicted":  # every band lies within differences that would not matter
        least = f"{written(one.measure.smallest, one.measure.unit)}{SHORT_UNITS[one.measure.unit]}"
        return f"differences between {moe} and {dense} are below {least} in {_words(one, named)}"
    place = one.greatest()
    return (
        f"no difference between {moe} and {dense} is told from 0; clearest is {_amount(one, place, size=False)} in "
        f"{_words(one, named)}{_at(one, place)}{taken_back(one, place)}"
    )


def _both(told: Sequence[Compared]) -> list[tuple[Compared, Direction]]:
    """What speaks most for a claim and what most against it: measures, or times of one."""
    ways: tuple[Direction, ...] = ("higher", "lower")
    found = [(one, way) for one in told for way in ways if (one.higher if way == "higher" else one.lower).any()]

    def weight(case: tuple[Compared, Direction]) -> float:
        one, way = case
        place = one.greatest(one.higher if way == "higher" else one.lower)
        return abs(float(one.contrast.estimate[place])) / float(one.contrast.error[place])

    sides = ([case for case in found if (case[0].measure.claimed == case[1]) is wanted] for wanted in (True, False))
    return [max(side, key=weight) for side in sides if side]


def _way(one: Compared, way: Direction, named: set[str]) -> str:
    """That a measure is higher, or lower, by how much and when."""
    mask = one.higher if way == "higher" else one.lower
    place = one.greatest(mask)
    most = "up to " if one.measure.over_time and mask.sum() > 1 else ""
    return (
        f"{_words(one, named)} is {way} in {one.moe} than in {one.dense}, by {most}{_amount(one, place, size=True)}"
        f"{_at(one, place)}"
    )


def _words(one: Compared, named: set[str]) -> str:
    words = briefly(one.measure) if one.measure.name in named else measured_in_words(one.measure)
    named.add(one.measure.name)
    return words


def _at(one: Compared, place: int) -> str:
    return f" at {when(one, place)}" if one.measure.over_time else ""


def _amount(one: Compared, place: int, *, size: bool) -> str:
    """A difference with its band; of what is measured in doublings, as a factor."""
    if one.measure.unit not in ("doublings", "factors"):
        return interval(one, place, size=size)
    value, low, high = (float(x[place]) for x in one.contrast[:3])
    if size and value < 0:
        value, low, high = -value, -high, -low
    band = f" [{2.0**low:.2f}, {2.0**high:.2f}]" if np.isfinite(low) else ""
    return f"a factor of {2.0**value:.2f}{band}"


def recalled(results: Results) -> Answered:
    """Whether the models know what they are asked at the end."""
    by_group = {group: [recall(results.arm(name)) for name in names] for group, names in results.groups.items()}
    parts = [f"{_range(values)} in {group}" for group, values in by_group.items() if values]
    least = min((value.value for values in by_group.values() for value in values), default=float("nan"))
    verdict, tone = _recall_verdict(least)
    sentence = (
        f"Share of prompts with the right token among the ten likeliest at the end (HIT@10): {listing(parts)}."
        if np.isfinite(least)
        else "The rank of the right token was not recorded."
    )
    if any(arm.scores.attrs.get("target") == "top1" for arm in results.arms):
        sentence += " Targets are the models' own predictions, so this is 100% by construction."
    return Answered("Do the models know the facts?", verdict, tone, sentence, "recall")


def by_method(results: Results) -> Answered | None:
    """Whether another method would say the same; None where there is no other."""
    every = findings(results) if len(results.methods) > 1 else []
    if not every:
        return None
    counted: Counter[str] = Counter(found.outcome for found in every)
    by = listing([method_name(method) for method in results.methods])
    told = len(every) - counted["none"]
    verdict, tone = _method_verdict(counted, told)
    if not told:
        sentence = f"No difference between groups is told from 0 by {by}, so there is none that could be a method's."
        return Answered("Is it the method?", verdict, tone, sentence, "method")
    sentence = (
        f"Of {told} differences between groups that {by} find, {counted['same']} are found by all alike, "
        f"{counted['by some']} by some only, and {counted['opposite']} come out the other way round."
    )
    return Answered("Is it the method?", verdict, tone, sentence, "method")


def neurons_or_routing(results: Results) -> Answered | None:
    """What of the importance's changes, or of its stability, is the routing's; None where that was not measured."""
    split = {
        arm.name: read(arm.split, "routing_share", checkpoint=LAST) for arm in results.moe if arm.split is not None
    }
    shares = {arm: share for arm, share in split.items() if np.isfinite(share.value)}
    what = "of how scores change between the last two checkpoints"
    if not shares:
        shares = {arm.name: share for arm in results.moe if (share := explained(arm, "stability")) is not None}
        what = "of the top sets' stability (J_stab)"
    if not shares:
        return None
    values = list(shares.values())
    lows = [value.low if value.has_interval else value.value for value in values]
    highs = [value.high if value.has_interval else value.value for value in values]
    verdict, tone = _routing_verdict(min(lows), max(highs))
    where = next(iter(shares)) if len(shares) == 1 else f"{len(shares)} arms with experts"
    sentence = f"Routing alone explains {_range(values)} {what} in {where}."
    return Answered("Neurons or routing?", verdict, tone, sentence, "neurons-or-routing")


def _recall_verdict(least: float) -> tuple[str, Tone]:
    if not np.isfinite(least):
        return "Not recorded", "undecided"
    return ("Yes", "supported") if least >= RELIABLE_RECALL else ("Not all", "mixed")


def _method_verdict(counted: Counter[str], told: int) -> tuple[str, Tone]:
    if not told:
        return "Cannot be told", "undecided"
    if counted["opposite"]:
        return "In part", "mixed"
    return ("No", "supported") if counted["same"] == told else ("Not reversed", "undecided")


def _routing_verdict(low: float, high: float) -> tuple[str, Tone]:
    if high < HALF:
        return "Neurons, mostly", "supported"
    return ("Routing, mostly", "supported") if low > HALF else ("Undecided", "undecided")


def _range(values: Sequence[Estimate]) -> str:
    """One estimate with its interval, or the least and the greatest of several."""
    known = [value.value for value in values if np.isfinite(value.value)]
    if len(values) == 1 or not known:
        return show(values[0], "share")
    return f"{show(min(known), 'share')} to {show(max(known), 'share')}"
