"""The Shapley split of a change between two checkpoints over two factors: routing, and neurons.

I(r, n) is a unit's score with the routing of checkpoint r (experts and gates, at every position of every layer) and the
neurons of checkpoint n (coefficients, value vectors, readout; all weights but the routers' say). From checkpoint 0 to 1

1. four evaluations are made: I(0, 0) and I(1, 1), each checkpoint as it is, and I(1, 0) and I(0, 1), whole forward
   passes of one with the routing of the other replayed (`gated_lpi.interventions`);
2. routing has the mean of its two effects, ½·[(I(1, 0) − I(0, 0)) + (I(1, 1) − I(0, 1))], and neurons that of theirs,
   ½·[(I(0, 1) − I(0, 0)) + (I(1, 1) − I(1, 0))];
3. the two parts add up to I(1, 1) − I(0, 0), for every unit: the only split that treats both factors alike and leaves
   nothing over (Shapley, *A Value for n-Person Games*, 1953).

Every evaluation has its estimator's error. A certified score is off by up to its tolerance, which where hardly anything
changed may be as much as the parts are: `method=LPI(estimator=Exact())` is for that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi.datasets import as_expected
from gated_lpi.errors import OptionError
from gated_lpi.facts import Encoded, FactSet, OnError, load_facts
from gated_lpi.facts.types import Templates
from gated_lpi.interventions import RecordedRouting, record_routing, replayed
from gated_lpi.methods import attribute_asked
from gated_lpi.methods.objective import questions
from gated_lpi.methods.table import AnyMethod, method_for
from gated_lpi.metrics.routing_split import routing_share
from gated_lpi.models import Model, require_model
from gated_lpi.options import LPI, MethodOptions, Scoring
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.unit_names import KINDS

SplitKeep = Literal["prompts", "relations"]


def split_change(
    before: Model,
    after: Model,
    facts: FactSet | str | Path | Sequence[tuple[str, str]],
    *,
    method: MethodOptions | AnyMethod = LPI(),
    templates: Templates = "first",
    separator: str | None = None,
    bos: bool | None = None,
    on_error: OnError = "raise",
    units: Collection[str] = KINDS,
    keep: SplitKeep = "relations",
    batch_size: int | None = None,
    memory: int | str | None = None,
    draws: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Split the change of every unit's score between two checkpoints into a part of routing and a part of neurons.

    Args:
        before, after: two checkpoints of one mixture-of-experts model.
        facts, method, templates, separator, bos, on_error, batch_size, memory: as in `gated_lpi.attribute`.
        units: any of "ffn", "attention", "mixer"; what a model lacks has no scores.
        keep: "prompts", or means over "relations".
        draws: of the bootstrap over relations.
        progress: called with (prompts done, prompts in all), of the four evaluations together.

    Returns:
        A dataset, all in nats but the shares, K being prompts or relations:

        - `change`, `routing_part`, `neurons_part` (K, unit): the last two add up to the first;
        - `routing_by_layer`, `neurons_by_layer` (layer_index): Σ over the layer's units of the absolute part's mean
          over prompts, parts taken before their absolute value;
        - `routing_share`, with `…_low` and `…_high` (95%, over relations), of all units; and `routing_share_by_layer`.

    Raises:
        OptionError: a model without routed experts, or two that differ in experts, units or tokens; a method whose
            target is the model's own prediction, which is another one in every evaluation; or an option outside what
            it may be.
        FactsError, ModelError: see `gated_lpi.attribute`.
    """
    for model in (before, after):
        require_model(model)
    chosen = method_for(method)
    _refuse(before, after, chosen, units, keep)
    scoring = Scoring(units=cast(Any, tuple(units)), keep=keep, batch_size=batch_size, memory=memory)
    how = Prompting(templates, separator, on_error, bos)
    if not isinstance(facts, FactSet):
        facts = load_facts(facts, on_error=on_error)
    asked, again = (encode_facts(model, facts, how, answer=chosen.answer) for model in (before, after))
    _refuse_other_tokens(asked, again)
    prompts = [one.ids for one in questions(asked.prompts, chosen.aims)]
    routing = record_routing(before, prompts), record_routing(after, prompts)
    done = 0

    def evaluated(model: Model, recorded: RecordedRouting | None) -> xr.Dataset:
        nonlocal done
        start = done
        told = None if progress is None else lambda n, _: progress(start + n, 4 * len(prompts))
        with nullcontext() if recorded is None else replayed(model, recorded):
            scores = attribute_asked(model, facts, asked, how, method, scoring, told)
        done += len(prompts)
        return scores

    first, last = evaluated(before, None), evaluated(after, None)
    other_routing, other_neurons = evaluated(before, routing[1]), evaluated(after, routing[0])
    name = chosen.name
    values = [one[name].to_numpy().astype(np.float64) for one in (first, other_routing, other_neurons, last)]
    return _dataset(first, last, name, _parts(*values), draws)


def _parts(
    first: NDArray[np.float64],
    other_routing: NDArray[np.float64],
    other_neurons: NDArray[np.float64],
    last: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """The change and its two parts from I(0, 0), I(1, 0), I(0, 1) and I(1, 1), the routing's checkpoint first."""
    return {
        "change": last - first,
        "routing_part": ((other_routing - first) + (last - other_neurons)) / 2,
        "neurons_part": ((other_neurons - first) + (last - other_routing)) / 2,
    }


def _dataset(
    first: xr.Dataset, last: xr.Dataset, name: str, parts: dict[str, NDArray[np.float64]], draws: int
) -> xr.Dataset:
    dims, dtype = last[name].dims, last[name].dtype
    coords = {key: coord for key, coord in last.coords.items() if set(coord.dims) <= set(dims) and key != "target_id"}
    split = xr.Dataset({key: (dims, values.astype(dtype), {"units": "nats"}) for key, values in parts.items()}, coords)
    labels, weights = _relations(last)
    routing, neurons = (_means(parts[key], labels, len(weights)) for key in ("routing_part", "neurons_part"))
    layer = last["layer"].to_numpy()
    layers = np.unique(layer)
    share = routing_share(routing, neurons, weights, draws=draws)
    by_layer = [routing_share(routing[:, layer == one], neurons[:, layer == one], weights, draws=1) for one in layers]
    overall = {"routing_part": np.average(routing, axis=0, weights=weights)}
    overall["neurons_part"] = np.average(neurons, axis=0, weights=weights)
    sums = {key: [float(np.abs(values[layer == one]).sum()) for one in layers] for key, values in overall.items()}
    split = split.assign(
        routing_by_layer=("layer_index", sums["routing_part"], {"units": "nats"}),
        neurons_by_layer=("layer_index", sums["neurons_part"], {"units": "nats"}),
        routing_share=((), share.estimate),
        routing_share_low=((), share.low),
        routing_share_high=((), share.high),
        routing_share_by_layer=("layer_index", [float(one.estimate) for one in by_layer]),
    ).assign_coords(layer_index=layers)
    sides = (("before", first), ("after", last))
    attributes = {f"{side}_{key}": value for side, one in sides for key, value in one.attrs.items()}
    return as_expected(split.assign_attrs(attributes))


def _relations(scores: xr.Dataset) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The relation of each row, [K], and how many prompts each relation has, [R]."""
    if "relation" in scores.dims:
        return np.arange(scores.sizes["relation"]), scores["n_prompts"].to_numpy().astype(np.float64)
    _, labels, counts = np.unique(
        scores["prompt_relation"].to_numpy().astype(str), return_inverse=True, return_counts=True
    )
    return labels, counts.astype(np.float64)


def _means(values: NDArray[np.float64], labels: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Means of the rows, [K, N], of each of n relations, [n, N]."""
    return np.stack([values[labels == relation].mean(axis=0) for relation in range(n)])


def _refuse(before: Model, after: Model, method: AnyMethod, units: Collection[str], keep: str) -> None:
    for model in (before, after):
        if not any(model.routed()):
            raise OptionError(
                f"this {model.family.name} model has no routed experts, so all of its change is the neurons' and "
                "there is nothing to split; give two checkpoints of a mixture-of-experts model"
            )
    if len(before.units) != len(after.units) or before.n_layers != after.n_layers:
        raise OptionError(
            f"the two models have {len(before.units):,} and {len(after.units):,} units in {before.n_layers} and "
            f"{after.n_layers} layers; expected two checkpoints of one model"
        )
    if method.target != "object":
        raise OptionError(
            f"target={method.target!r} was given, which is another token in each of the evaluations that are compared; "
            "expected target='object'"
        )
    if keep not in get_args(SplitKeep):
        raise OptionError(f"keep={keep!r} was given; expected one of {', '.join(get_args(SplitKeep))}")
    if not set(units) <= set(KINDS):
        raise OptionError(f"units={tuple(units)!r} was given; expected units that are split: {', '.join(KINDS)}")


def _refuse_other_tokens(before: Encoded, after: Encoded) -> None:
    mine, theirs = ({(item.ids, item.target_id) for item in one.prompts} for one in (before, after))
    if mine != theirs:
        raise OptionError(
            f"{len(mine ^ theirs)} prompts have other token ids with the one model's tokenizer than with the other's; "
            "expected two checkpoints with one tokenizer"
        )
