"""The series of one kind of unit over an arm's checkpoints, fed one checkpoint after the other.

A number for each checkpoint and pair stays of what was fed, a profile and the sums of experts; of the scores, those of
the latest checkpoint.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gated_lpi.metrics._arm import KindUnits, Row
from gated_lpi.metrics._arrays import FloatArray
from gated_lpi.metrics._set_draws import SetDraws
from gated_lpi.metrics.concentration import entropy, gain_concentration, importance_share
from gated_lpi.metrics.layers import layer_profile
from gated_lpi.metrics.routing_null import expert_sums, gain_routing_null, null_of_sets
from gated_lpi.metrics.statistics import random_share_chance
from gated_lpi.metrics.topset import top_mask, top_set_ties, top_set_undecided

AT_CHECKPOINTS = (
    "ties",
    "undecided",
    "entropy",
    "effective_units",
    "gini",
    "importance_share",
    "importance_share_chance",
    "importance_share_chance_low",
    "importance_share_chance_high",
)
AT_PAIRS = (
    "stability",
    "gain_top_set",
    "gain_top_by_gain",
    "positive_gain",
    "gain_top_set_chance",
    "gain_top_set_chance_low",
    "gain_top_set_chance_high",
    "stability_routing_null",
    "stability_routing_null_low",
    "stability_routing_null_high",
    "stability_given_counts",
    "gain_top_set_routing_null",
)


@dataclass(frozen=True)
class SummaryOptions:
    """The options of a summary, as recorded in its attributes.

    Attributes:
        fraction: share of the units in a top set.
        level: of all intervals.
        draws: bootstrap draws, and random sets drawn for chance intervals.
        seed: of both kinds of draw.
        stability_threshold: J_stab from which on top sets count as consolidated.
        profile_threshold: correlation with the last profile from which on profiles count as consolidated.
    """

    fraction: float
    level: float
    draws: int
    seed: int
    stability_threshold: float
    profile_threshold: float

    @property
    def drawn(self) -> dict[str, Any]:
        """What functions that draw take."""
        return {"draws": self.draws, "level": self.level, "seed": self.seed}


@dataclass
class KindSeries:
    """What becomes of the checkpoints that are added.

    Attributes:
        units: of this kind, N of them.
        n_layers: L, layers of the model.
        options: of the summary.
        draws: the bootstrap over relations; None if these were not kept.
        columns: by name, a number for each checkpoint or pair so far.
        profiles: [L] at each checkpoint so far, the importance of each layer.
        experts: [E] at each checkpoint so far, the importance of each expert; none where there are none.
    """

    units: KindUnits
    n_layers: int
    options: SummaryOptions
    draws: SetDraws | None
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in (*AT_CHECKPOINTS, *AT_PAIRS)})
    profiles: list[FloatArray] = field(default_factory=list)
    experts: list[FloatArray] = field(default_factory=list)
    _before: FloatArray | None = None
    _started: bool = False

    def add(self, row: Row) -> None:
        """Take in the next checkpoint."""
        chances = self._chances(row.scores)
        found = self._of_checkpoint(row) | chances["importance_share"]
        if self._before is not None:
            found |= self._of_pair(self._before, row.scores) | chances["gain_top_set"]
        self._append(found)
        self.profiles.append(layer_profile(row.scores, self.units.layer, self.n_layers))
        if self.units.of_expert.any():
            expert = np.where(self.units.of_expert, self.units.group, -1)
            self.experts.append(expert_sums(row.scores[None], expert)[0])
        if self.draws is not None and row.by_relation is not None and row.weights is not None:
            self.draws.add(row.by_relation, row.weights)
        self._before = row.scores

    def skip(self) -> None:
        """Take in a checkpoint that has no scores: NaN."""
        self._append({})
        self.profiles.append(np.full(self.n_layers, np.nan))
        if self.units.of_expert.any():
            self.experts.append(np.full(np.unique(self.units.group[self.units.of_expert]).size, np.nan))
        if self.draws is not None:
            self.draws.skip()
        self._before = None

    def _append(self, found: dict[str, Any]) -> None:
        """Add a number to each column, NaN where there is none; the first checkpoint has no pair."""
        for name in (*AT_CHECKPOINTS, *(AT_PAIRS if self._started else ())):
            self.columns[name].append(found.get(name, np.nan))
        self._started = True

    def _of_checkpoint(self, row: Row) -> dict[str, Any]:
        evenness = entropy(row.scores)
        return {
            "ties": top_set_ties(row.scores, self.options.fraction),
            "undecided": top_set_undecided(row.scores, row.errors, self.options.fraction),
            "entropy": evenness.normalised,
            "effective_units": evenness.effective_units,
            "gini": evenness.gini,
            "importance_share": importance_share(row.scores, self.options.fraction),
        }

    def _of_pair(self, before: FloatArray, now: FloatArray) -> dict[str, Any]:
        fraction, group = self.options.fraction, self.units.group
        gains = gain_concentration(before, now, fraction)
        null = null_of_sets(top_mask(before, fraction), top_mask(now, fraction), group, **self.options.drawn)
        return {
            "stability": null.observed,
            "gain_top_set": gains.top_set,
            "gain_top_by_gain": gains.top_by_gain,
            "positive_gain": gains.positive_gain,
            "stability_routing_null": null.mean,
            "stability_routing_null_low": null.low,
            "stability_routing_null_high": null.high,
            "stability_given_counts": null.given_counts,
            "gain_top_set_routing_null": gain_routing_null(before, now, group, fraction),
        }

    def _chances(self, scores: FloatArray) -> dict[str, dict[str, Any]]:
        """What random sets hold of the importance and, but at the first checkpoint, of the gain: the same sets."""
        values = {"importance_share": scores}
        if self._before is not None:
            values["gain_top_set"] = scores - self._before
        chance = random_share_chance(np.stack(list(values.values())), self.options.fraction, **self.options.drawn)
        return {
            name: {
                f"{name}_chance": chance.mean[place],
                f"{name}_chance_low": chance.low[place],
                f"{name}_chance_high": chance.high[place],
            }
            for place, name in enumerate(values)
        }
