"""Numbers with intervals, as the report shows and compares them.

Two estimates are told apart when their intervals do not overlap. Percentile intervals over resampled relations
may lie to one side of the estimate, or beside it, for measures of top sets; so each is first extended to hold
its estimate. That errs towards "not distinguishable".
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import xarray as xr

from gated_lpi.metrics import RandomControl, hit_interval, random_control, relative_drop
from gated_lpi.results.records import AblationRow, AblationTable

NAN = float("nan")
Verdict = Literal["higher", "lower", "not distinguishable", "undefined"]


class Estimate(NamedTuple):
    """A value and its interval.

    Attributes:
        value: the estimate; NaN where there is none.
        low, high: the interval's ends; NaN where there is none.
    """

    value: float
    low: float = NAN
    high: float = NAN

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return not (np.isnan(self.low) or np.isnan(self.high))


class Drop(NamedTuple):
    """What an ablation costs, and what random sets of as many units or heads cost, in % of the intact HIT@k.

    Attributes:
        drop: its interval is Wilson's for the ablated HIT@k, with the intact one held.
        random: mean, spread and interval of the random sets' drops, and the p-value of this one.
        random_drops: each of them.
    """

    drop: Estimate
    random: RandomControl
    random_drops: tuple[float, ...]


class Damage(NamedTuple):
    """What an ablation does to the model as such, beside random sets of as many units or heads.

    Attributes:
        rise: of the loss on unrelated text above the intact model's, nats per token.
        random_rises: the same of each random set; none where they were not measured.
    """

    rise: float
    random_rises: tuple[float, ...]


def compare(one: Estimate, other: Estimate) -> Verdict:
    """Say where `one` lies as against `other`; "undefined" if a value or an interval is missing."""
    if not (one.has_interval and other.has_interval) or np.isnan(one.value) or np.isnan(other.value):
        return "undefined"
    if min(one.low, one.value) > max(other.high, other.value):
        return "higher"
    if max(one.high, one.value) < min(other.low, other.value):
        return "lower"
    return "not distinguishable"


def read(summary: xr.Dataset, name: str, **where: object) -> Estimate:
    """The variable `name` of a summary at labels or, for dimensions without labels, positions `where`.

    NaN where the summary does not have it, such as a pair in an arm with one checkpoint.
    """
    return Estimate(*(_number(summary, f"{name}{end}", where) for end in ("", "_low", "_high")))


def number(summary: xr.Dataset, name: str, **where: object) -> float:
    """The variable `name` of a summary, without its interval, at labels or positions `where`.

    NaN where the summary does not have it, such as a pair in an arm with one checkpoint.
    """
    return _number(summary, name, where)


def mean_over_pairs(summary: xr.Dataset, name: str, kind: str) -> float:
    """Mean of a variable over the pairs of checkpoints that have a value; NaN where there are none of the kind."""
    if kind not in summary["kind"]:
        return NAN
    return float(summary[name].sel(kind=kind).mean("pair", skipna=True)) if summary.sizes["pair"] else NAN


def ablation_drop(table: AblationTable, row: AblationRow) -> Drop:
    """The relative drop of one ablation with its interval, beside its random control."""
    bounds = hit_interval(round(row.hit * table.n_prompts), table.n_prompts)
    drop = relative_drop(table.hit, row.hit)
    ends = (relative_drop(table.hit, bounds.high), relative_drop(table.hit, bounds.low))
    random_drops = tuple(relative_drop(table.hit, hit) for hit in row.random_hits)
    control = random_control(drop, random_drops) if random_drops else RandomControl(NAN, NAN, NAN, NAN, NAN)
    return Drop(Estimate(drop, *ends), control, random_drops)


def ablation_damage(table: AblationTable, row: AblationRow) -> Damage | None:
    """How far one ablation raises the loss on unrelated text; None where it was not measured."""
    if table.text_loss is None or row.text_loss is None:
        return None
    return Damage(row.text_loss - table.text_loss, tuple(loss - table.text_loss for loss in row.random_text_losses))


def _number(summary: xr.Dataset, name: str, where: dict[str, object]) -> float:
    if name not in summary:
        return NAN
    labels = {dim: at for dim, at in where.items() if dim in summary[name].dims and dim in summary.indexes}
    if any(label not in summary.indexes[dim] for dim, label in labels.items()):
        return NAN
    chosen = summary[name].sel(labels)
    places = {dim: at for dim, at in where.items() if dim in chosen.dims}
    if any(chosen.sizes[dim] == 0 for dim in places):
        return NAN
    return float(chosen.isel(places))
