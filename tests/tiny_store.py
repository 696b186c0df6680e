"""Stores of results that are made of random numbers: scores and record of a checkpoint, a store of some."""

import numpy as np
import xarray as xr

from gated_lpi.runs import ResultStore


def scores(value, n=6, relations=("a", "b")):
    generator = np.random.default_rng(value)
    return xr.Dataset(
        {
            "lpi": (("relation", "unit"), generator.normal(size=(len(relations), n)).astype(np.float32)),
            "target_rank": ("prompt", generator.integers(0, 50, 4)),
        },
        {
            "relation": list(relations),
            "n_prompts": ("relation", [3, 1][: len(relations)]),
            "layer": ("unit", np.arange(n)),
            "block": ("unit", np.array(["ffn"] * n, dtype=object)),
            "target_id": ("prompt", generator.integers(0, 50, 4)),
        },
        {"norm": "frozen"},
    )


def record(step, **more):
    return {"key": f"step-{step}", "step": step, "tokens": step * 10, "stage": "train", **more}


def filled(path, steps=(0, 2, 5)):
    store = ResultStore(path / "arm.zarr")
    for step in steps:
        store.append(scores(step), record(step, weights_sha256=f"{step:064x}"))
    return store
