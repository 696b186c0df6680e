"""What is wrong with an arm's training, as its scores and its routing show it: findings with their evidence.

1. *Expert collapse*: in some layer most of the experts that could be idle are, at a checkpoint after the first.
2. *Routing instability*: late in training, consecutive checkpoints send tokens to other experts.
3. *Neuron churn*: late in training, the units of greatest score are other ones at every checkpoint.

Late are the pairs of consecutive checkpoints in the later half. What is late is measured against chance: 0 is what
chance gives, 1 no change at all. Routing is that of every position where the run kept it (`routing = "all"`); else that
of the prompts' last positions by relation, which are more alike than text is: experts may seem dead that are not needed
there, so a collapse is found only where hardly any but k are used. Chance for single positions is a random choice of
experts; for shares of a relation's prompts, which go much the same way, experts that are exchanged at random. Shares
that are so even that this leaves most of the overlap say nothing of instability: `MOST_EVEN`. Each finding says which
it was. `THRESHOLDS` has the limits, as data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError, RunError
from gated_lpi.metrics.routing_health import (
    dead_experts,
    dead_experts_chance,
    routing_jaccard,
    routing_jaccard_chance,
    routing_jaccard_exchanged,
    which_experts_are_dead,
)
from gated_lpi.results.experts import is_moe

NAMES = ("expert collapse", "routing instability", "neuron churn")
MOST_EVEN = 0.5  # from shares that are all or nothing (0) to even ones (1), which tell nothing of instability
LEAST_PAIRS = 2  # of late checkpoints: one pair alone shows no habit


class Threshold(NamedTuple):
    """Where a finding begins.

    Attributes:
        limit: the value at which it does.
        meaning: what is measured, in a sentence.
    """

    limit: float
    meaning: str


THRESHOLDS = {
    "expert collapse": Threshold(
        0.6,
        "found at or above it: of the experts of a layer that could be idle (all but those that one token needs), the "
        "share with less than a tenth of an even load, over all positions",
    ),
    "expert collapse (last positions)": Threshold(
        0.95, "the same over last positions alone, where one expert may be enough for many prompts"
    ),
    "routing instability": Threshold(
        0.3, "found below it: the overlap of the experts of consecutive late checkpoints, 0 at chance, 1 unchanged"
    ),
    "neuron churn": Threshold(0.2, "found below it: J_stab of consecutive late checkpoints, 0 at chance, 1 unchanged"),
}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with an arm.

    Attributes:
        name: "expert collapse", "routing instability" or "neuron churn".
        arm: the arm's name.
        checkpoints: names of the checkpoints concerned, in training order.
        value: the worst that was measured.
        threshold: what it was compared with.
        evidence: where it was measured, in what, and what chance gives.
        experts: those that are idle where that is worst, as "layer 2 expert 5"; of other findings none.
    """

    name: str
    arm: str
    checkpoints: tuple[str, ...]
    value: float
    threshold: float
    evidence: str
    experts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """What was found of a run, and what could not be judged.

    Attributes:
        findings: what is wrong.
        unjudged: what could not be judged, and why, one line each.
    """

    findings: tuple[Finding, ...]
    unjudged: tuple[str, ...]


class HasArms(Protocol):
    """A run, as `gated_lpi.open_run` gives it."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms."""
        ...

    def scores(self, arm: str) -> xr.Dataset:
        """An arm's scores over its checkpoints."""
        ...

    def summary(self, arm: str) -> xr.Dataset:
        """An arm's summary metrics."""
        ...


def diagnose(run: HasArms) -> list[Finding]:
    """Everything that is found wrong with the arms of a run; see `examine` for what could not be judged.

    Args:
        run: from `gated_lpi.open_run`.

    Raises:
        RunError: no arm has results.
    """
    return list(examine(run).findings)


def examine(run: HasArms) -> Diagnosis:
    """What is found wrong with the arms of a run, and what of them could not be judged.

    Args:
        run: from `gated_lpi.open_run`.

    Raises:
        RunError: no arm has results.
    """
    findings: list[Finding] = []
    unjudged: list[str] = []
    without = 0
    for arm in run.arms:
        try:
            scores, summary = run.scores(arm), run.summary(arm)
        except (OptionError, RunError) as error:
            unjudged.append(f"{arm}: no results: {error}")
            without += 1
            continue
        late = _late(scores.sizes["checkpoint"])
        if len(late) < LEAST_PAIRS:
            unjudged.append(
                f"{arm}: routing instability and neuron churn need {2 * LEAST_PAIRS} checkpoints or more, and it has "
                f"{scores.sizes['checkpoint']}"
            )
            late = late[:0]
        of_routing, unsure = _of_routing(arm, scores, summary, late)
        findings += of_routing
        unjudged += unsure
        findings += _of_units(arm, scores, summary, late)
    if without == len(run.arms):
        raise RunError(f"no arm has results to judge yet ({'; '.join(unjudged)}); run the experiment first")
    return Diagnosis(tuple(findings), tuple(unjudged))


class _Routing(NamedTuple):
    """The routing of one layer: N tokens or relations at T checkpoints.

    Attributes:
        layer: its number.
        experts: [E], their numbers.
        routed: [T, N, E], shares of tokens.
        tokens: [N], how many each row is of.
        k: experts per token.
        everywhere: whether rows are tokens of every position; else they are last positions.
        source: what the rows are, in words.
    """

    layer: int
    experts: NDArray[np.int64]
    routed: NDArray[np.float64]
    tokens: NDArray[np.int64]
    k: int
    everywhere: bool
    source: str


def _late(checkpoints: int) -> NDArray[np.int64]:
    """The pairs of consecutive checkpoints in the later half."""
    pairs = np.arange(max(checkpoints - 1, 0))
    return pairs[len(pairs) // 2 :]


def _of_routing(
    arm: str, scores: xr.Dataset, summary: xr.Dataset, late: NDArray[np.int64]
) -> tuple[list[Finding], list[str]]:
    """What is wrong with the routing of an arm, and what could not be judged."""
    if is_moe(scores) and schema.EXPERT_UTILISATION not in scores and schema.POSITION_GATE not in scores:
        return [], [
            f"{arm}: expert collapse and routing instability need what the routers did, which was not kept; run with "
            "lpi or direct_effect among attribution.methods, and experts among attribution.units"
        ]
    layers = [layer for layer in _layers(scores) if layer.k < layer.routed.shape[-1]]  # else nothing is chosen
    if not layers:
        return [], []
    keys = _keys(scores)
    found = list(_collapse(arm, keys, layers, np.flatnonzero(scores["step"].to_numpy() > int(scores["step"][0]))))
    judged = np.isfinite(summary["routing_distance"].to_numpy()).any(axis=-1)  # pairs of identical weights are not
    late = late[judged[late]]
    if not late.size:
        return found, []
    overlaps = {layer.layer: _overlap(layer, late) for layer in layers}
    sure = [layer for layer in layers if overlaps[layer.layer].even <= MOST_EVEN]
    unjudged = [
        f"{arm}: routing instability cannot be told in layer {layer.layer}: were its experts exchanged at random, "
        f"{overlaps[layer.layer].chance.mean():.2f} of their loads would overlap, which are too even; routing of "
        f'{layer.source}; run with attribution.routing = "all" for that of single positions'
        for layer in layers
        if layer not in sure
    ]
    found += _instability(arm, keys, sure, {layer.layer: overlaps[layer.layer].above for layer in sure}, late)
    return found, unjudged


def _instability(
    arm: str,
    keys: NDArray[np.str_],
    layers: list[_Routing],
    above: dict[int, NDArray[np.float64]],
    late: NDArray[np.int64],
) -> Iterator[Finding]:
    """Experts that are other ones at every late checkpoint; `above` [late pairs] by layer, 0 at chance."""
    limit = THRESHOLDS["routing instability"].limit
    worst = min(layers, key=lambda layer: above[layer.layer].mean(), default=None)
    if worst is None or (value := float(above[worst.layer].mean())) >= limit:
        return
    yield Finding(
        "routing instability",
        arm,
        _ends(keys, late[above[worst.layer] < limit]),
        value,
        limit,
        f"late in training {value:.2f} of what chance leaves of the choice of experts of layer {worst.layer} is kept "
        f"from one checkpoint to the next; routing of {worst.source}",
    )


def _collapse(
    arm: str, keys: NDArray[np.str_], layers: list[_Routing], trained: NDArray[np.int64]
) -> Iterator[Finding]:
    """Experts that take no part, at the checkpoints that were trained."""
    threshold = "expert collapse" if layers[0].everywhere else "expert collapse (last positions)"
    limit = THRESHOLDS[threshold].limit
    idle = np.stack([_idle(layer) for layer in layers])[:, trained]  # [layers, checkpoints]
    concerned = (idle >= limit).any(axis=0)
    if not concerned.any():
        return
    place, when = np.unravel_index(int(idle.argmax()), idle.shape)
    worst, value = layers[int(place)], float(idle.max())
    dead = worst.experts[which_experts_are_dead(_load(worst)[trained[when]])]
    experts = worst.routed.shape[-1]
    chance = dead_experts_chance(int(worst.tokens.sum()), experts, worst.k) * experts / (experts - worst.k)
    yield Finding(
        "expert collapse",
        arm,
        tuple(keys[trained[concerned]].tolist()),
        value,
        limit,
        f"{value:.0%} of the {experts - worst.k} of {experts} experts of layer {worst.layer} that could be idle get "
        f"less than a tenth of an even load ({chance:.0%} would by chance); routing of {worst.source}",
        tuple(f"layer {worst.layer} expert {number}" for number in dead.tolist()),
    )


def _idle(layer: _Routing) -> NDArray[np.float64]:
    """Of the experts that could be dead, the share that is, [T]."""
    experts = layer.routed.shape[-1]
    return np.asarray(dead_experts(_load(layer)) * (experts / (experts - layer.k)), dtype=np.float64)


def _load(layer: _Routing) -> NDArray[np.float64]:
    """[T, E], the share of all tokens that each expert gets."""
    return np.asarray(np.average(layer.routed, axis=1, weights=layer.tokens))


class _Overlap(NamedTuple):
    """The overlap of the routing of pairs of checkpoints, [pairs] each.

    Attributes:
        above: 0 at chance, 1 unchanged.
        chance: what chance gives.
        even: 0 where chance gives no more than for single positions, 1 where loads are even and overlap in any case.
    """

    above: NDArray[np.float64]
    chance: NDArray[np.float64]
    even: float


def _overlap(layer: _Routing, pairs: NDArray[np.int64]) -> _Overlap:
    found = routing_jaccard(layer.routed, layer.tokens)[pairs]
    single = _jaccard_chance(layer.routed.shape[-1], layer.k)
    if layer.everywhere:
        chance = np.full(found.shape, single)
    else:
        chance = routing_jaccard_exchanged(layer.routed, layer.tokens)[pairs]
    above = (found - chance) / np.maximum(1.0 - chance, 1e-12)
    return _Overlap(above, chance, float((chance.mean() - single) / max(1.0 - single, 1e-12)))


@cache
def _jaccard_chance(experts: int, k: int) -> float:
    return routing_jaccard_chance(1, experts, k)


def _layers(scores: xr.Dataset) -> Iterator[_Routing]:
    """The routing of each layer with routed experts, as finely as the run kept it."""
    if schema.EXPERT_UTILISATION not in scores and schema.POSITION_GATE not in scores:
        return
    layer, expert = scores["expert_unit_layer"].to_numpy(), scores["expert_unit_expert"].to_numpy()
    for number in sorted(set(layer[expert >= 0].tolist())):
        mine = np.flatnonzero((layer == number) & (expert >= 0))
        if schema.POSITION_GATE in scores:
            dims = ("checkpoint", "prompt", "position", "expert_unit")
            gates = scores[schema.POSITION_GATE].isel(expert_unit=mine).transpose(*dims).to_numpy()
            inside = ~np.isnan(gates[0]).any(axis=-1)
            routed = (gates[:, inside] > 0).astype(np.float64)
            tokens = np.ones(routed.shape[1], dtype=np.int64)
            source = f"every position of {gates.shape[1]} prompts"
        else:
            share = scores[schema.EXPERT_UTILISATION].isel(expert_unit=mine)
            if "relation" in share.dims:
                routed = share.transpose("checkpoint", "relation", "expert_unit").to_numpy().astype(np.float64)
                tokens = scores["n_prompts"].to_numpy().astype(np.int64)
                source = f"the last positions of {tokens.sum()} prompts, by relation"
            else:
                routed = share.transpose("checkpoint", "expert_unit").to_numpy().astype(np.float64)[:, None]
                tokens = np.array([scores.sizes.get("prompt", 1)])
                source = f"the last positions of {tokens[0]} prompts together"
        everywhere = schema.POSITION_GATE in scores
        k = round(float(routed[0].sum(axis=-1).mean()))
        yield _Routing(int(number), expert[mine], routed, tokens, k, everywhere, source)


def _of_units(arm: str, scores: xr.Dataset, summary: xr.Dataset, late: NDArray[np.int64]) -> Iterator[Finding]:
    if not late.size or not summary.sizes["kind"]:
        return
    keys, limit = _keys(scores), THRESHOLDS["neuron churn"].limit
    for kind in summary["kind"].to_numpy().tolist():
        one = summary.sel(kind=kind)
        chance = float(one["stability_chance"])
        kept = one["stability"].to_numpy()[late]
        above = (kept - chance) / max(1.0 - chance, 1e-12)
        judged = ~np.isnan(above)
        if not judged.any() or (value := float(above[judged].mean())) >= limit:
            continue
        yield Finding(
            "neuron churn",
            arm,
            _ends(keys, late[np.nan_to_num(above, nan=1.0) < limit]),
            value,
            limit,
            f"late in training J_stab of the {int(one['top_units'])} top units of {int(one['units'])} ({kind}) is "
            f"{float(kept[judged].mean()):.2f} ({chance:.2f} by chance)",
        )


def _keys(scores: xr.Dataset) -> NDArray[np.str_]:
    """Names of the checkpoints, whatever kind of strings a store gives back."""
    name = "checkpoint_key" if "checkpoint_key" in scores.coords else "step"
    return scores[name].to_numpy().astype(object).astype(str)


def _ends(keys: NDArray[np.str_], pairs: NDArray[np.int64]) -> tuple[str, ...]:
    """The checkpoints of some pairs, each once."""
    return tuple(keys[np.unique(np.concatenate([pairs, pairs + 1]))].tolist())
