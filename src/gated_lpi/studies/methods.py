"""Is what is found the method's? Agreement with true effects and between methods, and conclusions by each of them.

1. **True effects**: at chosen checkpoints a sample of units of every block is silenced one by one, and each method's
   scores are ranked against what that does, over all layers and by thirds of them (Spearman within layers, chance 0).
2. **Between methods**: Spearman within layers and overlap of top sets at every checkpoint, from the run's scores.
3. **Conclusions**: the difference MoE − dense in every headline measure by every method, replicates paired by seed. A
   conclusion that changes its sign with the method is the method's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from gated_lpi.checkpoints import Checkpoint
from gated_lpi.comparison import compare
from gated_lpi.comparison.asked import pinned
from gated_lpi.experiments import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.facts.types import Templates
from gated_lpi.metrics import method_agreement
from gated_lpi.options import Explained, MethodOptions
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Positive, Spec, Whole
from gated_lpi.results import ArmRecord, Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._charts import Curve, Lines, lines
from gated_lpi.studies._intervals import CELLS, NAN, Estimate, cells, difference, over_replicates
from gated_lpi.studies._models import at_shares, facts_of, loaded, scored_checkpoints, spread
from gated_lpi.studies._replicates import Members, members_of
from gated_lpi.studies._runs import each, methods_of
from gated_lpi.studies.finding import Analysis, Answer, Table, Verdict, judged

PP = "percentage points"
QUESTION = "Is what is found the method's?"
PARTS = ("overall", "lower third", "middle third", "upper third")
PLAIN, LOGPROB, WITHIN = "plain", "logprob", "spearman_within"
Kind = Literal["ffn", "attention", "mixer"]


class Options(Spec):
    """What is asked.

    Attributes:
        methods: by which methods; None: all that every arm has scores by.
        kind: of units.
        at: which checkpoints true effects are measured at, as shares of the steps.
        sample: units of each block whose true effect is measured; 0: none.
        prompts: facts on which it is measured, at most, evenly over relations.
        replicates: of a group, at most, in which it is measured.
        alike: Spearman within layers from which on two methods rank units alike.
        draws: resamples of intervals.
        seed: of samples and draws.
    """

    methods: Listed[str] | None = None
    kind: Kind = "ffn"
    at: Listed[float] = (0.5, 1.0)
    sample: Whole = 8
    prompts: Positive = 48
    replicates: Positive = 3
    alike: float = Field(default=0.5, ge=-1, le=1)
    draws: Positive = 50
    seed: Whole = 0


class Measure(NamedTuple):
    """A headline measure.

    Attributes:
        name: as tables show it.
        claim: what is claimed of MoE and dense.
        sign: 1 if the claim is that MoE has more of it, −1 if less.
        unit: of the difference.
    """

    name: str
    claim: str
    sign: int
    unit: str


MEASURES = {
    "r_t_mean": Measure("R_t, mean", "{moe} gains in fewer units (R_t) than {dense}", 1, PP),
    "r_t_last": Measure("R_t, last", "{moe} gains in fewer units at the end (R_t) than {dense}", 1, PP),
    "j_stab_mean": Measure("J_stab, mean", "{moe} has more stable top sets (J_stab) than {dense}", 1, ""),
    "j_stab_last": Measure("J_stab, last", "{moe} has more stable top sets at the end (J_stab) than {dense}", 1, ""),
    "importance_share": Measure("importance share", "{moe} has more importance in its top set than {dense}", 1, PP),
    "entropy": Measure("entropy", "{moe} has importance in relatively fewer units (entropy) than {dense}", -1, ""),
    "drop": Measure("ablation drop", "{moe} loses less recall without its top FFN units than {dense}", -1, PP),
}


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """Hold methods against true effects and each other, and conclusions by one against those by another."""
    members = members_of(run)
    methods = methods_of(run, members.arms, options.methods)
    parts = [_conclusions(run, members, methods, options.kind), _agreement(run, members, methods, options)]
    if options.sample:
        parts.append(_truth(run, members, methods, options, progress))
    return Analysis(
        verdicts=[verdict for part in parts for verdict in part.verdicts],
        tables=[table for part in parts for table in part.tables],
        figures={name: figure for part in parts for name, figure in part.figures.items()},
        notes=[*members.notes, *(note for part in parts for note in part.notes)],
    )


# What each method would conclude


def headline(summary: xr.Dataset, record: ArmRecord | None, method: str, kind: str) -> dict[str, float]:
    """The headline measures of one arm by one method; shares in %, NaN where there is none.

    The ablation drop is of the first share of FFN units that the run ablates: intact HIT@k less that without them, pp.
    """
    found = dict.fromkeys(MEASURES, NAN)
    if kind in summary["kind"]:
        here = summary.sel(kind=kind)
        gain, stable = here["gain_top_set"].to_numpy(), here["stability"].to_numpy()
        found |= {"r_t_mean": 100 * _mean(gain), "r_t_last": 100 * _last(gain)}
        found |= {"j_stab_mean": _mean(stable), "j_stab_last": _last(stable)}
        found["importance_share"] = 100 * float(here["importance_share"][-1])
        found["entropy"] = float(here["entropy"][-1])
    rows = () if record is None else record.ablation.rows
    row = next((row for row in rows if row.kind == "unit" and row.method == method), None)
    if record is not None and row is not None:
        found["drop"] = 100 * (record.ablation.hit - row.hit)
    return found


def _mean(values: NDArray[Any]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else NAN


def _last(values: NDArray[Any]) -> float:
    return float(values[-1]) if values.size else NAN


def flips(by_method: Mapping[str, Estimate]) -> Answer:
    """Whether the sign of a difference is the same by every method: "supported" if all of them are sure of one sign.

    "contradicted" if two are sure of different signs; "undecided" in any other case.
    """
    sure = {judged(one.low, one.high, claimed="above") for one in by_method.values()}
    if {"supported", "contradicted"} <= sure:
        return "contradicted"
    return "undecided" if "undecided" in sure or len(by_method) < 2 else "supported"


def _conclusions(run: Run, members: Members, methods: Sequence[str], kind: Kind) -> Analysis:
    records = {arm: run.record(arm) for arm in members.arms}
    found = {
        method: {arm: headline(run.summary(arm, method), records[arm], method, kind) for arm in members.arms}
        for method in methods
    }
    rows, verdicts = [], []
    for (moe, dense), (key, measure) in itertools.product(members.contrasts, MEASURES.items()):
        by_method: dict[str, Estimate] = {}
        for method in methods:
            values = {arm: one[key] for arm, one in found[method].items()}
            estimate = difference(members.by_seed(moe, values), members.by_seed(dense, values))
            means = [over_replicates(members.by_seed(group, values).values()).value for group in (moe, dense)]
            rows.append([measure.name, moe, dense, method, *means, *cells(estimate)])
            if estimate.n:
                by_method[method] = estimate
                verdicts.append(_verdict(measure, moe, dense, method, estimate))
        if len(by_method) > 1:
            first = np.sign(next(iter(by_method.values())).value)
            same = 100 * float(np.mean([np.sign(one.value) == first for one in by_method.values()]))
            verdicts.append(
                Verdict(
                    question=QUESTION,
                    claim=f"Whether {moe} or {dense} has more of {measure.name} does not depend on the method.",
                    verdict=flips(by_method),
                    effect=same,
                    unit="% of methods with the sign of the first",
                    detail=f"{', '.join(by_method)}; each with its own interval over replicates.",
                    would_decide="More replicates, until each method's interval leaves 0 out.",
                )
            )
    columns = ["measure", "MoE", "dense", "method", "of the MoE", "of the dense", *CELLS]
    caption = (
        "Headline measures by method: means of both groups, and value: their difference, replicates paired by seed."
    )
    notes = [] if members.contrasts else ["There are no groups with and without experts, so no conclusion to compare."]
    return Analysis(
        verdicts=verdicts, tables=[Table(name="conclusions", caption=caption, columns=columns, rows=rows)], notes=notes
    )


def _verdict(measure: Measure, moe: str, dense: str, method: str, estimate: Estimate) -> Verdict:
    return estimate.verdict(
        question="MoE or dense?",
        claim=f"{measure.claim.format(moe=moe, dense=dense)}.",
        method=method,
        claimed="above" if measure.sign > 0 else "below",
        unit=measure.unit,
        detail=f"{measure.name} of {moe} less that of {dense}, paired by seed; {estimate.basis}.",
        would_decide="More replicates, until the interval leaves 0 out.",
    )


# How far methods agree with each other


def _agreement(run: Run, members: Members, methods: Sequence[str], options: Options) -> Analysis:
    if len(methods) < 2:
        return Analysis(notes=["There are scores by one method alone, so methods cannot be compared."])
    fraction = run.experiment.metrics.fraction
    by_arm = {
        arm: method_agreement(run.scores(arm), methods, fraction=fraction, draws=options.draws, seed=options.seed).sel(
            kind=options.kind
        )
        for arm in members.arms
    }
    rows, verdicts, panels = [], [], []
    for place, (one, other) in enumerate(itertools.combinations(methods, 2)):
        curves = {}
        for group, arms in members.groups.items():
            found = [by_arm[member.arm].isel(comparison=place) for member in arms]
            steps = found[0]["step"].to_numpy().tolist()
            at = [[_of_step(arm, WITHIN, step) for arm in found] for step in steps]
            ends = tuple(float(found[0][f"{WITHIN}_{end}"][-1]) for end in ("low", "high"))
            curves[group] = Curve(steps, [over_replicates(values).within(-1, 1) for values in at])
            for step, estimate in zip(steps, curves[group].y, strict=True):
                overlap = over_replicates(_of_step(arm, "overlap", step) for arm in found).value
                rows.append(
                    [f"{one}, {other}", group, step, overlap, float(found[0]["overlap_chance"]), *cells(estimate)]
                )
            last = over_replicates(at[-1], (ends[0], ends[1])).within(-1, 1)
            verdicts.append(
                last.verdict(
                    question=QUESTION,
                    claim=f"{one} and {other} rank the {options.kind} units of {group} alike at the end.",
                    method=f"{one}, {other}",
                    claimed="above",
                    against=options.alike,
                    unit="Spearman within layers",
                    detail=f"Against {options.alike:g}; chance is 0; {last.basis}.",
                    would_decide="More replicates, until the interval lies on one side of the threshold; true effects "
                    "say which of two methods that differ is right.",
                )
            )
        panels.append(Lines(f"{one} and {other}", "Spearman within layers", curves))
    columns = ["methods", "group", "step", "overlap", "overlap by chance", *CELLS]
    caption = "Agreement of methods over training; value: Spearman within layers, overlap: of the top sets."
    return Analysis(
        verdicts=verdicts,
        tables=[Table(name="method-agreement", caption=caption, columns=columns, rows=rows)],
        figures={"method-agreement": lines("method-agreement", "Agreement of methods", "step", panels)},
    )


def _of_step(found: xr.Dataset, name: str, step: int) -> float:
    values = found[name].to_numpy()[found["step"].to_numpy() == step]
    return float(values[0]) if values.size else NAN


# How far they agree with what silencing a unit really does


def some_of(facts: FactSet, templates: Templates, most: int) -> tuple[FactSet, Templates]:
    """At most about so many facts, evenly over relations, each asked through the template it has among all of them."""
    facts, templates = pinned(facts, templates)
    each_has = max(1, most // max(1, len(facts.relations)))
    kept = tuple(replace(one, samples=tuple(spread(one.samples, each_has))) for one in facts.relations)
    return replace(facts, relations=kept), templates


def held_against_truth(
    experiment: Experiment,
    checkpoint: Checkpoint,
    facts: FactSet,
    templates: Templates,
    methods: Mapping[str, MethodOptions],
    options: Options,
    progress: Progress,
) -> xr.Dataset:
    """Agreement of methods with sampled true effects at one checkpoint; may be called in another process.

    Returns:
        `truth` and `truth_chance` (by, part, end) of Spearman within layers, and `failed` as an attribute.
    """
    del progress
    with loaded(experiment, checkpoint) as model:
        found = compare(
            model,
            facts,
            methods,
            units=(options.kind,),
            sample=options.sample,
            shares=(),
            draws=options.draws,
            seed=options.seed,
            templates=templates,
            on_error=experiment.facts.on_error,
            bos=experiment.facts.bos,
        )
    here = {"scale": LOGPROB, "kind": options.kind, "figure": WITHIN}
    return found[["truth", "truth_chance"]].sel(here).load().assign_attrs(failed=found.attrs["failed"])


def _truth(run: Run, members: Members, methods: Sequence[str], options: Options, progress: Progress) -> Analysis:
    experiment = run.experiment
    asked = {name: one for name, one in experiment.attribution.asked().items() if isinstance(one, Explained)}
    plain = {name: asked[name] for name in methods if name in asked and asked[name].foil is None}
    if not plain:
        return Analysis(notes=["No method has scores without a foil, so none is held against true effects."])
    facts, templates = some_of(facts_of(run), experiment.facts.templates, options.prompts)
    checkpoints = scored_checkpoints(run)
    wanted = []
    for group, arms in members.groups.items():
        for member in arms[: options.replicates]:
            own = checkpoints[member.arm]
            steps = [one.step for one in own]
            wanted += [(group, one.step == steps[-1], one) for one in at_shares(own, steps, options.at)] if own else []
    arguments = [(experiment, one, facts, templates, plain, options) for _, _, one in wanted]
    found = each(run, held_against_truth, arguments, "true effects", progress)
    rows: list[list[str | float | int | None]] = []
    verdicts = []
    finals: dict[tuple[str, str], list[xr.Dataset]] = {}
    for group, method in itertools.product(members.groups, plain):
        held = [
            (one.step, last, truth.sel(by=method))
            for (of, last, one), truth in zip(wanted, found, strict=True)
            if of == group and method in truth["by"]
        ]
        for step in sorted({at for at, _, _ in held}):
            here = [truth for at, _, truth in held if at == step]
            rows += [[group, method, step, part, _chance(here, part), *cells(_truth_of(here, part))] for part in PARTS]
        final = [truth for _, last, truth in held if last]
        if final:
            finals[group, method] = final
            verdicts.append(_truth_verdict(group, method, final, options))
    verdicts += [
        _closer_verdict(group, one, other, finals[group, one], finals[group, other], options)
        for group, (one, other) in itertools.product(members.groups, itertools.combinations(plain, 2))
        if (group, one) in finals and (group, other) in finals
    ]
    columns = ["group", "method", "step", "layers", "above chance from", *CELLS]
    caption = (
        f"Spearman within layers of methods' scores and true effects of {options.sample} units of each block, on "
        f"{len(facts)} facts. Above chance from: the upper end of the 95% of permuted units."
    )
    notes = sorted({note for one in found for note in one.attrs["failed"]})
    return Analysis(
        verdicts=verdicts, tables=[Table(name="truth", caption=caption, columns=columns, rows=rows)], notes=notes
    )


def _truth_of(found: Sequence[xr.Dataset], part: str) -> Estimate:
    """Agreement with true effects in some layers, over replicates; of one, with its interval over prompts and units."""
    at = [[float(one["truth"].sel(part=part, end=end)) for end in ("estimate", "low", "high")] for one in found]
    own = over_replicates((value for value, _, _ in at), (at[0][1], at[0][2]), "prompts and sampled units")
    return own.within(-1, 1)


def _chance(found: Sequence[xr.Dataset], part: str) -> float:
    return over_replicates(float(one["truth_chance"].sel(part=part, end="high")) for one in found).value


def _closer_verdict(
    group: str, one: str, other: str, first: Sequence[xr.Dataset], second: Sequence[xr.Dataset], options: Options
) -> Verdict:
    """Whether the second of two methods is closer to true effects, by the same units of the same replicates."""
    pairs = [
        [float(found["truth"].sel(part=PARTS[0], end="estimate")) for found in both]
        for both in zip(first, second, strict=True)
    ]
    estimate = over_replicates(theirs - ours for ours, theirs in pairs)
    return estimate.verdict(
        question="Does a method rank units as silencing them does?",
        claim=f"{other} ranks the {options.kind} units of {group} more as silencing them does than {one}.",
        method=f"{one}, {other}",
        claimed="above",
        unit="Spearman within layers",
        detail=f"{other} less {one}, the same {options.sample} units of each block at the end; {estimate.basis}.",
        would_decide="A greater sample of units, or more replicates, until the interval leaves 0 out.",
    )


def _truth_verdict(group: str, method: str, found: Sequence[xr.Dataset], options: Options) -> Verdict:
    overall, *thirds = (_truth_of(found, part) for part in PARTS)
    each_third = ", ".join(f"{part} {one.value:.2f}" for part, one in zip(PARTS[1:], thirds, strict=True) if one.n)
    return overall.verdict(
        question="Does a method rank units as silencing them does?",
        claim=f"{method} ranks the {options.kind} units of {group} better than chance, within layers.",
        method=method,
        claimed="above",
        unit="Spearman within layers",
        detail=f"{options.sample} units of each block at the end; {overall.basis}. By layers: {each_third}.",
        would_decide="A greater sample of units, or more replicates, until the interval leaves 0 out.",
    )
