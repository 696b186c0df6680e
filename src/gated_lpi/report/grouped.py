"""Replicates as one: the mean of their summaries, with Student's intervals over them, for charts that draw a curve a
group.

Groups of one arm are that arm. Replicates that have not the same checkpoints are drawn one by one, as before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from gated_lpi.report.arms import Results

LEVEL = 0.95
ENDS = ("_low", "_high")


def by_group(results: Results) -> dict[str, xr.Dataset]:
    """A summary for every group of arms, by the group's name; for arms that cannot be put together, by their own."""
    found: dict[str, xr.Dataset] = {}
    for group, names in results.groups.items():
        summaries = {name: results.summaries[name] for name in names}
        if len(names) > 1 and _alike(list(summaries.values())):
            found[group] = _together(list(summaries.values()))
        else:
            found |= {group if len(names) == 1 else name: one for name, one in summaries.items()}
    return found


def _alike(summaries: Sequence[xr.Dataset]) -> bool:
    first = summaries[0]
    return all(
        np.array_equal(first["step"], other["step"]) and np.array_equal(first["kind"], other["kind"])
        for other in summaries
    )


def _together(summaries: Sequence[xr.Dataset]) -> xr.Dataset:
    """Means of all numbers that every summary has, and intervals over replicates in place of those of each."""
    first = summaries[0]
    variables = {}
    for name, variable in first.data_vars.items():
        text = str(name)
        shared = all(name in other and other[name].shape == variable.shape for other in summaries)
        if (text.endswith(ENDS) and "_chance" not in text) or variable.dtype.kind not in "fiu" or not shared:
            continue
        values = np.stack([other[name].to_numpy().astype(np.float64) for other in summaries])
        count = np.isfinite(values).sum(axis=0)
        known = np.where(np.isfinite(values), values, 0.0)
        mean = np.divide(known.sum(axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)
        variables[text] = (variable.dims, mean)
        if "chance" in text or "null" in text:
            continue
        squares = np.where(np.isfinite(values), (values - mean) ** 2, 0.0).sum(axis=0)
        error = np.sqrt(np.divide(squares, count * (count - 1), out=np.full(count.shape, np.nan), where=count > 1))
        half = stdtrit(np.maximum(count - 1, 1), (1 + LEVEL) / 2) * error
        variables |= {f"{text}_low": (variable.dims, mean - half), f"{text}_high": (variable.dims, mean + half)}
    return xr.Dataset(variables, first.coords, attrs=first.attrs)
