"""What the toolkit sees in a model, whether that can be trusted, and what attributing it would cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gated_lpi.facts import EncodedPrompt, Prompt
from gated_lpi.loading import probe_prompts
from gated_lpi.methods import attribute_encoded
from gated_lpi.models import FAMILIES, Model, Reconstruction, adds_bos, require_model, row_as_toml
from gated_lpi.options import Scoring
from gated_lpi.trace import trace

TIMED_PROMPTS = 32
MEAN = Scoring(keep="mean")


@dataclass(frozen=True)
class Cost:
    """Rough cost of `attribute` with its default options.

    Attributes:
        prompts: for how many prompts.
        seconds: extrapolated from the middle layer on a few short prompts, on this machine; larger batches take less
            per prompt, longer prompts more.
        weights_bytes: the model in memory, bytes.
        result_bytes: scores of all prompts (`keep="prompts"`), bytes.
        mean_bytes: scores of one relation or of the mean, bytes.
    """

    prompts: int
    seconds: float
    weights_bytes: int
    result_bytes: int
    mean_bytes: int


@dataclass(frozen=True)
class Checkup:
    """What the toolkit sees in a model.

    Attributes:
        family: the row of the table of families.
        layers, hidden, vocabulary: sizes.
        units: number of units by kind: "attention", "mixer", "dense", "routed", "shared".
        heads: heads of attention and mixers in all.
        experts: experts in all, shared ones included.
        norms: how blocks and readout are normalised.
        biases: writers with a bias that belongs to no unit.
        coverage: share of the parameters outside embeddings and norms whose writes are attributed.
        reconstruction: errors of the check made at load.
        estimate: cost of attribution.
        tokenizer: its class, and whether it begins texts with a BOS token; "none" if the model came without one.
        notes: what was replaced, left aside or chosen in loading.
        row: the row that it was read by, as TOML, if that was read off the model or given; "" if it is in the table.
    """

    family: str
    layers: int
    hidden: int
    vocabulary: int
    units: Mapping[str, int]
    heads: int
    experts: int
    norms: str
    biases: int
    coverage: float
    reconstruction: Reconstruction
    estimate: Cost
    tokenizer: str
    notes: tuple[str, ...]
    row: str = ""


def examine(model: Model, prompts: int = 1000) -> Checkup:
    """Describe a loaded model and estimate the cost of attributing prompts.

    Args:
        model: from `load_model` or `wrap_model`.
        prompts: for how many prompts the cost is estimated.

    Raises:
        OptionError: `model` is none.
        ModelError: a block's scores are not finite.
    """
    require_model(model)
    units: dict[str, int] = {}
    for block in model.blocks:
        for writer in block.writers:
            units[writer.kind] = units.get(writer.kind, 0) + writer.n_units
    assert model.reconstruction is not None  # load_model and wrap_model check
    readout = model.readout
    final = f"{'LayerNorm' if readout.centred else 'RMSNorm'} before the readout"
    return Checkup(
        family=model.family.name,
        layers=model.n_layers,
        hidden=readout.weight.shape[1],
        vocabulary=readout.vocabulary,
        units=units,
        heads=len(model.heads),
        experts=len(model.experts),
        norms=final + (", post-norms on block outputs" if any(b.post_norm is not None for b in model.blocks) else ""),
        biases=sum(writer.bias_parameter is not None for block in model.blocks for writer in block.writers),
        coverage=model.coverage,
        reconstruction=model.reconstruction,
        estimate=_estimate(model, prompts),
        tokenizer=_tokenizer(model),
        notes=model.notes,
        row="" if model.family in FAMILIES else row_as_toml(model.family),
    )


def _tokenizer(model: Model) -> str:
    if model.tokenizer is None:
        return "none"
    name, bos = (
        type(model.tokenizer).__name__,
        "begins texts with a BOS token" if adds_bos(model.tokenizer) else "no BOS",
    )
    return f"{name} of {len(model.tokenizer):,} tokens, {bos}"


def _estimate(model: Model, prompts: int) -> Cost:
    size = np.dtype(str(model.dtype).removeprefix("torch.")).itemsize
    scores = len(model.units) + len(model.heads) + 3 * len(model.experts) + len(model.blocks)
    return Cost(
        prompts=prompts,
        seconds=_seconds_per_prompt(model) * prompts,
        weights_bytes=sum(p.numel() * p.element_size() for p in model.module.parameters()),
        result_bytes=scores * size * prompts,
        mean_bytes=scores * size,
    )


def _seconds_per_prompt(model: Model) -> float:
    """Time one batch of short prompts, scoring the middle layer for all of them."""
    middle = model.n_layers // 2
    one_layer = dataclasses.replace(model, blocks=tuple(b for b in model.blocks if b.layer == middle))
    ids = (probe_prompts(model) * TIMED_PROMPTS)[:TIMED_PROMPTS]
    encoded = [EncodedPrompt(tuple(row), 0, "", Prompt("", "")) for row in ids]
    attribute_encoded(one_layer, encoded[:1], scoring=MEAN)  # the first call also sets things up
    started = time.perf_counter()
    trace(model, ids)
    forward = time.perf_counter() - started
    attribute_encoded(one_layer, encoded, scoring=MEAN)
    scoring = max(0.0, time.perf_counter() - started - 2 * forward)
    return (forward + model.n_layers * scoring) / len(encoded)
