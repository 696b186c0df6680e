"""Watching a Trainer: the training that is watched is the one that is not, and what is seen of it can be read."""

import json
import logging
import sys

import pytest
import torch
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

import gated_lpi
from gated_lpi import GatedLPICallback
from gated_lpi.cli import main
from gated_lpi.errors import ModelError, OptionError, RunExistsError, WriteError
from gated_lpi.facts import FactSet
from gated_lpi.live import ARM, METRICS, monitor
from gated_lpi.training import ARMS, TrainingSpec
from gated_lpi.training.corpus import build_corpus
from gated_lpi.training.tokenizer import train_tokenizer
from gated_lpi.training.trainer import train_arm
from ill_arms import SIZE
from live_training import Nosy, same, tiny_trainer, weights
from tiny_models import tiny_module
from tiny_text import CAPITALS, FACTS
from wandb_files import wandb_scalars

DROPOUT = {"GPT-2": {"resid_pdrop": 0.3, "attn_pdrop": 0.3}, "Qwen3-MoE": {"attention_dropout": 0.3}}


class StoppedError(Exception):
    """What the tests stop a training with."""


class Stop(TrainerCallback):
    """Ends a training with an error after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, _args, state, _control, **_kwargs):
        if state.global_step == self.step:
            raise StoppedError


def watched(out, callback, **arguments):
    trainer = tiny_trainer(out, **arguments)
    callback.attach(trainer)
    trainer.train()
    return trainer


@pytest.mark.parametrize("case", ["GPT-2", "Qwen3-MoE"])
def test_the_training_that_is_watched_ends_with_the_same_weights(tmp_path, case):
    """With dropout, gradients that are accumulated and checkpointed; and the test would notice one number drawn."""

    def train(*callbacks):
        model = tiny_module(case, **DROPOUT[case])
        model.activation_checkpointing_enable()
        trainer = tiny_trainer(tmp_path, model=model, callbacks=callbacks, gradient_accumulation_steps=2)
        trainer.train()
        return weights(trainer), torch.rand(3).tolist(), trainer

    alone, drawn, _ = train()
    callback = GatedLPICallback(FACTS, every=2, methods=("lpi", "grad_x_act"))
    seen, drawn_after, trainer = train(callback)
    assert same(alone, seen)
    assert drawn == drawn_after
    assert [one.step for one in callback.observations] == [0, 2, 4]
    assert all(module.training for module in trainer.model.modules())
    assert not same(alone, train(Nosy())[0])


SHOWN = [name for name in METRICS if not name.startswith("mixer/")]  # the model has no mixers


def scalars(folder):
    events = EventAccumulator(str(next(folder.glob("runs/*"))))
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_what_is_measured_reaches_tensorboard_and_the_loss_still_does(tmp_path):
    callback = GatedLPICallback(FACTS, every=2, fraction=0.05)
    trainer = watched(tmp_path, callback, report_to=["tensorboard"], logging_strategy="steps", logging_steps=2)
    curves = scalars(tmp_path)
    assert set(curves["train/loss"]) == {2, 4}
    assert not any("mixer" in name for name in curves)
    for name in SHOWN:
        steps = {2, 4} if name in ("j_stab", "rho", "r_t", "attention/j_stab", "attention/r_t") else {0, 2, 4}
        assert set(curves[f"train/gated_lpi/{name}"]) == steps, name
    for name in ("seconds", "share_of_training_time", "alarms"):
        assert set(curves[f"train/gated_lpi/{name}"]) == {0, 2, 4}
    assert 0 < curves["train/gated_lpi/share_of_training_time"][4] < 1
    seen = {one.step: one.metrics for one in callback.observations}
    assert curves["train/gated_lpi/hit_at_10"][4] == pytest.approx(seen[4]["hit_at_10"])
    logged = [entry for entry in trainer.state.log_history if "gated_lpi/j_stab" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]


def test_what_is_measured_reaches_wandb_which_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    callback = GatedLPICallback(FACTS, every=2)
    watched(tmp_path, callback, report_to=["wandb"], logging_strategy="steps", logging_steps=2)
    wandb.teardown()  # unlike finish, waits until the file is written
    curves = wandb_scalars(tmp_path)
    assert set(curves["train/loss"]) == {2, 4}
    seen = {one.step: one.metrics for one in callback.observations}
    for name in SHOWN:
        steps = {step: metrics[name] for step, metrics in seen.items() if name in metrics}
        assert steps
        assert curves[f"train/gated_lpi/{name}"] == pytest.approx(steps, nan_ok=True), name


def test_without_attach_the_log_history_has_it_and_the_missing_loggers_are_named(tmp_path, caplog):
    callback = GatedLPICallback(FACTS, every=4)
    trainer = tiny_trainer(tmp_path, callbacks=(callback,), report_to=["tensorboard"])
    with caplog.at_level(logging.WARNING, "gated_lpi.live"):
        trainer.train()
    assert "not sent to tensorboard" in caplog.text
    assert "GatedLPICallback(...).attach(trainer)" in caplog.text
    assert [entry["step"] for entry in trainer.state.log_history if "gated_lpi/entropy" in entry] == [0, 4]
    assert not any(name.startswith("train/gated_lpi") for name in scalars(tmp_path))


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["gated-lpi", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out


class Reader(TrainerCallback):
    """Reads a live folder while its training goes on."""

    def __init__(self, folder):
        self.folder, self.keys = folder, []

    def on_step_end(self, _args, _state, _control, **_kwargs):
        run = gated_lpi.open_run(self.folder)
        self.keys.append(run.store(ARM).keys())
        assert run.scores(ARM)["lpi_mean"].shape[0] == len(self.keys[-1])


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_live_folder_is_a_run_for_all_that_reads_runs(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "live"
    callback, reader = GatedLPICallback(FACTS, every=2, out=folder, fraction=0.05), Reader(folder)
    trainer = tiny_trainer(tmp_path / "out")
    callback.attach(trainer)
    trainer.add_callback(reader)
    trainer.train()
    assert reader.keys == [["step-0"], ["step-0", "step-2"], ["step-0", "step-2"], ["step-0", "step-2", "step-4"]]
    run = gated_lpi.open_run(folder)
    assert run.arms == (ARM,)
    scores = run.scores(ARM)
    assert scores["step"].to_numpy().tolist() == [0, 2, 4]
    assert scores["tokens"].to_numpy().tolist() == [0, *(one.tokens for one in callback.observations[1:])]
    assert scores["tokens"].to_numpy()[-1] == trainer.state.num_input_tokens_seen
    summary = run.summary(ARM).sel(kind="ffn")
    last = callback.observations[-1].metrics
    assert summary["stability"].to_numpy()[-1] == pytest.approx(last["j_stab"])
    assert summary["gain_top_set"].to_numpy()[-1] == pytest.approx(last["r_t"])
    assert summary["importance_share"].to_numpy()[-1] == pytest.approx(last["top_share"])
    code, out = command(monkeypatch, capsys, "metrics", folder, "--json")
    assert (code, list(json.loads(out))) == (0, [ARM])
    assert command(monkeypatch, capsys, "diagnose", folder)[0] in (0, 3)
    assert command(monkeypatch, capsys, "verify", folder)[0] == 0
    assert command(monkeypatch, capsys, "report", folder)[0] == 0
    assert (folder / "report.html").stat().st_size > 10_000


def test_a_resumed_training_goes_on_and_scores_no_step_twice(tmp_path):
    saving = {"case": "GPT-2", "save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = GatedLPICallback(FACTS, every=2, out=tmp_path / "whole")
    end = weights(watched(tmp_path / "a", whole, **saving))
    first = GatedLPICallback(FACTS, every=2, out=tmp_path / "live")
    trainer = tiny_trainer(tmp_path / "b", **saving)
    first.attach(trainer)
    trainer.add_callback(Stop(5))
    with pytest.raises(StoppedError):
        trainer.train()
    second = GatedLPICallback(FACTS, every=2, out=tmp_path / "live")
    trainer = tiny_trainer(tmp_path / "b", **saving)
    second.attach(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    assert same(weights(trainer), end)
    assert [(one.step, one.scored) for one in second.observations] == [(2, False), (4, False), (6, True)]
    ours, theirs = (gated_lpi.open_run(tmp_path / name).scores(ARM) for name in ("live", "whole"))
    assert ours["lpi"].identical(theirs["lpi"])
    assert [one.metrics for one in second.observations] == [one.metrics for one in whole.observations[1:]]


@pytest.mark.slow
def test_the_folder_of_another_training_is_refused(tmp_path):
    live = tmp_path / "live"
    watched(tmp_path / "out", GatedLPICallback(FACTS, every=4, out=live))
    again = GatedLPICallback(FACTS, every=4, out=live)
    watched(tmp_path / "out", again)  # the same one, from its beginning
    assert [one.scored for one in again.observations] == [False, False]
    other, unlike = FactSet((CAPITALS,), "test"), tiny_module("Qwen3-MoE", seed=3)
    for callback, arguments, said in (
        (GatedLPICallback(FACTS, every=4, out=live), {"seed": 7}, "differs in arms"),
        (GatedLPICallback(FACTS, every=4, out=live, templates="all"), {}, r"differs in facts\.templates"),
        (GatedLPICallback(other, every=4, out=live), {}, "differs in the facts themselves"),
        (GatedLPICallback(FACTS, every=4, out=live), {"model": unlike}, "of other weights"),
        (GatedLPICallback(FACTS, every=4, out=tmp_path), {}, "exists and is not a run"),
    ):
        with pytest.raises(RunExistsError, match=said):
            watched(tmp_path / "out", callback, **arguments)
    watched(tmp_path / "out", GatedLPICallback(FACTS, every=4, out=tmp_path / "late", at_begin=False))
    with pytest.raises(RunExistsError, match="up to step 4 of a training, and this one begins at step 0"):
        watched(tmp_path / "out", GatedLPICallback(FACTS, every=4, out=tmp_path / "late"))


def test_an_alarm_is_logged_counted_and_passed_on_once(tmp_path, caplog):
    heard = []
    model = tiny_module("Qwen3-MoE")
    common = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    liking = torch.full((model.config.num_experts, 1), -1.0)
    liking[:2] = 1.0
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(3 * common)
        model.model.layers[1].mlp.gate.weight.copy_(liking * common)  # the other is dense
    callback = GatedLPICallback(
        FACTS,
        every=1,
        attribution={"routing": "all"},
        on_alarm=lambda finding, seen: heard.append((finding.name, seen.step)),
    )
    with caplog.at_level(logging.WARNING, "gated_lpi.live"):
        trainer = watched(tmp_path, callback, model=model, learning_rate=1e-6)
    assert heard == [("expert collapse", 1)]
    assert caplog.text.count("step 1: expert collapse: 100% of the") == 1
    assert [len(one.alarms) for one in callback.observations] == [0, 1, 1, 1, 1]
    counted = [entry["gated_lpi/alarms"] for entry in trainer.state.log_history if "gated_lpi/alarms" in entry]
    assert counted == [0, 1, 1, 1, 1]
    assert trainer.state.log_history[2]["gated_lpi/alarm/expert_collapse"] == 1


class Clock:
    """Time that passes only as it is told."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Passing(TrainerCallback):
    """A step takes ten seconds."""

    def __init__(self, clock):
        self.clock = clock

    def on_step_begin(self, *_, **__):
        self.clock.now += 10.0


def test_a_budget_chooses_the_steps_and_the_share_is_told(tmp_path, monkeypatch):
    clock = Clock()
    score = monitor.score_model

    def slow(*given):
        clock.now += 4.0
        return score(*given)

    monkeypatch.setattr(monitor, "time", clock)
    monkeypatch.setattr(monitor, "score_model", slow)
    callback = GatedLPICallback(FACTS, budget=0.2)
    trainer = tiny_trainer(tmp_path, callbacks=(Passing(clock),), max_steps=8)
    callback.attach(trainer)
    trainer.train()
    # After n observations of 4 s, another is a fifth or less of all once (n + 1) · 16 s were trained; then the end.
    assert [one.step for one in callback.observations] == [0, 4, 5, 7, 8]
    assert callback.observations[1].share_of_training_time == pytest.approx(8 / 48)
    assert callback.observations[1].seconds == pytest.approx(4.0)
    assert callback.monitor.seconds == pytest.approx(20.0)


class Break(TrainerCallback):
    """Makes a weight what no training recovers from, for one step."""

    def on_step_begin(self, _args, state, _control, **kwargs):
        if state.global_step == 1:
            kwargs["model"].lm_head.weight.data[0, 0] = float("nan")


def test_what_goes_wrong_in_training_is_said_and_training_goes_on(tmp_path, caplog):
    callback = GatedLPICallback(FACTS, every=1)
    trainer = tiny_trainer(tmp_path, callbacks=(Break(),), max_steps=3)
    callback.attach(trainer)
    with caplog.at_level(logging.WARNING, "gated_lpi.live"):
        trainer.train()
    assert trainer.state.global_step == 3
    assert [one.step for one in callback.observations] == [0, 1]
    assert "step 2 is not scored, training goes on: " in caplog.text
    strict = GatedLPICallback(FACTS, every=1, errors="raise")
    trainer = tiny_trainer(tmp_path, callbacks=(Break(),))
    strict.attach(trainer)
    with pytest.raises(ModelError):
        trainer.train()
    assert trainer.state.global_step == 2
    assert all(module.training for module in trainer.model.modules())


def test_a_full_disk_costs_the_observation_and_not_the_training(tmp_path, caplog, monkeypatch):
    def full(*_):
        raise WriteError("no space left on device")

    callback = GatedLPICallback(FACTS, every=2, out=tmp_path / "live")
    trainer = tiny_trainer(tmp_path / "out")
    callback.attach(trainer)

    class Fill(TrainerCallback):
        def on_step_begin(self, *_, **__):
            monkeypatch.setattr("gated_lpi.results.store.ResultStore._extend", full)

    trainer.add_callback(Fill())
    with caplog.at_level(logging.WARNING, "gated_lpi.live"):
        trainer.train()
    assert trainer.state.global_step == 4
    assert caplog.text.count("is not scored, training goes on: WriteError") == 3  # at 2, 4, and once more at the end
    assert gated_lpi.open_run(tmp_path / "live").store(ARM).keys() == ["step-0"]


def test_a_training_that_ends_early_has_its_last_weights_scored(tmp_path):
    class Early(TrainerCallback):
        def on_step_end(self, _args, state, control, **_kwargs):
            control.should_training_stop = state.global_step == 3

    callback = GatedLPICallback(FACTS, every=10)
    trainer = tiny_trainer(tmp_path)
    callback.attach(trainer)
    trainer.add_callback(Early())  # heard after the one that watches
    trainer.train()
    assert [one.step for one in callback.observations] == [0, 3]
    neither = GatedLPICallback(FACTS, every=3, at_begin=False, at_end=False)
    watched(tmp_path, neither)
    assert [one.step for one in neither.observations] == [3]


def test_weights_in_bfloat16_are_scored_in_a_copy_and_mixed_precision_in_place(tmp_path):
    callback = GatedLPICallback(FACTS, every=4, out=tmp_path / "live")
    model = tiny_module("Qwen3-MoE").to(torch.bfloat16)
    trainer = watched(tmp_path / "out", callback, model=model)
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.bfloat16}
    record = gated_lpi.open_run(tmp_path / "live").store(ARM).records()[-1]
    assert record["stored_dtype"] == "bfloat16"
    assert record["notes"] == ["scored in a float32 copy of weights that are trained in bfloat16"]
    mixed = GatedLPICallback(FACTS, every=4, out=tmp_path / "mixed")
    trainer = watched(tmp_path / "out", mixed, bf16=True)
    assert "_original_forward" in vars(trainer.model)  # accelerate's autocast is around it still
    assert trainer.model(torch.tensor([[1, 2]])).logits.dtype == torch.float32
    record = gated_lpi.open_run(tmp_path / "mixed").store(ARM).records()[-1]
    assert (record["stored_dtype"], record["notes"]) == ("float32", [])


def test_the_projects_own_training_can_be_watched(tmp_path):
    facts = FactSet((CAPITALS,), "test")
    corpus = build_corpus(facts)
    tokenizer = train_tokenizer(corpus, SIZE.vocab_size)
    spec = TrainingSpec(size=SIZE, steps=4, batch_size=4, warmup_steps=1, checkpoints=2, context=32)
    plain = train_arm(ARMS[0], spec, corpus, tokenizer, tmp_path / "plain")
    callback = GatedLPICallback(facts, every=4, tokenizer=tokenizer, templates="held_out")
    seen = train_arm(ARMS[0], spec, corpus, tokenizer, tmp_path / "seen", callbacks=[callback])
    assert [one.step for one in callback.observations] == [0, 4]
    assert (plain[-1] / "model.safetensors").read_bytes() == (seen[-1] / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "neither every= "),
        ({"every": 0}, "every=0 was given"),
        ({"every": True}, "every=True was given"),
        ({"budget": 1.5}, "budget=1.5 was given"),
        ({"every": 1, "errors": "ignore"}, "errors='ignore' was given"),
    ],
)
def test_options_that_mean_nothing_are_refused_at_once(options, said):
    with pytest.raises(OptionError, match=said):
        GatedLPICallback(FACTS, **options)
