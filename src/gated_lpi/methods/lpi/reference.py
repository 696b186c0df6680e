"""The definition of Gated-LPI in float64, one unit at a time, straight from the equation.

    I(u) = log p(target | base + contribution_u) − log p(target | base),    contribution_u = scale · g · m · v

with the gate g that the problem asks for.
(Gated-LPI: arXiv 2601.08383; the dense score: arXiv 2312.12141.) Slow on purpose: every fast path is tested
against it. It takes g, m and v from the trace and the model's weights by itself and shares no arithmetic with the
other estimators.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gated_lpi.methods.contract import BlockScores, all_exact
from gated_lpi.methods.problem import TracedProblem
from gated_lpi.models import Readout
from gated_lpi.trace import WriterTrace


def unit_lpi(base: Tensor, contribution: Tensor, target: int, readout: Readout, inverse_scale: Tensor | None) -> float:
    """I of one unit, head, expert or block on one prompt, in nats.

    Args:
        base: [d], residual stream before the block writes.
        contribution: [d], what is added to it.
        target: token id.
        readout: in the dtype of `base`.
        inverse_scale: 1/σ held for both terms (frozen norm), a scalar; None recomputes the norm for each.
    """
    after = readout.log_probability(base + contribution, target, inverse_scale)
    before = readout.log_probability(base, target, inverse_scale)
    return float(after - before)


def score_block(problem: TracedProblem) -> BlockScores:
    """Score every unit of a block on every prompt in float64, one at a time."""
    readout = problem.readout.to(dtype=torch.float64)
    n_prompts = len(problem.targets)
    scores = torch.zeros(n_prompts, problem.n_units, dtype=torch.float64)
    for prompt in range(n_prompts):
        base = problem.base[prompt].double()
        target = int(problem.targets[prompt])
        inverse_scale = None if problem.inverse_scale is None else problem.inverse_scale[prompt].double()
        foils = [] if problem.foils is None else [foil for foil in problem.foils[prompt].tolist() if foil >= 0]
        for unit, contribution in _contributions(problem, prompt):
            score = unit_lpi(base, contribution, target, readout, inverse_scale)
            against = [unit_lpi(base, contribution, foil, readout, inverse_scale) for foil in foils]
            scores[prompt, unit] = score - sum(against) / len(against) if against else score
    return all_exact(problem, scores.to(problem.base.device))


def _contributions(problem: TracedProblem, prompt: int) -> list[tuple[int, Tensor]]:
    """Index within the block and contribution [d] of every unit that writes for this prompt."""
    block, traced = problem.block, problem.traced
    if problem.by_position:
        return _position_contributions(problem, prompt)
    scale = 1.0 if traced.scale is None else float(traced.scale[prompt])
    found = []
    for (writer, start), seen in zip(block.offsets(), traced.writers, strict=True):
        for expert, gate, m in _used(problem, seen, prompt):
            values = block.values(writer, expert).to(problem.base.device).double()
            for neuron in range(writer.width):
                contribution = scale * gate * float(m[neuron]) * values[neuron]
                found.append((start + expert * writer.width + neuron, contribution))
    return found


def _used(problem: TracedProblem, seen: WriterTrace, prompt: int) -> list[tuple[int, float, Tensor]]:
    """Experts of a writer that count for this prompt (0 unless routed), each with its gate and coefficients [width]."""
    if seen.experts is None or seen.gates is None:
        return [(0, 1.0 if seen.gates is None else float(seen.gates[prompt]), seen.coefficients[prompt])]
    if problem.gate == "open":
        assert seen.all_gates is not None  # or there would be no problem
        assert seen.all_coefficients is not None
        return [(e, float(g), seen.all_coefficients[prompt, e]) for e, g in enumerate(seen.all_gates[prompt])]
    experts, gates = seen.experts[prompt].tolist(), seen.gates[prompt].tolist()
    if problem.gate == "uniform":
        gates = [sum(gates) / len(gates)] * len(gates)
    elif problem.gate == "ungated":
        gates = [1.0] * len(gates)
    return list(zip(experts, gates, seen.coefficients[prompt], strict=True))


def _position_contributions(problem: TracedProblem, prompt: int) -> list[tuple[int, Tensor]]:
    """Index and contribution [d] of an attention block's units, counted once for every source position."""
    (writer,), (seen,) = problem.block.writers, problem.traced.writers
    assert seen.by_position is not None  # the trace was asked for it
    scale = 1.0 if problem.traced.scale is None else float(problem.traced.scale[prompt])
    values = problem.block.values(writer).to(problem.base.device).double()
    return [
        (position * writer.width + neuron, scale * float(m[neuron]) * values[neuron])
        for position, m in enumerate(seen.by_position[prompt])
        for neuron in range(writer.width)
    ]
