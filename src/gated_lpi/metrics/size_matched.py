"""Arms with different numbers of units, compared at equal numbers.

The top 1% of 384 units are 4, of 400,000 they are 4,000: J of so small a set is coarse, its share of importance is that
of a few units, and entropy over log N still depends on N where importance has a heavy tail. So the larger arm is
measured again on random subsets of as many units as the smaller has, averaged over draws; the subset is the same at all
checkpoints, and its top set is that of the subset. `low` and `high` are over draws: what the choice of subset does, not
how sure the measure is.

At equal |S| alone, all units of both arms are kept and the top sets have as many members. Then J and shares of the
larger arm are those of a smaller part of it, and chance differs: it stands beside both.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, finite, positive_count
from gated_lpi.metrics.concentration import entropy, gain_concentration, importance_share
from gated_lpi.metrics.stability import jaccard_chance, top_set_stability
from gated_lpi.metrics.statistics import quantiles_of_defined, tails
from gated_lpi.metrics.topset import set_size

Measure = Literal["stability", "gain_top_set", "importance_share", "entropy"]


class SizeMatched(NamedTuple):
    """A measure of one arm at a chosen number of units, [T−1] for stability and gain, [T] for share and entropy.

    Attributes:
        mean: over draws in which it is defined; NaN if there is none.
        low, high: ends of the interval over draws of units; `mean` itself where all units are taken.
        chance: of random top sets of that size, whatever the scores; NaN for entropy, which has none.
        units: how many units were measured at a time.
        top_units: how many of them were in a top set.
        draws: of subsets; 1 where all units are taken.
    """

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    chance: float
    units: int
    top_units: int
    draws: int


def at_units(
    scores: ArrayLike,
    units: int,
    measure: Measure,
    *,
    fraction: float = 0.01,
    draws: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> SizeMatched:
    """A measure on random subsets of `units` of the units, averaged over draws.

    Args:
        scores: [T, N], N of `units` or more.
        units: in each subset.
        measure: J_stab, R_t, the top set's share of importance, or normalised entropy.
        fraction: share of the subset's units in its top set.
        draws: of subsets.
        level: share of the draws that lies inside the interval.
        seed: of the draws.

    Raises:
        OptionError: fewer than `units` units, NaN or infinite scores, an unknown measure, too few checkpoints for it,
            or another option outside what it may be.
    """
    values = _scores(scores, measure)
    if not 1 <= units <= values.shape[1]:
        raise OptionError(f"units is {units}; expected 1 to {values.shape[1]}, the number of units of the arm.")
    return _over_draws(values, units, measure, set_size(units, fraction), draws, level, seed)


def at_set_size(scores: ArrayLike, top_units: int, measure: Measure) -> SizeMatched:
    """A measure on all units, with top sets of a given number of units: equal |S| without equal N.

    Args:
        scores: [T, N].
        top_units: size of the top set, 1 to N.
        measure: as in `at_units`; entropy does not depend on top sets.

    Raises:
        OptionError: `top_units` outside 1..N, NaN or infinite scores, an unknown measure, or too few checkpoints.
    """
    values = _scores(scores, measure)
    if not 1 <= top_units <= values.shape[1]:
        raise OptionError(f"top_units is {top_units}; expected 1 to {values.shape[1]}, the number of units of the arm.")
    return _over_draws(values, values.shape[1], measure, top_units, 1, 0.95, 0)


def size_matched(
    arms: Mapping[str, ArrayLike],
    measure: Measure,
    *,
    fraction: float = 0.01,
    draws: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, SizeMatched]:
    """A measure of each arm at the number of units of the smallest, by name.

    Args:
        arms: name → scores [T, N]; T and N may differ.
        measure, fraction, draws, level, seed: as in `at_units`.

    Raises:
        OptionError: no arm, or what `at_units` raises.
    """
    if not arms:
        raise OptionError("no arms were given; expected scores [checkpoints, units] by the name of their arm.")
    units = min(_scores(scores, measure).shape[1] for scores in arms.values())
    return {
        name: at_units(scores, units, measure, fraction=fraction, draws=draws, level=level, seed=seed)
        for name, scores in arms.items()
    }


def _scores(scores: ArrayLike, measure: str) -> NDArray[np.floating]:
    if measure not in get_args(Measure):
        raise OptionError(f"measure is {measure!r}; expected one of {', '.join(get_args(Measure))}.")
    values = np.asarray(scores)
    least = 2 if measure in ("stability", "gain_top_set") else 1
    if values.ndim != 2 or values.shape[0] < least or values.shape[1] == 0:
        raise OptionError(
            f"scores has shape {values.shape}; expected [checkpoints, units], {least} or more checkpoints for "
            f"{measure}."
        )
    return values


def _over_draws(
    values: NDArray[np.floating], units: int, measure: Measure, top_units: int, draws: int, level: float, seed: int
) -> SizeMatched:
    quantiles = tails(level)
    whole = units == values.shape[1]
    draws = 1 if whole else positive_count("draws", draws)
    generator = np.random.default_rng(seed)
    fraction = (top_units - 0.5) / units  # its ceiling is top_units, whatever rounding does to the quotient
    found = np.stack(
        [
            _measured(
                values if whole else values[:, generator.choice(values.shape[1], units, replace=False)],
                measure,
                fraction,
            )
            for _ in range(draws)
        ]
    )
    defined = ~np.isnan(found)
    some = defined.any(axis=0)
    mean = np.full(found.shape[1], np.nan)
    mean[some] = np.where(defined, found, 0.0).sum(axis=0)[some] / defined.sum(axis=0)[some]
    low, high = quantiles_of_defined(found, quantiles)
    chance = {"stability": jaccard_chance(units, top_units), "entropy": float("nan")}.get(measure, top_units / units)
    return SizeMatched(mean, low, high, chance, units, top_units, draws)


def _measured(scores: NDArray[np.floating], measure: Measure, fraction: float) -> FloatArray:
    values = finite("scores", scores, ndim=2)
    if measure == "stability":
        return top_set_stability(values, fraction)
    if measure == "gain_top_set":
        return gain_concentration(values[:-1], values[1:], fraction).top_set
    if measure == "importance_share":
        return importance_share(values, fraction)
    return entropy(values).normalised
