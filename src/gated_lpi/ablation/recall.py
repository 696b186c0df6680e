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
import torch
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi.facts import Answer, EncodedPrompt
from gated_lpi.facts.types import check_answer
from gated_lpi.models import Model
from gated_lpi.trace import LOGITS_AT_ONCE, last_logits, similar_lengths, target_rank


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
    check_answer(answer)
    answers = [item.answer_ids if answer == "all" else (item.target_id,) for item in encoded]
    ranks = np.zeros(len(encoded), np.int64)
    log_probabilities = np.zeros(len(encoded))
    exact = np.ones(len(encoded), np.bool_)
    given = [(*item.ids, *ids[:-1]) for item, ids in zip(encoded, answers, strict=True)]
    at_once = max(1, batch_size // max((len(ids) for ids in answers), default=1))
    done = 0
    for some in similar_lengths(given, at_once):
        positions = [range(len(encoded[i].ids) - 1, len(given[i])) for i in some]
        logits = last_logits(model, [given[i] for i in some], positions)
        targets = torch.tensor([token for i in some for token in answers[i]], device=logits.device)
        of_prompt = np.repeat(some, [len(answers[i]) for i in some])
        np.maximum.at(ranks, of_prompt, target_rank(logits, targets))
        np.add.at(log_probabilities, of_prompt, _log_probabilities(logits, targets))
        np.logical_and.at(exact, of_prompt, (logits.argmax(dim=-1) == targets).cpu().numpy())
        done += len(some)
        if progress is not None:
            progress(done, len(encoded))
    return Recall(ranks, log_probabilities, exact if answer == "all" else None)


def _log_probabilities(logits: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """Of each target, [P], from logits [P, V]; in float64, of a few rows at a time."""
    parts = [
        rows.double().log_softmax(dim=-1).gather(-1, some.unsqueeze(-1)).squeeze(-1)
        for rows, some in zip(logits.split(LOGITS_AT_ONCE), targets.split(LOGITS_AT_ONCE), strict=True)
    ]
    return torch.cat(parts).cpu().numpy()
