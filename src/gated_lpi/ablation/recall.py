"""Whether a model still recalls its answers: ranks, log-probabilities, and what it would say by itself.

An answer of n tokens is teacher-forced: the model is given the prompt and the answer but for its last token, and asked
for one answer token at each of n positions. Log p of the answer is then the sum over the positions.

Greedy decoding says the answer if, and only if, every answer token is the likeliest one at its position of that same
forward pass: up to the first that is not, what was decoded and what was forced are the same tokens. So exact match
needs no decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gated_lpi.ablation.evaluate import target_scores
from gated_lpi.facts import Answer, EncodedPrompt
from gated_lpi.models import Model


class Recall(NamedTuple):
    """How well P answers are recalled.

    Attributes:
        ranks: [P], of the target among all tokens, 0 being the likeliest; with all tokens of an answer the worst of
            their ranks, so that all of them are among the first k where it is below k. Ties count in favour.
        log_probabilities: [P], in nats: of the target, or of the whole answer after its prompt.
        exact: [P], whether greedy decoding of as many tokens as the answer has gives the answer; None where the first
            token alone was asked for.
    """

    ranks: NDArray[np.int64]
    log_probabilities: NDArray[np.float64]
    exact: NDArray[np.bool_] | None


def recall(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    answer: Answer = "first",
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Recall:
    """Ask the model for the answer of every prompt, in one forward pass each.

    Args:
        model: the model.
        encoded: the prompts; with answer="all" from an `encode_facts` that was asked for "all" too, for then every
            token of an answer is known to be one that the model can say.
        answer: "first", the target alone, or "all" tokens of each answer.
        batch_size: positions at which logits are taken together, at most, unless one answer has more.
        progress: called with (prompts done, prompts in all).

    Returns:
        Ranks, log-probabilities and exact matches.

    Raises:
        OptionError: another value of `answer`; or no prompt, or one without a token.
    """
    found = target_scores(model, encoded, answer, batch_size=batch_size, progress=progress)
    return Recall(found.rank, found.logprob, found.exact if answer == "all" else None)
