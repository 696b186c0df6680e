"""How cost grows: in prompts, units, vocabulary and threads, each varied alone on a small layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks import layers, synthetic
from benchmarks.layers import Say
from benchmarks.published import published_scores
from benchmarks.scorer import Scorer
from benchmarks.timing import timed

DEPTH = "middle"


def all_curves(layer: synthetic.Layer, n_prompts: int, say: Say) -> dict[str, list[dict[str, float]]]:
    """Seconds of the certified estimator and of the lens against each size; everything else as in `layer`."""
    prompts = [n_prompts // 8, n_prompts // 4, n_prompts // 2, n_prompts, 2 * n_prompts]
    factors = (0.25, 0.5, 1.0, 2.0)
    units = [replace(layer, ffn=round(layer.ffn * f), attention=round(layer.attention * f)) for f in factors]
    vocabularies = [replace(layer, vocabulary=round(layer.vocabulary * f)) for f in factors]
    found: dict[str, list[dict[str, float]]] = {"prompts": [], "units": [], "vocabulary": []}
    for n in prompts:
        say(f"scaling: {n} prompts")
        found["prompts"].append({"x": n, **point(layer, n)})
    for wider in units:
        say(f"scaling: {wider.ffn + wider.attention} units")
        found["units"].append({"x": wider.ffn + wider.attention, **point(wider, n_prompts)})
    for larger in vocabularies:
        say(f"scaling: vocabulary of {larger.vocabulary}")
        found["vocabulary"].append({"x": larger.vocabulary, **point(larger, n_prompts)})
    found["threads"] = threads(layer, n_prompts, say)
    return found


def point(layer: synthetic.Layer, n_prompts: int) -> dict[str, float]:
    """Seconds of the certified estimator (prepared) and of the logit lens on one layer."""
    blocks = synthetic.problems(layer, DEPTH, n_prompts)
    estimator = Scorer(blocks["ffn"].readout, layers.TOLERANCE)
    layers.score(estimator, blocks)
    fast = timed(lambda: layers.score(estimator, layers.fresh(blocks)))
    lens = timed(lambda: layers.lens(blocks))
    return {"fast": fast.seconds, "fast_runs": fast.runs, "lens": lens.seconds, "lens_runs": lens.runs}


def threads(layer: synthetic.Layer, n_prompts: int, say: Say) -> list[dict[str, float]]:
    """The same with one thread, two, … up to as many as torch has now."""
    before = torch.get_num_threads()
    found = []
    for count in sorted({1, 2, before}):
        if count > before:
            continue
        say(f"scaling: {count} threads")
        torch.set_num_threads(count)
        try:
            found.append({"x": count, **point(layer, n_prompts)})
        finally:
            torch.set_num_threads(before)
    return found


def linearity(layer: synthetic.Layer, counts: Sequence[int] = (1, 2, 4)) -> list[dict[str, Any]]:
    """Seconds of the published formula on 1, 2, 4 prompts of a small layer: what scaling it rests on."""
    problem = synthetic.problems(layer, DEPTH, max(counts))["ffn"]
    published_scores(problem, 0)

    def run(count: int) -> None:
        for prompt in range(count):
            published_scores(problem, prompt)

    return [{"x": count, **timed(lambda count=count: run(count)).json()} for count in counts]
