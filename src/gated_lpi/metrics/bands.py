"""Simultaneous bands over checkpoints: where two trajectories part, without looking twenty times.

Of 20 pointwise 95% intervals one misses the truth even if nothing is there. A simultaneous band holds the whole
trajectory in 95% of runs, so wherever the band of a difference leaves 0, arms differ.

1. Estimate, standard error and degrees of freedom at each of K checkpoints: over replicates (Student, Welch), or over
   replicates and relations (hierarchical.py).
2. **max-t.** The factor of the errors is the level's quantile of max_k |Z_k|, Z normal with the correlation of the
   estimate's errors over checkpoints. Neighbouring checkpoints go together, so it is less than Bonferroni's.
3. Five replicates know little of a correlation of 20 checkpoints: sample correlations are too far from 0, and the
   factor too small. They are shrunk towards 0 by λ = Σ (1 − r²)²/ν / Σ r², up to 1, over pairs of checkpoints (Schäfer
   & Strimmer 2005, doi:10.2202/1544-6115.1175), ν the degrees of freedom; of fewer than 4, to 0.
4. The factor z stands for a pointwise level 2Φ(z) − 1; Student's factor of that level is what the band takes. (Exact
   for independent and for identical checkpoints; measured between.) Its degrees of freedom ν are the harmonic mean over
   checkpoints: where they are estimated, they are too many just where the error is too small, and a maximum finds that
   checkpoint.
`draws_band` takes 2 from bootstrap draws themselves, for whoever has draws of a whole trajectory.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import BoolArray, FloatArray, finite, open_unit_interval, positive_count
from gated_lpi.metrics.hierarchical import (
    Group,
    Over,
    Parts,
    Resampled,
    Statistic,
    differences,
    errors_of,
    parts_of,
    resample,
    student,
)

_LEAST_DF = 3.99  # that correlations are estimated from; with 3 replicates bands that did held 92% of trajectories


class Band(NamedTuple):
    """A trajectory with a band that holds all of it at once; arrays are [K], NaN where the statistic is undefined.

    Attributes:
        estimate: the trajectory, or the difference of two.
        low, high: the band.
        error: standard errors.
        critical: what they were multiplied by.
        level: of the whole band.
        over: the topmost level that it is over: "replicates", "relations", "facts", "nothing" (no band).
    """

    estimate: FloatArray
    low: FloatArray
    high: FloatArray
    error: FloatArray
    critical: FloatArray
    level: float
    over: Over


class Parting(NamedTuple):
    """Where the band of a difference does not hold 0.

    Attributes:
        apart: [K], whether it does not.
        above, below: [K], whether all of the band is on that side of 0.
        first, last: indices of the first and last checkpoint that is apart; −1 if none is.
        greatest: index of the checkpoint of the greatest difference, in size, among those apart; −1 if none is.
    """

    apart: BoolArray
    above: BoolArray
    below: BoolArray
    first: int
    last: int
    greatest: int


def replicate_band(values: ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Band:
    """The mean trajectory over replicates, with a simultaneous band over replicates alone.

    Args:
        values: [n, K], a statistic of n ≥ 2 replicates at K checkpoints; NaN where it is undefined.
        level: at which the band holds the whole trajectory.
        draws: of the maximum.
        seed: of the draws.

    Raises:
        OptionError: fewer than two replicates, infinite values, no draws, or `level` outside (0, 1).
    """
    return _of_parts(_of_values([("values", values)], False), level, draws, seed)


def difference_band(
    a: ArrayLike, b: ArrayLike, *, paired: bool = False, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Band:
    """The difference of two arms' mean trajectories, a less b, with a simultaneous band over replicates alone.

    Args:
        a, b: [n, K] and [m, K], a statistic of the replicates of each arm at the same K checkpoints.
        paired: replicate i of both shares seed and order of data.
        level, draws, seed: as in `replicate_band`.

    Raises:
        OptionError: as there, or shapes that do not go together.
    """
    return _of_parts(_of_values([("a", a), ("b", b)], paired), level, draws, seed)


def hierarchical_band(
    data: Iterable[Any],
    weights: Any = None,
    statistic: Statistic | None = None,
    *,
    relations: Literal["shared", "own"] = "shared",
    facts: bool = False,
    vectorised: bool = False,
    draws: int = 400,
    level: float = 0.95,
    seed: int = 0,
) -> Band:
    """A trajectory with a simultaneous band over replicates and relations.

    Args:
        data, weights, statistic, relations, facts, vectorised, draws, level, seed: as in `hierarchical_interval`; the
            statistic gives [K], a number for each checkpoint.

    Raises:
        OptionError: as there, or a statistic of another shape.
    """
    found = resample([data], weights, statistic, relations, facts, vectorised, draws, seed)
    return _of_parts(found, level, 10_000, seed)


def hierarchical_difference_band(
    a: Iterable[Any],
    b: Iterable[Any],
    weights: Any = None,
    statistic: Statistic | None = None,
    *,
    paired: bool = False,
    relations: Literal["shared", "own"] = "shared",
    facts: bool = False,
    vectorised: bool = False,
    draws: int = 400,
    level: float = 0.95,
    seed: int = 0,
) -> Band:
    """The difference of two arms' trajectories, a less b, with a simultaneous band over replicates and relations.

    Args:
        a, b, paired: as in `hierarchical_difference`.
        weights, statistic, relations, facts, vectorised, draws, level, seed: as in `hierarchical_band`.

    Raises:
        OptionError: as in either.
    """
    found = resample([a, b], weights, statistic, relations, facts, vectorised, draws, seed)
    return _of_parts(differences(found) if paired else found, level, 10_000, seed)


def draws_band(
    estimate: ArrayLike, draws: ArrayLike, *, df: float | None = None, over: Over = "relations", level: float = 0.95
) -> Band:
    """A trajectory with the max-t band of its bootstrap draws.

    Args:
        estimate: [K].
        draws: [B, K], the trajectory in each of B bootstrap draws.
        df: degrees of freedom of its errors, what was drawn less 1 (11 for 12 relations): bootstrap variances are
            multiplied by (df + 1)/df and the factor is Student's. None: neither, for large numbers.
        over: what was drawn.
        level: of the whole band.

    Raises:
        OptionError: shapes that do not go together, fewer than 2 draws, NaN or infinite numbers, `df` not above 0, or
            `level` outside (0, 1).
    """
    centre, samples = finite("estimate", estimate, ndim=1), finite("draws", draws, ndim=2)
    if samples.shape[1] != centre.size or len(samples) < 2 or not (df is None or df > 0):
        raise OptionError(
            f"draws has shape {samples.shape} for {centre.size} estimates, and df is {df}; expected [draws, "
            "estimates], two draws or more, and degrees of freedom above 0 or None."
        )
    open_unit_interval("level", level)
    spread = samples.std(axis=0, ddof=1)
    varies = spread > 0
    error = spread * (1.0 if df is None else np.sqrt((df + 1.0) / df))
    greatest = (np.abs(samples - samples.mean(axis=0))[:, varies] / spread[varies]).max(axis=1, initial=0.0)
    z = float(np.quantile(greatest, level))
    critical = np.full(centre.size, z if df is None else _student_of(z, df))
    return Band(centre, centre - critical * error, centre + critical * error, error, critical, level, over)


def where_apart(band: Band) -> Parting:
    """The checkpoints at which two arms differ: where the band of their difference does not hold 0."""
    above, below = band.low > 0, band.high < 0
    places = np.flatnonzero(above | below)
    if not places.size:
        return Parting(above | below, above, below, -1, -1, -1)
    greatest = int(places[np.argmax(np.abs(band.estimate[places]))])
    return Parting(above | below, above, below, int(places[0]), int(places[-1]), greatest)


def _of_values(arms: list[tuple[str, ArrayLike]], paired: bool) -> Resampled:
    """Replicates' values as groups with nothing below them."""
    groups = []
    for name, values in arms:
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 2 or len(array) < 2 or not array.shape[1] or np.isinf(array).any():
            raise OptionError(
                f"{name} has shape {array.shape} and {int(np.isinf(array).sum())} infinite values; expected "
                "[replicates, checkpoints], two or more replicates. With one, `hierarchical_band` is over relations."
            )
        groups.append(Group(array, np.zeros((len(array), 1, array.shape[1]))))
    if len({group.values.shape[1] for group in groups}) > 1:
        raise OptionError(
            f"a and b have {[group.values.shape[1] for group in groups]} checkpoints; expected the same in both."
        )
    found = Resampled(tuple(groups), "relations", 1.0, False)
    return differences(found) if paired else found


def _of_parts(resampled: Resampled, level: float, draws: int, seed: int) -> Band:
    open_unit_interval("level", level)
    positive_count("draws", draws)
    if resampled.groups[0].values.ndim != 2:
        raise OptionError(
            f"the statistic has shape {resampled.groups[0].values.shape[1:]}; expected one axis, of checkpoints."
        )
    parts = parts_of(resampled)
    error, df = errors_of(parts)
    varies = np.nan_to_num(error) > 0  # a band has no width where nothing varies, and takes no part in the maximum
    critical = np.full(error.size, np.nan)
    if varies.any():
        common_df = 1.0 / float(np.mean(1.0 / df[varies]))
        correlation = _shrunk(_correlation(parts, varies), common_df)
        values, vectors = np.linalg.eigh(correlation)
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T  # whatever basis of equal eigenvalues is found
        normal = np.random.default_rng(seed).standard_normal((draws, len(root))) @ root
        z = float(np.quantile(np.abs(normal).max(axis=1), level))
        critical[varies] = _student_of(z, common_df)
    half = np.where(varies, np.where(varies, critical, 0.0) * error, error)
    estimate = parts.estimate
    return Band(estimate, estimate - half, estimate + half, error, critical, level, parts.over)


def _correlation(parts: Parts, varies: BoolArray) -> FloatArray:
    """The correlation over checkpoints of what the estimate's error is made of, A + B − C."""
    covariance = np.zeros((int(varies.sum()),) * 2)
    if "replicates" in parts.levels:
        for deviation in parts.replicates:
            n = len(deviation)
            covariance += _products(deviation[:, varies]) / (n * (n - 1))
    if len(parts.levels) == 2 or parts.over != "replicates":
        relations = parts.relations[:, varies]
        covariance += parts.correction * _products(relations - relations.mean(axis=0)) / (len(relations) - 1)
    if len(parts.levels) == 2:
        for deviation in parts.both:
            n, b = deviation.shape[:2]
            centred = (deviation - deviation.mean(axis=1, keepdims=True))[:, :, varies].reshape(n * b, -1)
            covariance -= parts.correction * _products(centred) / ((b - 1) * n * (n - 1))
    spread = np.sqrt(np.diagonal(covariance).clip(min=0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(covariance / np.outer(spread, spread)).clip(-1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation, dtype=np.float64)


def _products(deviation: FloatArray) -> FloatArray:
    """Sums of products over the first axis, [K, K]; undefined deviations count as none."""
    known = np.nan_to_num(deviation)
    return np.asarray(known.T @ known, dtype=np.float64)


def _shrunk(correlation: FloatArray, df: float) -> FloatArray:
    """Correlations [K, K] shrunk towards 0 by as much as so few degrees of freedom let them stray from it."""
    off = ~np.eye(len(correlation), dtype=np.bool_)
    r = correlation[off]
    if not r.size or not (r**2).sum() > 0:
        return correlation
    amount = min(1.0, float(((1.0 - r**2) ** 2).sum() / df / (r**2).sum())) if df >= _LEAST_DF else 1.0
    return np.where(off, (1.0 - amount) * correlation, correlation)


def _student_of(z: float, df: float) -> float:
    """Student's factor at the pointwise level that the normal factor z has."""
    return float(student(np.asarray(df), min(max(2.0 * float(ndtr(z)) - 1.0, 1e-12), 1.0 - 1e-15)))
