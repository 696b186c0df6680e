"""Results as tables of pandas: metrics in long form, and units a checkpoint and a slice at a time.

Units are read as they are asked for, so a table of a million units over a hundred checkpoints never is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from gated_lpi import score_schema as schema
from gated_lpi.datasets import UNIT_COORDS
from gated_lpi.errors import OptionError
from gated_lpi.metrics.relations import over_relations
from gated_lpi.results.whole import summaries

if TYPE_CHECKING:
    from gated_lpi.results.run import Run

ROWS = 2**18
"""Units of a slice."""

METRIC_COLUMNS = {
    "arm": "name of the arm",
    "method": "whose scores the metric is of",
    "metric": "its name, as in `Run.summary`",
    "kind": "ffn or attention; empty where a metric is of neither",
    "step": "training step of the checkpoint, or of the earlier one of a pair",
    "next_step": "training step of the later one of a pair",
    "other_step": "of metrics of any two checkpoints, the other one's step",
    "layer": "layer, of metrics of layers",
    "window": "name of the window of checkpoints, of metrics over windows",
    "hit_k": "k of HIT@k",
    "value": "the number",
    "low": "lower end of its interval",
    "high": "upper end of its interval",
    "chance": "what chance gives",
    "chance_low": "lower end of that",
    "chance_high": "upper end of that",
}
"""Columns of `metrics_frame` and what they are; what a metric has not is missing in its rows."""

UNIT_COLUMNS = {
    "arm": "name of the arm",
    "checkpoint": "name of the checkpoint",
    "step": "its training step",
    "tokens": "tokens seen until then; -1 where unknown",
    "unit": "place of the unit on the arm's axis of units",
    "layer": "its layer",
    "block": "ffn or attention",
    "expert": "routed expert, -1 where it is of none",
    "shared": "whether it is of a shared expert",
    "head": "attention head, -1 for FFN units",
    "neuron": "index within its expert, FFN or head",
}
"""Columns of `unit_frames` before those of scores, which are named as in `Run.scores`: means over prompts, nats."""

_ENDS = ("low", "high", "chance", "chance_low", "chance_high")
_STEPS = {"step": "step", "pair_step": "step", "pair_next_step": "next_step", "other_step": "other_step"}
_DIMS = {"checkpoint": ("step",), "pair": ("pair_step", "pair_next_step"), "other_checkpoint": ("other_step",)}


def metrics_frame(run: Run, facts: schema.WhichFacts = "all", arms: Sequence[str] | None = None) -> pd.DataFrame:
    """Every summary metric of every arm, or of some, by every method, a row a number; see `Run.to_dataframe`."""
    found = summaries(run, facts, arms).found
    parts = [
        table.assign(arm=arm, method=method)
        for arm, by_method in found.items()
        for method, summary in by_method.items()
        for table in _tables(summary)
    ]
    return pd.concat(parts, ignore_index=True).reindex(columns=list(METRIC_COLUMNS))


def unit_frames(run: Run, arm: str, steps: str | int = "all", rows: int = ROWS) -> Iterator[pd.DataFrame]:
    """An arm's units and their scores, in slices: checkpoint after checkpoint, each at most so many rows.

    What cannot be had is refused at once, before the first slice is asked for.

    Args:
        run: the run.
        arm: its name.
        steps: "all" checkpoints, the "last" one, or those of a training step.
        rows: of a slice.

    Returns:
        Tables with `UNIT_COLUMNS`, as far as the arm has them, and a column of mean scores for each of `Run.methods`
            and, NaN for units that were not measured, for what is measured of a sample (`score_schema.SAMPLED`).

    Raises:
        OptionError: no arm has this name, no checkpoint this step, or units have no scores.
        RunError: none of its checkpoints is complete.
    """
    scores, methods = run.scores(arm), run.methods(arm)
    if not methods:
        raise OptionError(
            f"units of arm {arm!r} were asked for, and have no scores: the experiment's attribution.units leaves them "
            "out. Score ffn or attention in a new run, or export --format netcdf, which has what there is"
        )
    return _slices(scores, arm, methods, _chosen(scores, arm, steps), rows)


def _slices(
    scores: xr.Dataset, arm: str, methods: Sequence[str], places: Sequence[int], rows: int
) -> Iterator[pd.DataFrame]:
    columns = {name: scores[name].to_numpy() for name in UNIT_COORDS if name in scores.coords}
    for place in places:
        at = scores.isel(checkpoint=place)
        means = {method: at[schema.mean_of(method)].to_numpy() for method in methods}
        means |= {name: over_relations(at, name).to_numpy() for name in schema.SAMPLED if name in at}
        what: dict[str, Any] = {"arm": arm, "checkpoint": str(at["checkpoint_key"].item())}
        what |= {name: int(at[name]) for name in ("step", "tokens")}
        for start in range(0, scores.sizes["unit"], rows):
            some = slice(start, start + rows)
            values = {name: column[some] for name, column in (columns | means).items()}
            unit = np.arange(start, min(start + rows, scores.sizes["unit"]))
            yield pd.DataFrame({**what, "unit": unit, **values})


def _chosen(scores: xr.Dataset, arm: str, steps: str | int) -> list[int]:
    """Places of the checkpoints that are asked for."""
    known = scores["step"].to_numpy()
    if steps == "all":
        return list(range(known.size))
    if steps == "last":
        return [known.size - 1]
    found = np.flatnonzero(known == steps) if isinstance(steps, int) else np.array([])
    if not found.size:
        raise OptionError(
            f"step {steps!r} was asked for; arm {arm!r} has {', '.join(map(str, known.tolist()))}: give one of these, "
            "all or last"
        )
    return [int(place) for place in found]


def _tables(summary: xr.Dataset) -> Iterator[pd.DataFrame]:
    """A table for each metric of a summary, with its interval and chance level beside it."""
    names = {str(name) for name in summary.data_vars}
    beside = {f"{name}_{end}" for name in names for end in _ENDS} & names
    for name in (str(name) for name in summary.data_vars if str(name) not in beside):
        values: dict[str, Any] = {"value": summary[name]}
        values |= {end: summary[f"{name}_{end}"] for end in _ENDS if f"{name}_{end}" in names}
        dims = summary[name].dims
        labels = {
            label: summary[label] for dim in dims for label in _DIMS.get(str(dim), (str(dim),)) if label in summary
        }
        flat = xr.broadcast(*(one.drop_vars(list(one.coords)) for one in (*values.values(), *labels.values())))
        columns = [*values, *(_STEPS.get(label, label) for label in labels)]
        table = pd.DataFrame(
            {column: one.transpose(*flat[0].dims).to_numpy().ravel() for column, one in zip(columns, flat, strict=True)}
        )
        yield table.rename(columns={"moe_layer": "layer"}).assign(metric=name)
