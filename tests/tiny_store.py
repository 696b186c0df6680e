"""Stores of results that are made of random numbers: scores and record of a checkpoint, a store of some."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from gated_lpi.errors import RunError
from gated_lpi.results import ResultStore


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
        store.append(scores(step), signed(step))
    return store


def signed(step):
    """A record with a digest of weights."""
    return record(step, weights_sha256=f"{step:064x}")


def made_again(store: ResultStore, steps: Sequence[int]) -> list[int]:
    """Do what a run does: leave out what does not verify, append what is missing. Checkpoints that it had to make."""
    store.heal(store.damage())
    there = store.keys()
    missing = [step for step in steps if f"step-{step}" not in there]
    for step in missing:
        store.append(scores(step), signed(step))
    assert not list(store.damage().lines())
    return missing


def taken_up(folder: Path, whole: xr.Dataset, may_miss: int) -> str:
    """What comes of the store in a folder that is taken up again: "whole", "healed", or "refused" by a file's name.

    Args:
        whole: what it has to hold then.
        may_miss: the most checkpoints that it may have to make again.
    """
    store = ResultStore(folder / "arm.zarr")
    steps = [int(one["step"]) for one in whole.attrs["checkpoints"]]
    try:
        missing = made_again(store, steps)
    except RunError as error:
        reason = str(error)
        assert str(folder) in reason
        return "refused"
    assert len(missing) <= may_miss, missing
    again = store.open().load()
    for name in whole.variables:
        assert np.array_equal(again[name], whole[name]), name
    return "healed" if missing else "whole"
