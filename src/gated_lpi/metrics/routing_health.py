"""Whether a router is well: how evenly it spreads tokens, how settled its choices are, and what chance gives.

Routing is given as `routed` [..., E]: for one token 1 for each of the k experts that it is sent to, 0 for the others;
or the mean of that over some tokens, as a run keeps it for each relation. The formulas are the same for both: over
single tokens the overlaps are those of sets, over means those of loads. How evenly tokens are spread is in `routing`
(`utilisation_entropy`, `load_imbalance`).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import FloatArray, finite, normalised_entropy, positive_count, ratio, shares

DEAD = 0.1  # of an even share of the tokens: an expert with less takes no part


def dead_experts(load: ArrayLike, below: float = DEAD) -> FloatArray:
    """The share of experts with less than `below` of an even load, of `load` [..., E], shape [...].

    NaN for a layer that routed nothing.

    Raises:
        OptionError: NaN, infinite or negative loads.
    """
    dead = which_experts_are_dead(load, below).mean(axis=-1)
    return np.where(np.asarray(load).sum(axis=-1) > 0, dead, np.nan)


def which_experts_are_dead(load: ArrayLike, below: float = DEAD) -> NDArray[np.bool_]:
    """Which experts have less than `below` of an even load, of `load` [..., E], in the same shape; none of no load.

    Raises:
        OptionError: NaN, infinite or negative loads.
    """
    values = _routed("load", load)
    return np.asarray(values < below * values.mean(axis=-1, keepdims=True))


def dead_experts_chance(tokens: int, experts: int, k: int, below: float = DEAD, *, draws: int = 200) -> float:
    """The mean share of dead experts where so many tokens are sent each to k random ones of E experts.

    Raises:
        OptionError: no tokens or draws, or k outside 1..E.
    """
    loads = _random_loads(tokens, experts, k, draws)
    return float(dead_experts(loads, below).mean())


def router_saturation(routed: ArrayLike) -> FloatArray:
    """The share of the experts of the last checkpoint that are chosen already, of `routed` [T, N, E], shape [T].

    Σ_e min(r_t, r_T) / Σ_e r_T, mean over the N tokens or relations (Muennighoff et al., OLMoE, arXiv 2409.02060, §5).
    Chance, for single tokens: k/E.

    Raises:
        OptionError: NaN, infinite or negative values, or other than three axes.
    """
    values = _routed("routed", routed, ndim=3)
    kept = np.minimum(values, values[-1:]).sum(axis=-1)
    return np.asarray(ratio(kept, np.broadcast_to(values[-1:].sum(axis=-1), kept.shape)).mean(axis=-1))


def routing_jaccard(routed: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """The overlap of the routing of consecutive checkpoints, of `routed` [T, N, E], shape [T−1]; 1 if nothing changed.

    Σ_e min(r_t, r_{t+1}) / Σ_e max(r_t, r_{t+1}), the Jaccard index of the experts chosen, mean over the N tokens or
    relations.

    Args:
        routed: the routing.
        weights: [N], tokens of each row; None: one each.

    Raises:
        OptionError: NaN, infinite or negative values, or other than three axes.
    """
    values = _routed("routed", routed, ndim=3)
    shared = np.minimum(values[:-1], values[1:]).sum(axis=-1)
    united = np.maximum(values[:-1], values[1:]).sum(axis=-1)
    counts = np.ones(values.shape[1]) if weights is None else finite("weights", weights, ndim=1)
    return np.asarray(np.average(ratio(shared, united), axis=-1, weights=counts), dtype=np.float64)


def routing_jaccard_chance(tokens: int, experts: int, k: int, *, draws: int = 200) -> float:
    """The mean of `routing_jaccard` of means over so many tokens that are sent to k random ones of E experts each time.

    Raises:
        OptionError: no tokens or draws, or k outside 1..E.
    """
    loads = _random_loads(tokens, experts, k, 2 * draws)
    return float(routing_jaccard(loads.reshape(2, draws, experts))[0])


def routing_jaccard_exchanged(routed: ArrayLike, weights: ArrayLike | None = None, *, draws: int = 200) -> FloatArray:
    """The mean of `routing_jaccard` where the experts of each later checkpoint are permuted at random, shape [T−1].

    Chance for means over tokens that are routed alike, such as prompts of one relation: loads stay as even or uneven
    as they are, and only which expert has which is lost. (Tokens that go each its own way have loads that are nearly
    even, so that `routing_jaccard_chance` of many tokens is far above what unlike loads overlap.)

    Args:
        routed: [T, N, E], the routing.
        weights: [N], tokens of each row; None: one each.
        draws: permutations; each is the same for all rows.

    Raises:
        OptionError: as `routing_jaccard`, or no draws.
    """
    values = _routed("routed", routed, ndim=3)
    generator = np.random.default_rng(0)
    total = np.zeros(max(len(values) - 1, 0))
    for _ in range(positive_count("draws", draws)):
        exchanged = values[1:, :, generator.permutation(values.shape[-1])]
        pairs = np.stack([values[:-1], exchanged], axis=1)
        total += [float(routing_jaccard(pair, weights)[0]) for pair in pairs]
    return total / draws


def gate_entropy(gates: ArrayLike) -> FloatArray:
    """How evenly a token's gates weigh the experts it is sent to, of `gates` [..., E], shape [...].

    H(g) / log k over the k gates that are not 0, as shares of their sum: 1 if even, 0 if one has all. NaN where fewer
    than two experts are chosen.

    Raises:
        OptionError: NaN, infinite or negative gates.
    """
    values = _routed("gates", gates)
    chosen = (values > 0).sum(axis=-1)
    whole = normalised_entropy(shares(values)) * np.log(values.shape[-1])  # H, in nats
    return np.asarray(np.where(chosen > 1, whole / np.log(np.maximum(chosen, 2)), np.nan))


def co_activation(routed: ArrayLike) -> FloatArray:
    """How often two experts are chosen together, of `routed` [N, E] of N single tokens, over chance, [E, E].

    The share of tokens sent to both, over the share under even routing, k(k−1) / (E(E−1)): 1 is what chance gives. The
    diagonal, and everything with one expert per token, is NaN.

    Raises:
        OptionError: values other than 0 and 1, or other than two axes.
    """
    values = _routed("routed", routed, ndim=2)
    if not np.isin(values, (0.0, 1.0)).all():
        raise OptionError("routed holds values other than 0 and 1; expected single tokens, not means over some.")
    experts, k = values.shape[1], float(values.sum(axis=1).mean())
    together = values.T @ values / len(values)
    np.fill_diagonal(together, np.nan)
    even = k * (k - 1) / (experts * (experts - 1)) if experts > 1 else 0.0
    return together / even if even > 0 else np.full_like(together, np.nan)


def _random_loads(tokens: int, experts: int, k: int, draws: int) -> FloatArray:
    """Loads [draws, E] of tokens that are each sent to k experts at random."""
    if not 1 <= k <= experts:
        raise OptionError(f"k is {k} and there are {experts} experts; expected 1 to {experts} of them for a token.")
    positive_count("tokens", tokens)
    generator = np.random.default_rng(0)
    loads = np.zeros((positive_count("draws", draws), experts))
    for load in loads:
        order = generator.random((tokens, experts)).argpartition(k - 1, axis=-1)[:, :k]
        load += np.bincount(order.reshape(-1), minlength=experts) / tokens
    return loads


def _routed(name: str, values: ArrayLike, *, ndim: int | None = None) -> FloatArray:
    checked = finite(name, values, ndim=ndim)
    if checked.size and checked.min() < 0:
        raise OptionError(f"{name} goes down to {checked.min()}; expected shares of tokens, 0 or more.")
    return checked
