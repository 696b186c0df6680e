"""Gradient × activation: a_u · ∂f/∂a_u, f being log p of the target, through all later layers.

To first order it is what silencing the unit takes away: attribution patching against zero (Nanda 2023; Syed et al.,
arXiv 2310.10348). Unlike LPI it sees what later layers make of a unit, and, at all positions, what the unit writes at
the subject's tokens. One forward and one backward pass for all units together; where the activations of all layers are
too much to hold, each layer is run once more on the way back.

Check: it equals the derivative of f when the unit alone is scaled (a finite difference); on dense models it equals
captum's LayerGradientXActivation.
"""

from __future__ import annotations

import torch

from gated_lpi import score_schema as schema
from gated_lpi.methods.contract import GivenPass, PassMethod, PassScores
from gated_lpi.methods.gradients.taps import (
    Taps,
    blocks_of,
    embeddings_with_gradient,
    gradients_of_activations_only,
    tapped,
)
from gated_lpi.options import GradientTimesActivation
from gated_lpi.trace import ResumablePass, record_final, run


class GradXAct(PassMethod[None]):
    """The method that `gated_lpi.GradientTimesActivation` asks for."""

    name = schema.GRAD_X_ACT
    by_layer = True

    def __init__(self, options: GradientTimesActivation) -> None:
        self.target, self.foil, self.answer, self.at = options.target, options.foil, options.answer, options.at

    def score(self, state: None, given: GivenPass) -> PassScores:
        """Score the units of all blocks on the prompts of one forward pass."""
        del state
        model, batch = given.model, given.batch
        taps, blocks = Taps(model, batch, self.at), blocks_of(model, given.kinds)
        with gradients_of_activations_only(model.module), tapped(taps, blocks):
            if given.by_layer:
                whole = ResumablePass(model, batch)
                final = whole.final.requires_grad_(True)
                logits = model.readout.logits(final)
                (gradient,) = torch.autograd.grad(given.objective(logits)(logits).sum(), final)
                whole.backward(gradient)
            else:
                with embeddings_with_gradient(model), record_final(model, batch) as recording:
                    run(model, batch)
                logits = model.readout.logits(recording.inputs["final"])
                given.objective(logits)(logits).sum().backward()
        return PassScores(logits.detach(), {self.name: taps.scores})
