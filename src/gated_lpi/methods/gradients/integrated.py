"""Integrated gradients of a block's units, which are scaled together from 0 to what they are.

    score(u) = ∫₀¹ a_u · ∂f/∂a_u |_{α·a of the whole block} dα      (Sundararajan et al., arXiv 1703.01365)

by a Gauss-Legendre rule. Scores of a block add up to f(1) − f(0), the effect of silencing the whole block
(completeness); how far they are from that is kept for every prompt and block. Each point is a forward and a backward
pass from the block's layer on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gated_lpi import score_schema as schema
from gated_lpi.methods.contract import GivenPass, PassMethod, PassScores
from gated_lpi.methods.gradients.taps import Taps, blocks_of, gradients_of_activations_only, tapped
from gated_lpi.methods.objective import Objective
from gated_lpi.options import IntegratedGradients
from gated_lpi.trace import ResumablePass


class PathIntegral(PassMethod[None]):
    """The method that `gated_lpi.IntegratedGradients` asks for."""

    name = schema.INTEGRATED_GRADIENTS
    by_layer = True

    def __init__(self, options: IntegratedGradients) -> None:
        self.target, self.foil, self.answer, self.at = options.target, options.foil, options.answer, options.at
        nodes, weights = np.polynomial.legendre.leggauss(options.points)
        self.points = [(float(node + 1) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)]

    def score(self, state: None, given: GivenPass) -> PassScores:
        """Score the units of all blocks on the prompts of one forward pass."""
        del state
        model = given.model
        whole = ResumablePass(model, given.batch)
        logits = model.readout.logits(whole.final)
        objective = given.objective(logits)
        taps = Taps(model, given.batch, self.at)
        at_one, errors = objective(logits), {}
        for index in blocks_of(model, given.kinds):
            for scale, weight in self.points:
                self._pass(whole, taps, index, objective, scale, weight, given.by_layer)
            change = at_one - self._silenced(whole, index, objective)
            errors[index] = (taps.scores[index].sum(dim=-1) - change).abs()
        return PassScores(logits, {self.name: taps.scores}, {schema.INTEGRATED_GRADIENTS_ERROR: errors})

    def _pass(
        self,
        whole: ResumablePass,
        taps: Taps,
        index: int,
        objective: Objective,
        scale: float,
        weight: float,
        by_layer: bool,
    ) -> None:
        """Add one point of the rule."""
        model, layer = whole.model, whole.model.blocks[index].layer
        with gradients_of_activations_only(model.module), tapped(taps, [index], weight, scale):
            if by_layer:
                with torch.no_grad():
                    states, final = whole.states_from(layer)
                final.requires_grad_(True)
                (gradient,) = torch.autograd.grad(objective(model.readout.logits(final)).sum(), final)
                whole.backward(gradient, layer, states)
            else:
                entering = whole.entering(layer).detach().clone().requires_grad_(True)
                objective(model.readout.logits(whole.from_layer(layer, entering))).sum().backward()

    @torch.no_grad()
    def _silenced(self, whole: ResumablePass, index: int, objective: Objective) -> Tensor:
        """The value of every prompt with the block's units silenced, [P]."""
        taps = Taps(whole.model, whole.batch, self.at)
        with tapped(taps, [index], scale=0.0):
            return objective(whole.model.readout.logits(whole.from_layer(whole.model.blocks[index].layer)))
