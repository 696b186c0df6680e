"""Means over replicates and differences of them, with their intervals: the one place where studies make them.

A mean has Student's interval, a difference of two means of other replicates Welch's, both by `metrics.hierarchical`
over replicates alone: a study has one number of each replicate, in which what varies below replicates is already.
Where that number is counted in grains, as HIT@k is in prompts, replicates may agree by the grain alone: their interval
is at least as wide as if one of them were off by one grain.
`metrics.compare_groups` has Welch's interval too, but none where replicates do not vary at all, and a permutation test
with each. Replicates with the same seed share data order and initial weights, so two groups that share seeds are
compared by the differences of these pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.stats import t as student

from gated_lpi.metrics import HierarchicalInterval, hierarchical_difference, hierarchical_interval
from gated_lpi.studies.finding import Verdict, judged

LEVEL = 0.95
NAN = float("nan")
REPLICATES, RELATIONS, NOTHING = "replicates", "relations", ""


class Estimate(NamedTuple):
    """A mean with its 95% interval; NaN where there is none.

    Attributes:
        value: the mean.
        low, high: ends of the interval.
        n: replicates, or pairs of them, that it is over.
        over: what the interval is over: "replicates"; of one replicate what it was given for; "" where there is none.
    """

    value: float
    low: float
    high: float
    n: int
    over: str

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit, `factor` (> 0) to one."""
        return self._replace(value=self.value * factor, low=self.low * factor, high=self.high * factor)

    def grained(self, grain: float) -> Estimate:
        """The same of a number counted in grains: with an interval as if one replicate were off by one at least.

        One of n numbers that differs by g from the others makes their standard deviation g / √n, and the half-width of
        Student's interval t g / n.
        """
        if self.over != REPLICATES:
            return self
        least = float(student.ppf((1 + LEVEL) / 2, self.n - 1)) * grain / self.n
        return self._replace(low=min(self.low, self.value - least), high=max(self.high, self.value + least))

    def within(self, least: float, most: float) -> Estimate:
        """The same of a value that lies between `least` and `most`: the interval as far as it does."""
        return self._replace(low=max(self.low, least), high=min(self.high, most))

    @property
    def basis(self) -> str:
        """What it stands on, in words."""
        if self.over == REPLICATES:
            return f"{self.n} replicates, t interval over them"
        if self.over:
            return f"one replicate, interval over {self.over}"
        return f"{self.n} replicate{'s' * (self.n != 1)}, no interval"

    def verdict(
        self,
        *,
        question: str,
        claim: str,
        claimed: Literal["above", "below"],
        unit: str,
        detail: str,
        would_decide: str,
        method: str = "",
        against: float = 0.0,
    ) -> Verdict:
        """The verdict on a claim that this lies above or below a value; the rest as `Verdict` has it."""
        return Verdict(
            question=question,
            claim=claim,
            method=method,
            verdict=judged(self.low, self.high, against=against, claimed=claimed),
            effect=self.value,
            low=self.low,
            high=self.high,
            unit=unit,
            detail=detail,
            would_decide=would_decide,
        )


UNKNOWN = Estimate(NAN, NAN, NAN, 0, NOTHING)


def over_replicates(
    values: Iterable[float], single: tuple[float, float] | None = None, over: str = RELATIONS
) -> Estimate:
    """The mean of one value a replicate; values that are not finite are left out.

    Args:
        values: one a replicate.
        single: the interval of the value of a single replicate, if it has one.
        over: what that is over.
    """
    given = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    if not given.size:
        return UNKNOWN
    found = _estimate(hierarchical_interval(given[:, None], relations="own", draws=1, level=LEVEL))
    if found.n == 1 and single is not None and all(map(math.isfinite, single)):
        return Estimate(found.value, *single, 1, over)
    return found


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate:
    """The mean difference first − second of values by seed: over pairs of one seed, else Welch's."""
    a, b = ({seed: value for seed, value in one.items() if math.isfinite(value)} for one in (first, second))
    shared = sorted(a.keys() & b.keys())
    if shared or not a or not b:
        return over_replicates(a[seed] - b[seed] for seed in shared)
    one, other = (np.array(list(values.values()), dtype=np.float64)[:, None] for values in (a, b))
    return _estimate(hierarchical_difference(one, other, relations="own", draws=1, level=LEVEL))


def _estimate(found: HierarchicalInterval) -> Estimate:
    """What was found; `draws` is 1 above, since one value a replicate leaves nothing to draw but for percentiles."""
    n = min(found.replicates)
    over = REPLICATES if n > 1 else NOTHING
    return Estimate(float(found.estimate), float(found.low), float(found.high), n, over)


def cells(estimate: Estimate) -> list[Any]:
    """An estimate as cells of a table: value, low, high, replicates."""
    return [estimate.value, estimate.low, estimate.high, estimate.n]


CELLS = ["value", "low", "high", "replicates"]
"""The heads of the columns that `cells` fills."""
