"""Methods that run the model themselves: one forward pass's worth of prompts at a time, all blocks together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi._common.heap import give_back
from gated_lpi.methods.collect import Collector, finite_array
from gated_lpi.methods.contract import GivenPass, PassMethod
from gated_lpi.methods.dataset import PromptResults
from gated_lpi.methods.memory import Sizes
from gated_lpi.methods.objective import Question
from gated_lpi.methods.rounding import full_precision
from gated_lpi.models import Model
from gated_lpi.options import Scoring
from gated_lpi.trace import TOKENS_AT_ONCE, forward_passes, pad, pad_id, similar_lengths, target_rank
from gated_lpi.unit_names import KINDS

LONG = 2 * TOKENS_AT_ONCE  # tokens of a pass, one prompt then, whose activations are not held of all layers


def pass_batches(
    model: Model, asked: Sequence[Question], method: PassMethod[Any], scoring: Scoring, sizes: Sizes
) -> Iterator[tuple[NDArray[np.int64], GivenPass]]:
    """Prompts of similar lengths, as many as one forward pass holds, with their indices [P] among all."""
    kinds = {kind for kind in KINDS if kind in scoring.units}
    for prompts in similar_lengths([one.ids for one in asked], sizes.prompts):
        for some in forward_passes([asked[i].ids for i in prompts], sizes.forward.tokens):
            chosen = [asked[i] for i in prompts[some]]
            batch = pad(
                [one.ids for one in chosen],
                [one.positions for one in chosen],
                pad_id=pad_id(model),
                device=model.device,
            )
            by_layer = method.by_layer and (sizes.by_layer or batch.ids.numel() > LONG)
            yield prompts[some], GivenPass(model, chosen, batch, method.aims, kinds, by_layer)


def score_pass(
    method: PassMethod[Any],
    state: Any,
    prompts: NDArray[np.int64],
    given: GivenPass,
    sizes: Sizes,
    collector: Collector,
    results: PromptResults,
) -> None:
    """Score the prompts of one forward pass; adds to `collector` and `results`."""
    with full_precision():
        found = method.score(state, given)
    objective = given.objective(found.logits)
    log_p = found.logits.gather(-1, objective.targets.unsqueeze(-1)).squeeze(-1) - found.logits.logsumexp(dim=-1)
    results.take_targets(prompts, objective, log_p, target_rank(found.logits, objective.targets))
    for name, blocks in found.scores.items():
        for index, scores in blocks.items():
            collector.add(name, index, prompts, finite_array(name, scores, missing=method.sampled))
    for name, numbers in found.by_block.items():
        for index, values in numbers.items():
            results.by_block(name)[prompts, index] = values.double().cpu().numpy()
    if sizes.forward.frugal:
        del found
        give_back()
