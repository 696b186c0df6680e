"""A model pruned and measured: what it recalls, its loss on a text and what it costs, before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from gated_lpi.ablation import read_text, target_scores, text_loss, text_windows
from gated_lpi.errors import OptionError
from gated_lpi.facts import Answer, EncodedPrompt, FactSet
from gated_lpi.models import Model
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.pruning.cost import cost_of, seconds_per_pass
from gated_lpi.pruning.ranking import PLAIN, By, rank_experts
from gated_lpi.pruning.removing import Pruned, prune_experts
from gated_lpi.pruning.scores import PAIRS

Task = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Shows a task by its name while a `with` block runs; what it gives is called with (done, total)."""


class Trial(NamedTuple):
    """What pruning a model did.

    Attributes:
        pruned: the smaller model.
        before, after: of the model as it was and as it is: `hit_1` and `hit_k`, shares; `logprob` and `margin`, nats;
            `text_loss`, nats per token; `parameters`, `parameters_active`; `memory`, bytes; `flops_per_token`; and
            `seconds`, of a forward pass over all of the text.
        k: the k of HIT@k.
        n_prompts, n_text_tokens: on how much this was measured.
    """

    pruned: Pruned
    before: dict[str, float]
    after: dict[str, float]
    k: int
    n_prompts: int
    n_text_tokens: int

    def as_json(self) -> dict[str, Any]:
        """All of it but the model, as plain data."""
        return {**self._asdict(), "pruned": self.pruned.record()}


def prune(
    model: Model,
    facts: FactSet,
    by: By = "lpi",
    *,
    share: float | None = None,
    keep: int | None = None,
    how: Prompting = PLAIN,
    answer: Answer = "first",
    text: str | Path | None = None,
    past: Sequence[xr.Dataset] = (),
    pairs: int = PAIRS,
    k: int = 10,
    repeats: int = 5,
    seed: int = 0,
    task: Task = lambda _: nullcontext(lambda _done, _total: None),
) -> Trial:
    """Rank a model's experts, remove the lowest of every layer, and measure what that cost and saved.

    "frequency" and "reap" look at the tokens of the text if one is given, else at those of the prompts.

    Args:
        model: from `load_model` or `wrap_model`; it is not changed.
        facts: what it is asked, before and after, and what rankings by scores are about.
        by: see `rank_experts`.
        share, keep: how many experts go: see `prune_experts`.
        how: how facts become token ids.
        answer: recall of the "first" token of answers, or of "all".
        text: a file for the loss, and for rankings by tokens; None: the built-in one, for the loss alone.
        past, pairs: for "lpi_stable": see `rank_experts`.
        k: the k of HIT@k.
        repeats: forward passes that are timed.
        seed: of "random".
        task: shows how far each part is.

    Raises:
        OptionError, ModelError, FactsError, ReconstructionError: as `rank_experts` and `prune_experts`; `k` below 1.
    """
    if k < 1:
        raise OptionError(f"k={k} was given; expected a whole number of at least 1")
    asked = encode_facts(model, facts, how, answer=answer).prompts
    windows = text_windows(model, read_text(text))
    read = None if text is None else windows
    with task(f"rank by {by}") as advance:
        ranking = rank_experts(
            model, by, facts=facts, how=how, windows=read, past=past, pairs=pairs, seed=seed, progress=advance
        )
    pruned = prune_experts(model, ranking, share=share, keep=keep)
    both = (model, pruned.model)
    with task("measure") as advance:
        found = []
        for done, one in enumerate(both, start=1):
            found.append(_measured(one, asked, windows, answer, k))
            advance(done, len(both))
    with task("time") as advance:
        seconds = seconds_per_pass(both, windows, repeats=repeats, progress=advance)
    before, after = ({**measured, "seconds": taken} for measured, taken in zip(found, seconds, strict=True))
    return Trial(pruned, before, after, k, len(asked), sum(len(ids) - 1 for ids in windows))


def _measured(
    model: Model, asked: Sequence[EncodedPrompt], windows: Sequence[Sequence[int]], answer: Answer, k: int
) -> dict[str, float]:
    recalled = target_scores(model, asked, answer).means(k)
    return {**recalled, "text_loss": text_loss(model, windows), **cost_of(model)._asdict()}
