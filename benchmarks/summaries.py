"""What summarising an arm takes, in processes of their own: seconds a checkpoint, peak memory.

python -m benchmarks.summaries STORE streamed|whole     # prints one line of JSON

*Streamed* is `summarise`. *Whole* is the bootstrap over relations alone, the way it was made before: all checkpoints in
memory, and every draw sorts all units of all of them in float64. Scores are random, heavy-tailed, a tenth of them 0.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from benchmarks.attribution import ROOT, peak
from gated_lpi.metrics import bootstrap, gain_concentration, importance_share, summarise, top_set_stability
from gated_lpi.results.store import ResultStore

PROMPTS = 100


@dataclass(frozen=True)
class Size:
    """An arm's size.

    Attributes:
        name: how results call it.
        layers: of the model.
        experts: in each layer.
        width: units of an expert.
        attention: attention units of a layer.
        relations: that scores are kept of.
    """

    name: str
    layers: int
    experts: int
    width: int
    attention: int
    relations: int = 12

    @property
    def units(self) -> int:
        """Units in all."""
        return self.layers * (self.experts * self.width + self.attention)


OLMOE = Size("OLMoE-1B-7B", layers=16, experts=64, width=1024, attention=2048)
SIXTEENTH = Size("a sixteenth of OLMoE-1B-7B", layers=4, experts=16, width=1024, attention=1024)
SMALL = Size("a small mixture", layers=2, experts=8, width=256, attention=256)
TINY = Size("a tiny mixture", layers=2, experts=2, width=16, attention=8)


@dataclass(frozen=True)
class Work:
    """What is summarised.

    Attributes:
        size: of the arm that is summarised streamed, with each number of `checkpoints`.
        compared: of the smaller arm that is summarised both ways.
        checkpoints: two numbers of them; `compared` has the first.
    """

    size: Size
    compared: Size
    checkpoints: tuple[int, int] = (4, 20)


def measure(work: Work, say: Callable[[str], None]) -> dict[str, Any]:
    """Both arms, each run in a process of its own."""
    few, many = work.checkpoints
    with tempfile.TemporaryDirectory() as folder:
        small = _stored(Path(folder, "small.zarr"), work.compared, few)
        large = _stored(Path(folder, "large.zarr"), work.size, few)
        runs = []
        for store, size, count, way in (
            (small, work.compared, few, "whole"),
            (small, work.compared, few, "streamed"),
            (large, work.size, few, "streamed"),
            (large, work.size, many, "streamed"),
        ):
            say(f"summary of an arm of the size of {size.name}, {count} checkpoints, {way}")
            _grown(store, size, count)
            found = in_process(store.path, way)
            runs.append({**found, "size": asdict(size), "units": size.units, "checkpoints": count, "way": way})
    return {"threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1), "runs": runs}


def in_process(store: Path, way: str) -> dict[str, float]:
    """Run this file as a program; raises `subprocess.CalledProcessError` if it fails."""
    command = [sys.executable, "-m", "benchmarks.summaries", str(store), way]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(store: str, way: str) -> None:
    """Summarise, report: seconds and processor seconds, peak resident memory, how much of it was there before."""
    scores = ResultStore(Path(store)).open()
    before, start, busy = peak(), time.perf_counter(), time.process_time()
    if way == "streamed":
        summarise(scores)
    else:
        whole(scores)
    seconds, used = time.perf_counter() - start, time.process_time() - busy
    print(json.dumps({"seconds": seconds, "processor_seconds": used, "before": before, "peak": peak()}))


def whole(scores: xr.Dataset, draws: int = 200, fraction: float = 0.01) -> None:
    """Intervals of what rests on top sets, over resampled relations, from whole arrays."""

    def measures(mean: np.ndarray) -> np.ndarray:
        gains = gain_concentration(mean[:-1], mean[1:], fraction)
        stability, share = top_set_stability(mean, fraction), importance_share(mean, fraction)
        return np.concatenate([stability, gains.top_set, gains.top_by_gain, share])

    for kind in ("ffn", "attention"):
        inside = np.flatnonzero(scores["block"].to_numpy().astype(object).astype(str) == kind)
        data = scores["lpi"].transpose("relation", "checkpoint", "unit").to_numpy()[..., inside]
        bootstrap(measures, data, scores["n_prompts"].to_numpy(), draws=draws)


def _stored(folder: Path, size: Size, checkpoints: int) -> ResultStore:
    store = ResultStore(folder)
    _grown(store, size, checkpoints)
    return store


def _grown(store: ResultStore, size: Size, checkpoints: int) -> None:
    """Add checkpoints until there are so many."""
    for step in range(len(store.keys()), checkpoints):
        store.append(_checkpoint(size, step), {"key": f"step-{step}", "step": step})


def _checkpoint(size: Size, step: int) -> xr.Dataset:
    fixed, own = np.random.default_rng(0), np.random.default_rng(step + 1)
    scale = fixed.pareto(1.5, size.units).astype(np.float32) * (fixed.random(size.units) > 0.1)
    shape = (size.relations, size.units)
    lpi = scale * (1 + own.standard_normal(shape, dtype=np.float32)) + own.standard_normal(shape[1:]) * scale / 5
    prompts = fixed.integers(3, 20, size.relations)
    experts = np.repeat(np.arange(size.experts), size.width)
    kinds = np.repeat(np.array(["attention", "ffn"], dtype=object), [size.attention, experts.size])
    return xr.Dataset(
        {
            "lpi": (("relation", "unit"), lpi.astype(np.float32)),
            "lpi_mean": (("unit",), np.average(lpi, axis=0, weights=prompts).astype(np.float32)),
            "error_bound": (("prompt", "block_index"), own.random((PROMPTS, 2 * size.layers)) * 1e-4),
        },
        coords={
            "n_prompts": ("relation", prompts),
            "layer": ("unit", np.repeat(np.arange(size.layers), kinds.size)),
            "block": ("unit", np.tile(kinds, size.layers)),
            "expert": ("unit", np.tile(np.concatenate([np.full(size.attention, -1), experts]), size.layers)),
            "block_layer": ("block_index", np.repeat(np.arange(size.layers), 2)),
            "block_kind": ("block_index", np.array(["attention", "ffn"] * size.layers, dtype=object)),
        },
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
