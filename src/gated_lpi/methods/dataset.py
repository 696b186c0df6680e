"""Laying scores out as one `xarray.Dataset`, the same for dense, mixture-of-experts and mixed models."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi import score_schema as schema
from gated_lpi.datasets import plain_attributes, texts
from gated_lpi.facts import EncodedPrompt
from gated_lpi.methods.collect import Collector, Floats
from gated_lpi.methods.contract import Tier
from gated_lpi.methods.objective import Objective
from gated_lpi.models import Model
from gated_lpi.prompting import token_texts
from gated_lpi.score_schema import OF_RUNS, SCHEMA
from gated_lpi.trace import PromptRouting
from gated_lpi.unit_names import KINDS
from gated_lpi.version import __version__


@dataclass(frozen=True)
class PromptResults:
    """What is kept of every prompt, whatever is kept of its scores; P prompts, B blocks.

    Attributes:
        target_id, target_rank: [P]; rank 0 is the likeliest token, ties count in the target's favour. Of an answer of
            several tokens, the first token's id and the worst of the ranks.
        target_logprob: [P], log p(target) of the model itself, nats; of all tokens of the answer, if asked for.
        tier_pairs: [B, 3], pairs of prompt and unit by the way in which they were scored (`Tier`).
        blocks: [P, B] by name: numbers that each block has for each prompt, such as the bound on errors.
        positions: for each prompt, [S, N] scores of attention units by source position, nats; empty unless asked for.
        layer_positions: for each prompt, [S, L], the same summed over the units of each of L attention blocks.
        router_logits, position_gate: for each prompt, [S, X] of X experts at every position; empty unless asked for.
    """

    target_id: NDArray[np.int64]
    target_rank: NDArray[np.int64]
    target_logprob: NDArray[np.float64]
    tier_pairs: NDArray[np.int64]
    blocks: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    positions: dict[int, Floats] = field(default_factory=dict)
    layer_positions: dict[int, Floats] = field(default_factory=dict)
    router_logits: dict[int, Floats] = field(default_factory=dict)
    position_gate: dict[int, Floats] = field(default_factory=dict)

    def take_targets(
        self, prompts: NDArray[np.int64], objective: Objective, log_p: Tensor, ranks: NDArray[np.int64]
    ) -> None:
        """Take what the model itself says of some prompts.

        Args:
            prompts: [P'], indices of the prompts.
            objective: their targets, of I items.
            log_p: [I], of the targets, nats.
            ranks: [I], of the targets.
        """
        of_prompt = objective.of_prompt.cpu().numpy()
        first = np.flatnonzero(np.diff(of_prompt, prepend=-1))
        self.target_id[prompts] = objective.targets.cpu().numpy()[first]
        self.target_rank[prompts] = np.maximum.reduceat(ranks, first)
        self.target_logprob[prompts] = objective.by_prompt(log_p.detach().double()).cpu().numpy()

    def by_block(self, name: str) -> NDArray[np.float64]:
        """Numbers of each prompt and block under a name, [P, B], to be written to; 0 before that."""
        return self.blocks.setdefault(name, np.zeros((len(self.target_id), len(self.tier_pairs))))

    def add_positions(
        self, prompts: NDArray[np.int64], blocks: Sequence[Floats], lengths: Sequence[int], *, units: bool
    ) -> None:
        """Take scores of attention units by source position.

        Args:
            prompts: [P'], indices of the prompts.
            blocks: for each attention block [P', S, n], nats.
            lengths: [P'], how many of the S positions each prompt has.
            units: whether the units' own scores are kept, and not only their sums.
        """
        summed = np.stack([block.sum(axis=-1, dtype=np.float64).astype(block.dtype) for block in blocks], axis=-1)
        for row, (prompt, length) in enumerate(zip(prompts.tolist(), lengths, strict=True)):
            self.layer_positions[prompt] = summed[row, :length]
            if units:
                self.positions[prompt] = np.concatenate([block[row, :length] for block in blocks], axis=-1)

    def add_routing(self, prompts: NDArray[np.int64], routing: Sequence[PromptRouting]) -> None:
        """Take what the routers did at every position of prompts, whose indices are [P']."""
        for prompt, (logits, gates) in zip(prompts.tolist(), routing, strict=True):
            self.router_logits[prompt], self.position_gate[prompt] = logits.cpu().numpy(), gates.cpu().numpy()

    @classmethod
    def empty(cls, n_prompts: int, n_blocks: int) -> PromptResults:
        """Room for the results of `n_prompts` prompts."""
        return cls(
            np.full(n_prompts, -1, dtype=np.int64),
            np.full(n_prompts, -1, dtype=np.int64),
            np.full(n_prompts, np.nan),
            np.zeros((n_blocks, len(Tier)), dtype=np.int64),
        )


def build_dataset(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    units: Sequence[str],
    sources: Mapping[str, Any],
    collector: Collector,
    results: PromptResults,
) -> xr.Dataset:
    """Assemble scores, coordinates and provenance.

    Args:
        model: the model that was scored.
        encoded: the prompts.
        units: which scores were asked for.
        sources: options and facts, for the provenance.
        collector: the scores.
        results: what is kept of every prompt.

    Returns:
        A dataset of the variables of `gated_lpi.schema`.
    """
    values: dict[str, NDArray[Any]] = {name: collector.result(name) for name in collector.collected}
    if results.positions:
        values[schema.POSITION_LPI] = _padded(results.positions)
    if results.layer_positions:
        values[schema.LAYER_POSITION_LPI] = _padded(results.layer_positions)
    if results.router_logits:
        values[schema.ROUTER_LOGITS] = _padded(results.router_logits)
        values[schema.POSITION_GATE] = _padded(results.position_gate)
    for part, inside in collector.members().items():
        values[f"n_{part}"] = collector.counts_of(part)
        if part == schema.KNOWN_LAST:
            values[part] = inside
    values |= {
        schema.TARGET_RANK: results.target_rank,
        schema.TARGET_LOGPROB: results.target_logprob,
        **results.blocks,
    }
    if schema.ERROR_BOUND in results.blocks:
        values[schema.TIER_PAIRS] = results.tier_pairs
    values = {name: values[name] for name in dict.fromkeys((*SCHEMA, *values)) if name in values}
    variables = {name: _variable(name, array, collector.dims) for name, array in values.items()}
    used = {dim for dims, *_ in variables.values() for dim in dims}
    coords = _prompt_coords(encoded, results) | _token_coords(model, encoded, results)
    coords |= _model_coords(model, units, used)
    if collector.keep == "relations":
        coords["relation"] = ("relation", texts(collector.names))
        coords["n_prompts"] = ("relation", collector.counts)
    return xr.Dataset(variables, coords, provenance(model, sources))


def _variable(
    name: str, values: NDArray[Any], kept: tuple[str, ...]
) -> tuple[tuple[str, ...], NDArray[Any], dict[str, str]]:
    """Dimensions, values and attributes, by the schema; a method that it does not have scores units."""
    known = (OF_RUNS | SCHEMA).get(name, SCHEMA[schema.LPI]._replace(unit=""))
    dims = (*kept, *known.dims[1:]) if known.reduced else known.dims
    return dims, values, {"units": known.unit} if known.unit else {}


def _padded(positions: Mapping[int, Floats]) -> Floats:
    """[P, S, N], NaN at positions that a prompt does not have."""
    longest, n_units = max(len(scores) for scores in positions.values()), positions[0].shape[1]
    padded = np.full((len(positions), longest, n_units), np.nan, dtype=positions[0].dtype)
    for prompt, scores in positions.items():
        padded[prompt, : len(scores)] = scores
    return padded


def _prompt_coords(encoded: Sequence[EncodedPrompt], results: PromptResults) -> dict[str, Any]:
    prompts = [item.prompt for item in encoded]
    of_prompts = {
        "prompt_relation": [p.relation for p in prompts],
        "subject": [p.subject for p in prompts],
        "object": [p.object for p in prompts],
        "template": [p.template for p in prompts],
        "text": [p.joined for p in prompts],
    }
    coords: dict[str, Any] = {name: ("prompt", texts(values)) for name, values in of_prompts.items()}
    coords["target_id"] = ("prompt", results.target_id)
    return coords


def _token_coords(model: Model, encoded: Sequence[EncodedPrompt], results: PromptResults) -> dict[str, Any]:
    """Texts of the tokens at the positions that something is kept of, [P, S]; "" beyond the prompt."""
    kept = results.layer_positions or results.position_gate
    if not kept or model.tokenizer is None:
        return {}
    ids = [item.full_ids[: len(kept[prompt])] for prompt, item in enumerate(encoded)]
    different = sorted({token for tokens in ids for token in tokens})
    spelt = dict(zip(different, token_texts(model, different), strict=True))
    found = np.full((len(ids), max(map(len, ids))), "", dtype=object)
    for prompt, tokens in enumerate(ids):
        found[prompt, : len(tokens)] = [spelt[token] for token in tokens]
    return {schema.TOKEN_TEXT: (("prompt", "position"), found)}


def _model_coords(model: Model, units: Sequence[str], used: set[str]) -> dict[str, Any]:
    kept = np.isin(model.units.block, [unit for unit in units if unit in KINDS])
    coords: dict[str, Any] = {
        "block_layer": ("block_index", [block.layer for block in model.blocks]),
        "block_kind": ("block_index", texts([block.kind for block in model.blocks])),
    }
    if "tier" in used:
        coords["tier"] = ("tier", texts([tier.name.lower() for tier in Tier]))
    if "unit" in used:
        for name in ("layer", "expert", "shared", "head", "neuron"):
            coords[name] = ("unit", getattr(model.units, name)[kept])
        coords["block"] = ("unit", model.units.block[kept].astype(object))
    if "attention_block" in used:
        layers = [block.layer for block in model.blocks if block.kind == "attention"]
        coords["attention_block_layer"] = ("attention_block", layers)
    if "head_unit" in used:
        coords["head_unit_layer"] = ("head_unit", model.heads.layer)
        coords["head_unit_block"] = ("head_unit", model.heads.block.astype(object))
        coords["head_unit_head"] = ("head_unit", model.heads.index)
    if "expert_unit" in used:
        coords["expert_unit_layer"] = ("expert_unit", model.experts.layer)
        coords["expert_unit_expert"] = ("expert_unit", model.experts.index)
    return coords


def provenance(model: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """Everything needed to say where a result comes from, as values that any store keeps; not what is not set."""
    check = model.reconstruction
    recorded: dict[str, Any] = dict(model.provenance)
    recorded |= options
    recorded |= {
        "coverage": model.coverage,
        "reconstruction_error": None if check is None else check.worst,
        "gated_lpi": __version__,
        "schema": schema.VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return plain_attributes(recorded)
