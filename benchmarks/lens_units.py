"""What each method costs in lens units: one is the logit lens of every block on the same prompts.

The lens of a block is one product of the prompts' residual stream with the unembedding, and a log-softmax. Methods are
given the same prompts from token ids to scores of all FFN and attention units (rollout: of heads), dataset left out.
Preparation, which a checkpoint needs once, is in it where a method has one. `TrueEffect` measures one unit of every FFN
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import timing
from gated_lpi.facts import EncodedPrompt
from gated_lpi.methods import attribute_encoded
from gated_lpi.models import Model
from gated_lpi.options import (
    LPI,
    DirectEffect,
    GradientTimesActivation,
    IntegratedGradients,
    MethodOptions,
    Rollout,
    Scoring,
    TrueEffect,
)

METHODS: dict[str, tuple[MethodOptions, tuple[str, ...]]] = {
    "lpi": (LPI(), ("ffn", "attention")),
    "lpi, with heads and blocks": (LPI(), ("ffn", "attention", "heads", "blocks")),
    "direct_effect": (DirectEffect(), ("ffn", "attention")),
    "grad_x_act": (GradientTimesActivation(), ("ffn", "attention")),
    "integrated_gradients, 8 points": (IntegratedGradients(), ("ffn", "attention")),
    "true_effect, one unit a block": (TrueEffect(sample=1), ("ffn",)),
    "rollout": (Rollout(), ("heads",)),
}


def measure(model: Model, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
    """Seconds of the lens and of every method, in turn, and lens units: ratios of the least seconds of both."""
    readout, blocks = model.readout, 2 * model.n_layers
    streams = torch.randn(len(prompts), readout.weight.shape[1], generator=torch.Generator().manual_seed(0))

    def lens() -> None:
        for _ in range(blocks):
            torch.log_softmax(streams @ readout.weight.T, dim=-1)

    def call(method: MethodOptions, units: tuple[str, ...]) -> Any:
        scoring = Scoring(units=units, keep="mean", batch_size=len(prompts))  # type: ignore[arg-type]
        return lambda: attribute_encoded(model, prompts, method, scoring)

    calls = {"lens": lens} | {name: call(*asked) for name, asked in METHODS.items()}
    with torch.no_grad():
        found = timing.in_turn(calls)
    return {
        "prompts": len(prompts),
        "timings": {name: one.json() for name, one in found.items()},
        "lens_units": {name: round(found[name].least / found["lens"].least, 2) for name in METHODS},
    }
