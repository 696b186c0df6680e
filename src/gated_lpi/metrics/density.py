"""Does a finding depend on how many checkpoints were saved, and where? The same statistic at several densities.

A density is a choice of checkpoints, given by their indices: every 2nd, every 4th, … counted back from the last, or
those nearest to a grid that is even in tokens or in log tokens. A statistic is computed on each, and its verdict (by
default its sign) compared with that on all checkpoints. What flips is a finding about the saving of checkpoints.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import IntArray, positive_count
from gated_lpi.metrics._members import training_order

UNDEFINED = "undefined"


class Density(NamedTuple):
    """A choice of checkpoints.

    Attributes:
        name: in words, such as "every 2nd" or "8 by log tokens".
        checkpoints: their indices among all checkpoints, ascending.
    """

    name: str
    checkpoints: IntArray


class AcrossDensities(NamedTuple):
    """One statistic at several densities, the first of which is all checkpoints.

    Attributes:
        densities: the choices of checkpoints.
        values: the statistic on each; NaN where it is undefined.
        verdicts: what each value says; "undefined" for NaN.
        flips: whether a defined verdict differs from that on all checkpoints.
        flips_at: the names of the densities where it does.
    """

    densities: tuple[Density, ...]
    values: tuple[float, ...]
    verdicts: tuple[str, ...]
    flips: bool
    flips_at: tuple[str, ...]


def every(n: int, step: int) -> IntArray:
    """Indices of every `step`-th of n checkpoints, counted back from the last, which is always among them; ascending.

    Raises:
        OptionError: n or `step` below 1.
    """
    positive_count("the number of checkpoints", n)
    return np.arange((n - 1) % positive_count("step", step), n, step, dtype=np.int64)


def token_grid(tokens: ArrayLike, points: int, *, spacing: Literal["log", "linear"] = "log") -> IntArray:
    """Indices of the checkpoints nearest to a grid from the first to the last, even in tokens or in log tokens.

    A checkpoint that is nearest to several points of the grid is there once, so there may be fewer than `points`. A
    checkpoint at 0 tokens has no logarithm and is on no log grid.

    Args:
        tokens: [T], strictly ascending.
        points: of the grid, 2 or more.
        spacing: what the grid is even in.

    Raises:
        OptionError: tokens that do not ascend, no checkpoint above 0 tokens for a log grid, fewer than 2 points, or
            another spacing.
    """
    at = training_order("tokens", tokens, np.size(tokens))
    if spacing not in ("log", "linear") or points < 2:
        raise OptionError(
            f"spacing is {spacing!r} and points {points}; expected 'log' or 'linear', and 2 or more points."
        )
    usable = np.flatnonzero(at > 0) if spacing == "log" else np.arange(at.size)
    if not usable.size:
        raise OptionError(
            "no checkpoint is above 0 tokens; expected at least one for a log grid. Use spacing='linear'."
        )
    axis = np.log(at[usable]) if spacing == "log" else at
    grid = np.linspace(axis[0], axis[-1], points)
    return np.unique(usable[np.abs(axis - grid[:, None]).argmin(axis=1)]).astype(np.int64)


def densities(tokens: ArrayLike, *, least: int = 3) -> tuple[Density, ...]:
    """All checkpoints; every 2nd, 4th, 8th, …; grids of half as many, even in log tokens and in tokens.

    Choices of fewer than `least` checkpoints, and those that are equal to an earlier one, are left out.

    Raises:
        OptionError: tokens that do not ascend, or `least` below 1.
    """
    at = training_order("tokens", tokens, np.size(tokens))
    n = at.size
    positive_count("least", least)
    found = [Density("all", np.arange(n, dtype=np.int64))]
    step = 2
    while math.ceil(n / step) >= least:
        found.append(Density(f"every {step}{'nd' if step == 2 else 'th'}", every(n, step)))
        step *= 2
    points = math.ceil(n / 2)
    if points >= max(least, 2):
        if (at > 0).any():
            found.append(Density(f"{points} by log tokens", token_grid(at, points, spacing="log")))
        found.append(Density(f"{points} by tokens", token_grid(at, points, spacing="linear")))
    kept: list[Density] = []
    for choice in found:
        if not any(np.array_equal(choice.checkpoints, other.checkpoints) for other in kept) and (
            choice.checkpoints.size >= least or choice.name == "all"
        ):
            kept.append(choice)
    return tuple(kept)


def sign(value: float) -> str:
    """ "positive", "negative" or "zero"."""
    return "positive" if value > 0 else "negative" if value < 0 else "zero"


def across_densities(
    statistic: Callable[[IntArray], float],
    choices: Sequence[Density],
    *,
    verdict: Callable[[float], str] = sign,
) -> AcrossDensities:
    """A statistic on each choice of checkpoints, and whether what it says differs from the first choice.

    Args:
        statistic: takes indices of checkpoints, ascending; NaN where it is undefined.
        choices: the first is what the others are compared with; `densities(tokens)` gives a usual list.
        verdict: what a value says.

    Raises:
        OptionError: no choice of checkpoints.
    """
    if not choices:
        raise OptionError("no choices of checkpoints were given; expected one or more, such as densities(tokens).")
    values = tuple(float(statistic(choice.checkpoints)) for choice in choices)
    verdicts = tuple(UNDEFINED if math.isnan(value) else verdict(value) for value in values)
    flips_at = tuple(
        choice.name
        for choice, found in zip(choices, verdicts, strict=True)
        if UNDEFINED not in (found, verdicts[0]) and found != verdicts[0]
    )
    return AcrossDensities(tuple(choices), values, verdicts, bool(flips_at), flips_at)
