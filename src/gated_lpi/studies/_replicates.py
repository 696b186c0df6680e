"""The arms of a run as replicates of groups, and rank correlations over them.

A rank correlation has the permutation p-value of its size, and the interval of Bonett and Wright (Psychometrika 65,
2000).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import rankdata

from gated_lpi.results import Run
from gated_lpi.results.experts import is_moe
from gated_lpi.studies._intervals import NAN
from gated_lpi.studies._runs import with_scores
from gated_lpi.studies.finding import Verdict, judged

SIGNIFICANT = 0.05  # below it, p is of a correlation that permutations seldom give


class Correlation(NamedTuple):
    """Spearman's correlation over replicates; NaN where it is undefined.

    Attributes:
        rho: the correlation.
        low, high: ends of its 95% interval; NaN below four replicates.
        p: share of permutations with as great a correlation, of either sign, the observed one among them.
        n: replicates.
    """

    rho: float
    low: float
    high: float
    p: float
    n: int

    @property
    def basis(self) -> str:
        """What it stands on, in words."""
        if math.isnan(self.rho):
            return f"{self.n} replicates, too few or all alike: no correlation"
        return f"{self.n} replicates, permutation p = {self.p:.3g}"

    def verdict(
        self,
        *,
        question: str,
        claim: str,
        claimed: Literal["above", "below"],
        method: str,
        detail: str,
        would_decide: str,
    ) -> Verdict:
        """The verdict on a claim that this lies above or below 0; undecided unless p says so, too."""
        return Verdict(
            question=question,
            claim=claim,
            method=method,
            verdict=judged(self.low, self.high, claimed=claimed) if self.p < SIGNIFICANT else "undecided",
            effect=self.rho,
            low=self.low,
            high=self.high,
            unit="ρ",  # noqa: RUF001
            detail=detail,
            would_decide=would_decide,
        )


def rank_correlation(x: Iterable[float], y: Iterable[float], *, draws: int = 2000, seed: int = 0) -> Correlation:
    """Spearman's correlation of pairs, those with NaN left out, with a permutation p-value."""
    pairs = np.array([(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)])
    n = len(pairs)
    if n < 3 or any(np.ptp(column) == 0 for column in pairs.T):
        return Correlation(NAN, NAN, NAN, NAN, n)
    one, other = (ranks / np.linalg.norm(ranks) for ranks in rankdata(pairs, axis=0).T - (n + 1) / 2)
    rho = float(one @ other)
    permuted = np.random.default_rng(seed).permuted(np.tile(other, (draws, 1)), axis=1) @ one
    p = (1 + int((np.abs(permuted) >= abs(rho) - 1e-12).sum())) / (1 + draws)
    if n < 4:
        return Correlation(rho, NAN, NAN, p, n)
    centre = math.atanh(max(-1 + 1e-9, min(1 - 1e-9, rho)))
    half = 1.959964 * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return Correlation(rho, math.tanh(centre - half), math.tanh(centre + half), p, n)


@dataclass(frozen=True)
class Member:
    """One arm of a group.

    Attributes:
        arm: its name.
        group: the group that it is a replicate of.
        seed: that it was trained with, or its place in the group where the run did not train it.
        routed: whether it has routed experts.
    """

    arm: str
    group: str
    seed: int
    routed: bool


@dataclass(frozen=True)
class Members:
    """The arms of a run that have scores.

    Attributes:
        every: all of them, in the run's order.
        notes: a sentence on each arm that has none.
    """

    every: tuple[Member, ...]
    notes: tuple[str, ...]

    @property
    def arms(self) -> list[str]:
        """Names of all of them."""
        return [member.arm for member in self.every]

    @property
    def groups(self) -> dict[str, tuple[Member, ...]]:
        """By group, in the run's order."""
        return {group: self.of(group) for group in dict.fromkeys(member.group for member in self.every)}

    def of(self, group: str) -> tuple[Member, ...]:
        """The arms of one group."""
        return tuple(member for member in self.every if member.group == group)

    @property
    def contrasts(self) -> list[tuple[str, str]]:
        """Every pair of a group with routed experts and one without."""
        routed = {member.group: member.routed for member in self.every}
        with_experts, without = ([group for group, has in routed.items() if has is one] for one in (True, False))
        return list(product(with_experts, without))

    def by_seed(self, group: str, values: Mapping[str, float]) -> dict[int, float]:
        """Values by arm as values by seed, of one group."""
        return {member.seed: values[member.arm] for member in self.of(group) if member.arm in values}


def members_of(run: Run) -> Members:
    """The arms of a run that have scores, and a note on each that has none.

    Raises:
        RunError: no arm has any.
    """
    groups, notes = with_scores(run)
    arms = {arm.name: arm for arm in run.experiment.arms}
    found = []
    for group, names in groups.items():
        for name in names:
            place = run.experiment.groups[group].index(name)
            seed = run.experiment.training_of(arms[name]).seed if arms[name].train else place
            found.append(Member(name, group, seed, is_moe(run.scores(name))))
    return Members(tuple(found), tuple(notes))
