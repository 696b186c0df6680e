"""`gated-lpi train` from the shell: arms alone, in the folder that a run goes on from."""

import json

import pytest
from test_cli import run

from gated_lpi.results import open_run
from tiny_runs import TRAINING, as_toml, tiny_experiment
from tiny_text import CAPITALS, save_facts


@pytest.fixture
def file(tmp_path):
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    arms = ({"name": "moe", "train": "moe"}, {"name": "dense", "train": "dense_active"})
    experiment = tiny_experiment(facts, *arms, training=TRAINING, attribution={"methods": ["lpi"], "units": ["ffn"]})
    (tmp_path / "experiment.toml").write_text(as_toml(experiment))
    return tmp_path / "experiment.toml"


@pytest.mark.usefixtures("undrawn")
def test_arms_are_trained_alone_and_a_run_goes_on_from_them(monkeypatch, capsys, file, tmp_path):
    out = tmp_path / "run"
    code, said, err = run(monkeypatch, capsys, "train", file, "--out", out, "--arm", "moe")
    assert code == 0, err
    assert said.splitlines() == [f"trained: moe: 3 checkpoints in {out / 'training' / 'moe'}"]
    assert "train moe" in err
    assert not (out / "training" / "dense").exists()
    assert not list((out / "results").iterdir())
    weights = (out / "training" / "moe" / "step-6" / "model.safetensors").stat().st_mtime_ns
    code, said, _ = run(monkeypatch, capsys, "train", file, "--out", out)
    assert (code, len(said.splitlines())) == (0, 2)
    code, _, err = run(monkeypatch, capsys, "run", file, "--out", out)
    assert code == 0, err
    assert (out / "training" / "moe" / "step-6" / "model.safetensors").stat().st_mtime_ns == weights
    assert {arm: open_run(out).scores(arm).sizes["checkpoint"] for arm in open_run(out).arms} == {"moe": 3, "dense": 3}


def test_a_damaged_checkpoint_is_trained_again(monkeypatch, capsys, file, tmp_path):
    out = tmp_path / "run"
    run(monkeypatch, capsys, "train", file, "--out", out, "--arm", "moe")
    record = out / "training" / "moe" / "step-6" / "checkpoint.json"
    sound = record.read_text()
    record.write_text(sound.replace('"step": 6', '"step": 7'))
    code, _, err = run(monkeypatch, capsys, "train", file, "--out", out, "--arm", "moe")
    assert code == 0
    assert "damaged, and made again: moe: " in err
    assert json.loads(record.read_text())["step"] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--arm", "moo"], 2, "arm 'moo' was to be trained; the arms with `train` in it are moe, dense"),
        (["--preset", "demo"], 2, "not both"),
    ],
)
def test_what_cannot_be_trained_is_refused(monkeypatch, capsys, file, tmp_path, arguments, code, said):
    found, _, err = run(monkeypatch, capsys, "train", file, "--out", tmp_path / "run", *arguments)
    assert (found, said in " ".join(err.split())) == (code, True), err
    assert not (tmp_path / "run").exists()


def test_without_a_folder_or_arms_to_train_or_in_a_strange_folder(monkeypatch, capsys, file, tmp_path):
    assert run(monkeypatch, capsys, "train", file)[0] == 2
    (tmp_path / "other.toml").write_text('name = "x"\n[[arms]]\nname = "a"\ncheckpoints = "folder"\n')
    code, _, err = run(monkeypatch, capsys, "train", tmp_path / "other.toml", "--out", tmp_path / "run")
    assert code == 2
    assert "experiment 'x' was to be trained; the arms with `train` in it are none" in " ".join(err.split())
    code, _, err = run(monkeypatch, capsys, "train", file, "--out", tmp_path)
    assert (code, "is not a run" in " ".join(err.split())) == (1, True)
