"""Layer profiles: where in depth importance sits, and how steady that is over training.

1. Profile L_t(l) = Σ of I_t(u) over the units u of layer l.
2. ρ_avg = mean correlation of the profiles over the pairs of checkpoints in a window.
3. σ_rel = mean over layers of std_t(L_t(l)) / |mean_t L_t(l)|. The median stands beside it, because one layer
   whose mean is near 0 carries the mean off (definitions after arXiv 2601.08383).
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, finite, positive_count

Correlation = Literal["pearson", "spearman"]


class PairwiseMean(NamedTuple):
    """A mean over pairs of checkpoints.

    Attributes:
        mean: over the pairs that have a value; NaN if none has.
        pairs: how many have one.
    """

    mean: float
    pairs: int


class RelativeSpread(NamedTuple):
    """Spread of layer profiles over checkpoints, relative to each layer's mean.

    Attributes:
        mean: σ_rel, the mean over layers.
        median: the median over layers.
        per_layer: [L], one value for each layer.
    """

    mean: float
    median: float
    per_layer: FloatArray


def layer_profile(scores: ArrayLike, layer: ArrayLike, n_layers: int) -> FloatArray:
    """The sum of `scores` [..., N] over the units of each layer, [..., L]; 0 where there are none.

    `layer` [N] is each unit's layer, from 0 to n_layers − 1.

    Raises:
        OptionError: NaN or infinite scores, a layer outside its range, or not one layer per unit.
    """
    values, index = finite("scores", scores), np.asarray(layer)
    positive_count("n_layers", n_layers)
    if index.shape != values.shape[-1:]:
        raise OptionError(
            f"layer has shape {index.shape} and scores {values.shape}; expected one layer per unit, [N]. "
            "Pass the `layer` coordinate of the same units."
        )
    if index.min() < 0 or index.max() >= n_layers:
        raise OptionError(
            f"layer runs from {index.min()} to {index.max()}; expected 0 to {n_layers - 1}. Raise n_layers."
        )
    return np.stack([values[..., index == number].sum(axis=-1) for number in range(n_layers)], axis=-1)


def profile_correlation(profiles: ArrayLike, kind: Correlation = "pearson") -> FloatArray:
    """The correlation matrix [T, T] of `profiles` [T, L], in [−1, 1].

    Rows and columns of a constant profile are NaN (with one layer every profile is constant).

    Args:
        profiles: [T, L].
        kind: "pearson", or "spearman", which correlates ranks, ties sharing the mean of their ranks.

    Raises:
        OptionError: NaN or infinite profiles, or another `kind`.
    """
    values = finite("profiles", profiles, ndim=2)
    if kind not in get_args(Correlation):
        raise OptionError(f"kind is {kind!r}; expected one of {', '.join(map(repr, get_args(Correlation)))}.")
    if kind == "spearman":
        values = np.asarray(rankdata(values, axis=-1), dtype=np.float64)
    centred = values - values.mean(axis=-1, keepdims=True)
    largest = np.abs(centred).max(axis=-1, keepdims=True)
    constant = (largest[:, 0] == 0) | (values.min(axis=-1) == values.max(axis=-1))
    directions = np.full(values.shape, np.nan)
    scaled = centred[~constant] / largest[~constant]
    directions[~constant] = scaled / np.linalg.norm(scaled, axis=-1, keepdims=True)
    return np.asarray(np.clip(directions @ directions.T, -1.0, 1.0), dtype=np.float64)


def mean_pairwise(matrix: ArrayLike) -> PairwiseMean:
    """The mean of `matrix` [T, T] above its diagonal, NaN left out: ρ_avg for a correlation matrix.

    With no pair left the mean is NaN and the count 0.

    Raises:
        OptionError: `matrix` is not square.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise OptionError(f"matrix has shape {values.shape}; expected a square one, such as profile_correlation's.")
    above = values[np.triu_indices(values.shape[0], k=1)]
    defined = above[~np.isnan(above)]
    return PairwiseMean(float(defined.mean()) if defined.size else float("nan"), defined.size)


def relative_spread(profiles: ArrayLike) -> RelativeSpread:
    """Standard deviation over |mean|, both over checkpoints, of each layer of `profiles` [T, L]; and σ_rel.

    The standard deviation is the population's (ddof = 0). A layer whose mean is 0 has spread infinity, or NaN
    if it is 0 at every checkpoint; both carry over into `mean`, and NaN into `median`. With one checkpoint
    all is NaN.

    Raises:
        OptionError: NaN or infinite profiles.
    """
    values = finite("profiles", profiles, ndim=2)
    if values.shape[0] < 2:
        return RelativeSpread(float("nan"), float("nan"), np.full(values.shape[1], np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        per_layer = np.asarray(values.std(axis=0) / np.abs(values.mean(axis=0)), dtype=np.float64)
    return RelativeSpread(float(per_layer.mean()), float(np.median(per_layer)), per_layer)
