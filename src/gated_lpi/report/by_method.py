"""Is it the method? Whether arms differ in the same way by every method that their units were scored by.

1. For every measure that claims count and every kind of neuron, two groups are compared under each method over all of
   training (`gated_lpi.claims`): higher at some time, lower at some time, both, or never told apart.
2. A finding is the *same* if every method says the same, *opposite* if one method tells the groups apart in one
   direction and another in the other, *by some* if only some tell them apart, and *none* if no method does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from gated_lpi.claims import Compared
from gated_lpi.claims.words import span
from gated_lpi.report.arms import KIND_NAMES, ArmResults, Results, capital
from gated_lpi.report.estimates import Estimate, read
from gated_lpi.report.tables import Form, listing, show

Outcome = Literal["same", "opposite", "by some", "none"]
Way = Literal["higher", "lower", "higher and lower", "not told apart"]
CONTRAST = "_contrast"
METHOD_NAMES = {
    "lpi": "Gated-LPI",
    "grad_x_act": "gradient times activation",
    "integrated_gradients": "integrated gradients",
    "direct_effect": "direct effect",
}


class Measure(NamedTuple):
    """A measure that the table of methods shows.

    Attributes:
        name: of the variable of summaries.
        place: along which dimension, and where, it is read, if not over the first window.
        form: how it is written.
    """

    name: str
    place: dict[str, int]
    form: Form


MEASURES = (
    Measure("stability", {"pair": -1}, "number"),
    Measure("gain_top_set", {"pair": -1}, "share"),
    Measure("rho_avg", {}, "number"),
    Measure("sigma_rel", {}, "number"),
)


class Finding(NamedTuple):
    """How two groups compare in one measure under each method, over all of training.

    Attributes:
        words: the measure.
        kind: of neuron.
        one, other: the groups' names.
        ways: where `one` lies, by method.
        compared: the comparisons, by method.
        outcome: whether methods say the same.
    """

    words: str
    kind: str
    one: str
    other: str
    ways: Mapping[str, Way]
    compared: Mapping[str, Compared]
    outcome: Outcome


def method_name(method: str) -> str:
    """What a method is called in words, by the name of its variable."""
    plain = method.removesuffix(CONTRAST)
    against = " against the foil" if method != plain else ""
    return METHOD_NAMES.get(plain, plain) + against


def measured(arm: ArmResults, method: str, measure: Measure, kind: str) -> Estimate:
    """A measure of an arm by one method; NaN where it has none."""
    if method not in arm.by_method:
        return Estimate(float("nan"))
    summary = arm.by_method[method]
    window = str(summary["window"].to_numpy()[0])
    return read(summary, measure.name, kind=kind, window=window, **measure.place)


def findings(results: Results) -> list[Finding]:
    """How groups compare in every counted measure under each method, where two methods or more can say."""
    gathered: dict[tuple[str, str, str, str], dict[str, Compared]] = {}
    for judged in (one for one in results.judged if one.facts == "all"):
        for one in judged.comparisons:
            if one.measure.counted and one.judged and one.measure.unit != "percent":
                key = (one.measure.words, one.kind, one.moe, one.dense)
                gathered.setdefault(key, {})[judged.method] = one
    found = []
    for (words, kind, one_name, other), by in gathered.items():
        if len(by) > 1:
            ways = {method: way(compared) for method, compared in by.items()}
            found.append(Finding(words, kind, one_name, other, ways, by, _outcome(list(ways.values()))))
    return found


def way(compared: Compared) -> Way:
    """Where the first group lies: told to be higher or lower at some time, both, or never told apart."""
    higher, lower = compared.higher.any(), compared.lower.any()
    if higher and lower:
        return "higher and lower"
    return "higher" if higher else "lower" if lower else "not told apart"


def verdict(results: Results) -> str | None:
    """Whether what sets arms apart is the method's, in a sentence; None where there are not two methods."""
    if len(results.methods) < 2:
        return None
    every = findings(results)
    by = listing([method_name(method) for method in results.methods])
    if not every:
        return (
            f"Arms were scored by {by}; no measure of two groups has an interval by two of them, so there is nothing "
            "to compare."
        )
    counted = Counter(found.outcome for found in every)
    if counted["none"] == len(every):
        return (
            f"It cannot be told: {by} tell groups apart in none of {len(every)} comparisons over all of training, so "
            "there is no finding that could depend on the method."
        )
    said = (
        f"Of {len(every)} comparisons of groups over all of training, {counted['same']} come out the same by {by}, "
        f"{counted['opposite']} the other way round, {counted['by some']} are told apart by some of them only, "
        f"{counted['none']} by none."
    )
    if counted["opposite"]:
        return f"{said} What comes out the other way round is a finding of the method, not of the model."
    if counted["by some"]:
        return f"{said} No finding is reversed by the method; those told apart by some only rest on the method chosen."
    return f"{said} No finding depends on the method."


def sentences(results: Results) -> Iterator[str]:
    """For every measure and kind of neuron, how the groups compare under each method."""
    grouped: dict[tuple[str, str], list[Finding]] = {}
    for found in findings(results):
        grouped.setdefault((found.kind, found.words), []).append(found)
    for (kind, words), several in grouped.items():
        clauses = [_clause(found) for found in several if found.outcome != "none"]
        never = [f"{found.one} and {found.other}" for found in several if found.outcome == "none"]
        if never:
            clauses.append(f"no method tells {' or '.join(never)} apart")
        yield f"{capital(KIND_NAMES[kind])}, {words}: {'; '.join(clauses)}."


def agreement_sentence(results: Results) -> str | None:
    """How far the methods' rankings of neurons agree at the last checkpoints; None where there are not two methods."""
    parts = [
        f"{arm.name} {listing(list(_agreements(arm)))}"
        for arm in results.arms
        if arm.agreement is not None and arm.agreement.sizes["comparison"]
    ]
    if not parts:
        return None
    return (
        "Spearman correlation of the methods' mean scores within layers at the last checkpoint (by chance 0): "
        f"{'; '.join(parts)}."
    )


def _agreements(arm: ArmResults) -> Iterator[str]:
    assert arm.agreement is not None
    several = arm.agreement.sizes["comparison"] > 1
    for i in range(arm.agreement.sizes["comparison"]):
        here = arm.agreement.isel(comparison=i, checkpoint=-1)
        which = f"{method_name(str(here['method'].item()))} and {method_name(str(here['other_method'].item()))}, "
        for kind in here["kind"].to_numpy().tolist():
            values = (float(here[f"spearman_within{end}"].sel(kind=kind)) for end in ("", "_low", "_high"))
            yield f"{show(Estimate(*values), 'number')} ({which if several else ''}{KIND_NAMES[kind]})"


def _outcome(ways: Sequence[Way]) -> Outcome:
    told = {one for one in ways if one != "not told apart"}
    if len(told) > 1:
        return "opposite"
    if not told:
        return "none"
    return "same" if "not told apart" not in ways else "by some"


def _clause(found: Finding) -> str:
    """Which way by which methods, and when by each."""
    grouped: dict[Way, list[str]] = {}
    for method, said in found.ways.items():
        times = _times(found.compared[method])
        grouped.setdefault(said, []).append(method_name(method) + (f" {times}" if times else ""))
    parts = [
        f"{'not told apart from' if said == 'not told apart' else said + ' than'} {found.other} by {listing(methods)}"
        for said, methods in grouped.items()
    ]
    return f"{found.one} is {', '.join(parts)}"


def _times(compared: Compared) -> str:
    if not compared.measure.over_time:
        return ""
    spans = [*compared.stretches("higher"), *compared.stretches("lower")]
    return listing([span(compared, *ends) for ends in sorted(spans)])
