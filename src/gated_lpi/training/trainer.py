"""Train one arm with `transformers.Trainer`, keeping checkpoints on the way; continue where it was stopped.

1. The folder is claimed for this arm, spec, corpus and tokenizer.
2. The whole sequence of batches is fixed beforehand (`data_order`) and read in order: all arms see the same. With a
   shift, the same examples have new objects from its step on. Batches are padded on the right; padding has no label.
   The loss is over the answers' tokens, or over all (`loss`).
3. At each checkpoint step the Trainer saves its state, then the checkpoint is published (see `folder`).
4. A second call finds the newest state and continues from it. There is no dropout, so weights, optimizer,
   schedule and position in the data are all that matters, and the weights end bit-identical to those of a
   run that was never stopped.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gated_lpi._common.quiet import no_progress_bars
from gated_lpi.errors import OptionError, WriteError
from gated_lpi.training import folder
from gated_lpi.training.arms import arm_config, new_model
from gated_lpi.training.corpus import Corpus, data_order, encode_corpus
from gated_lpi.training.learnt_positions import LearntPositionsTrainer
from gated_lpi.training.schedule import checkpoint_steps, learning_rate_factor
from gated_lpi.training.spec import ArmSpec, TrainingSpec
from gated_lpi.training.stabilise import Stabiliser, Watch, refuse_unwatched, stabiliser_of

Batches = list[list[dict[str, list[int]]]]
StepsDone = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""
# How safetensors and torch's writer of archives say that a file could not be written; they raise no OSError.
_UNWRITTEN = ("I/O error", "PytorchStreamWriter", "inline_container", "basic_ios")


def train_arm(
    arm: ArmSpec,
    spec: TrainingSpec,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    *,
    progress: StepsDone | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    watch: Watch | None = None,
) -> list[Path]:
    """Train one arm on the CPU, or continue one that was stopped; a finished one returns at once.

    On one machine, with one seed and number of threads, the weights are bit-identical from run to run.

    Args:
        arm: what is trained.
        spec: how.
        corpus: the texts.
        tokenizer: made for them.
        out: the arm's folder.
        progress: called with the steps done and the steps in all.
        callbacks: called by the Trainer after the one that keeps checkpoints, with the model as keyword `model`: at
            `on_train_begin` the initial weights are published, at `on_save` the checkpoint of this step. They are for
            looking on, and see only the steps that this call trains. What they change of the training is not in
            arm.json: a resumed run is then not the run that was stopped.
        watch: what `spec.stabilise` with when = "threshold" measures importance with.

    Returns:
        The checkpoint folders `out/step-N`, first to last.

    Raises:
        OptionError: more checkpoints than steps, a tokenizer larger than the vocabulary, a shift for which the corpus
            has no second part or the context no room, or a threshold and no `watch`.
        RunExistsError: `out` holds something else.
        WriteError: `out` cannot be written to.
        FactsError: the corpus has no token to predict.
    """
    steps = checkpoint_steps(spec.steps, spec.checkpoints, spec.spacing)
    refuse_unwatched(spec, watch)
    arm_config(arm, spec, tokenizer)  # refuses what cannot be built, before anything is written
    folder.claim(out, arm_identity(arm, spec, corpus, tokenizer))
    folders = [out / f"step-{step}" for step in steps]
    if not all(path.is_dir() for path in folders):
        record = {"stage": "train", "arm": arm.name, "kind": arm.kind, "spec_sha256": spec.sha256}
        keeper = _CheckpointKeeper(out, steps, tokenizer, record | _digests(spec, corpus, tokenizer), progress)
        state = folder.newest_state(out, steps)
        model = new_model(arm, spec, tokenizer)
        stabiliser = stabiliser_of(spec, model, tokenizer, out, state, watch)
        before = [] if stabiliser is None else [stabiliser]  # what it keeps is published with the state
        trainer = build_trainer(
            model, spec, corpus, tokenizer, out, [*before, keeper, *callbacks], stabiliser=stabiliser
        )
        with no_progress_bars(), _writing_errors(out):
            trainer.train(resume_from_checkpoint=None if state is None else str(state))
    shutil.rmtree(out / folder.STATE, ignore_errors=True)
    return folders


def arm_identity(
    arm: ArmSpec, spec: TrainingSpec, corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """What arm.json says: what is trained, how and on what."""
    return {"arm": arm.model_dump(), "spec": spec.identity(), **_digests(spec, corpus, tokenizer)}


@contextmanager
def _writing_errors(out: Path) -> Iterator[None]:
    """Make what the Trainer, safetensors and torch raise when a file cannot be written one error that says so."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        unwritten = isinstance(error, OSError) or any(sign in str(error) for sign in _UNWRITTEN)
        if not unwritten:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WriteError(
            f"a checkpoint could not be written to {out}: {reason}. Free space, or mend the disk or its permissions, "
            "and run the same command again: training continues from the last one that is complete"
        ) from error


def planned_tokens(spec: TrainingSpec, corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> dict[int, int]:
    """Tokens seen at each step that is kept, by step, without training; every kind of arm sees as many.

    Raises:
        OptionError: more checkpoints than steps.
        FactsError: the corpus has no token to predict.
    """
    steps = checkpoint_steps(spec.steps, spec.checkpoints, spec.spacing)
    lengths = [sum(len(example["input_ids"]) for example in batch) for batch in batches_of(spec, corpus, tokenizer)]
    seen = np.cumsum(lengths)
    return {step: int(seen[step - 1]) if step else 0 for step in steps}


def batches_of(
    spec: TrainingSpec, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, steps: int | None = None
) -> Batches:
    """The examples of every batch, in their order: [steps][batch_size].

    Args:
        spec: how an arm is trained.
        corpus: the texts.
        tokenizer: made for them.
        steps: so many of them, as if the arm were trained on beyond its own steps; None: `spec.steps`.

    Raises:
        OptionError: a shift for which the corpus has no second part or the context no room.
        FactsError: the corpus has no token to predict.
    """
    examples = encode_corpus(corpus, tokenizer, spec.context, spec.loss)
    often = examples.rates(corpus)
    order = data_order(len(examples.inputs), steps or spec.steps, spec.batch_size, spec.seed, often)
    after, shifted = _after(spec, corpus), examples
    if after is not None:
        shifted = encode_corpus(after, tokenizer, spec.context, spec.loss)
        if not np.array_equal(shifted.texts, examples.texts):
            raise OptionError(
                f"context = {spec.context} cuts sentences whose objects change in the shift into other numbers of "
                "pieces than before, so that the order of the data could not go on; give a context that holds them all"
            )
    parts = (examples, shifted)
    return [[parts[step >= spec.steps_before_shift].inputs[i] for i in batch] for step, batch in enumerate(order)]


def _after(spec: TrainingSpec, corpus: Corpus) -> Corpus | None:
    """What an arm is trained on after its shift; None if it has none."""
    if spec.steps_before_shift == spec.steps:
        return None
    if corpus.after is None:
        raise OptionError("shift was given, but the corpus has no second part; give the shift to `build_corpus`, too")
    return corpus.after


def _digests(spec: TrainingSpec, corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    content = tokenizer.backend_tokenizer.to_str()
    after = _after(spec, corpus)
    return {
        "corpus_sha256": corpus.sha256,
        **({} if after is None else {"shifted_corpus_sha256": after.sha256}),
        "tokenizer_sha256": hashlib.sha256(content.encode()).hexdigest(),
    }


def build_trainer(
    model: PreTrainedModel,
    spec: TrainingSpec,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    callbacks: Sequence[TrainerCallback],
    *,
    stabiliser: Stabiliser | None = None,
    batches: Batches | None = None,
    factor: Callable[[int], float] | None = None,
) -> Trainer:
    """The Trainer of one arm, which keeps its state below `out`.

    Args:
        model: what is trained, in place.
        spec: how.
        corpus: the texts.
        tokenizer: made for them.
        out: the arm's folder.
        callbacks: of the Trainer.
        stabiliser: stops routers from learning; None: nothing does.
        batches: [steps][batch_size], the examples of each batch; None: all that the arm is trained on.
        factor: the share of the peak learning rate after so many steps; None: as `spec` says.

    Raises:
        OptionError: a shift for which the corpus has no second part or the context no room.
        FactsError: the corpus has no token to predict.
    """
    batches = batches_of(spec, corpus, tokenizer) if batches is None else batches
    planned = partial(learning_rate_factor, steps=spec.steps, warmup=spec.warmup_steps, decay=spec.decay)
    arguments = TrainingArguments(
        output_dir=str(out / folder.STATE),
        max_steps=len(batches),
        per_device_train_batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        adam_beta2=spec.adam_beta2,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        seed=spec.seed,
        train_sampling_strategy="sequential",
        include_num_input_tokens_seen="non_padding",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = LearntPositionsTrainer(
        model=model,
        args=arguments,
        train_dataset=[example for batch in batches for example in batch],
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=list(callbacks),
    )
    optimizer = trainer.create_optimizer()

    shared = planned if factor is None else factor
    trainer.lr_scheduler = LambdaLR(optimizer, shared if stabiliser is None else stabiliser.factors(optimizer, shared))
    trainer.remove_callback(PrinterCallback)
    return trainer


class _CheckpointKeeper(TrainerCallback):  # type: ignore[misc]  # transformers is read as untyped
    """Ask the Trainer to save at the checkpoint steps, publish what it has saved, and report progress."""

    def __init__(
        self,
        out: Path,
        steps: Sequence[int],
        tokenizer: PreTrainedTokenizerFast,
        record: dict[str, Any],
        progress: StepsDone | None,
    ) -> None:
        self.out, self.steps, self.tokenizer, self.record = out, frozenset(steps), tokenizer, record
        self.progress = progress

    def on_train_begin(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any
    ) -> None:
        """Publish the initial weights."""
        if state.global_step == 0:
            self._publish(state, kwargs["model"])

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Ask for a save at the checkpoint steps."""
        control.should_save = state.global_step in self.steps
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps)

    def on_save(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any) -> None:
        """Publish what the Trainer has saved, then drop its older states."""
        model = kwargs["model"]
        folder.keep_state(self.out, state.global_step, lambda file: save_model(model, str(file), {"format": "pt"}))
        self._publish(state, model)
        folder.remove_older_states(self.out, state.global_step)

    def _publish(self, state: TrainerState, model: PreTrainedModel) -> None:
        step = state.global_step
        counts = {"step": step, "tokens": state.num_input_tokens_seen}

        def save(draft: Path) -> None:
            model.save_pretrained(draft)
            self.tokenizer.save_pretrained(draft)

        folder.publish(self.out / f"step-{step}", save, {**self.record, **counts})
