"""A run as one dataset, or as one tree.

1. Metrics of all arms have the same dimensions, so they stand beside each other in one dataset over (arm, by, …):
   `as_dataset`. Checkpoints are those of any arm, in training order, told apart by stage and step; what an arm has not,
   is NaN there.
2. Scores of arms do not: an expert's neurons are no neurons of a dense FFN. Each arm keeps its own axes, as a branch of
   a tree: `as_datatree`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from gated_lpi import score_schema as schema
from gated_lpi.checkpoints.names import stage_order
from gated_lpi.datasets import as_expected
from gated_lpi.errors import OptionError, RunError
from gated_lpi.metrics.meanings import labelled

if TYPE_CHECKING:
    from gated_lpi.results.run import Run

UNSCORED = "none"
"""What stands for the method in summaries of arms whose units have no scores."""

_Label = tuple[str, int, int]  # stage, step, and which of those that share both


class Summaries(NamedTuple):
    """Summaries of a run's arms.

    Attributes:
        found: by arm and method, the arm's first method first; `UNSCORED` where units have no scores.
        missing: why the other arms have none.
    """

    found: dict[str, dict[str, xr.Dataset]]
    missing: dict[str, OptionError | RunError]


def summaries(run: Run, facts: schema.WhichFacts = "all", arms: Sequence[str] | None = None) -> Summaries:
    """The summaries of every arm by every method.

    Args:
        run: the run.
        facts: over which facts; see `Run.summary`.
        arms: of these only; None: of all.

    Raises:
        OptionError: no arm has a summary, and of one the options are why.
        RunError: no arm has a summary.
    """
    found: dict[str, dict[str, xr.Dataset]] = {}
    missing: dict[str, OptionError | RunError] = {}
    for arm in run.arms if arms is None else arms:
        try:
            by_method = {method: run.summary(arm, method, facts=facts) for method in run.methods(arm)}
            found[arm] = by_method or {UNSCORED: run.summary(arm, facts=facts)}
        except (OptionError, RunError) as error:
            missing[arm] = error
    if not found:
        reasons = "; ".join(map(str, missing.values()))
        raise next((error for error in missing.values() if isinstance(error, OptionError)), None) or RunError(
            f"{run.path} has no results to measure yet ({reasons}); run the experiment until a checkpoint is complete"
        )
    return Summaries(found, missing)


def as_dataset(run: Run, facts: schema.WhichFacts = "all") -> xr.Dataset:
    """Every summary metric of every arm, (arm, by, …); see `Run.to_dataset`."""
    found, missing = summaries(run, facts)
    labels = _union([_labels(one) for by_method in found.values() for one in by_method.values()])
    parts, tokens = [], np.full((len(found), len(labels)), -1, dtype=np.int64)
    for number, (arm, by_method) in enumerate(found.items()):
        for method, summary in by_method.items():
            placed = _placed(summary, labels)
            parts.append(placed.expand_dims(arm=[arm], by=[method]))
            if "tokens" in summary.coords:
                tokens[number, [labels.index(one) for one in _labels(summary)]] = summary["tokens"].to_numpy()
    whole = xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop")
    methods = list(dict.fromkeys(method for by_method in found.values() for method in by_method))
    kinds = [kind for kind in ("ffn", "attention") if kind in whole["kind"].to_numpy().tolist()]
    whole = whole.sel(arm=list(found), by=methods, kind=kinds).drop_vars(["checkpoint", "other_checkpoint", "pair"])
    whole = whole.assign_coords(_step_coords(labels, [one for some in parts for one in some.attrs["pairs"]]))
    whole = whole.assign_coords(tokens=(("arm", "checkpoint"), tokens))
    options = next(iter(next(iter(found.values())).values())).attrs
    whole.attrs = {
        "run": str(run.path),
        "experiment": run.experiment.name,
        **{name: value for name, value in options.items() if name not in ("method", "refused_pairs")},
        "missing": [f"{arm}: {reason}" for arm, reason in missing.items()],
    }
    return labelled(as_expected(whole))


def as_datatree(run: Run) -> xr.DataTree:
    """Scores, splits and summaries of every arm as a tree; see `Run.to_datatree`."""
    found, missing = summaries(run)
    nodes: dict[str, xr.Dataset] = {}
    for arm, by_method in found.items():
        nodes[f"/{arm}/scores"] = run.scores(arm)
        split = run.split(arm)
        if split is not None:
            nodes[f"/{arm}/split"] = split
        nodes |= {f"/{arm}/summary/{method}": summary for method, summary in by_method.items()}
    tree = xr.DataTree.from_dict(nodes)
    named = {"run": str(run.path), "experiment": run.experiment.name}
    tree.attrs = named | {"missing": [f"{arm}: {reason}" for arm, reason in missing.items()]}
    return tree


def _labels(summary: xr.Dataset) -> list[_Label]:
    """What tells an arm's checkpoints apart, in training order."""
    steps = summary["step"].to_numpy().tolist()
    stages = summary["stage"].to_numpy().tolist() if "stage" in summary.coords else [""] * len(steps)
    seen: dict[tuple[str, int], int] = {}
    labels = []
    for stage, step in zip(map(str, stages), map(int, steps), strict=True):
        seen[stage, step] = seen.get((stage, step), -1) + 1
        labels.append((stage, step, seen[stage, step]))
    return labels


def _union(arms: Sequence[Sequence[_Label]]) -> list[_Label]:
    """The checkpoints of any arm, in training order."""
    return sorted({label for arm in arms for label in arm}, key=lambda one: (stage_order(one[0]), *one[1:]))


def _placed(summary: xr.Dataset, labels: Sequence[_Label]) -> xr.Dataset:
    """A summary with its checkpoints at their places among those of all arms; what coordinates were is data."""
    places = [labels.index(label) for label in _labels(summary)]
    pairs = [first * len(labels) + second for first, second in pairwise(places)]  # in order, and told apart
    named = ("step", "stage", "tokens", "other_step", "pair_step", "pair_next_step")
    data = summary.drop_vars([name for name in named if name in summary.variables]).reset_coords()
    placed = data.assign_coords(checkpoint=places, other_checkpoint=places, pair=pairs)
    everywhere = list(range(len(labels)))
    placed = placed.reindex(checkpoint=everywhere, other_checkpoint=everywhere)
    return placed.assign_attrs(pairs=pairs)


def _step_coords(labels: Sequence[_Label], pairs: Sequence[int]) -> Mapping[str, Any]:
    steps = np.array([step for _, step, _ in labels], dtype=np.int64)
    first, second = np.divmod(np.array(sorted(set(pairs)), dtype=np.int64), len(labels))
    return {
        "step": ("checkpoint", steps),
        "stage": ("checkpoint", np.array([stage for stage, *_ in labels], dtype=object)),
        "other_step": ("other_checkpoint", steps),
        "pair_step": ("pair", steps[first]),
        "pair_next_step": ("pair", steps[second]),
    }
