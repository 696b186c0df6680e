"""Where the units of a block stop, and under which envelope: as a sample of them shows to be cheapest."""

from __future__ import annotations

import torch

from gated_lpi.lpi import envelope as envelopes
from gated_lpi.lpi.climb import Best, Part, climb, pairs_of
from gated_lpi.lpi.distribution import Distribution
from gated_lpi.lpi.envelope import Envelope
from gated_lpi.lpi.moments import MomentSums, Units
from gated_lpi.lpi.prepared import Prepared, Stops
from gated_lpi.lpi.problem import BlockProblem
from gated_lpi.lpi.stages import Choice, Costs, fitting_pays, worthwhile

SAMPLE = 16  # one unit in so many is scored first
MAX_SAMPLE = 128


def choose(
    prepared: Prepared, problem: BlockProblem, p: Distribution, dtype: torch.dtype
) -> tuple[tuple[int, ...], Envelope]:
    """Levels to stop at before the last one, and the envelope; as before for a block that was seen before.

    Args:
        prepared: of the checkpoint; keeps what is chosen for blocks that have a key.
        problem: the block.
        p: its distributions.
        dtype: of certificates.
    """
    key = problem.key, len(problem.targets).bit_length()
    before = prepared.choices.get(key)
    if before is not None:
        make = envelopes.fitted if before.fitted else envelopes.uniform
        return before.levels, make(prepared.table, p)
    levels, envelope = _cheapest(prepared, problem, p, dtype)
    if problem.key:
        prepared.choices[key] = Stops(levels, fitted=not envelope.of_checkpoint)
    return levels, envelope


def _cheapest(
    prepared: Prepared, problem: BlockProblem, p: Distribution, dtype: torch.dtype
) -> tuple[tuple[int, ...], Envelope]:
    """By a sample of the slab that has most pairs; all levels and no fitting where there are few units."""
    uniform, stops = envelopes.uniform(prepared.table, p), tuple(range(len(p.levels) - 1))
    if not problem.slabs:
        return stops, uniform
    slab = max(problem.slabs, key=lambda slab: slab.coefficients.numel())
    n_prompts, n_units = slab.coefficients.shape
    step = max(SAMPLE, n_units // MAX_SAMPLE, n_units * n_prompts // prepared.max_pairs)
    if n_units < SAMPLE * step:
        return stops, uniform
    costs = Costs(n_prompts, slab.values.shape[1], p.levels)
    sample = Part.of(slab, slice(0, n_units, step))
    pairs, folded = pairs_of(problem, p, prepared.table, sample, dtype)
    sample = sample._replace(pairs=pairs)
    units = Units(folded, sample.prompts)

    def choice(envelope: Envelope) -> Choice:
        under = sample.under(envelope.squares(units.folded))
        best = Best(under.c, prepared.tolerance * problem.share)
        sums = MomentSums(prepared.table, p, envelope, [units])
        *_, left_after = climb([under], sums, [best], stops)
        found = worthwhile(costs, stops, [count / len(units.folded) for count in left_after])
        return found._replace(cost=found.cost + (0.0 if envelope.of_checkpoint else costs.quadratic))

    found = choice(uniform)
    n_all = sum(len(slab.values) for slab in problem.slabs)
    if fitting_pays(costs, found.cost, n_all, envelopes.fitting_cost(p, costs.width)):
        fitted = envelopes.fitted(prepared.table, p)
        other = choice(fitted)
        if other.cost < found.cost:
            return other.levels, fitted
    return found.levels, uniform
