"""Whether a model still recalls its facts: rank, log-probability and margin of every target among the next tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gated_lpi.facts import EncodedPrompt
from gated_lpi.models import Model
from gated_lpi.trace import last_logits, similar_lengths, target_rank


class TargetScores(NamedTuple):
    """How likely the targets of P prompts are.

    Attributes:
        rank: [P]; 0 is the likeliest token, ties count in the target's favour.
        logprob: [P], log p(target), nats.
        margin: [P], the target's logit less the greatest other one, nats; unlike log p it does not saturate.
    """

    rank: NDArray[np.int64]
    logprob: NDArray[np.float64]
    margin: NDArray[np.float64]


def target_scores(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> TargetScores:
    """Rank, log-probability and margin of each prompt's target among all tokens.

    Args:
        model: the model.
        encoded: the prompts.
        batch_size: prompts that are run together, at most.
        progress: called with (prompts done, prompts in all).
    """
    found = TargetScores(np.empty(len(encoded), dtype=np.int64), np.empty(len(encoded)), np.empty(len(encoded)))
    done = 0
    for prompts in similar_lengths([item.ids for item in encoded], batch_size):
        logits = last_logits(model, [encoded[i].ids for i in prompts])
        targets = torch.tensor([encoded[i].target_id for i in prompts], device=logits.device)
        found.rank[prompts] = target_rank(logits, targets)
        own = logits.gather(-1, targets.unsqueeze(-1))
        found.logprob[prompts] = (own.squeeze(-1).double() - logits.double().logsumexp(dim=-1)).cpu().numpy()
        others = logits.scatter(-1, targets.unsqueeze(-1), -torch.inf).amax(dim=-1)
        found.margin[prompts] = (own.squeeze(-1) - others).double().cpu().numpy()
        done += len(prompts)
        if progress is not None:
            progress(done, len(encoded))
    return found


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
    return target_scores(model, encoded, batch_size=batch_size, progress=progress).rank
