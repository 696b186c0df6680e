"""Does the certified estimator change any finding? Every metric of a run from `certified` scores beside `exact` ones.

    python benchmarks/agreement.py demo-run [TOLERANCE]   # a run that trained its arms
    python benchmarks/agreement.py MODEL [TOLERANCE]      # one model folder: top sets and layer profiles only

The tolerance is that of the run, or 1e-3, unless one is given.

Prints JSON: the largest difference of any metric, whether top sets are the same, and how many units the error bounds
leave open. Exit code 1 if a top set differs in units that the bounds do not leave open.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gated_lpi import attribute, load_facts, load_model
from gated_lpi.checkpoints import list_local
from gated_lpi.metrics import summarise, top_set, top_set_undecided
from gated_lpi.options import LPI
from gated_lpi.options.methods import from_flat
from gated_lpi.results import open_run
from gated_lpi.runs.scoring import with_overall_means

COMPARED = ("stability", "gain_top_set", "gain_top_by_gain", "importance_share", "rho_avg", "sigma_rel")
UNITS = ("ffn", "attention")


def main(path: Path, tolerance: float | None = None) -> int:
    """Compare; returns the exit code."""
    if (path / "run.json").is_file():
        found = compare_run(path, tolerance)
    else:
        found = {str(path): compare([str(path)], {"tolerance": tolerance or 1e-3}, "first")}
    print(json.dumps(found, indent=1))
    return int(any(kind["top sets differ"] > kind["left open"] for arm in found.values() for kind in arm.values()))


def compare_run(path: Path, tolerance: float | None) -> dict[str, Any]:
    """Every arm that the run trained."""
    run = open_run(path)
    experiment = run.experiment
    chosen = experiment.attribution
    options = {"norm": chosen.norm, "target": chosen.target, "tolerance": tolerance or chosen.tolerance}
    return {
        arm: compare([str(c.path) for c in list_local(run.training_folder(arm))], options, experiment.facts.templates)
        for arm in run.arms
    }


def compare(models: list[str], options: dict[str, Any], templates: str) -> dict[str, Any]:
    """One series of model folders, by kind of unit."""
    facts = load_facts("builtin")
    series: dict[str, xr.Dataset] = {}
    for estimator in ("certified", "exact"):
        parts = []
        for folder in models:
            scores = attribute(
                load_model(folder),
                facts,
                templates=templates,
                method=from_flat(LPI, {"estimator": estimator, **options}),
                units=UNITS,
                keep="relations",
            )
            parts.append(with_overall_means(scores))
        joined = xr.concat(parts, "checkpoint", coords="minimal", compat="override", combine_attrs="override")
        series[estimator] = joined.assign_coords(step=("checkpoint", np.arange(len(models))))
    return {str(kind): compare_kind(series, str(kind)) for kind in np.unique(series["certified"]["block"].astype(str))}


def compare_kind(series: dict[str, xr.Dataset], kind: str) -> dict[str, Any]:
    """Top sets, profiles and metrics of one kind of unit."""
    fast, exact = (series[name] for name in ("certified", "exact"))
    inside = np.flatnonzero(fast["block"].astype(str) == kind)
    one, two = (scores["lpi_mean"].values[:, inside].astype(float) for scores in (fast, exact))
    names = list(zip(fast["block_layer"].values.tolist(), fast["block_kind"].values.tolist(), strict=True))
    column = [names.index((int(layer), kind)) for layer in fast["layer"].values[inside]]
    bounds = fast["error_bound"].values.mean(axis=1)[:, column]
    differing = [len(set(top_set(a).tolist()) ^ set(top_set(b).tolist())) // 2 for a, b in zip(one, two, strict=True)]
    layer = fast["layer"].values[inside]
    profiles = [np.stack([np.bincount(layer, row) for row in values]) for values in (one, two)]
    found = {
        "checkpoints": len(one),
        "units in a top set": len(top_set(one[0])),
        "top sets differ": int(np.sum(differing)),
        "left open": int(sum(top_set_undecided(a, b) for a, b in zip(one, bounds, strict=True))),
        "largest error of a mean score": float(np.abs(one - two).max()),
        "largest bound of a mean score": float(bounds.max()),
        "layer profiles, largest difference in % of the largest": float(
            100 * np.abs(profiles[0] - profiles[1]).max() / np.abs(profiles[1]).max()
        ),
    }
    if len(one) > 1:
        a, b = (summarise(series[name], draws=1).sel(kind=kind) for name in ("certified", "exact"))
        found |= {f"{name}, largest difference": float(np.abs(a[name] - b[name]).max()) for name in COMPARED}
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else None))
