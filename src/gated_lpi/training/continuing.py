"""Training that goes on from given weights, on the rest of what an arm would have seen.

1. The batches are those that come after `done` steps in the arm's own order of data (`data_order`), which goes on
   beyond the arm's last step where more are asked for.
2. The optimizer begins anew, since checkpoints hold weights alone: its learning rate rises over a few steps to what the
   arm's schedule had there, or to a tenth of the peak where the schedule was below it, and then falls to zero in a line
   ("decayed") or stays ("constant").

So what is trained on with something changed is to be held against the same weights trained on without: never against
the arm itself, which had its optimizer's memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gated_lpi._common.quiet import no_progress_bars
from gated_lpi.errors import OptionError
from gated_lpi.training.corpus import Corpus
from gated_lpi.training.schedule import learning_rate_factor
from gated_lpi.training.spec import TrainingSpec
from gated_lpi.training.trainer import batches_of, build_trainer

Rate = Literal["decayed", "constant"]

LEAST_RATE = 0.1  # of the peak
REWARMED = 10  # steps, or a fifth of all


def continue_training(
    model: PreTrainedModel,
    spec: TrainingSpec,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    *,
    done: int,
    steps: int,
    rate: Rate = "decayed",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train a model on, in place; it ends in evaluation mode.

    On one machine, with one seed and number of threads, the weights are bit-identical from call to call.

    Args:
        model: a transformers model with weights from `done` steps of training, changed or not.
        spec: how the arm was trained.
        corpus: what it was trained on.
        tokenizer: made for it.
        done: steps of training before.
        steps: steps to go on for.
        rate: what the learning rate does after it has risen.
        progress: called with (steps done, steps in all).

    Raises:
        OptionError: `done` below 0 or `steps` below 1.
        FactsError: the corpus has no token to predict.
    """
    if done < 0 or steps < 1:
        raise OptionError(f"done={done} and steps={steps} were given; expected at least 0 and at least 1")
    batches = batches_of(spec, corpus, tokenizer, done + steps)[done:]
    with tempfile.TemporaryDirectory() as scratch, no_progress_bars():
        trainer = build_trainer(
            model,
            spec,
            corpus,
            tokenizer,
            Path(scratch),
            [] if progress is None else [_Told(progress)],
            batches=batches,
            factor=lambda taken: rate_after(spec, done, taken, steps, rate),
        )
        trainer.train()
    model.eval()


def rate_after(spec: TrainingSpec, done: int, taken: int, steps: int, rate: Rate) -> float:
    """The share of the peak learning rate for the step after `taken` of `steps` more than `done`; 0 from the end on."""
    if taken >= steps:
        return 0.0
    start = max(learning_rate_factor(done, spec.steps, spec.warmup_steps, spec.decay), LEAST_RATE)
    rising = min(1.0, (taken + 1) / (min(REWARMED, steps // 5) + 1))
    return start * rising * ((steps - taken) / steps if rate == "decayed" else 1.0)


class _Told(TrainerCallback):  # type: ignore[misc]  # transformers is read as untyped
    """Report progress."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Say how many steps are done."""
        self._progress(state.global_step, state.max_steps)
