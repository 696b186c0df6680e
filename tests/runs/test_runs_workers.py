"""Several processes at once: the same weights and scores as one by one, ends with its caller, arms trained once."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from gated_lpi.errors import OptionError, RunError
from gated_lpi.runs import run_experiment
from gated_lpi.runs.progress import Silent
from gated_lpi.runs.workers import Call, in_workers
from tiny_runs import TRAINING, Notes, tiny_experiment
from tiny_text import CAPITALS, save_facts


def double(value, progress):
    progress.note(f"{value} with {torch.get_num_threads()}")
    with progress.task("double") as advance:
        advance(1, 2)
    return 2 * value


def refuse(value, progress):
    del progress
    raise OptionError(f"{value} was given")


def leave(progress):
    del progress
    os._exit(3)


def test_calls_come_back_with_what_they_say_and_use_one_thread():
    notes, told = Notes(), []
    calls = [Call(double, (i,), f"call {i}") for i in range(3)]
    found = dict(in_workers(calls, 2, notes, lambda *about: told.append(about)))
    assert found == {0: 0, 1: 2, 2: 4}
    assert sorted(notes.said) == [f"call {i}: {i} with 1" for i in range(3)]
    assert sorted(told) == [(0, 1, 2), (1, 1, 2), (2, 1, 2)]


@pytest.mark.slow
def test_errors_of_calls_are_raised_here_and_a_death_is_one():
    with pytest.raises(OptionError, match="7 was given"):
        list(in_workers([Call(refuse, (7,), "a")], 1, Silent()))
    with pytest.raises(RunError, match=r"arm x: the process that worked on it ended \(exit code 3\).*run the same"):
        list(in_workers([Call(leave, (), "arm x")], 1, Silent()))


HELD = """
import sys, time
from gated_lpi.runs.progress import Silent
from gated_lpi.runs.workers import Call, in_workers
from test_runs_workers import wait
next(in_workers([Call(wait, (sys.argv[1],), "wait")], 1, Silent()))
"""


def wait(file, progress):
    del progress
    with open(file, "w") as stream:  # noqa: PTH123
        stream.write(str(os.getpid()))
    time.sleep(300)


@pytest.mark.slow
def test_a_worker_ends_with_the_process_that_asked_even_if_that_is_killed(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    held = subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path / "pid")], env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    worker = int((tmp_path / "pid").read_text())
    held.send_signal(signal.SIGKILL)
    held.wait()
    while time.monotonic() < deadline and alive(worker):
        time.sleep(0.1)
    assert not alive(worker)


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def weights(run):
    folders = {arm: run.training_folder(arm) for arm in run.arms}
    return {
        (arm, path.parent.name): path.read_bytes()
        for arm, folder in folders.items()
        for path in sorted(folder.glob("step-*/model.safetensors"))
    }


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return save_facts(tmp_path_factory.mktemp("facts"), [CAPITALS])


@pytest.fixture(scope="module")
def serial(facts, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = run_experiment(experiment(facts), tmp_path_factory.mktemp("serial") / "run")
    torch.set_num_threads(threads)
    return run


def experiment(facts, **changes):
    return tiny_experiment(
        facts, {"train": "moe"}, {"train": "dense_active"}, seeds=[0, 1], training=TRAINING, **changes
    )


@pytest.mark.slow
def test_arms_trained_and_scored_in_workers_are_those_trained_and_scored_here(facts, serial, tmp_path):
    run = run_experiment(experiment(facts, engine={"workers": 2}), tmp_path / "run")
    assert weights(run) == weights(serial)
    assert run.experiment.differences(serial.experiment) == []
    for arm in run.arms:
        mine, theirs = run.scores(arm), serial.scores(arm)
        assert mine["step"].values.tolist() == theirs["step"].values.tolist()
        assert (mine["lpi_mean"].values == theirs["lpi_mean"].values).all()
        assert run.record(arm).ablation == serial.record(arm).ablation
    notes = Notes()
    run_experiment(experiment(facts, engine={"workers": 2}), tmp_path / "run", notes)
    assert notes.said == []


def test_an_arm_that_another_run_trained_alike_is_taken_from_it(facts, tmp_path):
    before = run_experiment(tiny_experiment(facts, {"train": "moe"}, training=TRAINING), tmp_path / "before")
    changed = {"name": "other", "train": "moe", "training": {"load_balancing": 0.5}}
    spec = tiny_experiment(facts, {"name": "a", "train": "moe"}, changed, training=TRAINING)
    notes = Notes()
    run = run_experiment(spec, tmp_path / "run", notes, siblings=[before.path])
    assert [note for note in notes.said if "trained before" in note] == [
        "a: trained before, as moe of before: not again"
    ]
    mine, theirs = run.training_folder("a"), before.training_folder("moe")
    for step in ("step-0", "step-6"):
        assert (mine / step / "model.safetensors").samefile(theirs / step / "model.safetensors")
        assert json.loads((mine / step / "checkpoint.json").read_text())["arm"] == "a"
    assert (run.scores("a")["lpi_mean"].values == before.scores("moe")["lpi_mean"].values).all()
    assert not (run.training_folder("other") / "step-6" / "model.safetensors").samefile(
        theirs / "step-6" / "model.safetensors"
    )


@pytest.mark.slow
def test_an_arm_whose_files_are_not_what_was_written_is_trained_again(facts, serial, tmp_path):
    spec = tiny_experiment(facts, {"name": "a", "train": "moe"}, training=TRAINING)
    run = run_experiment(spec, tmp_path / "first")
    file = run.training_folder("a") / "step-6" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    notes = Notes()
    again = run_experiment(spec, tmp_path / "second", notes, siblings=[run.path])
    assert notes.said == []
    assert weights(again)["a", "step-6"] == weights(serial)["moe-1", "step-6"]
