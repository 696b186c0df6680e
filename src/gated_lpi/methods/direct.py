"""Direct effect: the linear term of LPI, contribution · ∂f/∂base.

With f = log p(target | base) and the frozen norm that is c·(u_target − E_p u), u being what the unit does to the logits
and c its coefficient over σ: LPI without curvature. With a foil and the frozen norm f is linear in the residual stream,
and this is LPI itself.

Check: LPI of a contribution that is scaled down tends to it; with a foil it equals the reference.
"""

from __future__ import annotations

import torch

from gated_lpi import score_schema as schema
from gated_lpi.methods.contract import BlockScores, Method, Room, all_exact
from gated_lpi.methods.objective import Objective
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.models import Readout
from gated_lpi.options import DirectEffect


class LinearTerm(Method[Room]):
    """The method that `gated_lpi.DirectEffect` asks for."""

    name = schema.DIRECT_EFFECT

    def __init__(self, options: DirectEffect) -> None:
        self.target, self.foil, self.answer = options.target, options.foil, options.answer
        self.norm, self.gate, self.readout_eps = options.norm, options.gate, options.readout_eps

    def prepare(self, readout: Readout, room: Room) -> Room:
        """Nothing of the checkpoint is kept."""
        del readout
        return room

    def score(self, state: Room, problem: BlockProblem) -> BlockScores:
        """Score every unit of a block on every prompt."""
        return linear_scores(problem, state.numbers)


def linear_scores(problem: BlockProblem, numbers: int) -> BlockScores:
    """Contribution · gradient at the base, of every unit on every prompt.

    Args:
        problem: the block.
        numbers: numbers in a matrix of prompts and tokens, at most.

    Returns:
        Scores [P, n_units] in nats.
    """
    scores = torch.zeros(len(problem.targets), problem.n_units, dtype=problem.base.dtype, device=problem.base.device)
    gradient = torch.empty_like(problem.base)
    for some in torch.arange(len(scores), device=scores.device).split(max(1, numbers // problem.readout.vocabulary)):
        gradient[some] = _gradient(problem, some)
    for slab in problem.slabs:
        prompts = problem.prompts(slab)
        products = gradient[prompts].to(slab.values.dtype) @ slab.values.T
        scores[prompts, slab.start : slab.start + len(slab.values)] = (slab.coefficients * products).to(scores.dtype)
    return all_exact(problem, scores)


def _gradient(problem: BlockProblem, some: torch.Tensor) -> torch.Tensor:
    """∂f/∂base of some prompts, [n, d]."""
    foils = None if problem.foils is None else problem.foils[some]
    objective = Objective(problem.targets[some], torch.arange(len(some), device=some.device), foils)
    scale = None if problem.inverse_scale is None else problem.inverse_scale[some]
    with torch.enable_grad():
        base = problem.base[some].detach().clone().requires_grad_(True)
        value = objective.of_items(problem.readout.logits(base, scale)).sum()
        (found,) = torch.autograd.grad(value, base)
    return found
