import hashlib
import json
import shutil

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback

from gated_lpi.checkpoints import check_weights, list_local
from gated_lpi.errors import OptionError, RunExistsError, WriteError
from gated_lpi.experiments import Experiment
from gated_lpi.facts import encode
from gated_lpi.training import ARMS, ArmSpec
from gated_lpi.training import folder as arm_folder
from gated_lpi.training.corpus import Corpus, data_order, encode_corpus
from gated_lpi.training.trainer import train_arm

MOE, ACTIVE, _ = ARMS
STEPS = (0, 1, 2, 3, 6)


class StoppedError(Exception):
    """What the tests stop a run with."""


def digests(folders):
    return [hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest() for path in folders]


@pytest.fixture(scope="module")
def finished(spec, corpus, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("arms") / "moe"
    return out, train_arm(MOE, spec, corpus, tokenizer, out)


def test_folders_are_ordinary_checkpoints(finished, spec, corpus, tokenizer):
    out, folders = finished
    assert folders == [out / f"step-{step}" for step in STEPS]
    assert sorted(path.name for path in out.iterdir()) == ["arm.json", *(f"step-{step}" for step in STEPS)]
    checkpoints = list_local(out)
    assert [c.path for c in checkpoints] == folders
    order = data_order(len(corpus.texts), spec.steps, spec.batch_size, spec.seed)
    examples = encode_corpus(corpus, tokenizer, spec.context, spec.loss).inputs
    lengths = [len(example["input_ids"]) for example in examples]
    for checkpoint in checkpoints:
        assert checkpoint.stage == "train"
        assert checkpoint.tokens == sum(lengths[i] for i in order[: checkpoint.step].reshape(-1))
        check_weights(checkpoint.path)
    record = json.loads((folders[-1] / "checkpoint.json").read_text())
    assert record["arm"] == "moe"
    assert (record["spec_sha256"], record["corpus_sha256"]) == (spec.sha256, corpus.sha256)
    assert AutoTokenizer.from_pretrained(folders[-1])("Peru")["input_ids"] == tokenizer("Peru")["input_ids"]
    assert AutoModelForCausalLM.from_pretrained(folders[-1]).config.num_experts == 4


def test_two_runs_end_bit_identical_and_checkpoints_differ(finished, spec, corpus, tokenizer, tmp_path):
    again = train_arm(MOE, spec, corpus, tokenizer, tmp_path / "again")
    assert digests(again) == digests(finished[1])
    assert len(set(digests(again))) == len(STEPS)


def test_finished_arm_returns_at_once(finished, spec, corpus, tokenizer, monkeypatch):
    out, folders = finished
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("trained a finished arm"))
    assert train_arm(MOE, spec, corpus, tokenizer, out) == folders


def test_every_arm_sees_the_same_batches(spec, corpus, tokenizer, tmp_path, monkeypatch):
    seen = {}
    step = Trainer.training_step

    def spy(self, model, inputs, *rest):
        learnt = inputs["labels"] != -100
        assert (inputs["labels"] == inputs["input_ids"])[learnt].all()
        assert learnt.any(1).all()
        assert inputs["attention_mask"][learnt].all()
        batches.append(inputs["input_ids"].tolist())
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(Trainer, "training_step", spy)
    for arm in ARMS:
        batches = seen.setdefault(arm.kind, [])
        train_arm(arm, spec, corpus, tokenizer, tmp_path / arm.name)
    assert len(seen["moe"]) == spec.steps
    assert seen["moe"] == seen["dense_active"] == seen["dense_total"]


@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_stopped_in_training_then_continued(finished, spec, corpus, tokenizer, tmp_path, capfd, stop_at):
    reported = []

    def stop(done, total):
        reported.append((done, total))
        if done == stop_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_arm(MOE, spec, corpus, tokenizer, tmp_path, progress=stop)
    assert reported == [(done, 6) for done in range(1, stop_at + 1)]
    kept = max(step for step in STEPS if step < stop_at)
    assert [c.step for c in list_local(tmp_path)] == [step for step in STEPS if step <= kept]
    resumed = []
    folders = train_arm(MOE, spec, corpus, tokenizer, tmp_path, progress=lambda done, _: resumed.append(done))
    assert resumed == list(range(kept + 1, 7))
    assert digests(folders) == digests(finished[1])
    assert capfd.readouterr().err == ""
    records = [(path / "checkpoint.json").read_text() for path in folders]
    assert records == [(path / "checkpoint.json").read_text() for path in finished[1]]


@pytest.mark.parametrize("where", ["keep_state", "publish", "remove_older_states", "claim"])
def test_stopped_between_files_then_continued(finished, spec, corpus, tokenizer, tmp_path, monkeypatch, where):
    original, calls = getattr(arm_folder, where), []

    def stop(*given):
        calls.append(given)
        if where == "claim" or len(calls) == 3:
            raise StoppedError
        original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(arm_folder, where, stop)
        with pytest.raises(StoppedError):
            train_arm(MOE, spec, corpus, tokenizer, tmp_path)
    folders = train_arm(MOE, spec, corpus, tokenizer, tmp_path)
    assert digests(folders) == digests(finished[1])


@pytest.mark.parametrize("kind", ["moe", "moe_shared"])
def test_tied_embeddings_and_shared_experts_continue_too(spec, corpus, tokenizer, tmp_path, capfd, kind):
    size = spec.size.model_copy(update={"tie_embeddings": kind == "moe", "experts_per_token": 3})
    tied, arm = spec.model_copy(update={"size": size}), ArmSpec(name="arm", kind=kind)
    whole = train_arm(arm, tied, corpus, tokenizer, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train_arm(arm, tied, corpus, tokenizer, tmp_path / "parts", progress=stop_at_five)
    parts = train_arm(arm, tied, corpus, tokenizer, tmp_path / "parts")
    assert digests(parts) == digests(whole)
    assert capfd.readouterr().err == ""


def test_half_written_files_are_not_trusted(finished, spec, corpus, tokenizer, tmp_path):
    with pytest.raises(StoppedError):
        train_arm(MOE, spec, corpus, tokenizer, tmp_path, progress=stop_at_five)
    states = tmp_path / ".trainer"
    assert [path.name for path in states.iterdir()] == ["checkpoint-3"]
    (states / "checkpoint-6").mkdir()
    (states / "checkpoint-6" / "trainer_state.json").write_text('{"glob')
    (tmp_path / ".step-6").mkdir()
    (tmp_path / ".step-6" / "model.safetensors").write_bytes(b"half")
    folders = train_arm(MOE, spec, corpus, tokenizer, tmp_path)
    assert digests(folders) == digests(finished[1])
    assert not list(tmp_path.glob(".*"))


def stop_at_five(done, _total):
    if done == 5:
        raise StoppedError


def test_lost_trainer_state_starts_again(finished, spec, corpus, tokenizer, tmp_path):
    with pytest.raises(StoppedError):
        train_arm(MOE, spec, corpus, tokenizer, tmp_path, progress=stop_at_five)
    (tmp_path / ".trainer").rename(tmp_path.with_name("moved"))
    assert digests(train_arm(MOE, spec, corpus, tokenizer, tmp_path)) == digests(finished[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spec": {"seed": 7}}, r"spec\.seed is 0 in the folder, 7 given"),
        ({"spec": {"learning_rate": 0.5}}, r"spec\.learning_rate is 0\.002 in the folder, 0\.5 given"),
        ({"corpus": Corpus(("Another text.",), (0,))}, r"corpus_sha256 is \w+ in the folder, \w+ given"),
        ({"arm": ACTIVE}, r"arm\.kind is moe in the folder, dense_active given"),
    ],
)
def test_another_run_in_the_folder_is_refused(finished, spec, corpus, tokenizer, change, words):
    out, folders = finished
    before = digests(folders)
    with pytest.raises(RunExistsError, match=words):
        train_arm(
            change.get("arm", MOE),
            spec.model_copy(update=change.get("spec", {})),
            change.get("corpus", corpus),
            tokenizer,
            out,
        )
    assert digests(folders) == before


def test_a_replicate_goes_on_as_itself_alone(spec, corpus, tokenizer, tmp_path):
    content = {"name": "x", "training": spec.model_dump(), "arms": [{"train": "moe", "replicates": 2}]}
    experiment = Experiment.model_validate(content)
    specs = [experiment.training_of(arm) for arm in experiment.arms]
    arms = [ArmSpec(name=arm.name, kind="moe") for arm in experiment.arms]
    with pytest.raises(StoppedError):
        train_arm(arms[0], specs[0], corpus, tokenizer, tmp_path, progress=stop_at_five)
    with pytest.raises(RunExistsError, match=r"spec\.seed is 0 in the folder, 1 given"):
        train_arm(arms[0], specs[1], corpus, tokenizer, tmp_path)
    with pytest.raises(RunExistsError, match=r"arm\.name is moe-1 in the folder, moe-2 given; spec\.seed is 0 "):
        train_arm(arms[1], specs[1], corpus, tokenizer, tmp_path)
    assert len(train_arm(arms[0], specs[0], corpus, tokenizer, tmp_path)) == len(STEPS)


class Onlooker(TrainerCallback):
    """Counts steps, and keeps the embedding and the folders that it sees at the beginning and at each save."""

    def __init__(self, out):
        self.out, self.steps, self.seen = out, [], {}

    def on_train_begin(self, _args, state, _control, **kwargs):
        self.look(state, kwargs["model"])

    def on_step_end(self, _args, state, _control, **_kwargs):
        self.steps.append(state.global_step)

    def on_save(self, _args, state, _control, **kwargs):
        self.look(state, kwargs["model"])

    def look(self, state, model):
        there = (self.out / f"step-{state.global_step}").is_dir()
        self.seen[state.global_step] = (there, model.get_input_embeddings().weight.detach().clone())


def test_a_callback_looks_on_at_every_step_and_sees_the_model_of_each_checkpoint(
    finished, spec, corpus, tokenizer, tmp_path
):
    onlooker = Onlooker(tmp_path)
    folders = train_arm(MOE, spec, corpus, tokenizer, tmp_path, callbacks=[onlooker])
    assert onlooker.steps == list(range(1, 7))
    assert tuple(onlooker.seen) == STEPS
    for step, (published, weights) in onlooker.seen.items():
        assert published
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / f"step-{step}").get_input_embeddings().weight
        assert torch.equal(weights, saved)
    assert digests(folders) == digests(finished[1])


def test_a_callback_of_a_resumed_run_sees_the_steps_that_are_left(spec, corpus, tokenizer, tmp_path):
    with pytest.raises(StoppedError):
        train_arm(MOE, spec, corpus, tokenizer, tmp_path, progress=stop_at_five)
    onlooker = Onlooker(tmp_path)
    train_arm(MOE, spec, corpus, tokenizer, tmp_path, callbacks=[onlooker])
    assert onlooker.steps == [4, 5, 6]


def test_other_files_in_the_folder_are_refused(spec, corpus, tokenizer, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunExistsError, match=r"holds no arm\.json"):
        train_arm(MOE, spec, corpus, tokenizer, tmp_path)
    (tmp_path / "arm.json").write_text("{")
    with pytest.raises(RunExistsError, match="cannot be read as JSON"):
        train_arm(MOE, spec, corpus, tokenizer, tmp_path)


def test_what_cannot_be_trained_leaves_no_folder(spec, corpus, tokenizer, tmp_path):
    with pytest.raises(OptionError, match="8 checkpoints asked of 6"):
        train_arm(MOE, spec.model_copy(update={"checkpoints": 8}), corpus, tokenizer, tmp_path / "new")
    small = spec.size.model_copy(update={"vocab_size": 300})
    with pytest.raises(OptionError, match="vocab_size 300"):
        train_arm(MOE, spec.model_copy(update={"size": small}), corpus, tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_printed(spec, corpus, tokenizer, tmp_path, capfd):
    train_arm(ACTIVE, spec, corpus, tokenizer, tmp_path)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.slow
def test_arms_learn_the_held_out_wordings(spec, facts, corpus, tokenizer, tmp_path):
    long = spec.model_copy(update={"steps": 100, "batch_size": 18, "learning_rate": 5e-3, "checkpoints": 2})
    for arm in ARMS:
        folders = train_arm(arm, long, corpus, tokenizer, tmp_path / arm.name)
        hits = []
        for path in folders:
            model = AutoModelForCausalLM.from_pretrained(path).eval()
            with torch.no_grad():
                best = [
                    int(model(torch.tensor([item.ids])).logits[0, -1].argmax()) == item.target_id
                    for item in encode(tokenizer, facts.prompts("held_out"))
                ]
            hits.append(sum(best))
        assert hits[1] >= hits[0] + 3


# --- damage


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "checkpoint.json"])
@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_damaged_checkpoint_is_found_and_trained_again(finished, spec, corpus, tokenizer, tmp_path, name, how):
    out = tmp_path / "moe"
    shutil.copytree(finished[0], out)
    assert list(arm_folder.damaged_checkpoints(out)) == []
    file = out / "step-2" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink() if how == "missing" else file.write_bytes(content)
    [(damaged, reason)] = arm_folder.damaged_checkpoints(out)
    assert damaged == file.parent
    assert name in reason or "digest" in reason or "JSON" in reason
    arm_folder.remove_checkpoint(damaged)
    untouched = (out / "step-1" / "model.safetensors").stat().st_mtime_ns
    assert digests(train_arm(MOE, spec, corpus, tokenizer, out)) == digests(finished[1])
    assert (out / "step-1" / "model.safetensors").stat().st_mtime_ns == untouched
    assert list(arm_folder.damaged_checkpoints(out)) == []


def test_a_checkpoint_of_before_there_were_digests_is_taken_as_it_is(finished, tmp_path):
    out = tmp_path / "moe"
    shutil.copytree(finished[0], out)
    record = out / "step-2" / "checkpoint.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({key: value for key, value in content.items() if key not in ("files", "sha256")}))
    assert list(arm_folder.damaged_checkpoints(out)) == []
    assert list(arm_folder.damaged_checkpoints(tmp_path / "none")) == []


def test_a_step_lost_before_the_newest_state_is_trained_again(finished, spec, corpus, tokenizer, tmp_path, monkeypatch):
    publish = arm_folder.publish

    def stop_after_three(folder, *rest):
        publish(folder, *rest)
        if folder.name == "step-3":
            raise StoppedError

    with monkeypatch.context() as patched:
        patched.setattr(arm_folder, "publish", stop_after_three)
        with pytest.raises(StoppedError):
            train_arm(MOE, spec, corpus, tokenizer, tmp_path)
    arm_folder.remove_checkpoint(tmp_path / "step-1")
    assert digests(train_arm(MOE, spec, corpus, tokenizer, tmp_path)) == digests(finished[1])


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/1"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_is_an_error_with_what_to_do(
    finished, spec, corpus, tokenizer, tmp_path, monkeypatch, error
):
    def fail(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(arm_folder, "keep_state", fail)
        with pytest.raises(WriteError, match=r"could not be written to .*Free space"):
            train_arm(MOE, spec, corpus, tokenizer, tmp_path)
    assert digests(train_arm(MOE, spec, corpus, tokenizer, tmp_path)) == digests(finished[1])
