"""Is it the method? Whether arms differ in the same way by every method that their units were scored by.

1. For every measure and kind of neuron, two arms are compared under each method: by `estimates.compare` where the
   measure has intervals (J_stab, R_t), else by their order alone (ρ_avg, σ_rel).
2. A finding is the *same* if every method tells the arms apart in one direction, *opposite* if two methods do in two,
   *by some* if only some tell them apart, and *none* if no method does.
3. Only measures with intervals are counted; of the others it is said whether the order is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from gated_lpi.report.arms import KIND_NAMES, ArmResults, Results, capital
from gated_lpi.report.estimates import Estimate, Verdict, compare, read
from gated_lpi.report.tables import RHO_AVG, SIGMA_REL, Form, listing, show

Outcome = Literal["same", "opposite", "by some", "none"]
CONTRAST = "_contrast"
METHOD_NAMES = {
    "lpi": "Gated-LPI",
    "grad_x_act": "gradient times activation",
    "integrated_gradients": "integrated gradients",
    "direct_effect": "direct effect",
}


class Measure(NamedTuple):
    """A measure that methods are compared by.

    Attributes:
        words: what it is called in sentences.
        name: of the variable of summaries.
        place: along which dimension, and where, it is read, if not over the first window.
        form: how it is written.
        interval: whether it has one.
    """

    words: str
    name: str
    place: dict[str, int]
    form: Form
    interval: bool


MEASURES = (
    Measure("J_stab of the last pair", "stability", {"pair": -1}, "number", True),
    Measure("R_t of the last pair", "gain_top_set", {"pair": -1}, "share", True),
    Measure(RHO_AVG, "rho_avg", {}, "number", False),
    Measure(SIGMA_REL, "sigma_rel", {}, "number", False),
)


class Finding(NamedTuple):
    """How two arms compare in one measure under each method.

    Attributes:
        one, other: the arms' names.
        verdicts: where the value of `one` lies, by method.
        outcome: whether methods say the same.
    """

    one: str
    other: str
    verdicts: Mapping[str, Verdict]
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


def findings(results: Results, measure: Measure, kind: str) -> list[Finding]:
    """How arms compare in one measure: each MoE arm with each dense one if there are both, else each with each."""
    pairs = [(moe, dense) for moe in results.moe for dense in results.dense] or list(combinations(results.arms, 2))
    found = []
    for one, other in pairs:
        verdicts = {
            method: _verdict(measured(one, method, measure, kind), measured(other, method, measure, kind), measure)
            for method in results.methods
        }
        told = {method: verdict for method, verdict in verdicts.items() if verdict != "undefined"}
        if len(told) > 1:
            found.append(Finding(one.name, other.name, told, _outcome(list(told.values()))))
    return found


def verdict(results: Results) -> str | None:
    """Whether what sets arms apart is the method's, in a sentence; None where there are not two methods."""
    if len(results.methods) < 2:
        return None
    every = [
        found
        for kind in results.kinds
        for measure in MEASURES
        if measure.interval
        for found in findings(results, measure, kind)
    ]
    by = listing([method_name(method) for method in results.methods])
    if not every:
        return f"Arms were scored by {by}; there are no two arms with pairs of checkpoints to compare by both."
    counted = Counter(found.outcome for found in every)
    said = (
        f"Of {len(every)} comparisons of arms by J_stab and R_t, {counted['same']} come out the same by {by}, "
        f"{counted['opposite']} the other way round, {counted['by some']} are told apart by some of them only, "
        f"{counted['none']} by none."
    )
    if counted["opposite"]:
        return f"{said} What comes out the other way round is a finding of the method, not of the model."
    if counted["by some"]:
        return f"{said} No finding is reversed by the method; those told apart by some only rest on the method chosen."
    return f"{said} No finding depends on the method."


def sentences(results: Results) -> Iterator[str]:
    """For every measure and kind of neuron, how the arms compare under each method."""
    for kind in results.kinds:
        for measure in MEASURES:
            clauses = [_clause(found) for found in findings(results, measure, kind)]
            if clauses:
                unsure = "" if measure.interval else " (the order of values, without intervals)"
                yield f"{capital(KIND_NAMES[kind])}, {measure.words}{unsure}: {'; '.join(clauses)}."


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


def _verdict(one: Estimate, other: Estimate, measure: Measure) -> Verdict:
    if measure.interval:
        return compare(one, other)
    if np.isnan(one.value) or np.isnan(other.value):
        return "undefined"
    if one.value == other.value:
        return "not distinguishable"
    return "higher" if one.value > other.value else "lower"


def _outcome(verdicts: Sequence[Verdict]) -> Outcome:
    different = set(verdicts)
    if {"higher", "lower"} <= different:
        return "opposite"
    if different == {"not distinguishable"}:
        return "none"
    return "same" if len(different) == 1 else "by some"


def _clause(found: Finding) -> str:
    grouped: dict[Verdict, list[str]] = {}
    for method, said in found.verdicts.items():
        grouped.setdefault(said, []).append(method_name(method))
    words: dict[Verdict, str] = {
        "higher": "higher than",
        "lower": "lower than",
        "not distinguishable": "not distinguishable from",
    }
    if len(grouped) == 1:
        (said,) = grouped
        return f"{found.one} is {words[said]} {found.other} by every method"
    parts = [f"{words[said]} {found.other} by {listing(methods)}" for said, methods in grouped.items()]
    return f"{found.one} is {', '.join(parts)}"
