"""Training that goes on from given weights: the arm's own order of data, its rate, and nothing by chance."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from gated_lpi.errors import OptionError
from gated_lpi.training import ARMS
from gated_lpi.training import continuing as module
from gated_lpi.training.continuing import continue_training, rate_after
from gated_lpi.training.corpus import data_order, encode_corpus
from gated_lpi.training.trainer import batches_of, train_arm


@pytest.fixture(scope="module")
def checkpoint(spec, corpus, tokenizer, tmp_path_factory):
    return train_arm(ARMS[0], spec, corpus, tokenizer, tmp_path_factory.mktemp("arm") / "moe")[3]


def loss(model, corpus, tokenizer, spec):
    examples = encode_corpus(corpus, tokenizer, spec.context, spec.loss)
    with torch.no_grad():
        found = [
            model(input_ids=torch.tensor([e["input_ids"]]), labels=torch.tensor([e["labels"]])).loss
            for e in examples.inputs
        ]
    return float(torch.stack(found).mean())


def test_training_goes_on_from_the_weights_alone_and_is_the_same_each_time(checkpoint, spec, corpus, tokenizer):
    told, weights = [], []
    before = loss(AutoModelForCausalLM.from_pretrained(checkpoint), corpus, tokenizer, spec)
    for _ in range(2):
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        continue_training(
            model, spec, corpus, tokenizer, done=3, steps=30, progress=lambda done, total: told.append((done, total))
        )
        assert not model.training
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert loss(model, corpus, tokenizer, spec) < before - 0.5
    assert told[:30] == [(step, 30) for step in range(1, 31)]


def test_the_batches_are_those_that_come_next(checkpoint, spec, corpus, tokenizer, monkeypatch):
    longer = batches_of(spec, corpus, tokenizer, 23)
    assert len(longer) == 23
    assert longer[: spec.steps] == batches_of(spec, corpus, tokenizer)
    seen = []
    build = module.build_trainer

    def watched(*args, **options):
        trainer = build(*args, **options)
        seen.append([example["input_ids"] for example in trainer.train_dataset])
        return trainer

    monkeypatch.setattr(module, "build_trainer", watched)
    continue_training(AutoModelForCausalLM.from_pretrained(checkpoint), spec, corpus, tokenizer, done=3, steps=2)
    examples = encode_corpus(corpus, tokenizer, spec.context, spec.loss)
    order = data_order(len(examples.inputs), 5, spec.batch_size, spec.seed)[3:]
    assert seen == [[examples.inputs[i]["input_ids"] for i in order.reshape(-1)]]


def test_the_rate_rises_to_that_of_the_schedule_or_a_tenth_and_falls(spec):
    rates = [rate_after(spec, 3, taken, 50, "decayed") for taken in range(51)]
    assert rates[10] == pytest.approx(0.6 * 40 / 50)  # the arm's schedule has 3 of 5 steps left after the warm-up
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == 0
    assert rate_after(spec, 3, 40, 50, "constant") == pytest.approx(0.6)
    assert rate_after(spec, spec.steps, 40, 50, "constant") == pytest.approx(0.1)


@pytest.mark.parametrize(("done", "steps"), [(-1, 5), (3, 0)])
def test_steps_that_mean_nothing_are_refused(checkpoint, spec, corpus, tokenizer, done, steps):
    with pytest.raises(OptionError, match=f"done={done} and steps={steps} were given"):
        continue_training(
            AutoModelForCausalLM.from_pretrained(checkpoint), spec, corpus, tokenizer, done=done, steps=steps
        )
