"""HIT@k: how often the target is among the k likeliest next tokens, and what an ablation does to it.

1. HIT@k = share of prompts whose target has rank < k; rank 0 is the likeliest token.
2. Its interval is Wilson's score interval (Wilson, JASA 1927), sound at 0 and 1 and for few prompts.
3. An ablation's drop is relative: 100 · (intact − ablated) / intact.
4. A drop means something beside those of random sets of as many units: p = (1 + #{random ≥ drop}) / (1 + D),
   the permutation p-value that counts the observed set among the draws and so is never 0.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import positive_count
from gated_lpi.metrics.statistics import Bounds, tails


class RandomControl(NamedTuple):
    """Drops of random sets of units, in % of the intact HIT@k, and where the drop in question lies.

    Attributes:
        mean: of the drops.
        std: their sample standard deviation (ddof = 1), NaN for a single random set.
        low, high: ends of their percentile interval.
        p_value: of the drop in question, in (0, 1].
    """

    mean: float
    std: float
    low: float
    high: float
    p_value: float


def hit_at_k(rank: ArrayLike, k: int) -> float:
    """The share of prompts whose target `rank` [P] is below k; rank 0 is the likeliest token.

    Raises:
        OptionError: no prompts, ranks that are not whole numbers of 0 or more, or k below 1.
    """
    ranks = np.asarray(rank)
    if ranks.ndim != 1 or not ranks.size:
        raise OptionError(f"rank has shape {ranks.shape}; expected the target's rank for each prompt, [P], P ≥ 1.")
    if not ((ranks >= 0) & (ranks % 1 == 0)).all():
        raise OptionError("rank holds values that are no ranks; expected whole numbers, 0 for the likeliest token.")
    return float(np.mean(ranks < positive_count("k", k)))


def hit_interval(hits: int, n: int, level: float = 0.95) -> Bounds:
    """Wilson's interval for the share `hits` / `n`, inside [0, 1].

    Raises:
        OptionError: `hits` outside 0..n, no prompts, or `level` outside (0, 1).
    """
    if not 0 <= hits <= positive_count("n", n):
        raise OptionError(f"hits is {hits} of {n} prompts; expected 0 to {n}. Pass a count, not a share.")
    z = float(ndtri(tails(level)[1]))
    share = hits / n
    widening = 1.0 + z * z / n
    centre = (share + z * z / (2.0 * n)) / widening
    half = z / widening * math.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n))
    return Bounds(0.0 if hits == 0 else centre - half, 1.0 if hits == n else centre + half)


def relative_drop(intact: float, ablated: float) -> float:
    """100 · (intact − ablated) / intact, in % of the intact HIT@k; negative if ablation helped.

    NaN when the intact model hits nothing.

    Raises:
        OptionError: a share outside [0, 1].
    """
    if not (0.0 <= intact <= 1.0 and 0.0 <= ablated <= 1.0):
        raise OptionError(f"intact is {intact} and ablated {ablated}; expected HIT@k as shares between 0 and 1.")
    return 100.0 * ((intact - ablated) / intact) if intact else float("nan")


def random_control(drop: float, random_drops: ArrayLike, level: float = 0.95) -> RandomControl:
    """Mean, spread and percentile interval of `random_drops` [D], and the p-value of `drop`, all drops in %.

    All fields are NaN when `drop` or a random drop is NaN (the intact model hits nothing).

    Raises:
        OptionError: no random drops, or `level` outside (0, 1).
    """
    quantiles = tails(level)
    drops = np.asarray(random_drops, dtype=np.float64)
    if drops.ndim != 1 or not drops.size:
        raise OptionError(f"random_drops has shape {drops.shape}; expected the drop of each random set, [D], D ≥ 1.")
    if np.isnan(drop) or np.isnan(drops).any():
        return RandomControl(*[float("nan")] * 5)
    low, high = np.quantile(drops, quantiles)
    return RandomControl(
        mean=float(drops.mean()),
        std=float(drops.std(ddof=1)) if drops.size > 1 else float("nan"),
        low=float(low),
        high=float(high),
        p_value=(1 + int(np.count_nonzero(drops >= drop))) / (1 + drops.size),
    )
