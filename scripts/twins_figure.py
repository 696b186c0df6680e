"""Draw docs/findings/twins.png, the README's picture of the study `twins`: `python scripts/twins_figure.py STUDIES`.

R_t and the top set's share of importance by two methods, beside recall: means over replicates with Student's 95% band.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gated_lpi.results import open_run
from gated_lpi.studies._intervals import over_replicates

PLACE = Path(__file__).parent.parent / "docs" / "findings" / "twins.png"
GROUPS = {"moe": "mixture of experts", "dense-active": "dense, same active", "dense-total": "dense, same total"}
METHODS = {"lpi": "Gated-LPI", "grad_x_act": "gradient times activation"}


def main() -> None:
    """Draw and write it."""
    run = open_run(Path(sys.argv[1]) / "twins")
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True)
    for group, label in GROUPS.items():
        arms = [arm for arm in run.arms if arm.rsplit("-", 1)[0] == group]
        by = {method: [run.summary(arm, method) for arm in arms] for method in METHODS}
        for axes, (method, name) in zip(panels, METHODS.items(), strict=False):
            _line(axes, by[method], "importance_share", label)
            axes.set_title(f"top 1%'s share of FFN importance\n{name}", fontsize=9)
        _line(panels[-1], by["lpi"], "hit", label)
        panels[-1].set_title("facts recalled, HIT@10\nheld-out wording", fontsize=9)
    for axes in panels:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylim(0, 102)
        axes.tick_params(labelsize=8)
    panels[0].set_ylabel("%", fontsize=8)
    panels[0].legend(fontsize=8, frameon=False)
    figure.savefig(PLACE, dpi=110, metadata={"Software": None})


def _line(axes: Axes, summaries: list[xr.Dataset], name: str, label: str) -> None:
    chosen = {"kind": "ffn"} if name != "hit" else {"hit_k": 10}
    values = 100 * np.stack([one[name].sel(chosen).to_numpy() for one in summaries])
    means = [over_replicates(column) for column in values.T.tolist()]
    steps = summaries[0]["step"].to_numpy()
    (line,) = axes.plot(steps, [one.value for one in means], marker=".", label=label)
    low, high = [one.low for one in means], [one.high for one in means]
    axes.fill_between(steps, low, high, alpha=0.15, color=line.get_color(), linewidth=0)


if __name__ == "__main__":
    main()
