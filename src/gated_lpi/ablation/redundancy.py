"""Redundancy: does the routing adapt when experts fall silent, and does that save recall?

A model whose experts stand in for each other loses less than its neurons alone would say: the routers of later layers
see that something is missing and send tokens elsewhere. To tell this from neurons that are not needed at all,

1. experts are silenced with the routers free to answer, and again with every token routed as in the intact model;
2. `recovered` = log p(target) with free routing less that with frozen routing: above 0, the routers' answer helps;
3. `routing_jaccard` says how much of an answer there is: |A ∩ B| / |A ∪ B| of the experts of a token with and without
   the silencing, mean over tokens. Up to the layer of the first silenced expert nothing can change, and it is 1;
4. each beside as many random experts of the same layers: taking away anything moves hidden states, and so routers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from gated_lpi.ablation.evaluate import target_scores
from gated_lpi.ablation.ranking import rank
from gated_lpi.datasets import as_expected, texts
from gated_lpi.errors import OptionError
from gated_lpi.facts import EncodedPrompt, FactSet, OnError
from gated_lpi.facts.types import Templates
from gated_lpi.interventions import (
    RecordedRouting,
    Reference,
    record_coefficients,
    record_routing,
    replayed,
    silenced,
)
from gated_lpi.models import Model
from gated_lpi.options import At, How
from gated_lpi.prompting import Prompting, encode_facts

Ints = NDArray[np.int64]
MEASURES = ("hit_1", "hit_k", "logprob", "margin")


def redundancy(
    model: Model,
    facts: FactSet,
    *,
    experts: Sequence[int | str] | None = None,
    scores: xr.Dataset | xr.DataArray | ArrayLike | None = None,
    top: int | Sequence[int] = (1,),
    variable: str | None = None,
    how: How = "zero",
    at: At = "all",
    draws: int = 20,
    k: int = 10,
    seed: int = 0,
    templates: Templates = "first",
    separator: str | None = None,
    on_error: OnError = "raise",
    bos: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Silence routed experts with free and with frozen routing, beside random experts of the same layers.

    Args:
        model: a mixture of experts, from `load_model` or `wrap_model`.
        facts: what it is asked.
        experts: what is silenced, all at once: indices of `model.experts`, or names such as "L12 E37".
        scores: in their place a ranking of units, as `ablate` takes it; experts by the sum over their units.
        top: how many of the ranked experts are silenced; several make rows.
        variable: of the scores; None: their only one of units.
        how, at: as for `ablate`; "mean" and "resample" are over the prompts.
        draws: how many random sets.
        k: the k of HIT@k.
        seed: of random sets and of "resample".
        templates, separator, on_error, bos: as for `attribute`.
        progress: called with (evaluations done, in all).

    Returns:
        Over `row` and `routing` ("free", "frozen"): `hit_1`, `hit_k`, `logprob`, `margin`, each with `…_intact`, and
        with `…_control` over draws besides; `recovered` (row, prompt) and `recovered_control` (row, draw), nats; and
        `routing_jaccard` (row, moe_layer), with its control, over all tokens of the prompts.

    Raises:
        OptionError: the model has no routed experts; an expert is not there, is shared (tokens are not routed to it) or
            none is given; experts and scores are both given; or another option is outside what it may be.
        FactsError, ModelError: as for `attribute`.
    """
    for name, value in (("draws", draws), ("k", k)):
        if value < 1:
            raise OptionError(f"{name}={value} was given; expected a whole number of at least 1")
    encoded = encode_facts(model, facts, Prompting(templates, separator, on_error, bos)).prompts
    recorded = record_routing(model, [item.ids for item in encoded])
    rows = _rows(model, experts, scores, top, variable)
    reference = None
    if how != "zero":
        every = np.flatnonzero(model.units.expert >= 0)
        reference = record_coefficients(model, [item.ids for item in encoded], every, seed=seed)
    total, done = len(rows) * (1 + draws), 0

    def measure(chosen: Ints, seed: int) -> _Answer:
        nonlocal done
        found = _answer(model, encoded, recorded, chosen, k, how, at, reference, seed)
        done += 1
        if progress is not None:
            progress(done, total)
        return found

    intact = target_scores(model, encoded)
    measured = [measure(row, seed) for row in rows]
    random = []
    for row in rows:
        generator = np.random.default_rng(seed)
        random.append([measure(_matched(model, row, generator), seed + 1 + index) for index in range(draws)])
    found = _dataset(model, rows, measured, random, recorded)
    whole = intact.means(k)
    found = found.assign({f"{name}_intact": ((), whole[name]) for name in MEASURES})
    return as_expected(found.assign_attrs(how=how, at=at, k=k, draws=draws, seed=seed, facts=facts.source))


class _Answer(NamedTuple):
    """What silencing some experts brings.

    Attributes:
        means: of `MEASURES`, with free and with frozen routing.
        recovered: [P], log p with free routing less that with frozen, nats.
        jaccard: [L], agreement of the routing with the intact model's.
    """

    means: tuple[dict[str, float], dict[str, float]]
    recovered: NDArray[np.float64]
    jaccard: NDArray[np.float64]


def _answer(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    recorded: RecordedRouting,
    chosen: Ints,
    k: int,
    how: How,
    at: At,
    reference: Reference | None,
    seed: int,
) -> _Answer:
    units = np.concatenate([_expert_units(model, int(expert)) for expert in chosen])
    with silenced(model, units, how, reference, at, seed=seed):
        free = target_scores(model, encoded)
        answer = record_routing(model, [item.ids for item in encoded])
        with replayed(model, recorded):
            frozen = target_scores(model, encoded)
    return _Answer(
        (free.means(k), frozen.means(k)),
        free.logprob - frozen.logprob,
        routing_jaccard(recorded, answer),
    )


def routing_jaccard(a: RecordedRouting, b: RecordedRouting) -> NDArray[np.float64]:
    """|A ∩ B| / |A ∪ B| of the experts of a token in two recordings of the same prompts, mean over tokens: [L]."""
    layers = []
    for layer in range(len(a.layers)):
        tokens = []
        for ids, prompt in a.prompts.items():
            one, two = prompt[layer].experts, b.prompts[ids][layer].experts
            common = (one.unsqueeze(-1) == two.unsqueeze(-2)).any(dim=-1).sum(dim=-1).double()
            tokens.append((common / (2 * one.shape[-1] - common)).cpu().numpy())
        layers.append(float(np.concatenate(tokens).mean()))
    return np.array(layers)


def _rows(
    model: Model, experts: Sequence[int | str] | None, scores: Any, top: int | Sequence[int], variable: str | None
) -> list[Ints]:
    if (experts is None) == (scores is None):
        given = "both" if scores is not None else "none"
        raise OptionError(
            f"experts, or scores that rank them, say what is silenced; {given} were given: give one of the two"
        )
    if experts is not None:
        listed = [experts] if isinstance(experts, str) else list(experts)
        chosen = [model.experts.find(one) if isinstance(one, str) else int(one) for one in listed]
        _refuse_experts(model, chosen)
        return [np.unique(np.array(chosen, dtype=np.int64))]
    order = _ranked(model, scores, variable)
    counts = [top] if isinstance(top, int) else list(top)
    odd = [count for count in counts if not 1 <= count <= len(order)]
    if odd or not counts:
        given = f"top={odd[0]}" if odd else "no number of experts"
        raise OptionError(f"{given} was given; expected 1 to {len(order)}, the routed experts of the model")
    return [np.sort(order[:count]) for count in counts]


def _refuse_experts(model: Model, chosen: Sequence[int]) -> None:
    if not chosen:
        raise OptionError("no expert was given; name at least one, such as 'L1 E3'")
    for expert in chosen:
        if not 0 <= expert < len(model.experts):
            raise OptionError(
                f"expert {expert} was given; this model's experts are 0 to {len(model.experts) - 1}: give some of these"
            )
        if model.experts.index[expert] < 0:
            raise OptionError(
                f"the shared expert of layer {model.experts.layer[expert]} was given; tokens are not routed to it, so "
                "no router can answer: give routed experts"
            )


def _ranked(model: Model, scores: Any, variable: str | None) -> Ints:
    """Routed experts by the summed importance of their units, greatest first; ties by order."""
    ranking = rank(model, scores, variable)
    if ranking.what == "heads":
        raise OptionError("scores of heads were given; expected scores of units, which are summed over experts")
    of_expert = ranking.members[model.units.expert[ranking.members] >= 0]
    importance = dict(zip(ranking.members.tolist(), ranking.importance.tolist(), strict=True))
    summed = np.zeros((int(model.units.layer.max()) + 1, int(model.units.expert.max()) + 1))
    weights = [importance[unit] for unit in of_expert.tolist()]
    np.add.at(summed, (model.units.layer[of_expert], model.units.expert[of_expert]), weights)
    routed = np.flatnonzero(model.experts.index >= 0)
    values = summed[model.experts.layer[routed], model.experts.index[routed]]
    return routed[np.argsort(-values, kind="stable")]


def _matched(model: Model, chosen: Ints, generator: np.random.Generator) -> Ints:
    """As many routed experts of the same layers."""
    drawn = []
    for layer, count in zip(*np.unique(model.experts.layer[chosen], return_counts=True), strict=True):
        pool = np.flatnonzero((model.experts.layer == layer) & (model.experts.index >= 0))
        drawn.append(generator.choice(pool, count, replace=False))
    return np.sort(np.concatenate(drawn))


def _expert_units(model: Model, expert: int) -> Ints:
    layer, index = model.experts.layer[expert], model.experts.index[expert]
    return np.flatnonzero((model.units.layer == layer) & (model.units.expert == index))


def _dataset(
    model: Model,
    rows: Sequence[Ints],
    measured: Sequence[_Answer],
    random: Sequence[Sequence[_Answer]],
    recorded: RecordedRouting,
) -> xr.Dataset:
    variables: dict[str, Any] = {}
    for name in MEASURES:
        variables[name] = (("row", "routing"), [[means[name] for means in one.means] for one in measured])
        variables[f"{name}_control"] = (
            ("row", "routing", "draw"),
            [[[one.means[way][name] for one in drawn] for way in range(2)] for drawn in random],
        )
    nats = {"units": "nats"}
    variables["recovered"] = (("row", "prompt"), [one.recovered for one in measured], nats)
    variables["recovered_control"] = (
        ("row", "draw"),
        [[float(one.recovered.mean()) for one in drawn] for drawn in random],
        nats,
    )
    variables["routing_jaccard"] = (("row", "moe_layer"), [one.jaccard for one in measured])
    variables["routing_jaccard_control"] = (
        ("row", "draw", "moe_layer"),
        [[one.jaccard for one in drawn] for drawn in random],
    )
    names = [", ".join(f"L{model.experts.layer[e]} E{model.experts.index[e]}" for e in row.tolist()) for row in rows]
    return xr.Dataset(
        variables,
        {
            "row": texts(names),
            "n_experts": ("row", [len(row) for row in rows]),
            "routing": texts(["free", "frozen"]),
            "moe_layer": list(recorded.layers),
        },
    )
