"""Recall: do the arms know the facts, and early enough that most of training is after they do?

HIT@1 and HIT@k of every group of arms at each checkpoint: with one replicate Wilson's interval over prompts, with more
the interval over replicates, as if one of them were off by a prompt at least. When an arm knows enough is read off a
line between checkpoints. What importance says of knowledge means little before there is any.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from gated_lpi import score_schema as schema
from gated_lpi.metrics import hit_at_k, hit_interval
from gated_lpi.options.spec import Positive, Spec
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._intervals import UNKNOWN, Estimate, over_replicates
from gated_lpi.studies._runs import with_scores
from gated_lpi.studies.finding import Analysis, Table, Verdict, judged
from gated_lpi.studies.shift import crossed, shift_step, true_at

QUESTION = "Do the models know the facts that they are asked?"


class Options(Spec):
    """Options of the analysis.

    Attributes:
        k: of HIT@k, beside HIT@1.
        threshold: the HIT@k that counts as knowing.
        before: the share of the steps before which it is to be reached.
    """

    k: Positive = 10
    threshold: float = Field(default=0.9, gt=0, le=1)
    before: float = Field(default=0.5, gt=0, le=1)


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """HIT@1 and HIT@k over steps by group, and whether every group knows enough early enough.

    Where data shift, old objects are asked for up to the shift, and new ones from then on.
    """
    del progress
    groups, notes = with_scores(run)
    ks = (1, options.k)
    curves: dict[str, dict[int, list[Estimate]]] = {}
    steps: dict[str, list[int]] = {}
    reached: dict[str, list[float]] = {}
    for group, arms in groups.items():
        found = {arm: hits_of(run, arm, ks) for arm in arms}
        steps[group] = sorted(set.intersection(*(set(hits) for hits, _ in found.values())))
        curves[group] = {
            k: [_pooled([hits[step][k] for hits, _ in found.values()], _prompts(found)) for step in steps[group]]
            for k in ks
        }
        reached[group] = [_first(hits, options) for hits, _ in found.values()]
    rows: list[list[str | float | int | None]] = []
    for group, by_k in curves.items():
        last = [by_k[k][-1] for k in ks]
        share = over_replicates(reached[group])
        numbers = [number for one in last for number in (100 * one.value, 100 * one.low, 100 * one.high)]
        rows.append([group, len(groups[group]), *numbers, None if share.n == 0 else 100 * share.value, share.n])
    heads = [f"HIT@{k}{end}" for k in ks for end in (", %", " low", " high")]
    table = Table(
        name="recall",
        caption=f"Recall at the last checkpoint, and the share of the steps at which HIT@{options.k} first is "
        f"{options.threshold:.0%} or more (mean of the replicates that reach it).",
        columns=["group", "replicates", *heads, "reached at, % of steps", "replicates that reach it"],
        rows=rows,
    )
    return Analysis(
        verdicts=[_verdict(reached, options)],
        tables=[table],
        figures={"recall": _figure(curves, steps, options)},
        notes=notes,
    )


Hits = dict[int, dict[int, float]]


def hits_of(run: Run, arm: str, ks: tuple[int, ...]) -> tuple[Hits, int]:
    """HIT@k of an arm by step and k, over the prompts whose answer is true by then; and the fewest of these."""
    scores = run.scores(arm)
    ranks = scores[schema.TARGET_RANK].transpose("checkpoint", "prompt").to_numpy()
    steps = scores["step"].to_numpy().tolist()
    asked = true_at(scores, shift_step(run, arm, None))
    found = {
        int(step): {k: hit_at_k(row[true], k) for k in ks} for step, row, true in zip(steps, ranks, asked, strict=True)
    }
    return found, int(asked.sum(axis=1).min())


def _prompts(found: dict[str, tuple[Hits, int]]) -> int:
    return min(count for _, count in found.values())


def _pooled(values: list[float], prompts: int) -> Estimate:
    """Over replicates; over the prompts of a single one."""
    if len(values) == 1:
        bounds = hit_interval(round(values[0] * prompts), prompts)
        return over_replicates(values, (bounds.low, bounds.high), over="prompts")
    return over_replicates(values).grained(1 / prompts).within(0, 1)


def _first(hits: Hits, options: Options) -> float:
    """The share of the steps at which an arm first knows enough; NaN if it never does."""
    steps = np.array(sorted(hits), dtype=np.float64)
    reached = crossed(steps, np.array([hits[int(step)][options.k] for step in steps]), options.threshold)
    return reached / float(steps[-1]) if steps[-1] else float("nan")


def _verdict(reached: dict[str, list[float]], options: Options) -> Verdict:
    never = [group for group, shares in reached.items() if np.isnan(shares).any()]
    slowest = max(reached, key=lambda group: float(np.nanmax([*reached[group], 0.0])))
    share = over_replicates(reached[slowest]).within(0, 1)
    low, high = (share.value, share.value) if share.n == 1 else (share.low, share.high)
    word = judged(low, high, against=options.before, claimed="below")
    if any(not all(value < options.before for value in shares) for shares in reached.values()) and word == "supported":
        word = "undecided"
    detail = f"the slowest group is {slowest}; on a line between checkpoints"
    if never:
        word, detail = "contradicted", f"never reached by some replicate of {', '.join(never)}"
        share = UNKNOWN
    return Verdict(
        question=QUESTION,
        claim=f"Every arm has HIT@{options.k} of {options.threshold:.0%} before {options.before:.0%} of its steps",
        verdict=word,
        effect=100 * share.value,
        low=100 * share.low,
        high=100 * share.high,
        unit="% of the steps",
        detail=detail,
        would_decide="longer training, or fewer facts, where an arm comes too late; more replicates where it is close",
    )


def _figure(curves: dict[str, dict[int, list[Estimate]]], steps: dict[str, list[int]], options: Options) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, k in zip(panels, (1, options.k), strict=True):
        for group, by_k in curves.items():
            value, low, high = (np.array([100 * one[i] for one in by_k[k]]) for i in range(3))
            (line,) = axes.plot(steps[group], value, marker=".", label=group)
            axes.fill_between(steps[group], low, high, alpha=0.15, color=line.get_color(), linewidth=0)
        axes.axhline(100 * options.threshold, color="0.7", linewidth=0.8, linestyle="--")
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=0)
        axes.set_xlabel("step")
        axes.set_title(f"HIT@{k}", fontsize=10)
    panels[0].set_ylabel("facts recalled, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7, frameon=False)
    return figure
