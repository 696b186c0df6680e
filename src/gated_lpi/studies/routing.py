"""Neurons or routing? What routing alone explains of stability and of changes, and which weights which routing serves.

1. **Null of J_stab and R_t**, from summaries: with neurons permuted within their experts, what is left is the
   routing's. Its share is (null − chance) / (observed − chance), of sums over pairs of checkpoints. Dense arms have the
   same with their layers in place of experts: what is left there is the layer alone, beside which the routing's share
   is to be read.
2. **Shapley split** of the change between consecutive checkpoints: Σ |routing| / Σ (|routing| + |neurons|), over units
   and pairs. The run keeps it by one method; by others it is made here, for some pairs.
3. **Frozen router**: which weights are served by which routing (`_frozen_router`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr

from gated_lpi.checkpoints import Checkpoint
from gated_lpi.experiments import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.metrics import routing_share
from gated_lpi.options import Explained
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Positive, Spec, Whole
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.runs.splits import split_method, split_pair
from gated_lpi.studies._charts import Curve, Lines, lines
from gated_lpi.studies._frozen_router import frozen_router
from gated_lpi.studies._intervals import CELLS, NAN, Estimate, cells, over_replicates
from gated_lpi.studies._models import facts_of, loaded, scored_checkpoints, spread
from gated_lpi.studies._replicates import Members, members_of
from gated_lpi.studies._runs import each, methods_of
from gated_lpi.studies.finding import Analysis, Table, Verdict

QUESTION = "Neurons or routing?"
HALF = 50.0
MEASURES = {"J_stab": "stability", "R_t": "gain_top_set"}


class Options(Spec):
    """What is asked.

    Attributes:
        methods: by which methods; None: all that every arm has scores by.
        kind: of units, for J_stab and R_t.
        pairs: of consecutive checkpoints, at most, whose change is split here by methods that the run has not split it
            by; 0: none.
        checkpoints: of an arm, at most, for the frozen router; 0: it is left out.
        replicates: of a group, at most, for what runs models.
        permutations: of experts, for the null of the frozen router.
        enough: share of the HIT@10 that weights have with their own routing from which on another routing serves them.
        seed: of the permutations.
    """

    methods: Listed[str] | None = None
    kind: Literal["ffn", "attention", "mixer"] = "ffn"
    pairs: Whole = 3
    checkpoints: Whole = 8
    replicates: Positive = 5
    permutations: Positive = 3
    enough: float = 0.95
    seed: Whole = 0


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """Judge what routing alone explains, by every method, and find which routing serves which weights."""
    members = members_of(run)
    if not any(member.routed for member in members.every):
        reason = "No arm has routed experts, so there is no routing to tell from neurons."
        return Analysis(notes=[*members.notes, reason])
    methods = methods_of(run, members.arms, options.methods)
    checkpoints = scored_checkpoints(run) if options.pairs or options.checkpoints else {}
    parts = [
        _nulls(run, members, methods, options.kind),
        _splits(run, members, methods, checkpoints, options, progress),
    ]
    if options.checkpoints:
        parts.append(
            frozen_router(
                run,
                {group: arms[: options.replicates] for group, arms in members.groups.items() if arms[0].routed},
                {arm: spread(found, options.checkpoints) for arm, found in checkpoints.items()},
                permutations=options.permutations,
                enough=options.enough,
                seed=options.seed,
                progress=progress,
            )
        )
    return Analysis(
        verdicts=[verdict for part in parts for verdict in part.verdicts],
        tables=[table for part in parts for table in part.tables],
        figures={name: figure for part in parts for name, figure in part.figures.items()},
        notes=[*members.notes, *(note for part in parts for note in part.notes)],
    )


class NullShare(NamedTuple):
    """What a null explains of a measure.

    Attributes:
        share: of what is above chance, %.
        observed, null, chance: means over pairs.
    """

    share: float
    observed: float
    null: float
    chance: float


def null_share(observed: Sequence[float], null: Sequence[float], chance: Sequence[float]) -> NullShare:
    """The share of what is observed above chance that a null reaches, over the pairs that have all three.

    It is NaN where nothing is observed above chance.
    """
    rows = np.array([row for row in zip(observed, null, chance, strict=True) if np.isfinite(row).all()])
    if not len(rows):
        return NullShare(NAN, NAN, NAN, NAN)
    seen, alone, random = rows.mean(axis=0).tolist()
    return NullShare(100 * (alone - random) / (seen - random) if seen > random else NAN, seen, alone, random)


def _null_of(summary: xr.Dataset, measure: str, kind: str) -> NullShare | None:
    name = MEASURES[measure]
    if f"{name}_routing_null" not in summary or kind not in summary["kind"] or not summary.sizes["pair"]:
        return None
    here = summary.sel(kind=kind)
    chance = np.broadcast_to(here[f"{name}_chance"].to_numpy(), (here.sizes["pair"],))
    observed, null = (here[one].to_numpy().tolist() for one in (name, f"{name}_routing_null"))
    return null_share(observed, null, chance.tolist())


def _nulls(run: Run, members: Members, methods: Sequence[str], kind: str) -> Analysis:
    """What routing alone gives of J_stab and R_t, beside what layers alone give in dense arms."""
    rows, verdicts = [], []
    for method, measure in itertools.product(methods, MEASURES):
        shares = {}
        for group, arms in members.groups.items():
            found = [_null_of(run.summary(member.arm, method), measure, kind) for member in arms]
            known = [one for one in found if one is not None]
            shares[group] = over_replicates(one.share for one in known)
            means = [over_replicates(part).value for part in list(zip(*known, strict=True))[1:]] or [NAN] * 3
            what = "experts" if arms[0].routed else "layers"
            rows.append([method, measure, group, what, *means, *cells(shares[group])])
        without = [share.value for group, share in shares.items() if not members.groups[group][0].routed]
        verdicts += [
            null_verdict(share, group, measure, method, kind, without)
            for group, share in shares.items()
            if members.groups[group][0].routed
        ]
    caption = (
        "J_stab and R_t as observed, with neurons permuted within their experts (dense arms: within their layers), and "
        "by chance, means over pairs and replicates; value: what the permuted ones keep of what is above chance, %."
    )
    columns = ["method", "measure", "group", "what is left", "observed", "permuted", "chance", *CELLS]
    return Analysis(verdicts=verdicts, tables=[Table(name="routing-null", caption=caption, columns=columns, rows=rows)])


def null_verdict(
    share: Estimate, group: str, measure: str, method: str, kind: str, without_routing: Sequence[float]
) -> Verdict:
    """Whether routing explains most of a measure.

    What arms without routing keep as well, with neurons permuted within their layers, is no routing's. R_t may even
    grow: two neurons differ by more than one does at two times.
    """
    found = share.verdict(
        question=QUESTION,
        claim=f"Routing alone explains more than half of {measure} in {group}.",
        method=method,
        claimed="above",
        against=HALF,
        unit="% of what is above chance",
        detail=f"{kind} units permuted within their experts, all pairs of checkpoints; {share.basis}.",
        would_decide="More replicates, until the interval of the share lies on one side of 50%.",
    )
    if found.verdict != "supported":
        return found
    least = max((value for value in without_routing if np.isfinite(value)), default=NAN)
    if share.low <= least:
        because, so = "arms without routing keep as much", f"; {least:.0f}% in arms without routing"
    elif share.value >= 2 * HALF:
        because, so = "permuted neurons have no less than the observed", ""
    else:
        return found
    return found.model_copy(
        update={
            "verdict": "undecided",
            "because": because,
            "detail": found.detail.removesuffix(".") + so + ".",
            "would_decide": "A measure that falls where neurons are permuted in arms without routing; the split does.",
        }
    )


class ChangeSplit(NamedTuple):
    """Routing's share of the change of scores in one arm, %.

    Attributes:
        steps: of the later checkpoint of each pair.
        shares: of each pair.
        whole: of all pairs together.
        interval: of `whole`, over relations.
    """

    steps: list[int]
    shares: list[float]
    whole: float
    interval: tuple[float, float]


def change_split(split: xr.Dataset) -> ChangeSplit:
    """Routing's share over the pairs of a split.

    Args:
        split: `routing_part` and `neurons_part` (checkpoint, relation, unit), with `step` and `n_prompts`.
    """
    dims = ("checkpoint", "relation", "unit")
    routing, neurons = (split[f"{part}_part"].transpose(*dims).to_numpy() for part in ("routing", "neurons"))
    prompts = split["n_prompts"].to_numpy()
    each = [100 * float(routing_share(*pair, prompts, draws=1)[0]) for pair in zip(routing, neurons, strict=True)]
    joined, rest = (np.concatenate(list(part), axis=-1) for part in (routing, neurons))
    estimate, low, high = (100 * float(end) for end in routing_share(joined, rest, prompts, draws=200)[:3])
    return ChangeSplit(split["step"].to_numpy().tolist(), each, estimate, (low, high))


def _splits(
    run: Run,
    members: Members,
    methods: Sequence[str],
    checkpoints: Mapping[str, list[Checkpoint]],
    options: Options,
    progress: Progress,
) -> Analysis:
    """Routing's share of the change of scores, over time and in all."""
    kept_by = split_method(run.experiment)[0]
    rows, verdicts, notes, panels = [], [], [], []
    for method in methods:
        curves = {}
        for group, arms in members.groups.items():
            if not arms[0].routed:
                continue
            stored = [run.split(member.arm) for member in arms] if method == kept_by else []
            found = [change_split(split) for split in stored if split is not None]
            if not found and options.pairs:
                some = [checkpoints[member.arm] for member in arms[: options.replicates]]
                found = _made(run, method, some, options.pairs, progress)
            if not found:
                notes.append(f"Changes of {group} are not split by {method}: give [routing] split = true, or pairs.")
                continue
            share = over_replicates((one.whole for one in found), found[0].interval)
            steps = found[0].steps
            over = [
                over_replicates(dict(zip(one.steps, one.shares, strict=True)).get(step, NAN) for one in found)
                for step in steps
            ]
            curves[group] = Curve(steps, [one.scaled(0.01) for one in over])
            rows += [[method, group, str(step), *cells(one)] for step, one in zip(steps, over, strict=True)]
            rows.append([method, group, "all", *cells(share)])
            verdicts.append(
                share.verdict(
                    question=QUESTION,
                    claim=f"Routing explains more than half of the change of importance in {group}.",
                    method=method,
                    claimed="above",
                    against=HALF,
                    unit="% of the change",
                    detail=f"Shapley split of {len(steps)} changes between checkpoints, all units; {share.basis}.",
                    would_decide="More replicates, until the interval of the share lies on one side of 50%; 0% is all "
                    "the neurons', as in any dense arm.",
                )
            )
        if curves:
            panels.append(Lines(f"by {method}", "routing's share of the change", curves, percent=True))
    table = Table(
        name="routing-split",
        caption="Routing's share of the change of scores since the checkpoint before, by the step of the later one, %.",
        columns=["method", "group", "step", *CELLS],
        rows=rows,
    )
    figures = (
        {"routing-split": lines("split", "Changes split into routing and neurons", "step", panels)} if panels else {}
    )
    return Analysis(verdicts=verdicts, tables=[table], figures=figures, notes=notes)


def _made(run: Run, method: str, arms: Sequence[list[Checkpoint]], most: int, progress: Progress) -> list[ChangeSplit]:
    """The splits of some changes of arms by a method, as the run would keep them."""
    options = run.experiment.attribution.asked()[method]
    if not isinstance(options, Explained):
        return []
    facts = facts_of(run)
    pairs = [spread(list(pairwise(checkpoints)), most) for checkpoints in arms]
    arguments = [(run.experiment, before, after, facts, options) for own in pairs for before, after in own]
    made = iter(each(run, split_checkpoints, arguments, f"split changes by {method}", progress))
    found = []
    for own in pairs:
        splits = list(islice(made, len(own)))
        if splits:
            joined = xr.concat(splits, "checkpoint", coords="minimal", compat="override")
            steps = [after.step for _, after in own]
            found.append(change_split(joined.assign_coords(step=("checkpoint", steps))))
    return found


def split_checkpoints(
    experiment: Experiment,
    before: Checkpoint,
    after: Checkpoint,
    facts: FactSet,
    options: Explained,
    progress: Progress,
) -> xr.Dataset:
    """The two parts of the change between two checkpoints; may be called in another process."""
    del progress
    with loaded(experiment, before) as first, loaded(experiment, after) as last:
        return split_pair(experiment, first, last, facts, options)[["routing_part", "neurons_part"]]
