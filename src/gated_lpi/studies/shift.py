"""Data shift: what is forgotten, how soon the new answers are learnt, and what is left of the old ones.

From a step on, some facts have new objects. The run asks for "NAME (kept)", "NAME (before)", the old objects of those
that change, and "NAME (after)", their new ones.

1. **Forgetting**: HIT@k of kept facts at the last checkpoint that has seen no new object, less the least after it. The
   least of several is low whatever happens: where the run has arms whose data stay, trained alike but for that, they
   are the control.
2. **Re-learning**: steps and tokens from the shift until HIT@10 of new objects is 90%, between checkpoints on a line.
3. **Residue**: log p of the old object less that of the new one, at the end, and how often the old one ranks higher.
4. **Is early consolidation maladaptive?** J_stab of the last pair before the shift against the tokens to re-learn, over
   the replicates of a group: Spearman.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from gated_lpi import score_schema as schema
from gated_lpi.facts import shifting
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Positive, Spec, Whole
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._charts import Curve, Lines, lines
from gated_lpi.studies._intervals import CELLS, NAN, Estimate, cells, difference, over_replicates
from gated_lpi.studies._replicates import Member, Members, members_of, rank_correlation
from gated_lpi.studies._runs import methods_of
from gated_lpi.studies.finding import Analysis, Table, Verdict

QUESTION = "What happens when half of the facts are replaced?"
KEPT, BEFORE, AFTER = (f"({part})" for part in (shifting.KEPT, shifting.BEFORE, shifting.AFTER))
KINDS = (KEPT, BEFORE, AFTER)
K = 10
Floats = NDArray[np.float64]


class Options(Spec):
    """What is asked.

    Attributes:
        methods: whose J_stab; None: all that every arm has scores by.
        at: of the shift, as a share of the steps, in arms whose training has none itself; None: they have no shift.
        target: HIT@10 of new objects from which on they count as learnt.
        draws: permutations of a correlation.
        seed: of these.
    """

    methods: Listed[str] | None = None
    at: float | None = Field(default=None, gt=0, lt=1)
    target: float = Field(default=0.9, gt=0, le=1)
    draws: Positive = 2000
    seed: Whole = 0


class ShiftedArm(NamedTuple):
    """What a shift did to one arm; NaN where it cannot be said.

    Attributes:
        forgotten_1, forgotten: HIT@1 and HIT@10 of kept facts just before the shift less the least after it, pp.
        lost: the same at the end of training in place of the least.
        steps, tokens: from the shift until new objects are learnt; infinite if they never are.
        learnt: HIT@10 of new objects at the end, %.
        residue: log p of old objects less that of new ones at the end, nats.
        prefers_old: how often the old object ranks higher at the end, %.
    """

    forgotten_1: float
    forgotten: float
    lost: float
    steps: float
    tokens: float
    learnt: float
    residue: float
    prefers_old: float


class Control(NamedTuple):
    """Arms whose data stay, trained like those of a group whose data shift but for that.

    Attributes:
        name: of their group.
        of: the group that they are a control of.
        forgotten_1, forgotten: by arm, as `ShiftedArm` has them, around the step of the others' shift.
    """

    name: str
    of: str
    forgotten_1: dict[str, float]
    forgotten: dict[str, float]


SHOWN = {
    "forgotten_1": "forgotten (HIT@1), pp",
    "forgotten": "forgotten (HIT@10), pp",
    "lost": "still lost at the end (HIT@10), pp",
    "steps": "steps to re-learn",
    "tokens": "tokens to re-learn",
    "learnt": "HIT@10 of new objects at the end, %",
    "residue": "log p of old less new at the end, nats",
    "prefers_old": "old ranks above new at the end, %",
}
PERCENT = ("learnt", "prefers_old")  # shares, from 0 to 100
FORGOTTEN = ("forgotten_1", "forgotten")
CLAIMS = {
    "forgotten": ("{moe} forgets less of what is kept than {dense}.", "percentage points"),
    "forgotten_1": ("{moe} forgets less of what is kept than {dense} (HIT@1).", "percentage points"),
    "tokens": ("{moe} re-learns in fewer tokens than {dense}.", "tokens"),
    "residue": ("{moe} keeps less preference for the old answers than {dense}.", "nats"),
}


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """Measure each arm whose data shift, compare groups with and without experts, and ask what consolidation costs."""
    del progress
    members = members_of(run)
    found: dict[str, ShiftedArm] = {}
    series: dict[str, dict[str, tuple[list[int], Floats]]] = {}
    steps: dict[str, float] = {}
    for member in members.every:
        scores, step = run.scores(member.arm), shift_step(run, member.arm, options.at)
        kinds = kinds_of(scores)
        if step is None or not all((kinds == kind).any() for kind in KINDS):
            continue
        steps[member.arm] = step
        found[member.arm] = measure(scores, step, options.target)
        series[member.arm] = {
            kind: (scores["step"].to_numpy().tolist(), hits_over(scores, kinds == kind, K)) for kind in KINDS
        }
    controls = list(_controls(run, members, steps))
    if not found:
        reason = "No arm has a shift and facts that are kept, before and after it, so there is nothing to compare."
        return Analysis(notes=[*members.notes, reason])
    never = [arm for arm, one in found.items() if math.isinf(one.tokens)]
    notes = [*members.notes]
    if never:
        notes.append(
            f"{', '.join(never)} never reach{'es' * (len(never) == 1)} {options.target:.0%} of new objects: left out "
            "of means of steps and tokens, and last in correlations."
        )
    grains = _grains(run.scores(next(iter(found))))
    verdicts = [
        *_learnt(members, found, options.target, grains),
        *_beyond_control(members, found, controls, grains),
        *_compared(members, found, grains),
    ]
    consolidation, rows = _consolidation(run, members, found, steps, options)
    return Analysis(
        verdicts=[*verdicts, *consolidation],
        tables=[_table(members, found, controls, grains), _replicates(found, rows)],
        figures={"shift": _figure(members, series)},
        notes=notes,
    )


def shift_step(run: Run, arm: str, at: float | None) -> float | None:
    """The step after which an arm's data are others; None where they stay."""
    spec = run.experiment.training_of(run.experiment.arm(arm))
    if spec.shift is None:
        return None if at is None else round(at * spec.steps)
    return spec.steps_before_shift if spec.shift.share else None


def kinds_of(scores: xr.Dataset) -> NDArray[Any]:
    """How the relation of each prompt ends: "(kept)", "(before)", "(after)", or anything else: [P]."""
    names = scores["prompt_relation"].to_numpy().astype(object).astype(str)
    return np.array([name.rsplit(" ", 1)[-1] for name in names])


def true_at(scores: xr.Dataset, shift: float | None) -> NDArray[np.bool_]:
    """Which prompts ask for what is true in the data of each checkpoint, [T, P]: old objects up to a shift, then new.

    Args:
        scores: of an arm.
        shift: the step after which its data are others; None where they stay.
    """
    step = scores["step"].to_numpy()
    if "prompt_relation" not in scores.coords:
        return np.ones((len(step), scores.sizes["prompt"]), dtype=np.bool_)
    kinds = kinds_of(scores)
    shifted = np.zeros(len(step), dtype=np.bool_) if shift is None else step > shift
    asked: NDArray[np.bool_] = np.where(shifted[:, None], kinds != BEFORE, kinds != AFTER)
    return asked


def hits_over(scores: xr.Dataset, prompts: NDArray[np.bool_], k: int) -> Floats:
    """HIT@k of some prompts at every checkpoint, [T]."""
    ranks = scores[schema.TARGET_RANK].transpose("checkpoint", "prompt").to_numpy()[:, prompts]
    hits: Floats = (ranks < k).mean(axis=1)
    return hits


def measure(scores: xr.Dataset, shift: float, target: float = 0.9) -> ShiftedArm:
    """What a shift after a step did, from ranks and log p of targets over checkpoints."""
    step, tokens = (scores[name].to_numpy().astype(np.float64) for name in ("step", "tokens"))
    kinds = kinds_of(scores)
    hits = {kind: hits_over(scores, kinds == kind, K) for kind in KINDS}
    seen, unseen = np.flatnonzero(step > shift), np.flatnonzero(step <= shift)
    if not seen.size or not unseen.size:
        return ShiftedArm(*[NAN] * len(ShiftedArm._fields))
    last = unseen[-1]
    logprob = scores[schema.TARGET_LOGPROB].transpose("checkpoint", "prompt").to_numpy()[-1]
    ranks = scores[schema.TARGET_RANK].transpose("checkpoint", "prompt").to_numpy()[-1]
    pairs = _same_prompt(scores, kinds)
    old, new = (np.array([pair[place] for pair in pairs], dtype=np.int64) for place in (0, 1))
    crossing = crossed(step, hits[AFTER], target, since=int(last))
    at_crossing = NAN if math.isnan(crossing) else float(np.interp(crossing, step, tokens))
    at_shift = float(np.interp(shift, step, tokens))
    return ShiftedArm(
        *forgotten(scores, shift),
        lost=100 * float(hits[KEPT][last] - hits[KEPT][-1]),
        steps=math.inf if math.isnan(crossing) else max(0.0, crossing - shift),
        tokens=math.inf if math.isnan(crossing) else max(0.0, at_crossing - at_shift),
        learnt=100 * float(hits[AFTER][-1]),
        residue=float((logprob[old] - logprob[new]).mean()) if pairs else NAN,
        prefers_old=100 * float((ranks[old] < ranks[new]).mean()) if pairs else NAN,
    )


def forgotten(scores: xr.Dataset, shift: float) -> tuple[float, float]:
    """HIT@1 and HIT@10 of kept facts at the last checkpoint up to a step, less the least after it, pp; or NaN."""
    step, kept = scores["step"].to_numpy(), kinds_of(scores) == KEPT
    seen, unseen = np.flatnonzero(step > shift), np.flatnonzero(step <= shift)
    if not seen.size or not unseen.size or not kept.any():
        return NAN, NAN
    hits = [hits_over(scores, kept, k) for k in (1, K)]
    one, ten = (100 * float(over_time[unseen[-1]] - over_time[seen].min()) for over_time in hits)
    return one, ten


def crossed(x: Floats, y: Floats, level: float, since: int = 0) -> float:
    """Where y, on a line between points, first reaches a level from a point on; NaN if it does not."""
    above = np.flatnonzero(y[since:] >= level)
    if not above.size:
        return NAN
    here = since + int(above[0])
    if here == since:
        return float(x[here])
    return float(np.interp(level, [y[here - 1], y[here]], [x[here - 1], x[here]]))


def _same_prompt(scores: xr.Dataset, kinds: NDArray[Any]) -> list[tuple[int, int]]:
    """Pairs of a prompt for the old object and the one for the new object of the same fact, as places.

    A fact is its relation and subject; what is asked through several templates is asked in one order in both.
    """
    names, subjects = (scores[key].to_numpy().astype(object).astype(str) for key in ("prompt_relation", "subject"))
    places: dict[str, dict[tuple[str, str], list[int]]] = {BEFORE: {}, AFTER: {}}
    for i in np.flatnonzero(np.isin(kinds, list(places))).tolist():
        places[str(kinds[i])].setdefault((names[i].rsplit(" ", 1)[0], subjects[i]), []).append(i)
    old, new = places[BEFORE], places[AFTER]
    return [pair for fact in old.keys() & new.keys() for pair in zip(old[fact], new[fact], strict=True)]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else NAN


def _grains(scores: xr.Dataset) -> dict[str, float]:
    """What one prompt is of the measures that are counted in prompts, percentage points."""
    kinds = kinds_of(scores)
    one = {kind: 100 / int((kinds == kind).sum()) for kind in KINDS}
    return dict.fromkeys((*FORGOTTEN, "lost"), one[KEPT]) | dict.fromkeys(PERCENT, one[AFTER])


def _mean(name: str, values: list[float], grains: Mapping[str, float]) -> Estimate:
    """Of a measure over replicates; the interval of a share ends where shares do."""
    found = over_replicates(values).grained(grains.get(name, 0.0))
    return found.within(0, 100) if name in PERCENT else found


def _controls(run: Run, members: Members, steps: Mapping[str, float]) -> Iterator[Control]:
    """Groups whose data stay, each with a group of those that shift, at `steps` by arm, and are trained alike else."""

    def told(member: Member) -> str:
        training = run.experiment.training_of(run.experiment.arm(member.arm)).model_dump(mode="json")
        same = {key: value for key, value in training.items() if key not in ("seed", "shift")}
        return json.dumps([run.experiment.arm(member.arm).train, same], sort_keys=True)

    shifted = {told(several[0]): group for group, several in members.groups.items() if several[0].arm in steps}
    for name, several in members.groups.items():
        of, shift = shifted.get(told(several[0])), run.experiment.training_of(run.experiment.arm(several[0].arm)).shift
        if of is None or shift is None or shift.share:
            continue
        step = steps[members.of(of)[0].arm]
        measured = {member.arm: forgotten(run.scores(member.arm), step) for member in several}
        yield Control(name, of, *({arm: both[place] for arm, both in measured.items()} for place in (0, 1)))


def _beyond_control(
    members: Members, found: Mapping[str, ShiftedArm], controls: Sequence[Control], grains: Mapping[str, float]
) -> list[Verdict]:
    verdicts = []
    for control in controls:
        for name in FORGOTTEN:
            own = members.by_seed(control.of, {arm: _finite(getattr(one, name)) for arm, one in found.items()})
            theirs = members.by_seed(control.name, getattr(control, name))
            estimate = difference(own, theirs).grained(grains[name])
            detail = f"{SHOWN[name]}, {control.of} less {control.name}, replicates paired by seed; {estimate.basis}."
            claim = f"{control.of} forgets more of what is kept than {control.name}, whose facts stay"
            claim += " (HIT@1)." if name == "forgotten_1" else "."
            verdicts.append(_verdict(claim, estimate, "percentage points", "above", detail))
    return verdicts


def _of_group(members: Members, found: Mapping[str, ShiftedArm], group: str, name: str) -> list[float]:
    return [_finite(getattr(found[m.arm], name)) for m in members.of(group) if m.arm in found]


def _learnt(
    members: Members, found: Mapping[str, ShiftedArm], target: float, grains: Mapping[str, float]
) -> list[Verdict]:
    verdicts = []
    for group in members.groups:
        values = _of_group(members, found, group, "learnt")
        if values:
            estimate = _mean("learnt", values, grains)
            verdicts.append(
                _verdict(
                    f"{group} has learnt the new answers by the end.",
                    estimate,
                    "%",
                    "above",
                    f"HIT@{K} of new objects at the end, against {target:.0%}; {estimate.basis}.",
                    against=100 * target,
                )
            )
    return verdicts


def _compared(members: Members, found: Mapping[str, ShiftedArm], grains: Mapping[str, float]) -> list[Verdict]:
    verdicts = []
    for moe, dense in members.contrasts:
        for name, (claim, unit) in CLAIMS.items():
            values = {arm: _finite(getattr(one, name)) for arm, one in found.items()}
            one, other = (members.by_seed(group, values) for group in (moe, dense))
            if not one or not other:
                continue
            estimate = difference(one, other).grained(grains.get(name, 0.0))
            detail = f"{SHOWN[name]}, {moe} less {dense}, replicates paired by seed; {estimate.basis}."
            verdicts.append(_verdict(claim.format(moe=moe, dense=dense), estimate, unit, "below", detail))
    return verdicts


def _verdict(claim: str, estimate: Estimate, unit: str, claimed: Any, detail: str, against: float = 0.0) -> Verdict:
    return estimate.verdict(
        question=QUESTION,
        claim=claim,
        claimed=claimed,
        against=against,
        unit=unit,
        detail=detail,
        would_decide=f"More replicates, until the interval leaves {against:g} out.",
    )


def _consolidation(
    run: Run, members: Members, found: Mapping[str, ShiftedArm], steps: Mapping[str, float], options: Options
) -> tuple[list[Verdict], dict[str, dict[str, float]]]:
    """Verdicts on what consolidation before the shift costs; J_stab before it by method and arm."""
    stability: dict[str, dict[str, float]] = {}
    verdicts = []
    for method in methods_of(run, members.arms, options.methods):
        stability[method] = {arm: _stability_before(run.summary(arm, method), steps[arm]) for arm in found}
        for group in members.groups:
            arms = [member.arm for member in members.of(group) if member.arm in found]
            if not arms:
                continue
            longest = max((found[arm].tokens for arm in arms if math.isfinite(found[arm].tokens)), default=0.0)
            waits = [min(found[arm].tokens, longest + 1) for arm in arms]
            rho = rank_correlation(
                (stability[method][arm] for arm in arms), waits, draws=options.draws, seed=options.seed
            )
            verdicts.append(
                rho.verdict(
                    question="Is early consolidation maladaptive?",
                    claim=f"Replicates of {group} that were more consolidated before the shift re-learn more slowly.",
                    method=method,
                    claimed="above",
                    detail=f"Spearman of J_stab (FFN) of the last pair before the shift and tokens to re-learn, "
                    f"{rho.basis}.",
                    would_decide="More replicates (ten tell a correlation of 0.65 from chance), or a training that is "
                    "stabilised early in some arms and not in others.",
                )
            )
    return verdicts, stability


def _stability_before(summary: xr.Dataset, shift: float) -> float:
    """J_stab of FFN units at the last pair of checkpoints before the shift."""
    before = np.flatnonzero(summary["pair_next_step"].to_numpy() <= shift)
    if not before.size or "ffn" not in summary["kind"]:
        return NAN
    return float(summary["stability"].sel(kind="ffn")[int(before[-1])])


def _table(
    members: Members, found: Mapping[str, ShiftedArm], controls: Sequence[Control], grains: Mapping[str, float]
) -> Table:
    rows = [
        [group, label, *cells(_mean(name, values, grains))]
        for group in members.groups
        for name, label in SHOWN.items()
        if (values := _of_group(members, found, group, name))
    ]
    rows += [
        [control.name, SHOWN[name], *cells(_mean(name, list(getattr(control, name).values()), grains))]
        for control in controls
        for name in FORGOTTEN
    ]
    caption = "What the shift did, mean over replicates. Forgotten: just before the shift less the least after it."
    return Table(name="shift", caption=caption, columns=["group", "measure", *CELLS], rows=rows)


def _replicates(found: Mapping[str, ShiftedArm], stability: Mapping[str, Mapping[str, float]]) -> Table:
    columns = ["arm", *SHOWN.values(), *(f"J_stab before the shift, {method}" for method in stability)]
    rows: list[list[Any]] = [[arm, *one, *(by[arm] for by in stability.values())] for arm, one in found.items()]
    return Table(name="shift-replicates", caption="The same of every replicate.", columns=columns, rows=rows)


def _figure(members: Members, series: Mapping[str, Mapping[str, tuple[list[int], Floats]]]) -> Any:
    panels = []
    for kind in KINDS:
        curves = {}
        for group in members.groups:
            own = [series[member.arm][kind] for member in members.of(group) if member.arm in series]
            if own:
                steps = own[0][0]
                at = [[hits[x.index(step)] for x, hits in own if step in x] for step in steps]
                curves[group] = Curve(steps, [over_replicates(values).within(0, 1) for values in at])
        panels.append(Lines(f"facts {kind}", f"HIT@{K}", curves, percent=True))
    return lines("shift", "Recall over a data shift", "step", panels)
