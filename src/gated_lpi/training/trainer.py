"""Train one arm with `transformers.Trainer`, keeping log-spaced checkpoints; continue where it was stopped.

1. The folder is claimed for this arm, spec, corpus and tokenizer.
2. The whole sequence of batches is fixed beforehand (`data_order`) and read in order: all arms see the same.
   Batches are padded on the right; padding has no label. The loss is over the answers' tokens, or over all (`loss`).
3. At each checkpoint step the Trainer saves its state, then the checkpoint is published (see `folder`).
4. A second call finds the newest state and continues from it. There is no dropout, so weights, optimizer,
   schedule and position in the data are all that matters, and the weights end bit-identical to those of a
   run that was never stopped.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from gated_lpi.errors import WriteError
from gated_lpi.training import folder
from gated_lpi.training.arms import arm_config, new_model
from gated_lpi.training.corpus import Corpus, data_order, encode_corpus
from gated_lpi.training.schedule import checkpoint_steps, learning_rate_factor
from gated_lpi.training.spec import ArmSpec, TrainingSpec

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

    Returns:
        The checkpoint folders `out/step-N`, first to last.

    Raises:
        OptionError: more checkpoints than steps, or a tokenizer larger than the vocabulary.
        RunExistsError: `out` holds something else.
        WriteError: `out` cannot be written to.
        FactsError: the corpus has no token to predict.
    """
    steps = checkpoint_steps(spec.steps, spec.checkpoints)
    arm_config(arm, spec, tokenizer)  # refuses what cannot be built, before anything is written
    folder.claim(out, arm_identity(arm, spec, corpus, tokenizer))
    folders = [out / f"step-{step}" for step in steps]
    if not all(path.is_dir() for path in folders):
        record = {"stage": "train", "arm": arm.name, "kind": arm.kind, "spec_sha256": spec.sha256}
        keeper = _CheckpointKeeper(out, steps, tokenizer, record | _digests(corpus, tokenizer), progress)
        trainer = _trainer(new_model(arm, spec, tokenizer), spec, corpus, tokenizer, out, [keeper, *callbacks])
        state = folder.newest_state(out, steps)
        with no_progress_bars(), _writing_errors(out):
            trainer.train(resume_from_checkpoint=None if state is None else str(state))
    shutil.rmtree(out / folder.STATE, ignore_errors=True)
    return folders


def arm_identity(
    arm: ArmSpec, spec: TrainingSpec, corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """What arm.json says: what is trained, how and on what."""
    return {"arm": arm.model_dump(), "spec": spec.model_dump(), **_digests(corpus, tokenizer)}


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
    steps = checkpoint_steps(spec.steps, spec.checkpoints)
    lengths = np.array([len(e["input_ids"]) for e in encode_corpus(corpus, tokenizer, spec.context, spec.loss)])
    order = data_order(len(lengths), spec.steps, spec.batch_size, spec.seed)
    seen = np.cumsum(lengths[order].sum(axis=1))
    return {step: int(seen[step - 1]) if step else 0 for step in steps}


def _digests(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    content = tokenizer.backend_tokenizer.to_str()
    return {
        "corpus_sha256": corpus.sha256,
        "tokenizer_sha256": hashlib.sha256(content.encode()).hexdigest(),
    }


def _trainer(
    model: PreTrainedModel,
    spec: TrainingSpec,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    examples = encode_corpus(corpus, tokenizer, spec.context, spec.loss)
    order = data_order(len(examples), spec.steps, spec.batch_size, spec.seed)
    arguments = TrainingArguments(
        output_dir=str(out / folder.STATE),
        max_steps=spec.steps,
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
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[examples[i] for i in order.reshape(-1)],
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=list(callbacks),
    )
    trainer.lr_scheduler = LambdaLR(
        trainer.create_optimizer(),
        lambda done: learning_rate_factor(done, spec.steps, spec.warmup_steps, spec.decay),
    )
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
