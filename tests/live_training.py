"""Tiny trainings by `transformers.Trainer`, with anything that would tell whether somebody looked on."""

from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from tiny_models import Case, tiny_module
from tiny_text import FACTS, tiny_tokenizer


def tiny_trainer(
    out: Path, case: Case | str = "Qwen3-MoE", callbacks: tuple[Any, ...] = (), model: Any = None, **arguments: Any
) -> Trainer:
    """A Trainer of a tiny model on the sentences of `FACTS`, on the CPU, silent, with every token counted."""
    tokenizer = tiny_tokenizer()
    encoded = [tokenizer(prompt.joined)["input_ids"] for prompt in FACTS.prompts("all")]
    defaults = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 5e-3,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "include_num_input_tokens_seen": "all",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    trainer = Trainer(
        model=tiny_module(case) if model is None else model,
        args=TrainingArguments(str(out), **defaults | arguments),
        train_dataset=[{"input_ids": ids, "labels": ids} for ids in encoded],
        processing_class=tokenizer,
        data_collator=Lists(DataCollatorForSeq2Seq(tokenizer)),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Lists:
    """The collator, of copies: it pads the examples' labels in place."""

    def __init__(self, collate):
        self.collate = collate

    def __call__(self, examples):
        return self.collate([{key: list(value) for key, value in example.items()} for example in examples])


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """A model's weights, copied."""
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are the same to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Nosy(TrainerCallback):
    """Looks at a step's end as one should not: it draws a random number."""

    def on_step_end(self, *_, **__):
        torch.rand(1)
