"""What was found, in sentences made from the numbers: whichever way it fell, for each of three claims.

1. Every claim of the source (arXiv 2601.08383) becomes a question about this run's arms.
2. Each arm's numbers are listed with intervals and with what chance gives.
3. Mixture-of-experts (MoE) arms are compared with dense arms by `estimates.compare`: higher, lower, or not
   distinguishable. The headline counts these outcomes; no sentence says what ought to have come out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gated_lpi.report.arms import KIND_NAMES, ArmResults, Results
from gated_lpi.report.estimates import Drop, Estimate, Verdict, ablation_drop, compare, number, read
from gated_lpi.report.tables import RHO_AVG, SIGMA_REL, Form, listing, show

LAST = -1
RELIABLE_RECALL = 0.9
SMALL_SET = 10
WORDS: dict[Verdict, str] = {
    "higher": "higher than",
    "lower": "lower than",
    "not distinguishable": "not distinguishable from",
    "undefined": "not comparable with",
}


@dataclass(frozen=True)
class Finding:
    """One claim: the question, what the source reports, the outcome in one line, and the numbers."""

    question: str
    source: str
    outcome: str
    sentences: tuple[str, ...]


def findings(results: Results) -> tuple[Finding, ...]:
    """The three claims, in the source's order."""
    return _concentration(results), _consolidation(results), _robustness(results)


def recall_sentence(results: Results) -> str:
    """HIT@10 of every arm at its last checkpoint."""
    recall = [f"{arm.name} {show(_recall(arm), 'share')}" for arm in results.arms]
    own = any(arm.scores.attrs.get("target") == "top1" for arm in results.arms)
    caution = " Targets are the models' own predictions, so this is 100% by construction." if own else ""
    return f"HIT@10 at the last checkpoint, with Wilson's 95% interval: {listing(recall)}.{caution}"


def small_sets_note(results: Results) -> str | None:
    """Which top sets are too small for smooth measures; None if none is."""
    small = [
        f"{arm.name}, {KIND_NAMES[kind]}: {size}"
        for arm in results.arms
        for kind in arm.kinds()
        if (size := int(arm.summary["top_units"].sel(kind=kind))) < SMALL_SET
    ]
    if not small:
        return None
    return (
        f"Some top sets are small ({'; '.join(small)}). One neuron more or less moves their measures far, and "
        "intervals over relations can come out without width."
    )


def recall_warning(results: Results) -> str | None:
    """Which arms recall too few facts for their ablations to mean much; None if all recall enough."""
    low = [f"{arm.name} ({show(_lowest_recall(arm), 'share')})" for arm in results.arms if _recalls_too_little(arm)]
    if not low:
        return None
    return (
        f"Below {RELIABLE_RECALL:.0%} of facts recalled (HIT@10): {listing(low)}. An ablation can only take away what "
        "was there: drops, and what importance says of knowledge, mean little for such an arm."
    )


def _recall(arm: ArmResults) -> Estimate:
    return read(arm.summary, "hit", checkpoint=LAST, hit_k=10)


def _lowest_recall(arm: ArmResults) -> float:
    """The lower of the summary's HIT@10 and, at the same k, the intact one of the ablations."""
    intact = arm.record.ablation.hit if arm.record is not None and arm.record.ablation.k == 10 else float("nan")
    return float(np.fmin(_recall(arm).value, intact))


def _recalls_too_little(arm: ArmResults) -> bool:
    return _lowest_recall(arm) < RELIABLE_RECALL


def _concentration(results: Results) -> Finding:
    top = f"the top {100 * results.arms[0].summary.attrs['fraction']:g}%"
    measures: tuple[tuple[str, str, dict[str, int]], ...] = (
        (
            "importance_share",
            f"share of positive importance that {top} hold at the last checkpoint",
            {"checkpoint": LAST},
        ),
        ("gain_top_set", f"R_t, the share of positive gain over the last pair that {top} take", {"pair": LAST}),
    )
    verdicts: list[Verdict] = []
    sentences = []
    for kind in results.kinds:
        for name, what, where in measures:
            values = _estimates(results, name, kind, where)
            chance = {arm.name: number(arm.summary, f"{name}_chance", kind=kind, **where) for arm in results.arms}
            sentences.append(
                _sentence(f"{_capital(KIND_NAMES[kind])}, {what}", values, "share", results, verdicts, chance)
            )
    return Finding(
        "Is importance more concentrated in the MoE?",
        "Reported for OLMoE against OLMo, another scale: top-1% neurons take 45% to 52% of positive gain in the "
        "MoE, about 6% in the dense model.",
        _tally(results, verdicts, "Top set's share of importance and of gain"),
        tuple(sentences),
    )


def _consolidation(results: Results) -> Finding:
    verdicts: list[Verdict] = []
    sentences = []
    for kind in results.kinds:
        words = _capital(KIND_NAMES[kind])
        values = _estimates(results, "stability", kind, {"pair": LAST})
        chance = {arm.name: number(arm.summary, "stability_chance", kind=kind) for arm in results.arms}
        sentences.append(_sentence(f"{words}, J_stab of the last pair", values, "number", results, verdicts, chance))
        sentences += _earlier_pairs(results, kind, verdicts)
        sentences.append(f"{words}: {_settling(results, kind)}.")
    if not any(arm.pairs for arm in results.arms):
        sentences.insert(
            0, "Every arm has a single checkpoint: there are no pairs, so stability over training is undefined."
        )
    return Finding(
        "Do top sets and layer profiles settle earlier in the MoE?",
        f"Reported for OLMoE against OLMo: a stable profile within 100K steps, {RHO_AVG} 0.97 against 0.69, "
        f"{SIGMA_REL} 0.37 against 5.01.",
        _tally(results, verdicts, "J_stab"),
        tuple(sentences),
    )


def _earlier_pairs(results: Results, kind: str, verdicts: list[Verdict]) -> list[str]:
    """J_stab of MoE and dense arms at every pair of checkpoints but the last, counted."""
    clauses = []
    for moe in results.moe:
        for dense in results.dense:
            outcomes = [
                compare(
                    read(moe.summary, "stability", kind=kind, pair=i),
                    read(dense.summary, "stability", kind=kind, pair=j),
                )
                for i, j in _shared_pairs(moe, dense)
            ]
            verdicts += outcomes
            if outcomes:
                clauses.append(f"{moe.name} against {dense.name} at {len(outcomes)} pairs: {_counts(outcomes)}")
    return [f"{_capital(KIND_NAMES[kind])}, J_stab of earlier pairs: {'; '.join(clauses)}."] if clauses else []


def _shared_pairs(one: ArmResults, other: ArmResults) -> list[tuple[int, int]]:
    """Places of the pairs of steps that both arms have, the last pair of each left out."""
    steps = [
        list(zip(arm.summary["pair_step"].to_numpy(), arm.summary["pair_next_step"].to_numpy(), strict=True))[:-1]
        for arm in (one, other)
    ]
    return [(i, steps[1].index(pair)) for i, pair in enumerate(steps[0]) if pair in steps[1]]


def _settling(results: Results, kind: str) -> str:
    """From which step on J_stab and the profile stay above their thresholds, and ρ_avg."""
    attributes = results.arms[0].summary.attrs
    window = str(results.arms[0].summary["window"].to_numpy()[0])
    stable = _steps(results, kind, "consolidation_stability")
    profile = _steps(results, kind, "consolidation_profile")
    rho = [
        f"{show(number(arm.summary, 'rho_avg', kind=kind, window=window), 'number')} in {arm.name}"
        for arm in results.arms
    ]
    return (
        f"J_stab stays at or above {attributes['stability_threshold']:g} {stable}; the layer profile's correlation "
        f"with the last one stays at or above {attributes['profile_threshold']:g} {profile}; {RHO_AVG} over the "
        f"window “{window}” is {listing(rho)}"
    )


def _steps(results: Results, kind: str, name: str) -> str:
    steps = {arm.name: number(arm.summary, name, kind=kind) for arm in results.arms}
    return listing([f"never in {arm}" if np.isnan(s) else f"from step {int(s):,} in {arm}" for arm, s in steps.items()])


def _robustness(results: Results) -> Finding:
    drops = {
        arm.name: {row.name: ablation_drop(arm.record.ablation, row) for row in arm.record.ablation.rows}
        for arm in results.arms
        if arm.record is not None
    }
    verdicts: list[Verdict] = []
    sentences = [f"{arm.name}: ablations not run." for arm in results.arms if arm.record is None]
    for row in dict.fromkeys(name for by_row in drops.values() for name in by_row):
        here = {arm: by_row[row] for arm, by_row in drops.items() if row in by_row}
        values = {arm: drop.drop for arm, drop in here.items()}
        words = listing([_drop_words(arm, drop) for arm, drop in here.items()])
        sentences.append(
            f"Without its {row}, HIT@{_ks(results)} falls by {words}.{_verdicts(values, results, verdicts)}"
        )
    draws = {len(drop.random_drops) for by_row in drops.values() for drop in by_row.values()} - {0}
    if draws:
        least = show(1 / (max(draws) + 1), "number")
        sentences.append(f"With {max(draws)} random draws, p cannot come out below {least}.")
    return Finding(
        "Is recall more robust in the MoE?",
        "Reported for OLMoE against OLMo: without the top-10 heads HIT@10 falls by 9.4% against 50.4%.",
        _tally(results, verdicts, "Recall lost to ablation"),
        tuple(sentences),
    )


def _ks(results: Results) -> str:
    """The k of HIT@k of the ablations."""
    ks = {arm.record.ablation.k for arm in results.arms if arm.record is not None}
    return "/".join(map(str, sorted(ks)))


def _drop_words(arm: str, drop: Drop) -> str:
    value = f"{show(drop.drop, 'percent')} in {arm}"
    if not drop.random_drops:
        return f"{value} (no random control)"
    return (
        f"{value} (random: {show(drop.random.mean, 'percent')} ± {show(drop.random.std, 'percent')}, p = "
        f"{show(drop.random.p_value, 'number')})"
    )


def _estimates(results: Results, name: str, kind: str, where: Mapping[str, int]) -> dict[str, Estimate]:
    return {arm.name: read(arm.summary, name, kind=kind, **where) for arm in results.arms}


def _sentence(
    what: str,
    values: Mapping[str, Estimate],
    form: Form,
    results: Results,
    verdicts: list[Verdict],
    chance: Mapping[str, float],
) -> str:
    """List every arm's value beside chance, then how MoE arms compare; the outcomes are added to `verdicts`."""
    listed = listing([f"{arm} {show(value, form)} (chance {show(chance[arm], form)})" for arm, value in values.items()])
    return f"{what}: {listed}.{_verdicts(values, results, verdicts)}"


def _verdicts(values: Mapping[str, Estimate], results: Results, verdicts: list[Verdict]) -> str:
    """One clause for each MoE arm: how it compares with each dense arm that has a value."""
    clauses = []
    for moe in results.moe:
        outcomes = {
            d.name: compare(values[moe.name], values[d.name])
            for d in results.dense
            if {moe.name, d.name} <= values.keys()
        }
        verdicts += outcomes.values()
        grouped: dict[Verdict, list[str]] = {}
        for dense, outcome in outcomes.items():
            grouped.setdefault(outcome, []).append(dense)
        if grouped:
            words = listing([f"{WORDS[outcome]} {listing(arms)}" for outcome, arms in grouped.items()])
            clauses.append(f" {moe.name} is {words}.")
    return "".join(clauses)


def _tally(results: Results, verdicts: Sequence[Verdict], what: str) -> str:
    """The outcome in one line."""
    if not results.moe or not results.dense:
        have = "no mixture-of-experts arm" if not results.moe else "no dense arm"
        return f"This run has {have}: there is nothing to compare, and each arm's values stand alone."
    told = [verdict for verdict in verdicts if verdict != "undefined"]
    if not verdicts:
        return "Nothing to compare: what this rests on was not scored or not run."
    if not told:
        return "Nothing to compare: no value has an interval in both a mixture-of-experts and a dense arm."
    counted, moe = Counter(told), listing([arm.name for arm in results.moe])
    return (
        f"{what}: {moe} higher than a dense arm in {counted['higher']} of {len(told)} comparisons, lower in "
        f"{counted['lower']}, not distinguishable in {counted['not distinguishable']}."
    )


def _counts(verdicts: Sequence[Verdict]) -> str:
    counted = Counter(verdicts)
    return listing(
        [f"{outcome} in {counted[outcome]}" for outcome in WORDS if outcome != "undefined" or counted[outcome]]
    )


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
