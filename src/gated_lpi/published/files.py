"""The notebooks' files of one prompt: names and layout as theirs, numbers as this package computes them.

Two more are named here, as their notebooks print what is in them and write no file: top_tokens.json and
query_FFN_neurons.json. prompt.json says what was asked, and what was left out and why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from gated_lpi import score_schema as schema
from gated_lpi._common.folders import make, unwritten, write_atomically
from gated_lpi.errors import ModelError, OptionError, RunExistsError
from gated_lpi.facts import EncodedPrompt, Prompt, load_facts
from gated_lpi.methods.attribution import attribute_encoded
from gated_lpi.methods.dataset import build_dataset
from gated_lpi.models import Model, require_model
from gated_lpi.options import LPI, Exact, Scoring
from gated_lpi.prompting import encode_facts
from gated_lpi.published.queries import AttentionNeuron, query_neurons
from gated_lpi.published.seen import attention_seen, routing_seen
from gated_lpi.trace import last_logits
from gated_lpi.version import __version__

PUBLISHED_EPS = 1e-6  # of the readout's norm in the notebooks, whatever the model's own is
SHOWN_FFN, SHOWN_ATTENTION, SHOWN_TOKENS = 10, 50, 10
KEYS = 30  # attention neurons that query neurons are judged by


class PublishedFiles(NamedTuple):
    """What was written.

    Attributes:
        files: by name.
        left_out: files that could not be made of this model, and why.
    """

    files: dict[str, Path]
    left_out: dict[str, str]


class _Asked(NamedTuple):
    """The prompt: as tokens, its target and what the model itself would say, likeliest first."""

    encoded: EncodedPrompt
    likeliest: list[int]


def write_files(
    model: Model,
    prompt: str,
    folder: str | Path,
    *,
    target: str | None = None,
    readout_eps: float | None = PUBLISHED_EPS,
) -> PublishedFiles:
    """Write what the publications' notebooks write of one prompt.

    Args:
        model: from `load_model` or `wrap_model`, with its tokenizer.
        prompt: such as "The capital of France is".
        folder: for the files, "Output_Dir/1" in the notebooks; it is made, and must be new or empty.
        target: the answer whose first token is scored; None: the model's own likeliest token, as the notebooks do.
        readout_eps: ε of the final norm where bases and contributions are scored; the notebooks' by default, None for
            the model's own.

    Returns:
        The files, and those that could not be made of this model.

    Raises:
        OptionError: `model` is none.
        ModelError: there is no tokenizer, or attention cannot be seen position by position.
        FactsError: prompt and target cannot be used with the tokenizer.
        RunExistsError: the folder holds files.
        WriteError: the folder cannot be written to.
    """
    require_model(model)
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise RunExistsError(f"{place} exists and is not an empty folder; give a new one")
    asked = _asked(model, prompt, target)
    scores = _scores(model, asked.encoded, readout_eps)
    left_out: dict[str, str] = {}
    content = dict(_content(model, asked, scores, left_out))
    try:
        make(place)
    except OSError as error:
        raise unwritten(place, error) from error
    for name, value in content.items():
        write_atomically(place / name, json.dumps(value, indent=4) + "\n")
    return PublishedFiles({name: place / name for name in content}, left_out)


def _content(model: Model, asked: _Asked, scores: xr.Dataset, left_out: dict[str, str]) -> Iterator[tuple[str, Any]]:
    ids = asked.encoded.ids
    attention = attention_seen(model, ids)
    yield "attn_scores.json", {f"layer_{i}": _heads(one.weights) for i, one in attention.items()}
    yield "attn_outputs.json", {f"layer_{i}": one.outputs.tolist() for i, one in attention.items()}
    routing = routing_seen(model, ids) if any(True for _ in model.routed()) else {}
    if routing:
        yield "selected_experts.json", {f"layer_{i}": one.experts.tolist() for i, one in routing.items()}
        yield "router.json", {f"layer_{i}": one.gates.tolist() for i, one in routing.items()}
        yield "router_logits.json", {f"layer_{i}": one.logits.tolist() for i, one in routing.items()}
    yield "layer_level_increase.json", _layers(scores)
    yield "head_level_increase.json", {"all_head_increase": _head_increases(scores)}
    neurons = _attention_neurons(scores)
    yield (
        "attn_neuron_increase.json",
        [
            {"neuron": "_".join(map(str, one[:2])) + f"_{one.neuron}_{one.position}", "increase": one.increase}
            for one in neurons
        ],
    )
    chosen = {(layer, int(e)) for layer, one in routing.items() for e in one.experts[-1].tolist()}
    ffn = scores[schema.LPI][0].to_numpy()
    names = {"experts": "experts_FFN_neuron_increase.json", "dense": "FFN_neuron_increase.json"}
    by_file = {file: list(_ffn_neurons(model, ffn, chosen, dense=what == "dense")) for what, file in names.items()}
    for file, rows in by_file.items():
        if rows:
            yield file, _descending(rows, "increase")
    yield "top_tokens.json", _top_tokens(model, by_file, neurons)
    try:
        found = query_neurons(model, ids, neurons[:KEYS])
    except ModelError as error:
        left_out["query_FFN_neurons.json"] = str(error)
    else:
        every = [row for dense in (False, True) for row in _ffn_neurons(model, found, chosen=None, dense=dense)]
        rows = [{**{k: v for k, v in row.items() if k != "increase"}, "score": row["increase"]} for row in every]
        yield "query_FFN_neurons.json", _descending(rows, "score")
    yield "prompt.json", _prompt(model, asked, scores, left_out)


def _asked(model: Model, prompt: str, target: str | None) -> _Asked:
    if model.tokenizer is None:
        raise ModelError("the model came without a tokenizer, which prompts need; pass one to wrap_model")
    if not prompt.strip():
        raise OptionError(f"prompt {prompt!r} was given; expected words for the model to go on from")
    ids = tuple(model.tokenizer.encode(prompt))
    if target is not None:
        (encoded,) = encode_facts(model, load_facts([(prompt, target)])).prompts
        ids = encoded.ids
    likeliest = last_logits(model, [list(ids)])[0].topk(min(10, model.readout.vocabulary)).indices.tolist()
    if target is None:
        token = str(model.tokenizer.convert_ids_to_tokens(likeliest[0]))
        encoded = EncodedPrompt(ids, likeliest[0], token, Prompt(prompt, token))
    return _Asked(encoded, likeliest)


def _scores(model: Model, encoded: EncodedPrompt, readout_eps: float | None) -> xr.Dataset:
    """Exact scores of everything, attention neurons by source position."""
    scoring = Scoring(positions="resolved")
    method = LPI(estimator=Exact(), readout_eps=readout_eps)
    collector, results = attribute_encoded(model, [encoded], method, scoring)
    return build_dataset(model, [encoded], scoring.units, {"readout_eps": readout_eps}, collector, results)


def _heads(weights: torch.Tensor) -> dict[str, Any]:
    return {f"head_{head}": rows for head, rows in enumerate(weights.tolist())}


def _layers(scores: xr.Dataset) -> dict[str, list[list[Any]]]:
    values = scores[schema.BLOCK_LPI][0].to_numpy().tolist()
    places = zip(
        scores["block_layer"].to_numpy().tolist(), scores["block_kind"].to_numpy().tolist(), values, strict=True
    )
    found: dict[str, list[list[Any]]] = {"attn_list": [], "ffn_list": []}
    for layer, kind, value in places:
        found["attn_list" if kind == "attention" else "ffn_list"].append([str(layer), value])
    return found


def _head_increases(scores: xr.Dataset) -> list[list[Any]]:
    layers, heads = (scores[name].to_numpy().tolist() for name in ("head_unit_layer", "head_unit_head"))
    values = scores[schema.HEAD_LPI][0].to_numpy().tolist()
    return [[f"{layer}_{head}", round(value, 4)] for layer, head, value in zip(layers, heads, values, strict=True)]


def _attention_neurons(scores: xr.Dataset) -> list[AttentionNeuron]:
    """Every attention neuron at every source position, greatest increase first."""
    units = scores["block"].to_numpy() == "attention"
    layers, heads, neurons = (scores[name].to_numpy()[units].tolist() for name in ("layer", "head", "neuron"))
    values = scores[schema.POSITION_LPI][0].to_numpy()
    found = []
    for flat in np.argsort(-values, axis=None, kind="stable").tolist():
        position, unit = divmod(flat, values.shape[1])
        value = float(values[position, unit])
        found.append(AttentionNeuron(layers[unit], heads[unit], neurons[unit], position, value))
    return found


def _ffn_neurons(
    model: Model, values: Any, chosen: set[tuple[int, int]] | None, *, dense: bool
) -> Iterator[dict[str, Any]]:
    """FFN neurons with a number each: those of experts, of `chosen` ones only, or those of dense FFNs.

    A shared expert's neurons are among the experts', as expert -1.
    """
    units = model.units
    for unit in np.flatnonzero(units.block == "ffn").tolist():
        layer, expert, shared = int(units.layer[unit]), int(units.expert[unit]), bool(units.shared[unit])
        if dense != (expert < 0 and not shared):
            continue
        if expert >= 0 and chosen is not None and (layer, expert) not in chosen:
            continue
        row: dict[str, Any] = {"layer": layer} if dense else {"layer": layer, "experts": expert}
        yield {**row, "neuron": int(units.neuron[unit]), "increase": float(values[unit])}


def _descending(rows: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -row[key])


def _top_tokens(
    model: Model, by_file: dict[str, list[dict[str, Any]]], attention: Sequence[AttentionNeuron]
) -> dict[str, list[dict[str, Any]]]:
    """The neurons of greatest increase, with the tokens that their value vectors raise and lower most."""
    ffn = _descending([row for rows in by_file.values() for row in rows], "increase")[:SHOWN_FFN]
    places = {_place(model, unit): unit for unit in range(len(model.units))}
    found: dict[str, list[dict[str, Any]]] = {"FFN": [], "attn": []}
    for row in ffn:
        shared = row.get("experts") == -1
        unit = places[row["layer"], "ffn", row.get("experts", -1), shared, -1, row["neuron"]]
        found["FFN"].append({**row, **_tokens(model, unit)})
    for one in attention[:SHOWN_ATTENTION]:
        unit = places[one.layer, "attention", -1, False, one.head, one.neuron]
        found["attn"].append({**one._asdict(), **_tokens(model, unit)})
    return found


def _place(model: Model, unit: int) -> tuple[int, str, int, bool, int, int]:
    units = model.units
    return (
        int(units.layer[unit]),
        str(units.block[unit]),
        int(units.expert[unit]),
        bool(units.shared[unit]),
        int(units.head[unit]),
        int(units.neuron[unit]),
    )


@torch.no_grad()
def _tokens(model: Model, unit: int) -> dict[str, list[str]]:
    effect = model.readout.directions(model.value(unit).to(model.readout.weight.device))
    order = effect.argsort(descending=True).tolist()
    tokenizer = model.tokenizer
    assert tokenizer is not None  # the prompt was encoded with it
    last = order[-SHOWN_TOKENS:][::-1]
    return {
        "top10": [tokenizer.decode([token]) for token in order[:SHOWN_TOKENS]],
        "last10": [tokenizer.decode([token]) for token in last],
    }


def _prompt(model: Model, asked: _Asked, scores: xr.Dataset, left_out: dict[str, str]) -> dict[str, Any]:
    tokenizer = model.tokenizer
    assert tokenizer is not None  # the prompt was encoded with it
    return {
        "prompt": asked.encoded.prompt.text,
        "tokens": [tokenizer.decode([token]) for token in asked.encoded.ids],
        "target": tokenizer.decode([asked.encoded.target_id]),
        "target_id": asked.encoded.target_id,
        "predicted_top10": [tokenizer.decode([token]) for token in asked.likeliest],
        "readout_eps": scores.attrs.get("readout_eps"),
        "model": {name: model.provenance.get(name) for name in ("source", "commit", "family", "transformers")},
        "gated_lpi": __version__,
        "left_out": left_out,
    }
