"""Logits where something is learnt, and the loss and gradients that logits of all positions give."""

from pathlib import Path

import pytest
import torch
from transformers import Trainer

from gated_lpi.training import ARMS, ArmSpec, TrainingSpec
from gated_lpi.training import trainer as module
from gated_lpi.training.arms import new_model
from gated_lpi.training.corpus import Corpus
from gated_lpi.training.trainer import batches_of, build_trainer


@pytest.mark.parametrize("loss", ["answers", "all"])
@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.kind)
def test_loss_and_gradients_are_those_of_all_positions(
    arm: ArmSpec,
    loss: str,
    spec: TrainingSpec,
    corpus: Corpus,
    tokenizer: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec.model_copy(update={"loss": loss})
    learnt = sum(label >= 0 for row in batches_of(spec, corpus, tokenizer)[0] for label in row["labels"][1:])
    rows: list[int] = []
    gradients = []
    for kind in (module.LearntPositionsTrainer, Trainer):
        monkeypatch.setattr(module, "LearntPositionsTrainer", kind)
        model = new_model(arm, spec, tokenizer).double()
        model.set_experts_implementation("eager")  # grouped products have no float64
        hook = model.lm_head.register_forward_hook(lambda _m, _a, out: rows.append(out.shape[:-1].numel()))
        trainer = build_trainer(model, spec, corpus, tokenizer, tmp_path, [])
        trainer.args.max_grad_norm = 0
        batch = next(iter(trainer.get_train_dataloader()))
        value = trainer.training_step(model, batch, torch.tensor(learnt))
        hook.remove()
        assert not model.lm_head._forward_pre_hooks
        gradients.append({"loss": value, **{name: p.grad for name, p in model.named_parameters()}})
    assert rows[0] == learnt < rows[1]
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-6, atol=1e-9, msg=name)
