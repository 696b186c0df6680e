"""Which experts can go: does LPI that has held still over checkpoints choose better than LPI, frequency, REAP, chance?

1. Every replicate of a mixture of experts that the run trained is pruned at some times of training by every ranking,
   and trained on (`prune_cells`), beside the same weights trained on without pruning.
2. Of a replicate, the advantage of stable LPI over a rival is the difference of the outcome, in the direction of
   better, mean over times and shares: one number for each seed, from the same checkpoints.
3. Over replicates: the mean with its interval by Student's t, and a test against 0, right after pruning and after
   further training. P values of all rivals, groups and moments are one family, adjusted by Holm's method (1979). A
   verdict is only given where the adjusted value is below 0.05.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from matplotlib.figure import Figure
from pydantic import AfterValidator, Field

from gated_lpi.errors import OptionError
from gated_lpi.metrics import GroupDifference, compare_groups, holm
from gated_lpi.options.methods import different
from gated_lpi.pruning import RANKINGS, By
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._runs import each, with_scores
from gated_lpi.studies.finding import Analysis, Table, Verdict
from gated_lpi.studies.prune_cells import NONE, Bench, Cell, Conditions, Replicate, carry_out, kept
from gated_lpi.training.spec import ArmName

Share = Annotated[float, Field(gt=0, lt=1)]
Time = Annotated[float, Field(gt=0, le=1)]
Outcome = Literal["hit_1", "hit_k", "logprob", "corpus_loss"]
Results = dict[Cell, dict[str, float]]

STABLE = "lpi_stable"
ALPHA = 0.05
QUESTION = "Does importance that has held still say which experts can go?"
UNITS = {"hit_1": "percentage points", "hit_k": "percentage points", "logprob": "nats", "corpus_loss": "nats per token"}
SCALES = {"hit_1": 100.0, "hit_k": 100.0, "logprob": 1.0, "corpus_loss": -1.0}  # to the unit, more being better
CHOSEN: dict[By, str] = {
    "lpi_stable": "by stable LPI",
    "lpi": "by LPI alone",
    "frequency": "by routing frequency",
    "reap": "by REAP",
    "grad_x_act": "by gradient times activation",
    "random": "at random",
}


class Options(Conditions):
    """What is pruned, how, and what decides.

    Attributes:
        rankings: which are compared; "lpi_stable" is held against each of the others.
        shares: which shares of experts are removed.
        times: at which shares of training.
        outcome: what decides: "hit_1", "hit_k", "logprob" of the answer, or "corpus_loss".
        pairs, calibration, corpus_examples, further_steps, rate, k, seed: see `Conditions`.
        arms: which arms are pruned; None: every one with experts that the run trained.
    """

    rankings: Annotated[tuple[By, ...], Field(min_length=1), AfterValidator(different)] = RANKINGS
    shares: Annotated[tuple[Share, ...], Field(min_length=1), AfterValidator(different)] = (0.25, 0.5)
    times: Annotated[tuple[Time, ...], Field(min_length=1), AfterValidator(different)] = (0.3, 1.0)
    outcome: Outcome = "logprob"
    arms: Annotated[tuple[ArmName, ...], Field(min_length=1)] | None = None

    @property
    def conditions(self) -> Conditions:
        """What cells have in common."""
        return Conditions(**{name: getattr(self, name) for name in Conditions.model_fields})

    @property
    def moments(self) -> dict[str, str]:
        """What is measured when: how outcomes begin → in words."""
        after = {"trained_": f"after {self.further_steps} more steps"} if self.further_steps else {}
        return {"": "right after pruning", **after}


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """Prune every replicate by every ranking at every time, and judge whether stable LPI chooses best.

    Cells that were found before are read from the run's folder `pruning`.

    Args:
        run: one with trained mixtures of experts.
        options: what is pruned, how, and what decides.
        progress: shown how many cells are done.

    Raises:
        OptionError: the run has no such arm, or one without two checkpoints with scores, or scores without what a
            ranking needs.
        RunError: scores or checkpoints cannot be read, or were trained on another corpus.
        WriteError: a cell could not be kept.
    """
    replicates = _replicates(run, options)
    cells = [cell for group, mine in replicates.items() for one in mine for cell in _cells(group, one, options)]
    by_arm = {one.arm: one for mine in replicates.values() for one in mine}
    corpus = Bench(run).corpus
    before = {cell: kept(cell, by_arm[cell.arm], corpus) for cell in cells}
    missing = [cell for cell in cells if before[cell] is None]
    asked = [(str(run.path), cell, options.conditions) for cell in missing]
    found = dict(zip(missing, each(run, carry_out, asked, "prune experts", progress), strict=True))
    results: Results = {cell: before[cell] or found[cell] for cell in cells}
    return Analysis(
        verdicts=list(_verdicts(results, options)),
        tables=[_recall_table(results, options), _cost_table(results)],
        figures={f"pruning-{group}": _figure(results, group, options) for group in replicates},
        notes=_notes(run, replicates, results, options),
    )


def _replicates(run: Run, options: Options) -> dict[str, list[Replicate]]:
    """The arms that are pruned, by group."""
    trained = {arm.name for arm in run.experiment.arms if arm.train is not None}
    for name in options.arms or ():
        if name not in trained:
            raise OptionError(
                f"arm {name!r} was to be pruned; this run trained {', '.join(sorted(trained)) or 'none'}: name those"
            )
    found: dict[str, list[Replicate]] = {}
    for group, arms in with_scores(run)[0].items():
        for arm in arms:
            one = Replicate(run, arm, options.conditions)
            if arm in (trained if options.arms is None else options.arms) and one.routed:
                found.setdefault(group, []).append(one)
    if not found:
        raise OptionError(
            f"{run.path} has no mixture of experts that it trained, so there is nothing to prune; give a run that "
            "trains one"
        )
    return found


def _cells(group: str, one: Replicate, options: Options) -> Iterator[Cell]:
    for time in options.times:
        at = (group, one.arm, one.seed, time, one.nearest_step(time))
        yield Cell(*at, NONE, 0.0)
        for share in options.shares:
            yield from (Cell(*at, by, share) for by in options.rankings)


def advantage(results: Results, group: str, rival: str, outcome: str) -> GroupDifference:
    """How much better stable LPI did than a rival in a group, in the direction of better: paired by replicate.

    Args:
        results: by cell.
        group: whose replicates.
        rival: a ranking.
        outcome: a name in results, "trained_…" for after further training.
    """
    scale = SCALES[outcome.removeprefix("trained_")]
    pairs = defaultdict(list)
    for cell, found in results.items():
        if cell.group == group and cell.by == STABLE:
            other = results[cell._replace(by=rival)]
            pairs[cell.arm].append((scale * found[outcome], scale * other[outcome]))
    mine, theirs = np.array([np.mean(values, axis=0) for values in pairs.values()]).T
    return compare_groups(mine, theirs, paired=True)


def _verdicts(results: Results, options: Options) -> Iterator[Verdict]:
    rivals = [by for by in options.rankings if by != STABLE] if STABLE in options.rankings else []
    groups = list(dict.fromkeys(cell.group for cell in results))
    asked = [(group, moment, rival) for group in groups for moment in options.moments for rival in rivals]
    found = [advantage(results, group, rival, f"{moment}{options.outcome}") for group, moment, rival in asked]
    tested = sum(not math.isnan(one.p_value) for one in found)
    for (group, moment, rival), one, p in zip(asked, found, holm([one.p_value for one in found]), strict=True):
        sure, n = bool(p < ALPHA), one.replicates[0]
        yield Verdict(
            question=QUESTION,
            claim=f"{group}: experts chosen by stable LPI cost less to remove, {options.moments[moment]}, than those "
            f"chosen {CHOSEN[rival]}",
            method="lpi",
            verdict="undecided" if not sure else "supported" if one.difference > 0 else "contradicted",
            effect=one.difference,
            low=one.low,
            high=one.high,
            unit=UNITS[options.outcome],
            detail=(
                f"{options.outcome}, stable LPI less {rival}, more being better: mean over {len(options.times)} times "
                f"and {len(options.shares)} shares, paired by seed over {n} replicates; "
                + (
                    "no interval: one replicate, or the same difference in all"
                    if math.isnan(p)
                    else f"t interval; p {one.p_value:.2g}, {p:.2g} by Holm over {tested} comparisons"
                )
            ),
            would_decide="" if sure else "more replicates",
        )


def _recall_table(results: Results, options: Options) -> Table:
    names = [f"{moment}{name}" for moment in options.moments for name in UNITS]
    rows: list[list[str | float | int | None]] = []
    for (group, time, by, share), mine in _over_replicates(results).items():
        means = [float(np.mean([found[name] for found in mine])) for name in names]
        spread = [found[options.outcome] for found in mine]
        deviation = statistics.stdev(spread) if len(spread) > 1 else None
        rows.append([group, time, share, by, len(mine), *means, deviation])
    titles = {"hit_1": "HIT@1", "hit_k": f"HIT@{options.k}", "logprob": "log p", "corpus_loss": "corpus loss"}
    heads = [f"{title}{', ' if when else ''}{when}" for when in _short(options) for title in titles.values()]
    return Table(
        name="pruning-recall",
        caption="Recall of the facts and loss over training texts, right after pruning and after further training: "
        "means over replicates; sd is that of the outcome right after, over replicates.",
        columns=["group", "time", "share removed", "by", "replicates", *heads, f"sd of {titles[options.outcome]}"],
        rows=rows,
    )


def _short(options: Options) -> list[str]:
    return ["", *([f"+{options.further_steps} steps"] if options.further_steps else [])]


def _cost_table(results: Results) -> Table:
    shown: dict[tuple[str, float], list[dict[str, float]]] = defaultdict(list)
    for cell, found in results.items():
        shown[cell.group, cell.share].append(found)
    rows: list[list[str | float | int | None]] = []
    for (group, share), mine in shown.items():
        first, times = mine[0], [found["train_seconds"] for found in mine if "train_seconds" in found]
        counts = [int(first[name]) for name in ("parameters", "parameters_active", "memory", "flops_per_token")]
        rows.append([group, share, *counts, statistics.median(times) if times else None])
    return Table(
        name="pruning-cost",
        caption="What a model costs with a share of its experts removed. Operations per token stay but for the "
        "router's removed rows, since a token is sent to as many experts; seconds are the median of further training.",
        columns=["group", "share removed", "parameters", "active", "bytes", "operations per token", "seconds"],
        rows=rows,
    )


def _over_replicates(results: Results) -> dict[tuple[str, float, str, float], list[dict[str, float]]]:
    found = defaultdict(list)
    for cell, values in results.items():
        found[cell.group, cell.time, cell.by, cell.share].append(values)
    return found


def _figure(results: Results, group: str, options: Options) -> Figure:
    """The outcome by ranking: a panel for each moment and time, a colour for each share, a dot for each replicate."""
    figure = Figure(figsize=(4.6 * len(options.times), 3.4 * len(options.moments)), layout="constrained")
    panels = figure.subplots(len(options.moments), len(options.times), squeeze=False, sharex=True)
    for row, (moment, words) in zip(panels, options.moments.items(), strict=True):
        for axes, time in zip(row, options.times, strict=True):
            mine = {cell: found[f"{moment}{options.outcome}"] for cell, found in results.items() if cell[0] == group}
            mine = {cell: value for cell, value in mine.items() if cell.time == time}
            for place, share in enumerate(options.shares):
                offset = 0.16 * (place - (len(options.shares) - 1) / 2)
                dots = [
                    (options.rankings.index(cell.by) + offset, value)
                    for cell, value in mine.items()
                    if cell.share == share
                ]
                axes.plot(*zip(*dots, strict=True), "o", ms=4, color=f"C{place}", label=f"{share:.0%} removed")
            whole = [value for cell, value in mine.items() if cell.by == NONE]
            axes.axhline(float(np.mean(whole)), color="0.4", ls="--", lw=1, label="none removed")
            axes.set_title(f"{time:.0%} of training, {words}", fontsize=9)
            axes.set_xticks(range(len(options.rankings)), options.rankings, rotation=30, ha="right", fontsize=8)
            axes.set_ylabel(options.outcome, fontsize=9)
    panels[0, 0].legend(fontsize=8)
    return figure


def _notes(run: Run, replicates: dict[str, list[Replicate]], results: Results, options: Options) -> list[str]:
    pruned = {one.arm for mine in replicates.values() for one in mine}
    steps = sorted({(cell.time, cell.step) for cell in results})
    notes = [
        "checkpoints: " + ", ".join(f"step {step} for {time:.0%} of training" for time, step in steps),
        "rankings and recall are of the same prompts, for all rankings alike",
    ]
    left = [arm for arm in run.arms if arm not in pruned]
    if left:
        notes.append(f"not pruned: {', '.join(left)}")
    if options.further_steps:
        notes.append(
            "further training begins with a new optimizer, of models with all experts too, as checkpoints hold weights "
            "alone"
        )
    return notes
