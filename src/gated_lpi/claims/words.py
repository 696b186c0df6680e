"""What was found, in sentences: which way, by how much, when, over what, and what would decide or undo it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gated_lpi.claims.judge import LEAST, Answer, Compared
from gated_lpi.claims.judged import Finding
from gated_lpi.claims.publication import UNIT_WORDS, Direction, Unit
from gated_lpi.claims.series import COUNTED, Facts
from gated_lpi.unit_names import KIND_NAMES

KIND_WORDS = KIND_NAMES
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
FACT_WORDS: dict[Facts, str] = {
    "all": "all facts",
    "known": "facts known at the checkpoint",
    "known_last": "facts known at the end",
}
SHORT_UNITS: dict[Unit, str] = {
    "share": " points",
    "number": "",
    "doublings": " doublings",
    "factors": " factors of two",
    "percent": " points",
    "neurons": " neurons",
}


def scaled(value: float, unit: Unit) -> float:
    """A value in the unit that is shown: shares in percentage points."""
    return 100.0 * value if unit == "share" else value


def written(value: float, unit: Unit, *, signed: bool = False) -> str:
    """A value or difference as text, without its unit; – where there is none."""
    if not math.isfinite(value):
        return DASH
    decimals = {"share": 1, "percent": 1, "number": 2, "doublings": 1, "factors": 1, "neurons": 0}[unit]
    text = f"{scaled(value, unit):{'+' if signed else ''}z,.{decimals}f}"  # z: no negative zero
    return text.replace("-", MINUS)


def interval(one: Compared, place: int, *, size: bool = False) -> str:
    """The difference at one place with its band; its size alone, where the sentence says which way it is."""
    c, unit = one.contrast, one.measure.unit
    value, low, high = (float(x[place]) for x in (c.estimate, c.low, c.high))
    if size and value < 0:
        value, low, high = -value, -high, -low
    band = f" [{written(low, unit)}, {written(high, unit)}]" if math.isfinite(low) else ""
    return f"{written(value, unit)}{SHORT_UNITS[unit]}{band}"


def taken_back(one: Compared, place: int) -> str:
    """Why groups are not told apart though the band of their difference leaves 0 out; "" where it does not."""
    low, high = (float(ends[place]) for ends in (one.contrast.low, one.contrast.high))
    if one.told or not (low > 0 or high < 0):
        return ""
    if one.family < 2:
        return f", whose band leaves 0 out though p = {one.adjusted:.2g}"
    return f", whose band leaves 0 out only before Holm's correction for {one.family} measures (p = {one.adjusted:.2g})"


def when(one: Compared, place: int) -> str:
    """A point of training: its step where arms have it in common, else its tokens."""
    if one.clock in COUNTED:
        return f"{_short(float(one.at[place]))} {one.clock}"
    if one.steps.size and math.isfinite(one.steps[place]):
        return f"step {int(one.steps[place]):,}"
    if one.clock == "tokens":
        return f"{_short(float(one.at[place]))} tokens"
    return f"checkpoint {int(one.at[place]) + 1}" if one.clock == "checkpoint" else f"step {int(one.at[place]):,}"


def span(one: Compared, first: int, last: int) -> str:
    """A stretch of training."""
    return f"at {when(one, first)}" if first == last else f"from {when(one, first)} to {when(one, last)}"


def what(one: Compared) -> str:
    """The measure, of which units, and at equal numbers of them where it is."""
    about = [] if one.measure.unit == "percent" else [KIND_WORDS[one.kind]]
    about += ["at equal numbers"] if one.matched else []
    return f"{one.measure.words} ({', '.join(about)})" if about else one.measure.words


def sentence(one: Compared) -> str:
    """How two groups compare in one measure, when, and by how much."""
    place = one.greatest()
    if place < 0:
        return f"{what(one)} cannot be compared: it is undefined in {one.moe} or {one.dense}."
    if not one.judged:
        return (
            f"{what(one)}: {_values(one, place)}, a difference of {interval(one, place)} without an interval, so "
            f"{one.moe} "
            f"and {one.dense} cannot be told apart."
        )
    if not one.told:
        at = f" {'at ' + when(one, place)}" if one.measure.over_time else ""
        never = "at no time" if one.measure.over_time else "not"
        difference = "the greatest difference" if one.measure.over_time else "the difference"
        excluded = (
            f"; differences of {written(one.measure.smallest, one.measure.unit)}{SHORT_UNITS[one.measure.unit]} or "
            f"more "
            "are excluded"
            if one.negligible
            else ""
        )
        return (
            f"{what(one)} is {never} told apart between {one.moe} and {one.dense}: {difference} is "
            f"{interval(one, place)}{at}{_small(one)}{taken_back(one, place)}{excluded}."
        )
    if not one.measure.over_time:
        way = "higher" if one.higher.any() else "lower"
        return (
            f"{what(one)} is {way} in {one.moe} than in {one.dense}, by {interval(one, place, size=True)} "
            f"({_values(one, place)}){_small(one)}."
        )
    parts = list(_ways(one))
    rest = "" if (one.higher | one.lower).all() else "; not told apart elsewhere"
    return f"{what(one)} is {', and '.join(parts)}{rest}."


def _ways(one: Compared) -> Iterator[str]:
    directions: tuple[Direction, ...] = ("higher", "lower")
    for number, way in enumerate(d for d in directions if (one.higher if d == "higher" else one.lower).any()):
        mask = one.higher if way == "higher" else one.lower
        place = one.greatest(mask)
        spans = [span(one, *ends) for ends in one.stretches(way)]
        shown = f"{', '.join(spans[:-1])} and {spans[-1]}" if len(spans) > 1 else spans[0]
        names = f" in {one.moe} than in {one.dense}" if number == 0 else ""
        most = interval(one, place, size=True)
        yield (
            f"{way}{names} {shown}, by {most}"
            if mask.sum() == 1
            else (f"{way}{names} {shown}, by at most {most} at {when(one, place)}")
        )


def _values(one: Compared, place: int) -> str:
    unit = one.measure.unit
    if unit in ("doublings", "factors"):
        moe, dense = (
            _short(2.0 ** float(value[place])) if math.isfinite(value[place]) else DASH
            for value in (one.moe_value, one.dense_value)
        )
        of = f" {one.clock}" if unit == "doublings" and one.clock in ("tokens", *COUNTED) else ""
        return f"{moe}{of} against {dense}"
    sign = "%" if unit in ("share", "percent") else ""
    moe, dense = (f"{written(float(value[place]), unit)}{sign}" for value in (one.moe_value, one.dense_value))
    return f"{moe} against {dense}"


def _small(one: Compared) -> str:
    """Which values are bounds, as they lie beyond the training."""
    if not one.censored:
        return ""
    return f" (not reached within the training in {' and '.join(one.censored)}: a bound)"


def over(one: Compared) -> str:
    """What an interval is over, and what it therefore does not say."""
    n, m = one.replicates
    count = f"{n} replicates each" if n == m else f"{n} and {m} replicates"
    if one.contrast.over == "replicates":
        return f"over {count}{', in pairs of one seed and order of data' if one.paired else ''}"
    if one.contrast.over == "relations":
        return f"over about {one.relations:.0f} relations, not over seeds: {_runs(one)}"
    if one.contrast.over == "prompts":
        return f"over prompts, not over seeds: {_runs(one)}"
    return "without an interval"


def _runs(one: Compared) -> str:
    n, m = one.replicates
    return "one training run of each" if n == m == 1 else f"{n} and {m} training runs"


def would_decide(comparisons: Sequence[Compared], answer: Answer) -> str:
    """What it would take to decide a claim, or what would undo the decision."""
    told = [one for one in comparisons if one.judged]
    if not told:
        return "scores by relation, or three replicates or more of both groups: there is no interval"
    least = min(min(one.replicates) for one in told)
    seeds = f"{LEAST} replicates or more of each, instead of {least}, so that other seeds are spoken for"
    lead = leading(told, answer)
    if answer in ("supported", "contradicted"):
        other = "the other sign" if lead.told else "a difference that matters"
        if lead.contrast.over != "replicates":
            return f"{seeds}; {other} over them would undo it"
        return f"{other} over more replicates, another size or other data would undo it"
    if answer == "mixed":
        return "measures or times disagree: which of them the claim is about has to be said, not measured"
    if lead.contrast.over != "replicates":
        return f"{seeds}; {_sees(lead)}"
    needed = lead.needed
    name = _lower(lead.measure.words)
    if needed is None:
        return f"more replicates than can be named for {name}, whose greatest difference is small; {_sees(lead)}"
    return f"{needed} replicates of each for {name} as different as it is here (now {least}); {_sees(lead)}"


def _sees(one: Compared) -> str:
    unit, name = one.measure.unit, _lower(one.measure.words)
    if one.detectable >= one.measure.widest:
        return f"no difference in {name} is so large that this design would see it in four of five runs"
    least = f"{written(one.detectable, unit)}{SHORT_UNITS[unit]}"
    return f"this design sees differences of {least} or more in {name} in four of five runs"


def leading(comparisons: Sequence[Compared], answer: Answer) -> Compared:
    """The comparison that says most: of those that gave the answer, the one of most standard errors."""

    def weight(one: Compared) -> tuple[bool, float]:
        place = one.greatest()
        return one.answer == answer, abs(float(one.contrast.estimate[place])) / float(one.contrast.error[place])

    return max(comparisons, key=weight)


def finding_sentence(finding: Finding) -> str:
    """A claim's answer against each dense group, with its greatest difference and when that was."""
    several = len({moe for moe, _ in finding.pairs}) > 1
    answers = {finding.against(*pair) for pair in finding.pairs}
    clauses = []
    for moe, dense in finding.pairs:
        told = finding.of(moe, dense)
        if not told:
            clauses.append(f"Not to be judged against {dense}: nothing has an interval.")
            continue
        answer = finding.against(moe, dense)
        said = sentence(leading(told, answer))
        if answer == "mixed":
            undone = next((one for one in told if one.answer == "contradicted"), None)
            said += f" But {_lower(sentence(undone))}" if undone is not None else ""
        if len(answers) > 1:
            who = f"{moe} against {dense}" if several else f"against {dense}"
            said = f"{answer.capitalize()} {who}: {said}"
        clauses.append(said)
    return " ".join(clauses)


def _lower(text: str) -> str:
    """A sentence as it goes on after a word: R_t and σ_rel keep their letters."""
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def decide_sentence(finding: Finding) -> str:
    """What it would take to decide a claim, or to undo it, for every pair of groups."""
    told = {pair: would_decide(finding.of(*pair), finding.against(*pair)) for pair in finding.pairs}
    by_words: dict[str, list[str]] = {}
    for (_, dense), words in told.items():
        by_words.setdefault(words, []).append(dense)
    if len(by_words) == 1:
        return f"{next(iter(by_words))}."
    return " ".join(f"Against {' and '.join(names)}: {words}." for words, names in by_words.items())


def unit_words(unit: Unit) -> str:
    """The unit of differences as tables have it."""
    return UNIT_WORDS[unit]


def _short(value: float) -> str:
    """A count in few characters: 1200000 is 1.2M."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"
