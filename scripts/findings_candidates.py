"""Can a few backward passes do better than gradient × activation? Candidates, each against true effects.

Every candidate is at most four backward passes, but for integrated gradients block by block, which is two or eight for
every block and stands beside them. "frozen norms": the scale of every norm is taken for a constant in the backward
pass, as RelP and AttnLRP do. "log odds": log p is taken to be linear in no unit, but the target's log odds in all,
s → log σ(z) − log σ(z − s/(1 − p)), prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from gated_lpi import FactSet, GradientTimesActivation, IntegratedGradients, LPI, TrueEffect, attribute
from gated_lpi.comparison.truth import parts_of
from gated_lpi.methods.contract import GivenPass, PassMethod, PassScores
from gated_lpi.methods.gradients.taps import (
    Taps,
    blocks_of,
    embeddings_with_gradient,
    gradients_of_activations_only,
    tapped,
)
from gated_lpi.metrics import sampled_agreement_interval
from gated_lpi.models import Model
from gated_lpi.trace import record_final, run

Points = Sequence[tuple[float, float]]
Floats = NDArray[np.float64]


class Joint(PassMethod[None]):
    """Activation × gradient, added up over points at which all units are scaled together."""

    name = "joint"
    at = "all"

    def __init__(self, points: Points) -> None:
        self.points = points

    def score(self, state: None, given: GivenPass) -> PassScores:
        """Score the units of all blocks on the prompts of one forward pass."""
        del state
        model, batch, blocks = given.model, given.batch, blocks_of(given.model, given.kinds)
        with torch.no_grad(), record_final(model, batch) as recording:
            run(model, batch)
        logits = model.readout.logits(recording.inputs["final"])
        objective, taps = given.objective(logits), Taps(model, batch, "all")
        for scale, weight in self.points:
            with (
                gradients_of_activations_only(model.module),
                tapped(taps, blocks, weight, scale),
                embeddings_with_gradient(model),
            ):
                with record_final(model, batch) as recording:
                    run(model, batch)
                objective(model.readout.logits(recording.inputs["final"])).sum().backward()
        return PassScores(logits, {self.name: taps.scores})


def gauss(n: int, low: float = 0.0) -> Points:
    """The Gauss-Legendre rule of n points on [low, 1], with weights that add up to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return [(low + (1 - low) * (float(x) + 1) / 2, float(w) / 2) for x, w in zip(nodes, weights, strict=True)]


@contextmanager
def frozen_norms(model: Model) -> Iterator[None]:
    """Take the scale of every RMS norm for a constant in backward passes inside the `with` block."""
    norms = [module for module in model.module.modules() if type(module).__name__.endswith("RMSNorm")]
    for norm in norms:

        def forward(states: Tensor, norm: Any = norm) -> Tensor:
            scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True).detach() + norm.variance_epsilon)
            found: Tensor = norm.weight * states * scale
            return found

        norm.forward = forward
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def log_odds(scores: Floats, log_p: Floats) -> Floats:
    """What scores [P, N] of log p say if it is the target's log odds that are linear; log p is [P], nats."""
    rest = -np.expm1(log_p)
    z = (log_p - np.log(rest))[:, None]
    return np.logaddexp(0, -(z - scores / rest[:, None])) - np.logaddexp(0, -z)


def measure(model: Model, facts: FactSet, sample: int = 24) -> dict[str, Any]:
    """Spearman of every candidate with true effects on log p, with intervals over prompts and units.

    Args:
        model: in float64, so that rounding is none of what they differ by.
        facts: what it is asked.
        sample: units of each FFN block that are silenced one by one.
    """

    def scores(method: Any, name: str) -> Floats:
        return attribute(model, facts, method=method, units=["ffn"])[name].to_numpy()[:, there]

    measured = attribute(model, facts, method=TrueEffect(sample=sample, sample_seed=1), units=["ffn"])
    there = np.flatnonzero(np.isfinite(measured["true_effect"].to_numpy()).all(axis=0))
    effect, layer = measured["true_effect"].to_numpy()[:, there], measured["layer"].to_numpy()[there]
    log_p = measured["target_logprob"].to_numpy()
    plain = scores(GradientTimesActivation(), "grad_x_act")
    with frozen_norms(model):
        frozen = scores(GradientTimesActivation(), "grad_x_act")
    near = scores(Joint(gauss(2, 0.8)), "joint")
    found: dict[str, tuple[str, Floats]] = {
        "grad_x_act": ("1", plain),
        "grad_x_act, log odds": ("1", log_odds(plain, log_p)),
        "grad_x_act, frozen norms": ("1", frozen),
        "grad_x_act, frozen norms, log odds": ("1", log_odds(frozen, log_p)),
        "gradient at 0.9 of all units": ("1", scores(Joint([(0.9, 1.0)]), "joint")),
        "gradient at half of all units": ("1", scores(Joint([(0.5, 1.0)]), "joint")),
        "all units together from 0, 2 points": ("2", scores(Joint(gauss(2)), "joint")),
        "all units together from 0, 4 points": ("4", scores(Joint(gauss(4)), "joint")),
        "all units together from 0.8, 2 points": ("2", near),
        "the same, log odds": ("2", log_odds(near, log_p)),
        "integrated gradients by block, 2 points": ("2 a block", scores(IntegratedGradients(points=2), "integrated_gradients")),
        "integrated gradients by block, 8 points": ("8 a block", scores(IntegratedGradients(points=8), "integrated_gradients")),
        "lpi": ("0", scores(LPI(), "lpi")),
    }
    parts = parts_of(layer, 1 + max(block.layer for block in model.blocks))[:4]
    rows = {}
    for name, (passes, values) in found.items():
        ends = []
        for part in parts:
            both = (one[:, part.units].astype(np.float64) for one in (values, effect))
            interval = sampled_agreement_interval(*both, layer[part.units], 0.1, draws=100)
            ends.append([round(end.spearman, 4) for end in interval])
        rows[name] = {"backward": passes, "spearman": ends, "by_prompt": round(_by_prompt(values, effect), 4)}
    return {"parts": [part.name for part in parts], "units": len(there), "prompts": len(effect), "candidates": rows}


def _by_prompt(values: Floats, effect: Floats) -> float:
    """Mean over prompts of Spearman among the units of one prompt, of those prompts where both rank something."""
    ranked = [(a, b) for a, b in zip(values, effect, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
    return float(np.mean([spearmanr(a, b).statistic for a, b in ranked]))


