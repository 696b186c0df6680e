"""A shift of the data: the batches of an arm without one, with new objects from its step on, however often stopped."""

import hashlib
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, Trainer

from gated_lpi.checkpoints import list_local
from gated_lpi.errors import OptionError
from gated_lpi.facts import encode
from gated_lpi.facts.shifting import new_objects, parted
from gated_lpi.facts.teaching import taught_facts
from gated_lpi.training import ARMS, ShiftSpec, TrainingSpec
from gated_lpi.training.corpus import build_corpus
from gated_lpi.training.sharing import adopt
from gated_lpi.training.trainer import arm_identity, batches_of, planned_tokens, train_arm

MOE = ARMS[0]
SHIFT = ShiftSpec(at=0.5, share=0.7)


class StoppedError(Exception):
    """What the tests stop a run with."""


@pytest.fixture(scope="module")
def changes(facts):
    return new_objects(taught_facts(facts), SHIFT.share, SHIFT.seed)


@pytest.fixture(scope="module")
def two_parts(facts):
    return build_corpus(facts, shift=SHIFT)


@pytest.fixture(scope="module")
def shifting(spec):
    return spec.model_copy(update={"shift": SHIFT, "context": 64})


@pytest.fixture(scope="module")
def finished(shifting, two_parts, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("arms") / "moe"
    return out, train_arm(MOE, shifting, two_parts, tokenizer, out)


def digests(folders):
    return [hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest() for path in folders]


def test_the_second_part_is_the_first_with_new_objects(facts, corpus, two_parts, changes):
    assert two_parts.sha256 == corpus.sha256
    assert len(changes) == 4
    expected = []
    for prompt in facts.training_prompts():
        new = changes.get(("capital", prompt.subject, prompt.object), prompt.object)
        expected.append(f"{prompt.text} {new}.")
    assert list(two_parts.after.texts) == expected
    assert two_parts.after.answer_starts == corpus.answer_starts
    assert build_corpus(facts, shift=ShiftSpec(share=0)).after is None


def test_batches_are_those_of_an_arm_without_a_shift_but_for_new_objects(
    spec, shifting, two_parts, tokenizer, tmp_path, monkeypatch
):
    seen = {}
    step = Trainer.training_step

    def spy(self, model, inputs, *rest):
        texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in inputs["input_ids"]]
        batches.append(texts)
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(Trainer, "training_step", spy)
    for name, options in (("plain", spec.model_copy(update={"context": 64})), ("shifting", shifting)):
        batches = seen.setdefault(name, [])
        train_arm(MOE, options, two_parts, tokenizer, tmp_path / name)
    renamed = dict(zip(two_parts.texts, two_parts.after.texts, strict=True))
    assert seen["shifting"][:3] == seen["plain"][:3]
    assert seen["shifting"][3:] == [[renamed[text] for text in batch] for batch in seen["plain"][3:]]
    assert seen["shifting"][3:] != seen["plain"][3:]


def test_stopped_on_either_side_of_the_shift_then_continued(finished, shifting, two_parts, tokenizer, tmp_path):
    for stop_at in (2, 5):

        def stop(done, _total, stop_at=stop_at):
            if done == stop_at:
                raise StoppedError

        out = tmp_path / str(stop_at)
        with pytest.raises(StoppedError):
            train_arm(MOE, shifting, two_parts, tokenizer, out, progress=stop)
        assert len(list_local(out)) < 5
        assert digests(train_arm(MOE, shifting, two_parts, tokenizer, out)) == digests(finished[1])


def test_only_an_arm_that_shifts_says_so(finished, spec, corpus, two_parts, tokenizer, tmp_path):
    record = json.loads((finished[0] / "arm.json").read_text())
    assert record["spec"]["shift"] == {"at": 0.5, "share": 0.7, "seed": 0}
    assert record["shifted_corpus_sha256"] == two_parts.after.sha256
    folders = train_arm(MOE, spec, two_parts, tokenizer, tmp_path)
    plain = json.loads((tmp_path / "arm.json").read_text())
    assert plain["spec"].keys().isdisjoint({"shift", "spacing"})
    assert "shifted_corpus_sha256" not in plain
    assert train_arm(MOE, spec, corpus, tokenizer, tmp_path) == folders  # the same arm as without a second part


def test_planned_tokens_are_those_seen(finished, shifting, two_parts, tokenizer):
    found = planned_tokens(shifting, two_parts, tokenizer)
    assert found == {c.step: c.tokens for c in list_local(finished[0])}


@pytest.mark.slow
def test_old_objects_are_forgotten_and_new_ones_learnt(spec, facts, two_parts, tokenizer, changes, tmp_path):
    options = spec.model_dump() | {"steps": 200, "batch_size": 18, "learning_rate": 5e-3, "shift": SHIFT.model_dump()}
    options |= {"checkpoints": 3, "spacing": "linear", "context": 64}
    folders = train_arm(MOE, TrainingSpec.model_validate(options), two_parts, tokenizer, tmp_path)
    assert [path.name for path in folders] == ["step-0", "step-100", "step-200"]
    hits = []
    for path in folders[1:]:
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        found = {}
        with torch.no_grad():
            for item in encode(tokenizer, parted(facts, changes).prompts("held_out")):
                best = int(model(torch.tensor([item.ids])).logits[0, -1].argmax())
                found.setdefault(item.prompt.relation, []).append(best == item.target_id)
        hits.append({name: np.mean(each) for name, each in found.items()})
    before, after = hits
    assert before["capital (before)"] >= after["capital (before)"] + 0.5
    assert after["capital (after)"] >= before["capital (after)"] + 0.5
    assert after["capital (kept)"] >= 0.5


def test_shifts_that_cannot_be_are_refused(shifting, corpus, two_parts, tokenizer, tmp_path):
    with pytest.raises(OptionError, match=r"shift was given, but the corpus has no second part.*build_corpus"):
        train_arm(MOE, shifting, corpus, tokenizer, tmp_path / "new")
    short = shifting.model_copy(update={"context": 10, "loss": "all"})
    with pytest.raises(OptionError, match=r"context = 10 cuts sentences whose objects change"):
        train_arm(MOE, short, two_parts, tokenizer, tmp_path / "new")
    with pytest.raises(ValidationError, match="a shift needs a step before it and one after"):
        TrainingSpec(steps=1, checkpoints=2, shift=SHIFT)
    for wrong in ({"at": 0}, {"at": 1}, {"share": 1.1}, {"seed": -1}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            ShiftSpec(**wrong)


def test_the_step_of_a_shift_leaves_one_on_either_side():
    steps = {at: TrainingSpec(steps=10, checkpoints=2, shift={"at": at}).steps_before_shift for at in (0.01, 0.5, 0.99)}
    assert steps == {0.01: 1, 0.5: 5, 0.99: 9}
    assert TrainingSpec(shift={"share": 0}).steps_before_shift == TrainingSpec().steps_before_shift == 360


def test_batches_beyond_the_arms_own_steps_have_the_new_objects(shifting, two_parts, tokenizer):
    own, longer = (batches_of(shifting, two_parts, tokenizer, steps) for steps in (None, 9))
    assert longer[:6] == own
    texts = {tokenizer.decode(e["input_ids"], skip_special_tokens=True).strip() for b in longer[3:] for e in b}
    assert texts <= set(two_parts.after.texts)


def test_an_arm_with_evenly_spaced_checkpoints_is_taken_over_whole(spec, corpus, tokenizer, tmp_path):
    even = spec.model_copy(update={"spacing": "linear", "checkpoints": 4})
    folders = train_arm(MOE, even, corpus, tokenizer, tmp_path / "moe")
    assert [path.name for path in folders] == ["step-0", "step-2", "step-4", "step-6"]
    identity = arm_identity(MOE, even, corpus, tokenizer)
    assert adopt(tmp_path / "other", identity, [tmp_path / "moe"]) == tmp_path / "moe"
    assert digests([tmp_path / "other" / path.name for path in folders]) == digests(folders)
    logged = arm_identity(MOE, spec, corpus, tokenizer)
    assert adopt(tmp_path / "third", logged, [tmp_path / "moe"]) is None
