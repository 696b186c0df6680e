"""All claims judged on a run: every mixture-of-experts group against every dense one.

**A claim against a dense group**, by its counted measures: *supported* if at least one is told apart in the claimed
direction, at any time, and none in the other; *contradicted* the other way round; *mixed* if some are told apart in
either direction, or one is at different times; else *undecided*. If every band lies within differences that would not
matter, it is *contradicted*: a difference of that size is excluded.

**A claim of a run** is what it is against every dense group; where groups differ, it is undecided, and that is said.

Everything is by one method, over one kind of unit and one choice of facts; call it again for others. Where a dense
group has another number of units, measures of top sets are compared once more at equal numbers (`matched`), as a
family of their own that decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.claims.groups import Group, groups_of, pairs
from gated_lpi.claims.judge import LEAST, Answer, Compared, adjusted, compare, compare_drops
from gated_lpi.claims.publication import BACKBONE, CLAIMS, CONSOLIDATION, ROBUSTNESS, Claim, ablation, area, highest
from gated_lpi.claims.series import MATCHED, ArmSeries, Asked, Facts, arm_series, clock_of, kinds, units_of
from gated_lpi.results import Run
from gated_lpi.results.records import AblationRow, AblationTable
from gated_lpi.unit_names import KINDS

Choice = Callable[[str, NDArray[np.float64]], NDArray[np.int64]]
MATCHED_SUBSETS = 20  # of units, where nothing is drawn besides
MOST_WORK, LEAST_DRAWS = 10**9, 50  # scores that are drawn of an arm: of a million units at 20 checkpoints 50 times


@dataclass(frozen=True)
class Finding:
    """What a run shows of one claim.

    Attributes:
        claim: which.
        comparisons: in all of its measures, with every pair of groups.
        matched: those at equal numbers of units.
    """

    claim: Claim
    comparisons: tuple[Compared, ...]
    matched: tuple[Compared, ...] = ()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The MoE and dense groups that were compared."""
        return list(dict.fromkeys((one.moe, one.dense) for one in self.comparisons))

    def of(self, moe: str, dense: str) -> list[Compared]:
        """The counted comparisons of two groups that have a band."""
        return [
            one
            for one in self.comparisons
            if (one.moe, one.dense) == (moe, dense) and one.measure.counted and one.judged
        ]

    def against(self, moe: str, dense: str) -> Answer:
        """The answer to the claim, of one pair of groups."""
        return answer_of(self.of(moe, dense))

    @property
    def answer(self) -> Answer:
        """The answer to the claim, of the run."""
        every = {self.against(*pair) for pair in self.pairs if self.of(*pair)}
        if len(every) == 1:
            return every.pop()
        return "undecided"

    @property
    def judged(self) -> bool:
        """Whether anything could be compared."""
        return any(self.of(*pair) for pair in self.pairs)


@dataclass(frozen=True)
class Judged:
    """All claims on one run, by one method, over one kind of unit.

    Attributes:
        method, facts, kind: by whose scores, over which facts, of which units.
        groups: those that were compared.
        series: of every arm that was, by name.
        findings: one for each claim.
        missing: why arms are left out.
        is_about_claims: whether an MoE group was compared with a dense one; if not, each group was compared with each
            later one, in whose comparisons the first has the MoE's place, and claims mean nothing.
    """

    method: str
    facts: Facts
    kind: str
    groups: tuple[Group, ...]
    series: dict[str, ArmSeries]
    findings: tuple[Finding, ...]
    missing: dict[str, str]
    is_about_claims: bool

    @property
    def comparisons(self) -> list[Compared]:
        """Those of all claims."""
        return [one for finding in self.findings for one in finding.comparisons]


def answer_of(comparisons: Sequence[Compared]) -> Answer:
    """The answer to a claim, by its counted comparisons with one group."""
    answers = {one.answer for one in comparisons}
    if "mixed" in answers or {"supported", "contradicted"} <= answers:
        return "mixed"
    if answers & {"supported", "contradicted"}:
        return "supported" if "supported" in answers else "contradicted"
    if comparisons and all(one.negligible for one in comparisons):
        return "contradicted"
    return "undecided"


def judge(
    run: Run,
    *,
    method: str | None = None,
    kind: str | None = None,
    facts: Facts = "all",
    choose: Choice | None = None,
    draws: int | None = None,
    with_matched: bool = True,
) -> Judged | None:
    """Judge the publication's claims on a run.

    Args:
        run: with two groups of arms or more.
        method: by whose scores; None: the first of the run's.
        kind: of unit; None: the first of FFN, attention and mixer neurons that was scored.
        facts: over which facts scores were averaged; others than "all" only where the run kept them.
        choose: which checkpoints of an arm count, from their axis; None: all.
        draws: of relations, where replicates are too few; None: as the run's metrics have it. Of very large arms fewer
            are drawn, 50 at least.
        with_matched: whether to compare at equal numbers of units, too.

    Returns:
        What was found; None if there are not two groups with such scores.

    Raises:
        OptionError: scores that a metric refuses.
        DamagedError: what is there is not what was written.
    """
    groups, missing = groups_of(run)
    about = [(one, other) for one in groups if one.is_moe for other in groups if not other.is_moe]
    compared = about or list(combinations(groups, 2))
    if not compared:
        return None
    scores = {arm: run.scores(arm) for group in groups for arm in group.arms}
    chosen = method or next(iter(run.methods(groups[0].arms[0])), None)
    if chosen is None:
        return None
    if any(schema.mean_of(chosen) not in one for one in scores.values()):
        return None
    known = [name for name in KINDS if all(name in kinds(one) for one in scores.values())]
    if kind is None:
        kind = next(iter(known), None)
    if kind is None or kind not in known:
        return None
    few = min(len(group.arms) for group in groups) < LEAST
    options = run.experiment.metrics
    wanted = options.draws if draws is None else draws
    size = max(units_of(one, kind).size * one.sizes["checkpoint"] for one in scores.values())
    asked = Asked(
        method=chosen,
        kind=kind,
        facts=facts,
        fraction=options.fraction,
        draws=min(wanted, max(LEAST_DRAWS, MOST_WORK // size)) if few else 0,
        seed=options.seed,
        window=next(iter((options.windows or {}).values()), None),
    )

    def read(arm: str, question: Asked) -> ArmSeries:
        axis = clock_of(scores[arm], np.arange(scores[arm].sizes["checkpoint"]))[1]
        return arm_series(arm, scores[arm], question, None if choose is None else choose(arm, axis))

    series = {arm: read(arm, asked) for arm in scores}
    counted = [
        found
        for one, other in compared
        for found in _compared(run, one, other, series, kind, asked, first=kind == known[0])
    ]
    matched = list(_matched(run, compared, series, read, asked)) if with_matched else []
    return Judged(
        chosen,
        facts,
        kind,
        tuple(groups),
        series,
        tuple(Finding(claim, _of(claim, counted), _of(claim, matched)) for claim in CLAIMS),
        missing,
        bool(about),
    )


def _of(claim: Claim, found: Sequence[tuple[Claim, Compared]]) -> tuple[Compared, ...]:
    """The comparisons of one claim, after Holm's correction over all that were found."""
    corrected = adjusted([one for _, one in found])
    return tuple(one for (of, _), one in zip(found, corrected, strict=True) if of is claim)


def _compared(
    run: Run,
    moe: Group,
    dense: Group,
    series: Mapping[str, ArmSeries],
    kind: str,
    asked: Asked,
    *,
    first: bool,
) -> Iterator[tuple[Claim, Compared]]:
    """Two groups in every measure of every claim; ablations, which are not by kind, go with the first kind of unit."""
    paired = pairs(run.experiment, moe.arms, dense.arms)
    ones, others = paired or (moe.arms, dense.arms)
    names = (moe.name, dense.name)
    for claim in (BACKBONE, CONSOLIDATION):
        for measure in claim.measures:
            summaries = [area(measure), highest(measure)] if measure.over_time and measure.counted else []
            for asked_of in (measure, *summaries):
                found = compare(
                    asked_of,
                    kind,
                    names,
                    [series[arm] for arm in ones],
                    [series[arm] for arm in others],
                    paired=paired is not None,
                )
                if found is not None:
                    yield claim, found
    if not first or asked.facts != "all":
        return
    rows = [[_rows(run, arm, asked.method) for arm in arms] for arms in (ones, others)]
    for name in dict.fromkeys(name for group in rows for arm in group for name in arm):
        if all(name in arm for group in rows for arm in group):
            by_group = [[arm[name] for arm in group] for group in rows]
            yield ROBUSTNESS, compare_drops(ablation(name), kind, names, *by_group, paired=paired is not None)


def _rows(run: Run, arm: str, method: str) -> dict[str, tuple[AblationTable, AblationRow]]:
    """The ablations of an arm's last checkpoint by a method, by name, where recall was there to be lost."""
    record = run.record(arm)
    if record is None or not record.ablation.hit > 0:
        return {}
    return {row.name: (record.ablation, row) for row in record.ablation.rows if row.method == method}


def _matched(
    run: Run,
    compared: Sequence[tuple[Group, Group]],
    series: Mapping[str, ArmSeries],
    read: Callable[[str, Asked], ArmSeries],
    asked: Asked,
) -> Iterator[tuple[Claim, Compared]]:
    """Groups of different numbers of units, at the lesser number."""
    subsets = asked.subsets if asked.draws else MATCHED_SUBSETS
    at: dict[tuple[str, int], ArmSeries] = {}
    for one, other in compared:
        sizes = {series[arm].units for arm in (*one.arms, *other.arms)}
        if len(sizes) == 1:
            continue
        paired = pairs(run.experiment, one.arms, other.arms)
        arms = paired or (one.arms, other.arms)
        question = replace(asked, units=min(sizes), subsets=subsets)
        for arm in (*arms[0], *arms[1]):
            if (arm, min(sizes)) not in at:
                at[arm, min(sizes)] = read(arm, question)
        sides = [[at[arm, min(sizes)] for arm in side] for side in arms]
        for claim in (BACKBONE, CONSOLIDATION):
            for measure in claim.measures:
                found = None
                if measure.name in MATCHED:
                    names = (one.name, other.name)
                    found = compare(measure, asked.kind, names, *sides, paired=paired is not None, matched=True)
                if found is not None:
                    yield claim, found
