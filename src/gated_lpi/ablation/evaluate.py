"""Whether a model still recalls its facts: the rank of every target among the next tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gated_lpi.facts import EncodedPrompt
from gated_lpi.models import Model
from gated_lpi.trace import last_logits, similar_lengths, target_rank


def target_ranks(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.int64]:
    """Rank of each prompt's target among all tokens.

    Args:
        model: the model.
        encoded: the prompts.
        batch_size: prompts that are run together, at most.
        progress: called with (prompts done, prompts in all).

    Returns:
        [P]; 0 is the likeliest token, ties count in the target's favour.
    """
    ranks = np.empty(len(encoded), dtype=np.int64)
    done = 0
    for prompts in similar_lengths([item.ids for item in encoded], batch_size):
        logits = last_logits(model, [encoded[i].ids for i in prompts])
        targets = torch.tensor([encoded[i].target_id for i in prompts], device=logits.device)
        ranks[prompts] = target_rank(logits, targets)
        done += len(prompts)
        if progress is not None:
            progress(done, len(encoded))
    return ranks
