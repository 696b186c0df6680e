"""One layer: published formula, certified estimator, logit lens, on the same data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from benchmarks import synthetic
from benchmarks.calibrate import concentration
from benchmarks.published import group_count, published_scores
from benchmarks.scorer import Scorer
from benchmarks.timing import ROUNDS, Flops, Timing, in_turn, timed
from gated_lpi.methods import BlockProblem, Tier
from gated_lpi.methods.memory import usual_room
from gated_lpi.methods.problem import TracedProblem

TOLERANCE = 1e-3
PUBLISHED_UNITS = 640  # of one prompt and block that the yardstick is timed on

Blocks = Mapping[str, TracedProblem]
Say = Callable[[str], None]


def fresh(blocks: Blocks, *, readout: bool = False) -> dict[str, TracedProblem]:
    """The same problems with nothing kept of what an earlier run found; `readout`: nor of the checkpoint."""
    if not readout:
        return {kind: replace(problem) for kind, problem in blocks.items()}
    bare = replace(next(iter(blocks.values())).readout)
    return {kind: replace(problem, readout=bare) for kind, problem in blocks.items()}


@torch.no_grad()
def score(estimator: Scorer, blocks: Blocks, *, groups: bool = True) -> dict[str, list[int]]:
    """Score all blocks, with their heads, experts and the blocks themselves; pairs by tier and kind of block.

    Args:
        estimator: of the layer.
        blocks: the layer's.
        groups: whether heads, experts and blocks are scored.
    """
    tiers = {}
    for kind, problem in blocks.items():
        tiers[kind] = estimator(problem).tiers.sum(dim=0).tolist()
        if groups:
            estimator.groups(problem)
    return tiers


@torch.no_grad()
def lens(blocks: Blocks) -> None:
    """The logit lens of all blocks, plainly: one product and a log-softmax."""
    for problem in blocks.values():
        assert problem.inverse_scale is not None
        torch.log_softmax(problem.readout.logits(problem.base, problem.inverse_scale), dim=-1)


def pairs(problem: BlockProblem) -> int:
    """Pairs of a prompt and a unit that it uses."""
    return sum(slab.coefficients.numel() for slab in problem.slabs)


class Whole(NamedTuple):
    """The lens; scoring with everything to prepare, again, and of units alone; pairs by kind and tier, operations.

    Again and units are None where that was not timed; operations are those of again, or of the first.
    """

    lens: Timing
    timing: Timing
    again: Timing | None
    units: Timing | None
    tiers: dict[str, list[int]]
    flops: int


def whole_run(blocks: Blocks, rounds: int = ROUNDS, *, once: bool = False) -> Whole:
    """In turn: the lens, scores as if the checkpoint had just been loaded, and again with what is kept of it.

    Blocks come one after the other, each with all threads. `attribute` has them side by side, which keeps all cores
    busy over many layers; of a single one the FFN, which takes longer, would end alone on its share of them.

    Args:
        blocks: the layer's.
        rounds: how often, at most.
        once: leave out all but the lens and the first.
    """
    tiers: dict[str, list[int]] = {}
    kept: list[tuple[Scorer, Blocks]] = []
    counted: list[int] = []

    def first() -> None:
        kept.clear()
        unprepared = fresh(blocks, readout=True)
        readout = unprepared["ffn"].readout
        kept[:] = [(Scorer(readout, TOLERANCE, usual_room(readout.weight.device)), unprepared)]
        tiers.update(score(*kept[0]))

    def again() -> None:
        estimator, prepared = kept[0]
        with Flops() as work:
            score(estimator, fresh(prepared))
        counted[:] = [work.count]

    def units() -> None:
        score(kept[0][0], fresh(kept[0][1]), groups=False)

    calls = {"lens": lambda: lens(blocks), "first": first}
    found = in_turn(calls if once else calls | {"again": again, "units": units}, rounds=rounds)
    return Whole(found["lens"], found["first"], found.get("again"), found.get("units"), tiers, sum(counted))


def published_seconds(blocks: Blocks, units: int) -> tuple[float, dict[str, dict[str, float]]]:
    """Seconds of the published formula on all pairs and groups of `blocks`, scaled from `units` units of one prompt."""
    total, timings = 0.0, {}
    for kind, problem in blocks.items():
        done = published_scores(problem, 0, limit=units)[1]
        found = timed(lambda problem=problem: published_scores(problem, 0, limit=units))
        timings[kind] = {"units": done, **found.json()}
        total += found.seconds / done * (pairs(problem) + len(problem.targets) * group_count(problem))
    return total, timings


def measure(layer: synthetic.Layer, depth: str, n_prompts: int, say: Say, device: str = "cpu") -> dict[str, Any]:
    """Everything about one synthetic layer; seconds are of the whole layer, attention and FFN, all prompts."""
    say(f"{layer.name}, {depth}: drawing weights")
    blocks = synthetic.problems(layer, depth, n_prompts, device=device)
    say(f"{layer.name}, {depth}: published formula")
    published, published_runs = published_seconds(blocks, PUBLISHED_UNITS)
    say(f"{layer.name}, {depth}: logit lens and certified, in turn")
    long = depth == "last" or layer.routing == "measured" or layer == synthetic.OLMO  # minutes each
    once, rounds = (long, ROUNDS) if device == "cpu" else (False, 1)
    fast = whole_run(blocks, rounds, once=once)
    seconds = fast.timing.seconds
    found = {
        "layer": layer.__dict__,
        "depth": depth,
        "prompts": n_prompts,
        "concentration": {kind: concentration(problem.base_logits.log_p) for kind, problem in blocks.items()},
        "published": {"seconds": published, "runs": published_runs},
        "lens": fast.lens.json(),
        "fast": fast.timing.json(),
        "ratio": published / seconds,
        "over_lens": seconds / fast.lens.seconds,
        "tiers": {kind: by_name(counts) for kind, counts in fast.tiers.items()},
    }
    if fast.again is not None and fast.units is not None:
        found |= {
            "prepared": fast.again.json(),
            "units": fast.units.json(),
            "groups_beside_units": fast.again.seconds / fast.units.seconds - 1,
            "ratio_prepared": published / fast.again.seconds,
            "over_lens_prepared": fast.again.seconds / fast.lens.seconds,
            "flops": fast.flops,
        }
    return found


def by_name(counts: list[int]) -> dict[str, int]:
    """Pairs by the tier's name."""
    return {tier.name.lower(): count for tier, count in zip(Tier, counts, strict=True)}
