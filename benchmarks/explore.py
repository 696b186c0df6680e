"""How long a click in the explorer takes: `python -m benchmarks.explore FOLDER [--checkpoints 244] [--tiny]`.

A run of made-up scores is written to FOLDER, by default of OLMoE's shape: 16 layers of 64 experts with 1,024 neurons
and 2,048 attention neurons, 12 relations, 244 checkpoints; then it is explored as `gated-lpi explore` does, without a
browser.
Half of the experts score 0 for a relation, as those do that none of its prompts is sent to. A FOLDER that is there is
used as it is. Times are of whole answers, from the request to the last byte, of pages that were not asked for before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from starlette.testclient import TestClient

from gated_lpi.experiments import Experiment
from gated_lpi.explore import Workspace, create_app
from gated_lpi.results import Run, create_run

ARM = "moe"


@dataclass(frozen=True)
class Shape:
    """A model, and what it is asked.

    Attributes:
        layers, experts, width: FFN neurons are layers × experts × width.
        heads, head_width: attention neurons of a layer.
        relations, prompts: prompts are relations × prompts.
    """

    layers: int = 16
    experts: int = 64
    width: int = 1024
    heads: int = 16
    head_width: int = 128
    relations: int = 12
    prompts: int = 50


OLMOE = Shape()
TINY = Shape(layers=2, experts=4, width=8, heads=2, head_width=4, relations=3, prompts=4)


def made_up(folder: Path, shape: Shape, checkpoints: int) -> Run:
    """A run of made-up scores, written as a run is; one that is there is gone on with."""
    arms = [{"name": ARM, "checkpoints": "made-up"}]
    experiment = Experiment.model_validate({"name": "made up", "attribution": {"methods": ["lpi"]}, "arms": arms})
    run = create_run(folder, experiment, "0" * 64)
    there = len(run.store(ARM).keys())
    for place, scores in enumerate(_scores(shape, checkpoints, there), there):
        record = {"key": f"step-{1000 * place}", "step": 1000 * place, "tokens": 4_000_000_000 * place}
        run.store(ARM).append(scores, record)
    return run


def measure(run: Run, clicks: int) -> dict[str, Any]:
    """Seconds until all is ready, bytes of the index, and milliseconds of each kind of click.

    Of each the median and the greatest, and the median of what the processor worked.
    """
    generator = np.random.default_rng(0)
    workspace = Workspace(run, findings=False)
    with TestClient(create_app(workspace), base_url="http://127.0.0.1") as client:
        began = time.perf_counter()
        client.get("/units")
        first = time.perf_counter() - began
        workspace.settle(7200)
        ready = time.perf_counter() - began
        arm = workspace.arm(ARM)
        units = generator.choice(len(arm.units), clicks, replace=False).tolist()
        keys = [arm.moments[place].key for place in generator.choice(len(arm.moments), clicks).tolist()]
        sort = ("score", "gain", "stays", "longest", "times")
        pages = {
            "unit page": [f"/unit?unit={arm.units.short(unit)}" for unit in units],
            "unit page at another checkpoint": [
                f"/unit?unit={arm.units.short(unit)}&checkpoint={key}" for unit, key in zip(units, keys, strict=True)
            ],
            "units by a column": [f"/units?checkpoint={key}&sort={sort[i % 5]}" for i, key in enumerate(keys)],
            "units of an expert": [f"/units?q=L{i % 2}+E{i % 4}&checkpoint={key}" for i, key in enumerate(keys)],
            "units, page 1,000": [f"/units?checkpoint={key}&page=1000" for key in keys],
            "units by a relation": [f"/units?checkpoint={key}&relation=relation+{i % 3}" for i, key in enumerate(keys)],
            "checkpoint": [f"/checkpoint?checkpoint={key}" for key in keys],
            "fact": [f"/fact?prompt={i % 12}&checkpoint={key}" for i, key in enumerate(keys)],
            "compare with the checkpoint before": [f"/compare?b={key}" for key in keys],
            "routing": [f"/routing?layer={i % 2}&checkpoint={key}" for i, key in enumerate(keys)],
        }
        times = {words: np.array(list(_times(client, addresses))) for words, addresses in pages.items()}
    size = sum(file.stat().st_size for file in (run.path / "explore").rglob("*"))
    workspace.close()
    return {
        "units": len(arm.units),
        "checkpoints": len(arm.moments),
        "first_page_s": round(first, 2),
        "ready_s": round(ready, 1),
        "index_bytes": size,
        "store_bytes": sum(file.stat().st_size for file in (run.path / "results").rglob("*")),
        "ms": {
            words: {
                "median": round(float(np.median(found[:, 0]))),
                "greatest": round(float(found[:, 0].max())),
                "median_cpu": round(float(np.median(found[:, 1]))),
            }
            for words, found in times.items()
        },
    }


def _times(client: TestClient, addresses: list[str]) -> Iterator[tuple[float, float]]:
    """Milliseconds of each answer, and of the processor's for it."""
    client.get(addresses[0])  # what is made once for a kind of page, such as its template
    for address in addresses[1:]:
        began, worked = time.perf_counter(), time.process_time()
        answer = client.get(address)
        yield 1000 * (time.perf_counter() - began), 1000 * (time.process_time() - worked)
        if answer.status_code != 200:
            raise RuntimeError(f"{address} answered {answer.status_code}")


def _scores(shape: Shape, checkpoints: int, first: int) -> Iterator[xr.Dataset]:
    """A checkpoint after the other: importances that grow, drift and come in relations."""
    generator = np.random.default_rng(first)
    axis = _axis(shape)
    n, relations = axis["layer"][1].size, shape.relations
    base = (generator.pareto(2.0, n) * 1e-4).astype(np.float32)
    expert, experts = axis["expert"][1], shape.layers * shape.experts
    group = np.where(expert >= 0, axis["layer"][1] * shape.experts + expert, experts)
    sent = np.ones((relations, experts + 1), dtype=np.float32)
    sent[:, :experts] = generator.random((relations, experts)) < 0.5
    by_relation = base * (1 + 0.3 * generator.standard_normal((relations, n), dtype=np.float32)) * sent[:, group]
    prompts = np.full(relations, shape.prompts)
    for place in range(first, checkpoints):
        growth = (place + 1) / checkpoints
        lpi = by_relation * (growth * (1 + 0.2 * generator.standard_normal(n, dtype=np.float32)))
        blocks, total = 2 * shape.layers, relations * shape.prompts
        depth = np.sort(generator.normal(-6, 2, (total, blocks)), axis=1)
        variables = {
            "lpi": (("relation", "unit"), lpi.astype(np.float32)),
            "lpi_mean": (("unit",), lpi.mean(axis=0).astype(np.float32)),
            "head_lpi": (("relation", "head_unit"), generator.random((relations, shape.layers * shape.heads))),
            "expert_lpi": (("relation", "expert_unit"), generator.random((relations, experts))),
            "expert_utilisation": (
                ("relation", "expert_unit"),
                sent[:, :experts] * generator.random((relations, experts)),
            ),
            "expert_gate": (("relation", "expert_unit"), sent[:, :experts] * generator.random((relations, experts))),
            "target_rank": (("prompt",), generator.integers(0, 1 + int(50 / growth), total)),
            "target_logprob": (("prompt",), depth[:, -1]),
            "base_logprob": (("prompt", "block_index"), depth),
            "error_bound": (("prompt", "block_index"), np.full((total, blocks), 1e-4)),
        }
        coords = axis | {
            "relation": ("relation", np.array([f"relation {i}" for i in range(relations)], dtype=object)),
            "n_prompts": ("relation", prompts),
            "block_layer": ("block_index", np.repeat(np.arange(shape.layers), 2)),
            "block_kind": ("block_index", np.array(["attention", "ffn"] * shape.layers, dtype=object)),
            "expert_unit_layer": ("expert_unit", np.repeat(np.arange(shape.layers), shape.experts)),
            "expert_unit_expert": ("expert_unit", np.tile(np.arange(shape.experts), shape.layers)),
            "head_unit_layer": ("head_unit", np.repeat(np.arange(shape.layers), shape.heads)),
            "head_unit_head": ("head_unit", np.tile(np.arange(shape.heads), shape.layers)),
            "prompt_relation": (
                "prompt",
                np.array([f"relation {i // shape.prompts}" for i in range(total)], dtype=object),
            ),
            "text": ("prompt", np.array([f"prompt {i} is" for i in range(total)], dtype=object)),
            "object": ("prompt", np.array([f"object {i}" for i in range(total)], dtype=object)),
        }
        yield xr.Dataset(variables, coords)


def _axis(shape: Shape) -> dict[str, Any]:
    """Where units are: of each layer its attention neurons, then its experts'."""
    attention, ffn = shape.heads * shape.head_width, shape.experts * shape.width
    absent_a, absent_f = np.full(attention, -1), np.full(ffn, -1)
    head = np.concatenate([np.repeat(np.arange(shape.heads), shape.head_width), absent_f])
    expert = np.concatenate([absent_a, np.repeat(np.arange(shape.experts), shape.width)])
    neuron = np.concatenate(
        [np.tile(np.arange(shape.head_width), shape.heads), np.tile(np.arange(shape.width), shape.experts)]
    )
    kind = np.array(["attention"] * attention + ["ffn"] * ffn, dtype=object)
    return {
        "layer": ("unit", np.repeat(np.arange(shape.layers), attention + ffn)),
        "block": ("unit", np.tile(kind, shape.layers)),
        "head": ("unit", np.tile(head, shape.layers)),
        "expert": ("unit", np.tile(expert, shape.layers)),
        "neuron": ("unit", np.tile(neuron, shape.layers)),
        "shared": ("unit", np.zeros(shape.layers * (attention + ffn), dtype=np.bool_)),
    }


def main() -> None:
    """Write the run, measure, print the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoints", type=int, default=244)
    parser.add_argument("--clicks", type=int, default=21)
    parser.add_argument("--tiny", action="store_true", help="a model of a hundred neurons")
    asked = parser.parse_args()
    run = made_up(asked.folder, TINY if asked.tiny else OLMOE, asked.checkpoints)
    print(json.dumps(measure(run, asked.clicks), indent=1))


if __name__ == "__main__":
    main()
