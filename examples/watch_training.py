"""Watch a training while it goes on: a small mixture of experts learns facts, and one sees where it keeps them.

    python examples/watch_training.py OUT [STEPS]

Then `gated-lpi report OUT/live`, `gated-lpi diagnose OUT/live` and `tensorboard --logdir OUT/training`, also meanwhile.
"""

import sys
from pathlib import Path

from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

import gated_lpi
from gated_lpi.training import ARMS, TrainingSpec
from gated_lpi.training.arms import new_model
from gated_lpi.training.corpus import build_corpus, encode_corpus
from gated_lpi.training.tokenizer import train_tokenizer


def main(out: Path, steps: int = 200) -> None:
    """Train for some steps and keep what is seen of it in `out`/live."""
    builtin = gated_lpi.load_facts("builtin")
    facts = gated_lpi.FactSet(builtin.relations[:4], builtin.source)  # few: each look scores them all
    corpus = build_corpus(facts)
    tokenizer = train_tokenizer(corpus, 2048)
    model = new_model(ARMS[0], TrainingSpec(), tokenizer)
    arguments = TrainingArguments(
        str(out / "training"),
        max_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        include_num_input_tokens_seen="all",
        save_strategy="no",
        logging_steps=max(steps // 10, 1),
        report_to=["tensorboard"],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=encode_corpus(corpus, tokenizer, 64, "answers"),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    watch = gated_lpi.GatedLPICallback(facts, every=max(steps // 5, 1), out=out / "live", templates="held_out")
    watch.attach(trainer)
    trainer.train()
    for seen in watch.observations:
        known, settled = seen.metrics["hit_at_10"], seen.metrics.get("j_stab", float("nan"))
        alarms = ", ".join(finding.name for finding in seen.alarms) or "none"
        print(f"step {seen.step}: HIT@10 {known:.0%}, J_stab {settled:.2f}, alarms: {alarms}, {seen.seconds:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
