"""Frozen routers: which weights are served by which routing.

1. The last weights with the routing of every checkpoint s, and the weights of every checkpoint t with the last routing:
   replayed (experts and gates as they were chosen there) and transplanted (the routers from there, on these hidden
   states). Each is asked the run's facts: HIT@1, HIT@10 and log p.
2. Null: the last weights with the last routing, the experts of each layer exchanged for one another at random. The
   gates are as sharp, and go to the wrong experts.
3. A routing serves weights from the time on from which HIT@10 stays at `enough` of what it is with their own; between
   checkpoints on a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from gated_lpi.ablation import target_scores
from gated_lpi.checkpoints import Checkpoint
from gated_lpi.experiments import Experiment
from gated_lpi.facts import EncodedPrompt, FactSet
from gated_lpi.interventions import RecordedRouting, record_routing, replayed, transplanted
from gated_lpi.models import Model
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._charts import Curve, Lines, lines
from gated_lpi.studies._intervals import NAN, Estimate, over_replicates
from gated_lpi.studies._models import asked_of, facts_of, loaded
from gated_lpi.studies._replicates import Member
from gated_lpi.studies._runs import each
from gated_lpi.studies.finding import Analysis, Table, Verdict, judged

QUESTION = "From when on does the final routing serve earlier weights, and earlier routing the final ones?"
K = 10
OWN, REPLAYED, TRANSPLANTED, PERMUTED = "own", "replayed", "transplanted", "experts exchanged"
LAST, EARLIER = "last weights", "last routing"
FIGURES = ("hit_1", "hit_k", "logprob")


class Asked(NamedTuple):
    """What weights recall with some routing.

    Attributes:
        step: of the checkpoint that is not the last one; of the last one where both are.
        done: this step as a share of the last one.
        grid: "last weights", with the routing of this step; or "last routing", with the weights of this step.
        way: "own" routing of the weights, "replayed", "transplanted", or "experts exchanged".
        hit_1, hit_k: shares.
        logprob: mean log p of the targets, nats.
    """

    step: int
    done: float
    grid: str
    way: str
    hit_1: float
    hit_k: float
    logprob: float


def frozen_router(
    run: Run,
    groups: Mapping[str, Sequence[Member]],
    checkpoints: Mapping[str, list[Checkpoint]],
    *,
    permutations: int,
    enough: float,
    seed: int,
    progress: Progress,
) -> Analysis:
    """Ask the weights of some checkpoints with the routing of others, of every arm of groups with routed experts.

    Args:
        run: whose facts are asked.
        groups: arms by group.
        checkpoints: of each arm, in training order.
        permutations: of experts, for the null.
        enough: share of a HIT@10 that is as good.
        seed: of the permutations.
        progress: shown how far it is.
    """
    facts = facts_of(run)
    arms = [member.arm for several in groups.values() for member in several if checkpoints[member.arm]]
    arguments = [(run.experiment, checkpoints[arm], facts, permutations, seed) for arm in arms]
    by_arm = dict(zip(arms, each(run, ask_arm, arguments, "frozen routers", progress), strict=True))
    rows: list[list[str | float | int | None]] = []
    verdicts: list[Verdict] = []
    panels: list[Lines] = []
    for group, several in groups.items():
        found = [by_arm[member.arm] for member in several if member.arm in by_arm]
        rows += _rows(group, found)
        panels += _panels(group, found)
        verdicts += _verdicts(group, found, enough)
    table = Table(
        name="frozen-router",
        caption="Recall of the last weights with the routing of each step, and of the weights of each step with the "
        "last routing; mean over replicates. Own: the weights with their own routing.",
        columns=["group", "grid", "routing", "step", "HIT@1", f"HIT@{K}", "low", "high", "log p", "replicates"],
        rows=rows,
    )
    return Analysis(
        verdicts=verdicts,
        tables=[table],
        figures={"frozen-router": lines("frozen-router", "Frozen routers", "step", panels)},
    )


def permuted_experts(recorded: RecordedRouting, generator: np.random.Generator) -> RecordedRouting:
    """The same routing with the experts of every layer exchanged for one another at random."""
    orders = [torch.from_numpy(generator.permutation(count)) for count in recorded.n_experts]
    prompts = {
        ids: tuple(
            one._replace(experts=order.to(one.experts.device)[one.experts], logits=one.logits[:, order.argsort()])
            for one, order in zip(layers, orders, strict=True)
        )
        for ids, layers in recorded.prompts.items()
    }
    return replace(recorded, prompts=prompts)


def serves_from(done: Sequence[float], hits: Sequence[float], needed: Sequence[float]) -> float:
    """From which share of training on each hit is what is needed, on a line between checkpoints.

    NaN if the last one is not, or nothing is needed.

    Args:
        done: shares of training, ascending.
        hits: at each.
        needed: at each.
    """
    good = [hit >= need > 0 for hit, need in zip(hits, needed, strict=True)]
    if not good or not good[-1]:
        return NAN
    first = len(good) - next((i for i, one in enumerate(reversed(good)) if not one), len(good))
    if first == 0:
        return done[0]
    lacking, beyond = (hits[place] - needed[place] for place in (first - 1, first))
    if not lacking < 0 <= beyond:  # nothing was needed there
        return done[first]
    return done[first - 1] + (done[first] - done[first - 1]) * lacking / (lacking - beyond)


def ask_arm(
    experiment: Experiment,
    checkpoints: Sequence[Checkpoint],
    facts: FactSet,
    permutations: int,
    seed: int,
    progress: Progress,
) -> list[Asked]:
    """Every combination of weights and routing of one arm's checkpoints; may be called in another process."""
    del progress
    last = checkpoints[-1]
    with loaded(experiment, last) as final:
        prompts = asked_of(experiment, facts, final)
        ids = [item.ids for item in prompts]
        final_routing = record_routing(final, ids)
        generator = np.random.default_rng(seed)
        found = []
        for _ in range(permutations):
            wrong = permuted_experts(final_routing, generator)
            found.append(_asked(final, prompts, (last.step, 1.0, LAST, PERMUTED), replayed(final, wrong)))
        for one in checkpoints:
            place = one.step, one.step / last.step if last.step else 1.0
            with loaded(experiment, one) as other:
                routing = record_routing(other, ids)
                ways = (
                    (final, LAST, REPLAYED, replayed(final, routing)),
                    (final, LAST, TRANSPLANTED, transplanted(final, other)),
                    (other, EARLIER, OWN, nullcontext()),
                    (other, EARLIER, REPLAYED, replayed(other, final_routing)),
                    (other, EARLIER, TRANSPLANTED, transplanted(other, final)),
                )
                found += [_asked(model, prompts, (*place, grid, way), held) for model, grid, way, held in ways]
    return found


def _asked(
    model: Model,
    prompts: Sequence[EncodedPrompt],
    where: tuple[int, float, str, str],
    routing: AbstractContextManager[None],
) -> Asked:
    with routing:
        means = target_scores(model, prompts).means(K)
    return Asked(*where, *(means[name] for name in FIGURES))


def _at(found: Sequence[Sequence[Asked]], grid: str, way: str, step: int, figure: str) -> Estimate:
    """A figure over replicates; of several permutations the mean of each replicate."""
    values = [
        [getattr(one, figure) for one in arm if (one.grid, one.way, one.step) == (grid, way, step)] for arm in found
    ]
    return over_replicates(float(np.mean(own)) for own in values if own)


def _places(found: Sequence[Sequence[Asked]]) -> dict[tuple[str, str], list[int]]:
    """The steps of each grid and way, ascending."""
    every = {(one.grid, one.way, one.step) for arm in found for one in arm}
    order = {(one.grid, one.way): None for arm in found for one in arm}
    return {place: sorted(step for grid, way, step in every if (grid, way) == place) for place in order}


def _rows(group: str, found: Sequence[Sequence[Asked]]) -> list[list[str | float | int | None]]:
    rows: list[list[str | float | int | None]] = []
    for (grid, way), steps in _places(found).items():
        for step in steps:
            first, hit, logprob = (_at(found, grid, way, step, figure) for figure in FIGURES)
            rows.append([group, grid, way, step, first.value, hit.value, hit.low, hit.high, logprob.value, hit.n])
    return rows


def _panels(group: str, found: Sequence[Sequence[Asked]]) -> list[Lines]:
    panels = []
    for grid in (LAST, EARLIER):
        curves = {
            way: Curve(steps, [_at(found, grid, way, step, "hit_k") for step in steps])
            for (own, way), steps in _places(found).items()
            if own == grid
        }
        panels.append(Lines(f"{group}: {grid}", f"HIT@{K}", curves, percent=True))
    return panels


def _series(arm: Sequence[Asked], grid: str, way: str) -> list[Asked]:
    return sorted((one for one in arm if (one.grid, one.way) == (grid, way)), key=lambda one: one.step)


def _served_from(arm: Sequence[Asked], enough: float) -> float:
    """From which share of training on its routing, replayed, serves the last weights, %."""
    series = _series(arm, LAST, REPLAYED)
    needed = [enough * one.hit_k for one in _series(arm, EARLIER, OWN)[-1:]] * len(series)
    return 100 * serves_from([one.done for one in series], [one.hit_k for one in series], needed)


def _gained(arm: Sequence[Asked]) -> float:
    """HIT@10 of weights between the first and the last checkpoint, with the last routing less with their own, pp."""
    with_last, own = (_series(arm, EARLIER, way)[1:-1] for way in (REPLAYED, OWN))
    return 100 * float(np.mean([a.hit_k - b.hit_k for a, b in zip(with_last, own, strict=True)])) if own else NAN


def _verdicts(group: str, found: Sequence[Sequence[Asked]], enough: float) -> Iterator[Verdict]:
    since = over_replicates(_served_from(arm, enough) for arm in found if arm)
    last = max((one.step for arm in found for one in arm), default=0)
    own, wrong = (_at(found, grid, way, last, "hit_k").value for grid, way in ((EARLIER, OWN), (LAST, PERMUTED)))
    indifferent = wrong >= enough * own
    yield Verdict(
        question=QUESTION,
        claim=f"The routing of the first half of training serves the final weights of {group}.",
        verdict="undecided" if indifferent else judged(since.low, since.high, against=50.0, claimed="below"),
        effect=since.value,
        low=since.low,
        high=since.high,
        unit="% of the steps",
        detail=f"Earliest time from which on the final weights keep {enough:.0%} of their HIT@{K} with its "
        f"routing replayed; {since.basis}. With their own it is {own:.1%}, with experts exchanged at random {wrong:.1%}"
        + (", so that recall does not depend on routing." if indifferent else "."),
        would_decide="More replicates or denser checkpoints, until the interval lies on one side of 50% of the steps; "
        "and recall that is lost if experts are exchanged.",
    )
    gained = over_replicates(_gained(arm) for arm in found if arm)
    yield gained.verdict(
        question=QUESTION,
        claim=f"Earlier weights of {group} recall less with the final routing than with their own.",
        claimed="below",
        unit="percentage points",
        detail=f"HIT@{K} with the last routing replayed less with their own, mean over the checkpoints between the "
        f"first and the last; {gained.basis}.",
        would_decide="More replicates, until the interval of the difference leaves 0 out.",
    )
