"""Ablation by task: what two-hop questions, arithmetic, retrieval and facts lose without the units that carry them.

1. At each arm's last checkpoint the top FFN units and heads by each method are silenced, ranked over all that is asked
   ("all") and over each task by itself, and every task is asked: drops of HIT@1, HIT@k (percentage points) and log p.
2. Beside each set are random ones with as many units or heads in each layer.
3. A relation's task is that of the beginning of its name; relations without one are facts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field

from gated_lpi import score_schema as schema
from gated_lpi.ablation import Chosen, Recall, draw, recall
from gated_lpi.ablation.ranking import NONE
from gated_lpi.checkpoints import Checkpoint
from gated_lpi.experiments import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.interventions import silenced
from gated_lpi.metrics import top_set
from gated_lpi.metrics.relations import over_relations
from gated_lpi.models import Model
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Positive, Spec, Text, Whole
from gated_lpi.results import Run
from gated_lpi.runs.ablations import head_importance, unit_importance
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._intervals import NAN, Estimate, difference, over_replicates
from gated_lpi.studies._models import asked_of, facts_of, loaded, scored_checkpoints
from gated_lpi.studies._replicates import Members, members_of
from gated_lpi.studies._runs import each, methods_of
from gated_lpi.studies.finding import Analysis, Table, Verdict
from gated_lpi.studies.page import method_name

QUESTION = "Is a task robust to losing the units that carry it?"
FACTS, ALL = "facts", "all"
TASKS = {
    "two-hop": "two-hop",
    "arithmetic": "arithmetic",
    "gsm8k": "arithmetic",
    "key-value": "retrieval",
    "needle": "retrieval",
    "variables": "retrieval",
}
UNITS, HEADS = "FFN units", "heads"
Floats = NDArray[np.float64]


class Options(Spec):
    """What is asked.

    Attributes:
        methods: by whose rankings; None: all that every arm has scores by.
        units: shares of the FFN units that are silenced; verdicts are on the first.
        heads: shares of the heads.
        tasks: what relations are called whose names begin so, the longest beginning first; beside those of tasks that
            are built in.
        draws: random sets beside each.
        replicates: of a group, at most.
        k: of HIT@k.
        seed: of the draws.
    """

    methods: Listed[str] | None = None
    units: Listed[float] = (0.01,)
    heads: Listed[float] = (0.1,)
    tasks: dict[Text, Text] = Field(default_factory=dict)
    draws: Positive = 5
    replicates: Positive = 5
    k: Positive = 10
    seed: Whole = 0


class Silenced(NamedTuple):
    """What is silenced: "FFN units" or "heads", of which share, by whose ranking, over which task or "all"."""

    what: str
    share: float
    method: str
    ranked: str


class Drop(NamedTuple):
    """What a task loses.

    Attributes:
        hit_1, hit_k: percentage points.
        logprob: nats.
    """

    hit_1: float
    hit_k: float
    logprob: float


class Lost(NamedTuple):
    """What every task of one arm loses.

    Attributes:
        intact: HIT@k of each task, %.
        prompts: of each task.
        chosen, random: drops by what is silenced and task; random: mean over the draws.
    """

    intact: dict[str, float]
    prompts: dict[str, int]
    chosen: dict[tuple[Silenced, str], Drop]
    random: dict[tuple[Silenced, str], Drop]


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """Silence top units and heads of every arm, and compare what tasks lose between groups and with each other."""
    members = members_of(run)
    methods = methods_of(run, members.arms, options.methods)
    checkpoints, facts = scored_checkpoints(run), facts_of(run)
    arms = [member.arm for several in members.groups.values() for member in several[: options.replicates]]
    arms = [arm for arm in arms if checkpoints[arm]]
    arguments = []
    for arm in arms:
        scores = run.scores(arm)
        row = scores["checkpoint_key"].to_numpy().tolist().index(checkpoints[arm][-1].key)
        names = [name for m in methods for name in (m, schema.mean_of(m), schema.HEAD_LPI) if name in scores]
        kept = scores[list(dict.fromkeys(names))].isel(checkpoint=row).load().drop_attrs()
        arguments.append((run.experiment, checkpoints[arm][-1], facts, kept, methods, options))
    found = dict(zip(arms, each(run, ablate_tasks, arguments, "ablation by task", progress), strict=True))
    places = list(dict.fromkeys(place for lost in found.values() for place in lost.chosen))
    return Analysis(
        verdicts=[*_compared(members, found, places, options), *_specific(members, found, places, options)],
        tables=[_table(members, found, places, options.k)],
        figures={"tasks": _figure(members, found, places, options.k)},
        notes=list(members.notes),
    )


def task_of(relation: str, tasks: Mapping[str, str]) -> str:
    """The task of a relation by the beginning of its name; "facts" if it has none."""
    known = TASKS | dict(tasks)
    return next((known[key] for key in sorted(known, key=len, reverse=True) if relation.startswith(key)), FACTS)


def ablate_tasks(
    experiment: Experiment,
    checkpoint: Checkpoint,
    facts: FactSet,
    scores: xr.Dataset,
    methods: Sequence[str],
    options: Options,
    progress: Progress,
) -> Lost:
    """What the tasks of one checkpoint lose; may be called in another process.

    Args:
        experiment: how it is asked.
        checkpoint: which one.
        facts: what it is asked.
        scores: of this checkpoint, by relation and overall.
        methods: by whose rankings.
        options: what is silenced.
        progress: not told.
    """
    del progress
    with loaded(experiment, checkpoint) as model:
        encoded = asked_of(experiment, facts, model)
        tasks = np.array([task_of(item.prompt.relation, options.tasks) for item in encoded])

        def ask() -> Recall:
            return recall(model, encoded, experiment.attribution.answer)

        intact = ask()
        generator = np.random.default_rng(options.seed)
        chosen: dict[tuple[Silenced, str], Drop] = {}
        random: dict[tuple[Silenced, str], Drop] = {}
        for silence, units in _sets(model, scores, methods, tasks, options):
            own: list[dict[str, Drop]] = []
            matched: list[dict[str, Drop]] = []
            for number in range(1 + options.draws):
                some = units if number == 0 else draw(model, units, "layer", generator)
                with silenced(model, some.indices(model)):
                    (matched if number else own).append(drops(intact, ask(), tasks, options.k))
            for task in own[0]:
                chosen[silence, task] = own[0][task]
                random[silence, task] = Drop(*np.mean([one[task] for one in matched], axis=0).tolist())
    several, counts = np.unique(tasks, return_counts=True)
    hits = {task: 100 * float((intact.ranks[tasks == task] < options.k).mean()) for task in several.tolist()}
    return Lost(hits, dict(zip(several.tolist(), counts.tolist(), strict=True)), chosen, random)


def drops(intact: Recall, without: Recall, tasks: NDArray[Any], k: int) -> dict[str, Drop]:
    """What each task loses: HIT@1 and HIT@k, percentage points, and mean log p, nats.

    Args:
        intact, without: recall of the same P prompts.
        tasks: [P], of each prompt.
        k: of HIT@k.
    """
    found = {}
    for task in dict.fromkeys(tasks.tolist()):
        inside = tasks == task
        hits = [
            100 * float((intact.ranks[inside] < one).mean() - (without.ranks[inside] < one).mean()) for one in (1, k)
        ]
        lost = intact.log_probabilities[inside] - without.log_probabilities[inside]
        found[str(task)] = Drop(hits[0], hits[1], float(lost.mean()))
    return found


def _sets(
    model: Model, scores: xr.Dataset, methods: Sequence[str], tasks: NDArray[Any], options: Options
) -> Iterator[tuple[Silenced, Chosen]]:
    """What is silenced, by every method, ranked over all and over each task if there are several."""
    ffn = np.flatnonzero(model.units.block == "ffn")
    relation = scores["relation"].to_numpy().astype(object).astype(str)
    of_task = np.array([task_of(name, options.tasks) for name in relation])
    several = list(dict.fromkeys(tasks.tolist()))
    for method, ranked in itertools.product(methods, [ALL, *(several if len(several) > 1 else ())]):
        part = scores if ranked == ALL else _on(scores.isel(relation=np.flatnonzero(of_task == ranked)), method)
        importance = unit_importance(model, part, method)
        if not np.isnan(importance[ffn]).all():
            for share in options.units:
                units = ffn[top_set(importance[ffn], share)]
                yield Silenced(UNITS, share, method, str(ranked)), Chosen(units, NONE)
        heads = head_importance(model, part, method)
        if heads is not None:
            for share in options.heads:
                yield Silenced(HEADS, share, method, str(ranked)), Chosen(NONE, top_set(heads, share))


def _on(scores: xr.Dataset, method: str) -> xr.Dataset:
    """Scores of some relations, with their mean in place of that over all."""
    return scores.assign({schema.mean_of(method): over_relations(scores, method)})


Found = Mapping[str, Lost]
Place = tuple[Silenced, str]


def _values(found: Found, place: Place, name: str) -> dict[str, float]:
    """A drop by arm."""
    return {arm: getattr(lost.chosen[place], name) for arm, lost in found.items() if place in lost.chosen}


def _first(places: Sequence[Place], options: Options) -> list[Place]:
    """The places of the first share of FFN units, which are judged."""
    return [(one, task) for one, task in places if one.what == UNITS and one.share == options.units[0]]


def _compared(members: Members, found: Found, places: Sequence[Place], options: Options) -> Iterator[Verdict]:
    """Whether a task is more robust in a mixture of experts."""
    for (moe, dense), place in itertools.product(members.contrasts, _first(places, options)):
        silence, task = place
        if silence.ranked != ALL:
            continue
        values = _values(found, place, "hit_k")
        paired = difference(members.by_seed(moe, values), members.by_seed(dense, values))
        estimate = paired.grained(_grain(found, task))
        yield estimate.verdict(
            question=QUESTION,
            claim=f"{moe} loses less of {task} than {dense} without its top {100 * silence.share:.3g}% of FFN units",
            method=silence.method,
            claimed="below",
            unit="percentage points",
            detail=f"Drop of HIT@{options.k} of {moe} less that of {dense}, paired by seed, ranked over all; "
            f"{estimate.basis}. Intact: {_intact(members, found, moe, task):.1f}% and "
            f"{_intact(members, found, dense, task):.1f}%.",
            would_decide="More replicates, until the interval leaves 0 out; arms that know the task equally well.",
        )


def _specific(members: Members, found: Found, places: Sequence[Place], options: Options) -> Iterator[Verdict]:
    """Whether the units that are ranked over a task carry this task more than others."""
    for group, arms in members.groups.items():
        for silence in dict.fromkeys(one for one, task in _first(places, options) if one.ranked == task):
            excess = over_replicates(_excess(found[one.arm], silence) for one in arms if one.arm in found)
            yield excess.verdict(
                question="Does a task have units of its own?",
                claim=f"In {group} the top FFN units of {silence.ranked} carry it more than they carry other tasks",
                method=silence.method,
                claimed="above",
                unit="nats",
                detail=f"Drop of log p beyond that by random units of the same layers: of {silence.ranked} less the "
                f"mean of the other tasks, {100 * silence.share:.3g}% of the FFN units; {excess.basis}.",
                would_decide="More replicates, until the interval leaves 0 out.",
            )


def _excess(lost: Lost, silence: Silenced) -> float:
    """The drop of log p beyond random ones of the task that units were ranked on, less that of the others, nats."""
    beyond = {
        task: lost.chosen[silence, task].logprob - lost.random[silence, task].logprob
        for task in lost.intact
        if (silence, task) in lost.chosen
    }
    others = [value for task, value in beyond.items() if task != silence.ranked]
    return beyond[silence.ranked] - float(np.mean(others)) if others and silence.ranked in beyond else NAN


def _intact(members: Members, found: Found, group: str, task: str) -> float:
    own = [found[one.arm].intact for one in members.of(group) if one.arm in found]
    return over_replicates(intact[task] for intact in own if task in intact).value


def _grain(found: Found, task: str) -> float:
    """What one prompt is of a task's recall, percentage points; of the arm that was asked the fewest."""
    return 100 / min(lost.prompts[task] for lost in found.values() if task in lost.prompts)


def _of_group(members: Members, found: Found, group: str, place: Place, name: str) -> tuple[Estimate, Estimate]:
    """A drop over the replicates of a group, of the chosen units and of random ones."""
    own = [found[one.arm] for one in members.of(group) if one.arm in found and place in found[one.arm].chosen]
    chosen, random = ([getattr(getattr(one, which)[place], name) for one in own] for which in ("chosen", "random"))
    grain = 0.0 if name == "logprob" else _grain(found, place[1])
    return over_replicates(chosen).grained(grain), over_replicates(random)


def _table(members: Members, found: Found, places: Sequence[Place], k: int) -> Table:
    rows: list[list[str | float | int | None]] = []
    for group, (silence, task) in itertools.product(members.groups, places):
        if not _values(
            {one.arm: found[one.arm] for one in members.of(group) if one.arm in found}, (silence, task), "hit_k"
        ):
            continue
        first, hit, logprob = (
            _of_group(members, found, group, (silence, task), name) for name in ("hit_1", "hit_k", "logprob")
        )
        drop, random = hit
        numbers = [first[0].value, drop.value, drop.low, drop.high, random.value, logprob[0].value, logprob[1].value]
        rows.append([group, silence.method, silence.what, silence.share, silence.ranked, task])
        rows[-1] += [_intact(members, found, group, task), *numbers, drop.n]
    return Table(
        name="tasks",
        caption="What each task loses without the top share of FFN units or heads, ranked over all that is asked or "
        "over one task: drops in percentage points, of log p in nats; random: as many of the same layers.",
        columns=[
            *("group", "method", "silenced", "share", "ranked over", "task", f"intact HIT@{k}", "HIT@1 drop"),
            *(f"HIT@{k} drop", "low", "high", f"HIT@{k} drop, random", "log p drop", "log p drop, random"),
            "replicates",
        ],
        rows=rows,
    )


def _figure(members: Members, found: Found, places: Sequence[Place], k: int) -> Figure:
    """Drops of each task without the first share of units, ranked over all: a panel a method, a bar a group."""
    shown = [(one, task) for one, task in places if one.ranked == ALL and one.what == places[0][0].what]
    shown = [(one, task) for one, task in shown if one.share == shown[0][0].share]
    methods = list(dict.fromkeys(one.method for one, _ in shown))
    tasks = list(dict.fromkeys(task for _, task in shown))
    figure = Figure(figsize=(1.8 + 2.8 * len(methods), 3.0), layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    width = 0.8 / len(members.groups)
    for axes, method in zip(panels, methods, strict=True):
        silence = next(one for one, _ in shown if one.method == method)
        for number, group in enumerate(members.groups):
            drops = [_of_group(members, found, group, (silence, task), "hit_k")[0] for task in tasks]
            x = np.arange(len(tasks)) + (number + 0.5) * width - 0.4
            axes.bar(x, [one.value for one in drops], width, label=group)
            known = [(at, one) for at, one in zip(x, drops, strict=True) if one.over]
            if known:
                ends = np.array([[one.value - one.low, one.high - one.value] for _, one in known]).T
                axes.errorbar([at for at, _ in known], [one.value for _, one in known], ends, fmt="none", ecolor="0.3")
        axes.set_xticks(range(len(tasks)), tasks)
        axes.set_title(f"top {100 * silence.share:g}% {silence.what} by {method_name(method)}", fontsize=9)
    panels[0].set_ylabel(f"drop of HIT@{k}, percentage points", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7, frameon=False)
    return figure
