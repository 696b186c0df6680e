"""How unevenly a trained mixture of experts uses its experts.

    python -m benchmarks.loads demo-run [ARM]     # writes the loads into benchmarks/calibration.json; once

The load of an expert is the share of prompts that are routed to it at the position where the target is predicted. Loads
of each layer are put in order, over their mean, and averaged by rank over the layers of the last checkpoint. Printed
besides, for every checkpoint: the exponent of the power law that fits loads by rank best, by least squares of
logarithms.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from benchmarks.calibrate import FILE, rounded
from gated_lpi.results import open_run


def main(folder: str, arm: str = "moe") -> None:
    """Measure, print, write."""
    scores = open_run(folder).scores(arm)
    by_checkpoint = loads(scores)
    for step, layers in zip(scores["step"].values.tolist(), by_checkpoint, strict=True):
        print(f"step {step}: {', '.join(f'{exponent(one):.2f}' for one in layers)}")
    last = by_checkpoint[-1]
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    found["expert_load"] = {
        "source": f"arm {arm} of the demo, last checkpoint, {last.shape[0]} layers of {last.shape[1]} experts",
        "by_rank": rounded((last / last.mean(axis=1, keepdims=True)).mean(axis=0).tolist()),
        "exponents": rounded([exponent(one) for one in last]),
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def loads(scores: xr.Dataset) -> NDArray[np.float64]:
    """Loads of every checkpoint and layer, greatest first, [checkpoints, layers, experts], of a store's scores."""
    used = scores["expert_utilisation"].transpose("checkpoint", "relation", "expert_unit").values
    routed = scores["expert_unit_expert"].values >= 0
    mean = np.average(used[..., routed], axis=1, weights=scores["n_prompts"].values)
    layers = scores["expert_unit_layer"].values[routed]
    ordered = [np.sort(mean[:, layers == layer], axis=1)[:, ::-1] for layer in np.unique(layers)]
    return np.stack(ordered, axis=1)


def exponent(ordered: NDArray[np.float64]) -> float:
    """s of the load ~ rank^−s that fits best, experts of no load left out."""
    used = ordered > 0
    slope, _ = np.polyfit(np.log(1 + np.flatnonzero(used)), np.log(ordered[used]), 1)
    return float(-slope)


if __name__ == "__main__":
    main(*sys.argv[1:])
