"""True effect: how much of log p the model loses when a unit is really silenced and all later layers are run again.

    score(u) = f(model) − f(model with u silenced)

positive where the unit helps. Each unit costs a pass from its layer on, over all prompts of a batch at once, so that a
sample is measured: as many units of every block, drawn without replacement and, among experts, as evenly as they go.
Units that are not in the sample are NaN. Beside log p the margin is kept, the target's logit over the best other one:
it does not saturate where the model is sure.

Check: it is the effect. Tests compare it with a model whose weights are edited by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi import score_schema as schema
from gated_lpi.interventions import Reference, record_coefficients, silenced
from gated_lpi.methods.collect import finite_array
from gated_lpi.methods.contract import GivenPass, PassMethod, PassScores
from gated_lpi.methods.gradients.taps import blocks_of
from gated_lpi.methods.objective import Question
from gated_lpi.models import Block, Model
from gated_lpi.options import TrueEffect
from gated_lpi.trace import ResumablePass


class Sample(NamedTuple):
    """What is silenced.

    Attributes:
        units: of each block, by its index: the units that are measured, ascending.
        reference: what their coefficients become, unless it is 0.
    """

    units: list[NDArray[np.int64]]
    reference: Reference | None


class Silencing(PassMethod[Sample]):
    """The method that `gated_lpi.TrueEffect` asks for."""

    name = schema.TRUE_EFFECT
    by_layer = True  # it never holds more
    sampled = True

    def __init__(self, options: TrueEffect) -> None:
        self.target, self.foil, self.answer, self.at = options.target, options.foil, options.answer, options.at
        self.how, self.sample, self.seed = options.how, options.sample, options.sample_seed

    def prepare(self, model: Model, asked: Sequence[Question]) -> Sample:
        """Draw the sample; with what its coefficients are over all prompts, where that stands in for silence."""
        units = [self._units(model, index) for index in range(len(model.blocks))]
        if self.how == "zero":
            return Sample(units, None)
        prompts = [one.ids for one in asked]
        return Sample(units, record_coefficients(model, prompts, np.concatenate(units), seed=self.seed))

    @torch.no_grad()
    def score(self, state: Sample, given: GivenPass) -> PassScores:
        """Measure the sampled units of all blocks on the prompts of one forward pass."""
        model = given.model
        whole = ResumablePass(model, given.batch)
        logits = model.readout.logits(whole.final)
        objective = given.objective(logits)
        value, margin = objective(logits), objective.margins(logits)
        effects: dict[int, Tensor] = {}
        margins: dict[int, Tensor] = {}
        for index in blocks_of(model, given.kinds):
            block, start = model.blocks[index], model.block_units(index).start
            effects[index], margins[index] = (value.new_full((len(value), block.n_units), np.nan) for _ in range(2))
            units = state.units[index]
            for unit in units.tolist():
                with silenced(model, np.array([unit]), self.how, state.reference, self.at, seed=self.seed):
                    without = model.readout.logits(whole.from_layer(block.layer))
                effects[index][:, unit - start] = value - objective(without)
                margins[index][:, unit - start] = margin - objective.margins(without)
            finite_array(self.name, effects[index][:, units - start])  # NaN is for what was not measured
        return PassScores(logits, {self.name: effects, schema.TRUE_EFFECT_MARGIN: margins})

    def _units(self, model: Model, index: int) -> NDArray[np.int64]:
        """The sampled units of a block, ascending."""
        units = model.block_units(index)
        everything = np.arange(units.start, units.stop)
        if self.sample is None or self.sample >= len(everything):
            return everything
        return np.sort(everything[_spread(model.blocks[index], self.sample, self.seed + index)])


def _spread(block: Block, count: int, seed: int) -> NDArray[np.int64]:
    """Random units, indices [count] within the block, as many of each expert as the number goes."""
    generator = np.random.default_rng(seed)
    turn = np.empty(block.n_units, dtype=np.int64)
    for writer, start in block.offsets():
        for expert in range(writer.n_experts):
            first = start + expert * writer.width
            turn[first : first + writer.width] = generator.permutation(writer.width)
    return np.lexsort((generator.random(block.n_units), turn))[:count]
