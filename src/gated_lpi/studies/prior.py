"""Prior: is it knowledge of facts, or of which words answer such a question? And is it of facts that are known at all?

1. **Plain against contrast.** By every method that scored units against a foil as well (`attribution.contrast`), the
   claims are judged by both. If a verdict holds plainly and turns round against the foil, it was one about the prior.
2. **Known facts.** Where the run kept scores over known facts, the claims are judged over these alone: the importance
   of a fact that is not known is noise.
3. **Overlap over time** of the top sets of both (plain and contrast, all and known facts), beside what two independent
   sets share: how far they are the same neurons.
4. **Known against unknown.** While about half of the facts are known (HIT@10), the top sets over those and over the
   others, by the same checkpoint: their overlap, and how concentrated each is. Means over unknown facts are what those
   over all and over known ones leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.claims import Judged, judge
from gated_lpi.claims.curves import mean_and_error
from gated_lpi.claims.judge import LEAST
from gated_lpi.claims.series import Asked, Facts, Means, clock_of, units_of
from gated_lpi.claims.words import FACT_WORDS, leading, sentence
from gated_lpi.metrics import jaccard_chance, set_size, top_mask
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Positive, Spec
from gated_lpi.report.by_method import CONTRAST
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._intervals import over_replicates
from gated_lpi.studies._known import KNOWN, apart_tables, apart_verdicts, known_and_unknown
from gated_lpi.studies._runs import methods_of, with_scores
from gated_lpi.studies.claims import effect_of, facts_of, word
from gated_lpi.studies.finding import Analysis, Cell, Table, Verdict, judged
from gated_lpi.studies.page import method_name

QUESTION = "Knowledge of facts, or of which words answer such a question?"


class Options(Spec):
    """Options of the analysis.

    Attributes:
        methods: by whose scores, without `_contrast`; None: all that the run has.
        kind: of unit.
        draws: of relations, where there are fewer than three replicates; None: as the run's metrics have it.
    """

    methods: Listed[str] | None = None
    kind: Literal["ffn", "attention", "mixer"] = "ffn"
    draws: Positive | None = None


class Variant(NamedTuple):
    """What is held against a method's plain scores over all facts.

    Attributes:
        method: by whose scores.
        plain: the method without a foil.
        facts: over which.
        words: what it is called.
    """

    method: str
    plain: str
    facts: Facts
    words: str


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """The claims by plain and contrast target and over known facts, and how far top sets are the same."""
    groups, notes = with_scores(run)
    arms = [arm for names in groups.values() for arm in names]
    known = methods_of(run, arms, None)
    plain = [name for name in known if not name.endswith(CONTRAST)]
    methods = methods_of(run, arms, plain if options.methods is None else options.methods)
    variants = []
    for method in methods:
        contrast = schema.contrast_of(method)
        if contrast in known:
            variants.append(Variant(contrast, method, "all", f"{method_name(method)}, against the foil"))
        for facts in facts_of(run, arms, method)[1:]:
            variants.append(Variant(method, method, facts, f"{method_name(method)}, {FACT_WORDS[facts]}"))
    if not variants:
        return Analysis(
            notes=[
                *notes,
                "the run has scores against no foil and over no known facts: set attribution.contrast = 'relation' or "
                "attribution.known = true and run into a new folder",
            ]
        )
    base: dict[str, Judged | None] = {}
    others: dict[Variant, Judged | None] = {}
    overlaps: dict[tuple[Variant, str], NDArray[np.float64]] = {}
    with progress.task("judge the claims by other targets") as advance:
        for done, method in enumerate(methods):
            advance(done, len(methods) + len(variants))
            base[method] = judge(run, method=method, kind=options.kind, draws=options.draws, with_matched=False)
        for done, variant in enumerate(variants):
            advance(len(methods) + done, len(methods) + len(variants))
            others[variant] = judge(
                run,
                method=variant.method,
                kind=options.kind,
                facts=variant.facts,
                draws=options.draws,
                with_matched=False,
            )
            for arm in arms:
                overlaps[variant, arm] = _overlap(run, arm, variant, options.kind)
    verdicts = [
        verdict for variant, found in others.items() for verdict in _verdicts(base[variant.plain], found, variant)
    ]
    verdicts += [_same(variant, overlaps, groups, run, options) for variant in variants]
    apart = {
        (method, arm): found
        for method, arm in product(methods, arms)
        if (found := known_and_unknown(run.scores(arm), method, options.kind, run.experiment.metrics.fraction))
    }
    chances = {group: _chance(run, arms[0], options.kind) for group, arms in groups.items()}
    verdicts += apart_verdicts(apart, groups, chances)
    return Analysis(
        verdicts=verdicts,
        tables=[
            _answers(base, others),
            _table(overlaps, groups, run, options, variants),
            *apart_tables(apart, groups, chances),
        ],
        figures={"overlap": _figure(overlaps, groups, run, variants)},
        notes=notes,
    )


def _overlap(run: Run, arm: str, variant: Variant, kind: str) -> NDArray[np.float64]:
    """J of the top sets of plain scores over all facts and of the variant, [T]; NaN where no fact is known."""
    scores, fraction = run.scores(arm), run.experiment.metrics.fraction
    inside = units_of(scores, kind)
    asked = (Asked(variant.plain, kind, draws=0), Asked(variant.method, kind, variant.facts, draws=0))
    sides = [Means(scores, one, inside) for one in asked]
    found = np.full(scores.sizes["checkpoint"], np.nan)
    for place in range(found.size):
        one, other = (side.load(place).mean for side in sides)
        if np.isfinite(one).all() and np.isfinite(other).all():
            a, b = top_mask(one, fraction), top_mask(other, fraction)
            found[place] = (a & b).sum() / (a | b).sum()
    return found


def _chance(run: Run, arm: str, kind: str) -> float:
    units = units_of(run.scores(arm), kind).size
    return jaccard_chance(units, set_size(units, run.experiment.metrics.fraction))


def _verdicts(plain: Judged | None, other: Judged | None, variant: Variant) -> list[Verdict]:
    """Whether each claim's answer is the same by the variant."""
    found = []
    if plain is None or other is None or not (plain.is_about_claims and other.is_about_claims):
        return []
    for one, two in zip(plain.findings, other.findings, strict=True):
        for pair in one.pairs:
            ours, theirs = one.of(*pair), two.of(*pair)
            if not ours or not theirs:
                continue
            answers = (one.against(*pair), two.against(*pair))
            lead = leading(theirs, answers[1])
            opposite = set(answers) == {"supported", "contradicted"}
            same = answers[0] == answers[1] and answers[0] in ("supported", "contradicted")
            said: Literal["supported", "contradicted", "undecided"] = (
                "contradicted" if opposite else "supported" if same else "undecided"
            )
            if word(answers[1], lead) != answers[1]:
                said = "undecided"
            so = "against the foil" if variant.facts == "all" else f"over {FACT_WORDS[variant.facts]}"
            found.append(
                Verdict(
                    question=QUESTION if variant.facts == "all" else KNOWN,
                    claim=f"{so[:1].upper()}{so[1:]} it is as before: {one.claim.claim.rstrip('.')} "
                    f"({pair[0]} against {pair[1]})",
                    method=variant.plain,
                    verdict=said,
                    **effect_of(lead),
                    because=briefly(answers, variant) if said == "undecided" else "",
                    variation=so if variant.facts == "known_last" else "",
                    detail=f"{answers[0]} plainly, {answers[1]} {so}. {sentence(lead)}",
                    would_decide="more replicates, until both are decided; both decided otherwise would turn it",
                )
            )
    return found


def briefly(answers: tuple[str, str], variant: Variant) -> str:
    """Why the two answers do not decide it, as short as a cell of a table is."""
    if answers[0] == answers[1]:
        return "either way" if answers[0] == "undecided" else f"{answers[0]} either way"
    return f"{answers[0]} plainly, {answers[1]} {'with the foil' if variant.facts == 'all' else 'over known facts'}"


def _same(
    variant: Variant,
    overlaps: dict[tuple[Variant, str], NDArray[np.float64]],
    groups: dict[str, tuple[str, ...]],
    run: Run,
    options: Options,
) -> Verdict:
    """Whether most of the top set is the same at the last checkpoint, of the group where it is least so."""
    last = {
        group: over_replicates([float(overlaps[variant, arm][-1]) for arm in arms]).within(0, 1)
        for group, arms in groups.items()
    }
    least = min(last, key=lambda group: np.nan_to_num(last[group].value, nan=np.inf))
    found = last[least]
    enough = found.n >= LEAST
    return Verdict(
        question=QUESTION if variant.facts == "all" else KNOWN,
        claim="At the end most of the top set is the same neurons: J above one third "
        f"({'against the foil' if variant.facts == 'all' else FACT_WORDS[variant.facts]})",
        method=variant.plain,
        verdict=judged(found.low, found.high, against=1 / 3, claimed="above") if enough else "undecided",
        effect=found.value,
        low=found.low if enough else None,
        high=found.high if enough else None,
        unit="J",
        detail=f"least in {least}; by chance {_chance(run, groups[least][0], options.kind):.3f}; J is one third where "
        "half of each set is in both",
        would_decide="three replicates or more of each group" if not enough else "a group whose J is on the other side",
        variation=FACT_WORDS[variant.facts] if variant.facts == "known_last" else "",
    )


def _answers(base: dict[str, Judged | None], others: dict[Variant, Judged | None]) -> Table:
    rows: list[list[Cell]] = []
    sources = [(method_name(name), FACT_WORDS["all"], one) for name, one in base.items()]
    sources += [(method_name(variant.method), FACT_WORDS[variant.facts], one) for variant, one in others.items()]
    for name, facts, one in sources:
        for finding in one.findings if one is not None and one.is_about_claims else ():
            for pair in finding.pairs:
                told = finding.of(*pair)
                if told:
                    answer = finding.against(*pair)
                    rows.append([finding.claim.key, *pair, name, facts, answer, sentence(leading(told, answer))])
    return Table(
        name="answers",
        caption="The claims by plain scores and against the foil, over all facts and over known ones.",
        columns=["claim", "MoE", "dense", "method", "facts", "answer", "strongest measure"],
        rows=rows,
    )


def _table(
    overlaps: dict[tuple[Variant, str], NDArray[np.float64]],
    groups: dict[str, tuple[str, ...]],
    run: Run,
    options: Options,
    variants: Sequence[Variant],
) -> Table:
    rows: list[list[Cell]] = []
    for variant, (group, arms) in product(variants, groups.items()):
        first, last = (
            over_replicates([float(overlaps[variant, arm][place]) for arm in arms]).within(0, 1) for place in (0, -1)
        )
        least = over_replicates([_least(overlaps[variant, arm]) for arm in arms])
        chance = _chance(run, arms[0], options.kind)
        rows.append(
            [variant.words, group, len(arms), first.value, least.value, last.value, last.low, last.high, chance]
        )
    return Table(
        name="overlap",
        caption="Jaccard index of the top sets by plain scores over all facts and by the variant: means over arms.",
        columns=["variant", "group", "replicates", "first", "least", "last", "low", "high", "chance"],
        rows=rows,
    )


def _least(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.min()) if known.size else float("nan")


def _figure(
    overlaps: dict[tuple[Variant, str], NDArray[np.float64]],
    groups: dict[str, tuple[str, ...]],
    run: Run,
    variants: Sequence[Variant],
) -> Figure:
    drawn = Figure(figsize=(3.6 * len(variants) + 0.6, 3.0), layout="constrained")
    for axes, variant in zip(drawn.subplots(1, len(variants), squeeze=False, sharey=True)[0], variants, strict=True):
        for number, (group, arms) in enumerate(groups.items()):
            steps = [_steps(run.scores(arm)) for arm in arms]
            if all(np.array_equal(steps[0], other) for other in steps):
                mean, error = mean_and_error(np.stack([overlaps[variant, arm] for arm in arms]))
                axes.plot(steps[0], mean, marker=".", color=f"C{number}", label=group)
                axes.fill_between(
                    steps[0], mean - 2 * error, mean + 2 * error, color=f"C{number}", alpha=0.15, linewidth=0
                )
            else:
                for place, arm in enumerate(arms):
                    label = group if place == 0 else None
                    axes.plot(steps[place], overlaps[variant, arm], marker=".", color=f"C{number}", label=label)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("step")
        axes.set_title(variant.words, fontsize=8)
    drawn.axes[0].set_ylabel("J of the two top sets")
    handles, labels = drawn.axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=6, fontsize=8, frameon=False)
    return drawn


def _steps(scores: xr.Dataset) -> NDArray[np.float64]:
    return clock_of(scores, np.arange(scores.sizes["checkpoint"]))[2]
