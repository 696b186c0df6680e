"""What a run shows of the publication's three claims for mixture-of-experts (MoE) models, whichever way it fell.

1. Every claim (arXiv 2601.08383) becomes a question about this run's arms, if it has MoE and dense ones.
2. An observation lists each arm's numbers, with intervals and with what chance gives, and compares each MoE arm with
   each dense one by `estimates.compare`: higher, lower, or not distinguishable.
3. The outcome of a claim counts its comparisons; no sentence says what ought to have come out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gated_lpi.report.arms import KIND_NAMES, ArmResults, Results, capital
from gated_lpi.report.by_method import method_name
from gated_lpi.report.estimates import Drop, Estimate, Verdict, ablation_drop, compare, number, read
from gated_lpi.report.findings import settling
from gated_lpi.report.tables import RHO_AVG, SIGMA_REL, Form, listing, show
from gated_lpi.results.records import AblationRow

LAST = -1
WORDS: dict[Verdict, str] = {
    "higher": "higher than",
    "lower": "lower than",
    "not distinguishable": "not distinguishable from",
    "undefined": "not comparable with",
}


class Comparison(NamedTuple):
    """How one value of an MoE arm lies as against that of a dense arm.

    Attributes:
        moe: name of the MoE arm.
        dense: name of the dense arm.
        verdict: where the MoE arm's value lies.
    """

    moe: str
    dense: str
    verdict: Verdict


@dataclass(frozen=True)
class Observation:
    """One measure in words, by arm, and how MoE and dense arms compare in it.

    Attributes:
        words: the measure and the arms' values.
        comparisons: each MoE arm with each dense one.
        counted: whether the words tell how the arms compare, too.
    """

    words: str
    comparisons: tuple[Comparison, ...] = ()
    counted: bool = False

    @property
    def sentence(self) -> str:
        """The words, then one clause for each MoE arm."""
        return self.words if self.counted else self.words + "".join(f" {clause}" for clause in self._clauses())

    def _clauses(self) -> Iterator[str]:
        for moe in dict.fromkeys(comparison.moe for comparison in self.comparisons):
            grouped: dict[Verdict, list[str]] = {}
            for comparison in self.comparisons:
                if comparison.moe == moe:
                    grouped.setdefault(comparison.verdict, []).append(comparison.dense)
            yield f"{moe} is {listing([f'{WORDS[verdict]} {listing(arms)}' for verdict, arms in grouped.items()])}."


@dataclass(frozen=True)
class Claim:
    """One claim of the publication, and what is observed here.

    Attributes:
        question: the claim as a question about this run.
        reported: what the publication reports.
        subject: what is compared.
        observations: what is observed here.
    """

    question: str
    reported: str
    subject: str
    observations: tuple[Observation, ...]

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparisons of all of its observations, in their order."""
        return tuple(comparison for observation in self.observations for comparison in observation.comparisons)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Its observations in words."""
        return tuple(observation.sentence for observation in self.observations)

    @property
    def outcome(self) -> str:
        """How the comparisons came out, in one line."""
        told = [comparison for comparison in self.comparisons if comparison.verdict != "undefined"]
        if not self.comparisons:
            return "Nothing to compare: what this rests on was not scored or not run."
        if not told:
            return "Nothing to compare: no value has an interval in both a mixture-of-experts and a dense arm."
        counted = Counter(comparison.verdict for comparison in told)
        moe = listing(list(dict.fromkeys(comparison.moe for comparison in self.comparisons)))
        return (
            f"{self.subject}: {moe} higher than a dense arm in {counted['higher']} of {len(told)} comparisons, lower "
            f"in {counted['lower']}, not distinguishable in {counted['not distinguishable']}."
        )


def claims(results: Results) -> tuple[Claim, ...]:
    """The three claims, in the publication's order; none where the run has not both kinds of arm."""
    if results.lacks is not None:
        return ()
    return _concentration(results), _consolidation(results), _robustness(results)


def _concentration(results: Results) -> Claim:
    top = f"the top {100 * results.arms[0].summary.attrs['fraction']:g}%"
    measures: tuple[tuple[str, str, dict[str, int]], ...] = (
        (
            "importance_share",
            f"share of positive importance that {top} hold at the last checkpoint",
            {"checkpoint": LAST},
        ),
        ("gain_top_set", f"R_t, the share of positive gain over the last pair that {top} take", {"pair": LAST}),
    )
    return Claim(
        "Is importance more concentrated in the MoE?",
        "Reported for OLMoE against OLMo, another scale: top-1% neurons take 45% to 52% of positive gain in the "
        "MoE, about 6% in the dense model.",
        "Top set's share of importance and of gain",
        tuple(
            _observed(results, f"{capital(KIND_NAMES[kind])}, {what}", name, kind, where, "share")
            for kind in results.kinds
            for name, what, where in measures
        ),
    )


def _consolidation(results: Results) -> Claim:
    observations = []
    if not any(arm.pairs for arm in results.arms):
        single = "Every arm has a single checkpoint: there are no pairs, so stability over training is undefined."
        observations.append(Observation(single))
    for kind in results.kinds:
        what = f"{capital(KIND_NAMES[kind])}, J_stab of the last pair"
        observations.append(_observed(results, what, "stability", kind, {"pair": LAST}, "number"))
        observations += _earlier_pairs(results, kind)
        observations.append(Observation(settling(results, kind)))
    return Claim(
        "Do top sets and layer profiles settle earlier in the MoE?",
        f"Reported for OLMoE against OLMo: a stable profile within 100K steps, {RHO_AVG} 0.97 against 0.69, "
        f"{SIGMA_REL} 0.37 against 5.01.",
        "J_stab",
        tuple(observations),
    )


def _earlier_pairs(results: Results, kind: str) -> Iterator[Observation]:
    """J_stab of MoE and dense arms at every pair of checkpoints but the last, counted."""
    clauses, comparisons = [], []
    for moe in results.moe:
        for dense in results.dense:
            found = [
                Comparison(
                    moe.name,
                    dense.name,
                    compare(
                        read(moe.summary, "stability", kind=kind, pair=i),
                        read(dense.summary, "stability", kind=kind, pair=j),
                    ),
                )
                for i, j in _shared_pairs(moe, dense)
            ]
            comparisons += found
            if found:
                verdicts = [comparison.verdict for comparison in found]
                clauses.append(f"{moe.name} against {dense.name} at {len(found)} pairs: {_counts(verdicts)}")
    if clauses:
        words = f"{capital(KIND_NAMES[kind])}, J_stab of earlier pairs: {'; '.join(clauses)}."
        yield Observation(words, tuple(comparisons), counted=True)


def _shared_pairs(one: ArmResults, other: ArmResults) -> list[tuple[int, int]]:
    """Places of the pairs of steps that both arms have, the last pair of each left out."""
    steps = [
        list(zip(arm.summary["pair_step"].to_numpy(), arm.summary["pair_next_step"].to_numpy(), strict=True))[:-1]
        for arm in (one, other)
    ]
    return [(i, steps[1].index(pair)) for i, pair in enumerate(steps[0]) if pair in steps[1]]


def _robustness(results: Results) -> Claim:
    several = len({row.method for arm in results.arms if arm.record for row in arm.record.ablation.rows}) > 1
    drops = {
        arm.name: {_chosen(row, several): ablation_drop(arm.record.ablation, row) for row in arm.record.ablation.rows}
        for arm in results.arms
        if arm.record is not None
    }
    observations = [Observation(f"{arm.name}: ablations not run.") for arm in results.arms if arm.record is None]
    for row in dict.fromkeys(name for by_row in drops.values() for name in by_row):
        here = {arm: by_row[row] for arm, by_row in drops.items() if row in by_row}
        words = listing([_drop_words(arm, drop) for arm, drop in here.items()])
        values = {arm: drop.drop for arm, drop in here.items()}
        said = f"Without its {row}, HIT@{_ks(results)} falls by {words}."
        observations.append(Observation(said, _compared(results, values)))
    draws = {len(drop.random_drops) for by_row in drops.values() for drop in by_row.values()} - {0}
    if draws:
        least = show(1 / (max(draws) + 1), "number")
        observations.append(Observation(f"With {max(draws)} random draws, p cannot come out below {least}."))
    return Claim(
        "Is recall more robust in the MoE?",
        "Reported for OLMoE against OLMo: without the top-10 heads HIT@10 falls by 9.4% against 50.4%.",
        "Recall lost to ablation",
        tuple(observations),
    )


def _chosen(row: AblationRow, several: bool) -> str:
    """What an ablation silences, and by which method it was chosen where there are several."""
    return f"{row.name} by {method_name(row.method)}" if several else row.name


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


def _observed(results: Results, what: str, name: str, kind: str, where: Mapping[str, int], form: Form) -> Observation:
    """A variable of the summaries: every arm's value beside chance, and how MoE and dense arms compare."""
    values = {arm.name: read(arm.summary, name, kind=kind, **where) for arm in results.arms}
    chance = {arm.name: number(arm.summary, f"{name}_chance", kind=kind, **where) for arm in results.arms}
    listed = listing([f"{arm} {show(value, form)} (chance {show(chance[arm], form)})" for arm, value in values.items()])
    return Observation(f"{what}: {listed}.", _compared(results, values))


def _compared(results: Results, values: Mapping[str, Estimate]) -> tuple[Comparison, ...]:
    """Each MoE arm with each dense arm, where both have a value."""
    return tuple(
        Comparison(moe.name, dense.name, compare(values[moe.name], values[dense.name]))
        for moe in results.moe
        for dense in results.dense
        if {moe.name, dense.name} <= values.keys()
    )


def _counts(verdicts: Sequence[Verdict]) -> str:
    counted = Counter(verdicts)
    return listing(
        [f"{outcome} in {counted[outcome]}" for outcome in WORDS if outcome != "undefined" or counted[outcome]]
    )
