"""Whether a model still recalls its facts: rank, log-probability and margin of every target among the next tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gated_lpi.facts import Answer, EncodedPrompt
from gated_lpi.facts.types import check_answer
from gated_lpi.metrics import hit_at_k
from gated_lpi.models import Model
from gated_lpi.trace import LOGITS_AT_ONCE, last_logits, similar_lengths, target_rank


class TargetScores(NamedTuple):
    """How likely the targets of P prompts are, or their whole answers.

    Attributes:
        rank: [P]; 0 is the likeliest token, ties count in the target's favour. Of a whole answer, the worst of its
            tokens' ranks, so that it is 0 where greedy decoding gives the answer.
        logprob: [P], log p of the target or of the whole answer, nats.
        margin: [P], the target's logit less the greatest other one, nats; unlike log p it does not saturate. Of a whole
            answer, the least of its tokens' margins.
        exact: [P], whether the target is what greedy decoding says, or all of the answer is.
    """

    rank: NDArray[np.int64]
    logprob: NDArray[np.float64]
    margin: NDArray[np.float64]
    exact: NDArray[np.bool_]

    def means(self, k: int) -> dict[str, float]:
        """HIT@1 and HIT@k, shares, and the means of log p and margin, nats."""
        return {
            "hit_1": hit_at_k(self.rank, 1),
            "hit_k": hit_at_k(self.rank, k),
            "logprob": float(self.logprob.mean()),
            "margin": float(self.margin.mean()),
        }


def target_scores(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    answer: Answer = "first",
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> TargetScores:
    """Rank, log-probability and margin of each prompt's target among all tokens, or of its whole answer.

    Args:
        model: the model.
        encoded: the prompts.
        answer: "first", the target alone, or "all" tokens of the answer, each after those before it.
        batch_size: prompts that are run together, at most; with whole answers, positions that are asked.
        progress: called with (prompts done, prompts in all).

    Raises:
        OptionError: another value of `answer`.
    """
    check_answer(answer)
    answers = [item.answer_ids if answer == "all" else (item.target_id,) for item in encoded]
    given = given_ids(encoded, answer)
    n = len(encoded)
    found = TargetScores(np.zeros(n, dtype=np.int64), np.zeros(n), np.full(n, np.inf), np.ones(n, dtype=np.bool_))
    done = 0
    for some in similar_lengths(given, max(1, batch_size // max(map(len, answers), default=1))):
        positions = [range(len(encoded[i].ids) - 1, len(given[i])) for i in some]
        every = last_logits(model, [given[i] for i in some], positions)
        tokens = torch.tensor([token for i in some for token in answers[i]], device=every.device)
        of_prompt = np.repeat(some, [len(answers[i]) for i in some])
        for rows, logits, targets in zip(
            np.split(of_prompt, range(LOGITS_AT_ONCE, len(of_prompt), LOGITS_AT_ONCE)),
            every.split(LOGITS_AT_ONCE),
            tokens.split(LOGITS_AT_ONCE),
            strict=True,
        ):
            own = logits.gather(-1, targets.unsqueeze(-1))
            others = logits.scatter(-1, targets.unsqueeze(-1), -torch.inf).amax(dim=-1)
            np.maximum.at(found.rank, rows, target_rank(logits, targets))
            logprob = own.squeeze(-1).double() - logits.double().logsumexp(dim=-1)
            np.add.at(found.logprob, rows, logprob.cpu().numpy())
            np.minimum.at(found.margin, rows, (own.squeeze(-1) - others).double().cpu().numpy())
            np.logical_and.at(found.exact, rows, (logits.argmax(dim=-1) == targets).cpu().numpy())
        done += len(some)
        if progress is not None:
            progress(done, n)
    return found


def given_ids(encoded: Sequence[EncodedPrompt], answer: Answer = "first") -> list[tuple[int, ...]]:
    """What the model is given to be asked: each prompt, and with whole answers all of the answer but its last token."""
    return [(*item.ids, *(item.answer_ids[:-1] if answer == "all" else ())) for item in encoded]


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
