"""Longer training: does knowledge become redundant, and importance spread or concentrate, with more steps?

1. Groups that are trained alike but for their steps are a family. Its members are compared at the end of training, and
   at equal tokens: the checkpoint nearest to the tokens that the shortest of the family has seen.
2. There the share of importance of the top set, the effective number of units in % of all, and the drop of HIT@k and
   log p without the top FFN units, less that without random ones of the same layers.
3. **Redundancy**, of mixtures of experts: the top experts fall silent with routers free to answer, and with the intact
   model's routing. What log p the routers' answer recovers, less the same for random experts, is redundancy.
4. Trend: Spearman over all replicates of a family with the number of steps.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.ablation import Chosen, draw, recall, redundancy
from gated_lpi.ablation.ranking import NONE
from gated_lpi.checkpoints import Checkpoint
from gated_lpi.experiments import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.interventions import silenced
from gated_lpi.metrics import top_set
from gated_lpi.models import Model
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Positive, Spec, Whole
from gated_lpi.results import Run
from gated_lpi.runs.ablations import unit_importance
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._charts import Curve, Lines, lines
from gated_lpi.studies._intervals import CELLS, NAN, Estimate, cells, over_replicates
from gated_lpi.studies._models import asked_of, facts_of, loaded, scored_checkpoints
from gated_lpi.studies._replicates import Members, members_of, rank_correlation
from gated_lpi.studies._runs import each, methods_of
from gated_lpi.studies.finding import Analysis, Table, Verdict

QUESTION = "What does longer training do?"
END, EQUAL = "end", "equal tokens"
GRAIN = "grain"  # of a drop of HIT@k: one prompt, percentage points


class Measure(NamedTuple):
    """What is measured.

    Attributes:
        name: as tables show it.
        claim: of its trend, with a place for the family.
        claimed: which way the trend is to go.
    """

    name: str
    claim: str
    claimed: Literal["above", "below"]


MEASURES = {
    "importance_share": Measure(
        "share of importance, %", "The top units hold more of the importance after longer training of {}.", "above"
    ),
    "effective": Measure(
        "effective units, % of all", "Importance spreads over more units with longer training of {}.", "above"
    ),
    "drop": Measure(
        "HIT@k drop beyond random, pp",
        "Silencing the top units costs less recall after longer training of {}.",
        "below",
    ),
    "lost": Measure(
        "log p drop beyond random, nats",
        "Silencing the top units costs less log p after longer training of {}.",
        "below",
    ),
    "recovered": Measure(
        "recovered by routers, nats", "Routers stand in for silent experts more after longer training of {}.", "above"
    ),
}


class Options(Spec):
    """What is asked.

    Attributes:
        methods: by which methods; None: all that every arm has scores by.
        share: of the FFN units that are silenced.
        experts: how many of the top experts are silenced.
        draws: random sets beside each.
        k: of HIT@k.
        permutations: for the trends.
        seed: of all draws.
    """

    methods: Listed[str] | None = None
    share: float = 0.01
    experts: Positive = 2
    draws: Positive = 5
    k: Positive = 10
    permutations: Positive = 2000
    seed: Whole = 0


class Place(NamedTuple):
    """A checkpoint at which an arm is measured."""

    arm: str
    where: str
    checkpoint: Checkpoint


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """Measure arms of a family at the end and at equal tokens, and judge trends with the number of steps."""
    members = members_of(run)
    families = families_of(run, members)
    if not families:
        reason = "No groups are trained alike but for their steps, so there is nothing to compare."
        return Analysis(notes=[*members.notes, reason])
    methods = methods_of(run, members.arms, options.methods)
    places = _places(run, members, families)
    arguments = []
    facts = facts_of(run)
    for place in places:
        scores = _at(run, place)
        kept = scores[[schema.mean_of(method) for method in methods]].load().drop_attrs()
        arguments.append((run.experiment, place.checkpoint, facts, kept, methods, options))
    costs = each(run, costs_of, arguments, "longer training", progress)
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for place, cost in zip(places, costs, strict=True):
        for method in methods:
            own = concentration(run.summary(place.arm, method), place.checkpoint.step)
            found[method, place.where, place.arm] = own | cost[method]
    return Analysis(
        verdicts=list(_trends(members, families, methods, found, options)),
        tables=[_table(members, families, methods, found)],
        figures={"longer": _figure(members, families, methods, found)},
        notes=list(members.notes),
    )


Families = Mapping[str, Mapping[str, int]]
"""Name → the steps of each of its groups, fewest first."""


def families_of(run: Run, members: Members) -> dict[str, dict[str, int]]:
    """Groups that are trained alike but for their steps and seeds, two or more; named after the kind of arm."""
    arms = {arm.name: arm for arm in run.experiment.arms}
    alike: dict[str, dict[str, int]] = {}
    kinds: dict[str, str] = {}
    for group, several in members.groups.items():
        arm = arms[several[0].arm]
        if arm.train is None:
            continue
        training = run.experiment.training_of(arm).model_dump(mode="json")
        same = {key: value for key, value in training.items() if key not in ("steps", "seed")}
        key = json.dumps([arm.train, same], sort_keys=True)
        kinds[key] = arm.train
        alike.setdefault(key, {})[group] = training["steps"]
    several_kinds = [kinds[key] for key, groups in alike.items() if len(set(groups.values())) > 1]
    found = {}
    for key, groups in alike.items():
        if len(set(groups.values())) > 1:
            only = several_kinds.count(kinds[key]) == 1
            name = kinds[key] if only else f"{kinds[key]} ({', '.join(groups)})"
            found[name] = dict(sorted(groups.items(), key=lambda item: item[1]))
    return found


def _places(run: Run, members: Members, families: Families) -> list[Place]:
    """The checkpoints that are measured: the last, and the one nearest to what the shortest of its family has seen."""
    checkpoints = scored_checkpoints(run)
    places = []
    for groups in families.values():
        arms = [member.arm for group in groups for member in members.of(group) if checkpoints[member.arm]]
        shortest = min((_seen(checkpoints[arm][-1]) for arm in arms), default=0)
        for arm in arms:
            own = checkpoints[arm]
            nearest = min(own, key=lambda one: abs(_seen(one) - shortest))
            places += [Place(arm, END, own[-1]), Place(arm, EQUAL, nearest)]
    return places


def _seen(checkpoint: Checkpoint) -> int:
    return checkpoint.step if checkpoint.tokens is None else checkpoint.tokens


def _at(run: Run, place: Place) -> xr.Dataset:
    scores = run.scores(place.arm)
    return scores.isel(checkpoint=scores["checkpoint_key"].to_numpy().tolist().index(place.checkpoint.key))


def concentration(summary: xr.Dataset, step: int) -> dict[str, float]:
    """Share of importance of the top set and effective number of units, both in % and of the FFN, at a step."""
    if "ffn" not in summary["kind"]:
        return {"importance_share": NAN, "effective": NAN}
    here = summary.sel(kind="ffn").isel(checkpoint=summary["step"].to_numpy().tolist().index(step))
    return {
        "importance_share": 100 * float(here["importance_share"]),
        "effective": 100 * float(here["effective_units"]) / int(here["units"]),
    }


def costs_of(
    experiment: Experiment,
    checkpoint: Checkpoint,
    facts: FactSet,
    scores: xr.Dataset,
    methods: Sequence[str],
    options: Options,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """What silencing top units costs beyond random ones, and what routers recover, by method."""
    del progress
    with loaded(experiment, checkpoint) as model:
        prompts = asked_of(experiment, facts, model)
        ffn = np.flatnonzero(model.units.block == "ffn")
        generator = np.random.default_rng(options.seed)

        def ask(units: NDArray[np.int64]) -> tuple[float, float]:
            with silenced(model, units):
                found = recall(model, prompts, experiment.attribution.answer)
            return float((found.ranks < options.k).mean()), float(found.log_probabilities.mean())

        costs = {}
        for method in methods:
            importance = unit_importance(model, scores, method)
            if np.isnan(importance[ffn]).all():
                costs[method] = dict.fromkeys(("drop", "lost", "recovered"), NAN)
                continue
            chosen = Chosen(ffn[top_set(importance[ffn], options.share)], NONE)
            own = ask(chosen.units)
            random = [ask(draw(model, chosen, "layer", generator).units) for _ in range(options.draws)]
            hit, logprob = np.mean(random, axis=0) - own
            costs[method] = {"drop": 100 * float(hit), "lost": float(logprob), GRAIN: 100 / len(prompts)}
            costs[method]["recovered"] = _recovered(model, experiment, facts, importance, options)
    return costs


def _recovered(
    model: Model, experiment: Experiment, facts: FactSet, importance: NDArray[np.float64], options: Options
) -> float:
    """What log p free routing has over frozen routing without the top experts, less that without random ones, nats."""
    routed = np.flatnonzero(model.experts.index >= 0)
    if not routed.size:
        return NAN
    found = redundancy(
        model,
        facts,
        scores=importance,
        top=min(options.experts, routed.size),
        draws=options.draws,
        k=options.k,
        seed=options.seed,
        templates=experiment.facts.templates,
        on_error=experiment.facts.on_error,
        bos=experiment.facts.bos,
    )
    return float(found["recovered"].mean() - found["recovered_control"].mean())


Found = Mapping[tuple[str, str, str], dict[str, float]]


def _of(members: Members, group: str, method: str, where: str, key: str, found: Found) -> list[float]:
    places = [(method, where, one.arm) for one in members.of(group)]
    return [found[place][key] for place in places if key in found.get(place, {})]


def _mean(members: Members, group: str, method: str, where: str, key: str, found: Found) -> Estimate:
    """Over replicates; of what is counted in prompts as if one of them were off by one at least."""
    estimate = over_replicates(_of(members, group, method, where, key, found))
    grains = _of(members, group, method, where, GRAIN, found) if key == "drop" else []
    return estimate.grained(grains[0]) if grains else estimate


def _trends(
    members: Members, families: Families, methods: Sequence[str], found: Found, options: Options
) -> Iterator[Verdict]:
    for (family, groups), method, where in itertools.product(families.items(), methods, (END, EQUAL)):
        for key, (name, claim, claimed) in MEASURES.items():
            pairs = [
                (steps, value)
                for group, steps in groups.items()
                for value in _of(members, group, method, where, key, found)
            ]
            steps_of, values = ([pair[i] for pair in pairs] for i in (0, 1))
            trend = rank_correlation(steps_of, values, draws=options.permutations, seed=options.seed)
            if not trend.n:
                continue
            at, said = where == EQUAL, claim.format(family)
            yield trend.verdict(
                question=QUESTION,
                claim=f"{said.rstrip('.')}, at equal tokens." if at else said,
                method=method,
                claimed=claimed,
                detail=f"{name} and steps, at {'the ' * (not at)}{where}, of {', '.join(groups)}; {trend.basis}.",
                would_decide="More replicates or lengths, until the interval leaves 0 out; a trend "
                "at equal tokens is of the schedule, one at the end alone of the training.",
            ).model_copy(update={"variation": "at equal tokens" if at else ""})


def _table(members: Members, families: Families, methods: Sequence[str], found: Found) -> Table:
    rows: list[list[str | float | int | None]] = []
    for (family, groups), method, where in itertools.product(families.items(), methods, (END, EQUAL)):
        for (group, steps), (key, (name, _, _)) in itertools.product(groups.items(), MEASURES.items()):
            estimate = _mean(members, group, method, where, key, found)
            if estimate.n:
                rows.append([family, group, steps, method, where, name, *cells(estimate)])
    return Table(
        name="longer",
        caption="Concentration, the cost of silencing and redundancy by length of training, at the end and at the "
        "tokens that the shortest training has seen; beyond random: less the same for random units or experts.",
        columns=["family", "group", "steps", "method", "at", "measure", *CELLS],
        rows=rows,
    )


def _figure(members: Members, families: Families, methods: Sequence[str], found: Found) -> Figure:
    panels = []
    for key, (name, _, _) in MEASURES.items():
        curves = {}
        for (family, groups), method in itertools.product(families.items(), methods):
            y = [_mean(members, group, method, END, key, found) for group in groups]
            if any(one.n for one in y):
                curves[f"{family}, {method}"] = Curve(list(groups.values()), y)
        if curves:
            panels.append(Lines(f"{name.split(',')[0]} at the end", name, curves))
    return lines("longer", "Longer training", "steps of training", panels)
