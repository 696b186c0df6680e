"""Routers that stop learning: when, what stays as it is then, and that a stopped run ends as one that never was."""

import hashlib
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import TrainerCallback

from gated_lpi.errors import OptionError, RunError
from gated_lpi.experiments import Experiment
from gated_lpi.results import create_run
from gated_lpi.runs import watch_facts
from gated_lpi.runs.train import corpus_of, train_arms
from gated_lpi.training import ARMS, StabiliseSpec, TrainingOverrides, TrainingSpec
from gated_lpi.training import folder as arm_folder
from gated_lpi.training.stabilise import Importance
from gated_lpi.training.trainer import train_arm
from tiny_runs import TRAINING, Notes, tiny_experiment
from tiny_text import CAPITALS, save_facts

MOE, ACTIVE, _ = ARMS
STEPS = 9


class StoppedError(Exception):
    """What the tests stop a run with."""


@pytest.fixture(scope="module")
def plain(spec):
    """Nine steps, each kept, so that weights can be looked at after any of them."""
    return spec.model_copy(update={"steps": STEPS, "checkpoints": STEPS + 1, "decay": "constant", "warmup_steps": 0})


def stabilised(plain, **keys):
    return TrainingSpec.model_validate(plain.model_dump() | {"stabilise": keys})


def weights(folder):
    return load_file(folder / "model.safetensors")


def routers(folder):
    return {name: weight for name, weight in weights(folder).items() if ".mlp.gate." in name}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def digests(folders):
    return [hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest() for path in folders]


def record(out):
    return json.loads((out / "stabilise.json").read_text())


@pytest.fixture(scope="module")
def never(plain, corpus, tokenizer, tmp_path_factory):
    return train_arm(MOE, plain, corpus, tokenizer, tmp_path_factory.mktemp("never") / "moe")


@pytest.fixture(scope="module")
def frozen(plain, corpus, tokenizer, tmp_path_factory):
    spec, out = stabilised(plain, when="step", step=4), tmp_path_factory.mktemp("frozen") / "moe"
    return spec, out, train_arm(MOE, spec, corpus, tokenizer, out)


def test_never_is_as_if_it_were_left_out(plain):
    shared = stabilised(plain, when="step", step=4)
    without = TrainingOverrides.model_validate({"stabilise": {"when": "never"}})
    assert shared.with_overrides(without) == plain
    assert stabilised(plain, when="never").sha256 == plain.sha256


def test_frozen_routers_stay_to_the_bit_and_all_else_learns_on(frozen, never):
    _, out, folders = frozen
    assert digests(folders[:5]) == digests(never[:5])
    assert not same(routers(folders[3]), routers(folders[4]))
    for later in folders[5:]:
        assert len(routers(later)) == 2
        assert same(routers(later), routers(folders[4]))
    moved = [name for name, weight in weights(folders[4]).items() if not torch.equal(weight, weights(folders[5])[name])]
    assert len(moved) == len(weights(folders[4])) - 2
    assert not same(routers(never[4]), routers(never[5]))
    tokens = json.loads((folders[4] / "checkpoint.json").read_text())["tokens"]
    assert record(out)["fired"] == {"step": 4, "tokens": tokens, "value": None, "observed": []}
    assert (record(out)["action"], record(out)["when"], record(out)["routers"]) == ("freeze", "step", 2)


def test_a_decayed_learning_rate_takes_routers_to_a_standstill(plain, corpus, tokenizer, tmp_path, never):
    spec = stabilised(plain, when="step", step=3, action="decay", decay_steps=3)
    rates = Rates()
    folders = train_arm(MOE, spec, corpus, tokenizer, tmp_path / "moe", callbacks=[rates])
    assert digests(folders[:5]) == digests(never[:5])
    peak = plain.learning_rate
    assert rates.of_routers == pytest.approx([peak, peak, peak, peak * 2 / 3, peak / 3, 0, 0, 0, 0], abs=1e-12)
    assert rates.of_others == pytest.approx([peak] * 8 + [0])
    assert not same(routers(folders[5]), routers(folders[6]))
    assert same(routers(folders[6]), routers(folders[9]))
    assert not same(weights(folders[8]), weights(folders[9]))


class Rates(TrainerCallback):
    """Keeps the learning rates that are set after each step."""

    def __init__(self):
        self.of_routers, self.of_others = [], []

    def on_step_end(self, _args, _state, _control, **kwargs):
        own = {id(layer.mlp.gate.weight) for layer in kwargs["model"].model.layers}
        groups = kwargs["optimizer"].param_groups
        [routers] = [group["lr"] for group in groups if {id(weight) for weight in group["params"]} == own]
        [others] = {group["lr"] for group in groups if own.isdisjoint(id(weight) for weight in group["params"])}
        self.of_routers.append(routers)
        self.of_others.append(others)


def test_a_random_step_is_within_its_range_and_each_seeds_own(plain, corpus, tokenizer, tmp_path):
    fired = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        spec = stabilised(plain, when="random", between=(2, 7)).model_copy(update={"seed": seed, "checkpoints": 2})
        train_arm(MOE, spec, corpus, tokenizer, tmp_path / name)
        fired.append(record(tmp_path / name)["fired"]["step"])
    assert all(2 <= step <= 7 for step in fired)
    assert fired[0] == fired[1] != fired[2]


def settling(at):
    """A watch whose top unit is another one each time, until it has looked `at` times."""
    looks = []

    def watch(_model, _tokenizer):
        looks.append(len(looks))
        scores = np.zeros(200)
        scores[min(len(looks), at)] = 1.0
        return Importance(scores, np.repeat(np.arange(2), 100))

    return watch


def test_a_threshold_fires_once_importance_has_settled(plain, corpus, tokenizer, tmp_path):
    spec = stabilised(plain, when="threshold", every=2, threshold=0.9, fraction=0.005)
    folders = train_arm(MOE, spec, corpus, tokenizer, tmp_path / "moe", watch=settling(2))
    fired = record(tmp_path / "moe")["fired"]
    assert fired["observed"] == [{"step": 2, "value": None}, {"step": 4, "value": 0.0}, {"step": 6, "value": 1.0}]
    assert (fired["step"], fired["value"]) == (6, 1.0)
    assert not same(routers(folders[5]), routers(folders[6]))
    assert same(routers(folders[6]), routers(folders[9]))


def test_nothing_is_observed_before_it_is_time_and_it_may_never_fire(plain, corpus, tokenizer, tmp_path, never):
    spec = stabilised(plain, when="threshold", every=2, threshold=0.9, fraction=0.005, after=5)
    folders = train_arm(MOE, spec, corpus, tokenizer, tmp_path / "moe", watch=settling(100))
    fired = record(tmp_path / "moe")["fired"]
    assert [seen["step"] for seen in fired["observed"]] == [6, 8]
    assert fired["step"] is None
    assert digests(folders) == digests(never)


@pytest.mark.parametrize("measure", ["j_stab", "rho_avg"])
def test_watching_real_importance_changes_nothing_but_the_routers(
    plain, facts, corpus, tokenizer, tmp_path, never, measure
):
    keys = {"when": "threshold", "every": 3, "measure": measure, "fraction": 0.1}
    unreached = {**keys, "threshold": 1.0} if measure == "j_stab" else {**keys, "threshold": 1.0, "after": 9}
    watch = watch_facts(facts, count=3)
    folders = train_arm(MOE, stabilised(plain, **unreached), corpus, tokenizer, tmp_path / "moe", watch=watch)
    observed = record(tmp_path / "moe")["fired"]["observed"]
    assert digests(folders) == digests(never)
    assert observed[0]["value"] is None
    assert all(0 <= seen["value"] < 1 for seen in observed[1:])
    low = stabilised(plain, **keys, threshold=-1.0).model_copy(update={"checkpoints": 2})
    train_arm(MOE, low, corpus, tokenizer, tmp_path / "low", watch=watch)
    assert record(tmp_path / "low")["fired"]["step"] == 6


SPECS = {
    "freeze": {"when": "step", "step": 4},
    "decay": {"when": "step", "step": 3, "action": "decay", "decay_steps": 4},
    "threshold": {"when": "threshold", "every": 2, "threshold": 0.05, "fraction": 0.1, "after": 3},
}


@pytest.fixture(scope="module")
def whole(plain, facts, corpus, tokenizer, tmp_path_factory):
    """Arms that were never stopped, by name, and how they were trained."""
    found = {}
    for name, keys in SPECS.items():
        spec = stabilised(plain, **keys).model_copy(update={"checkpoints": 5})  # kept: 0, 1, 2, 4, 9
        out = tmp_path_factory.mktemp("whole") / name
        train_arm(MOE, spec, corpus, tokenizer, out, watch=watch_facts(facts, count=3))
        found[name] = spec, out
    return found


@pytest.mark.parametrize(
    ("name", "stop_at"),
    [("freeze", 8), ("decay", 5), ("decay", 8), ("threshold", 3), ("threshold", 5), ("threshold", 8)],
)
def test_stopped_before_or_after_the_decision_then_continued(whole, facts, corpus, tokenizer, tmp_path, name, stop_at):
    spec, there = whole[name]
    watch = watch_facts(facts, count=3)

    def stop(done, _):
        if done == stop_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_arm(MOE, spec, corpus, tokenizer, tmp_path, progress=stop, watch=watch)
    assert not (tmp_path / "stabilise.json").exists()
    parts = train_arm(MOE, spec, corpus, tokenizer, tmp_path, watch=watch)
    assert digests(parts) == digests([there / path.name for path in parts])
    assert record(tmp_path) == record(there)
    assert record(tmp_path)["fired"]["step"] is not None


@pytest.mark.parametrize("where", ["keep_state", "publish", "remove_older_states"])
def test_stopped_between_files_then_continued(frozen, corpus, tokenizer, tmp_path, monkeypatch, where):
    spec, out, folders = frozen
    original, calls = getattr(arm_folder, where), []

    def stop(*given):
        calls.append(given)
        if len(calls) == 6:
            raise StoppedError
        original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(arm_folder, where, stop)
        with pytest.raises(StoppedError):
            train_arm(MOE, spec, corpus, tokenizer, tmp_path / "moe")
    assert digests(train_arm(MOE, spec, corpus, tokenizer, tmp_path / "moe")) == digests(folders)
    assert record(tmp_path / "moe") == record(out)


def test_a_state_without_its_decision_is_refused(frozen, corpus, tokenizer, tmp_path):
    def stop(done, _):
        if done == 6:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_arm(MOE, frozen[0], corpus, tokenizer, tmp_path, progress=stop)
    [state] = (tmp_path / ".trainer").iterdir()
    (state / "stabilise.json").write_text("{")
    with pytest.raises(RunError, match="it is unknown whether the routers"):
        train_arm(MOE, frozen[0], corpus, tokenizer, tmp_path)


def test_an_arm_without_routers_is_trained_as_ever(plain, corpus, tokenizer, tmp_path):
    short = plain.model_copy(update={"steps": 3, "checkpoints": 2})
    spec = stabilised(short, when="step", step=1)
    ours = train_arm(ACTIVE, spec, corpus, tokenizer, tmp_path / "ours")
    theirs = train_arm(ACTIVE, short, corpus, tokenizer, tmp_path / "theirs")
    assert digests(ours) == digests(theirs)
    assert not (tmp_path / "ours" / "stabilise.json").exists()


def test_none_leaves_digests_and_records_as_they_were():
    spec = TrainingSpec()
    assert "stabilise" not in spec.identity()
    assert spec.sha256 == "f204b41a66470d6d05d767ba4ab562b1473f3a346fec005542a33609675c2f19"
    assert TrainingSpec.model_validate(stabilised(spec, when="step", step=9).model_dump()).stabilise.step == 9
    assert stabilised(spec, when="step", step=9).sha256 != spec.sha256


def test_a_threshold_needs_something_to_watch(plain, corpus, tokenizer, tmp_path):
    with pytest.raises(OptionError, match=r"given no `watch`; give gated_lpi\.runs\.watch_facts"):
        train_arm(MOE, stabilised(plain, when="threshold"), corpus, tokenizer, tmp_path / "moe")
    assert not (tmp_path / "moe").exists()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"when": "step"}, "when = 'step' needs `step`"),
        ({"when": "random"}, "when = 'random' needs `between`"),
        ({"when": "threshold", "step": 4}, "when = 'threshold' has no use for `step`"),
        ({"when": "random", "between": (5, 3)}, r"between is \[5, 3\]; expected \[first step, last step\]"),
        ({"when": "step", "step": 360}, "names step 360 of 360"),
        ({"when": "random", "between": (5, 400)}, "names step 400 of 360"),
        ({"when": "now"}, "Input should be 'threshold', 'step', 'random' or 'never'"),
    ],
)
def test_what_means_nothing_is_refused(keys, said):
    with pytest.raises(ValidationError, match=said):
        stabilised(TrainingSpec(), **keys)


def test_an_arm_of_a_run_may_stabilise_by_itself(tmp_path):
    own = {"stabilise": {"when": "threshold", "every": 2, "threshold": -1.0, "facts": 2, "fraction": 0.1}}
    arms = ({"name": "free", "train": "moe"}, {"name": "settled", "train": "moe", "training": own})
    experiment = tiny_experiment(
        save_facts(tmp_path / "facts", [CAPITALS]), *arms, training=TRAINING, attribution={"methods": ["lpi"]}
    )
    assert experiment.training_of(experiment.arms[0]).stabilise is None
    assert experiment.training_of(experiment.arms[1]).stabilise == StabiliseSpec(**own["stabilise"])
    assert Experiment.model_validate(experiment.model_dump(mode="json")) == experiment
    notes, facts = Notes(), experiment.facts.load()
    run = create_run(tmp_path / "run", experiment, facts.sha256)
    train_arms(run, facts, corpus_of(experiment, facts), notes)
    assert record(run.training_folder("settled"))["fired"]["step"] == 4
    assert not any("stabilise" in note for note in notes.said)
    last = f"step-{TRAINING['steps']}"
    assert not same(*(routers(run.training_folder(arm) / last) for arm in ("free", "settled")))
