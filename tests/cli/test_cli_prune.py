"""`gated-lpi prune` as it is typed: a table, JSON, the checkpoint that is written, and what is refused."""

import json

import pytest
from test_cli import flat, run

from gated_lpi import load_facts, load_model, run_experiment
from gated_lpi.ablation import target_scores
from gated_lpi.prompting import encode_facts
from tiny_runs import tiny_experiment
from tiny_text import save_checkpoint, save_facts


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    for seed in (1, 2, 3):
        save_checkpoint(folder / f"step-{seed}", "Qwen3-MoE", seed)
    return folder


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return save_facts(tmp_path_factory.mktemp("facts") / "all")


@pytest.fixture(scope="module")
def history(series, facts, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run_experiment(tiny_experiment(facts, {"name": "moe", "series": str(series)}), out)
    return out


def test_json_says_what_was_kept_and_measured(monkeypatch, capsys, series, facts, tmp_path):
    smaller = tmp_path / "smaller"
    options = ["--facts", facts, "--by", "reap", "--share", 0.5, "--k", 3, "--repeats", 1, "--out", smaller, "--json"]
    code, out, err = run(monkeypatch, capsys, "prune", series / "step-3", *options)
    assert code == 0, err
    found = json.loads(out)
    assert found["pruned"]["kept"] == json.loads((smaller / "pruning.json").read_text())["kept"]
    assert [len(kept) for kept in found["pruned"]["kept"].values()] == [4]
    loaded = load_model(str(smaller))
    recalled = target_scores(loaded, encode_facts(loaded, load_facts(facts)).prompts).means(3)
    assert {name: found["after"][name] for name in recalled} == pytest.approx(recalled, abs=1e-6)
    assert found["after"]["parameters"] == loaded.n_parameters < found["before"]["parameters"]
    router = 32 * 4  # all that a token passes less of: the router's removed rows
    assert found["before"]["flops_per_token"] - found["after"]["flops_per_token"] == 2 * router
    assert min(found["before"]["seconds"], found["after"]["seconds"]) > 0


def test_stability_is_over_the_runs_earlier_checkpoints(monkeypatch, capsys, series, facts, history, tmp_path):
    options = ["--facts", facts, "--by", "lpi_stable", "--against", history, "--keep", 3, "--repeats", 1]
    code, out, err = run(monkeypatch, capsys, "prune", series / "step-3", *options, "--out", tmp_path / "smaller")
    assert code == 0, err
    assert "stability over steps 1, 2 and this checkpoint" in flat(err)
    assert "by lpi_stable: 3 of 8 experts kept in each of 1 layers; a token goes to 2" in flat(out)
    assert "HIT@10" in out
    code, _, err = run(monkeypatch, capsys, "prune", series / "step-1", *options, "--out", tmp_path / "none")
    assert code == 2
    assert "checkpoints before step 1 were asked for" in flat(err)


def test_what_cannot_be_is_refused_before_a_model_is_loaded(monkeypatch, capsys, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    for options, code, message in (
        (["--out", there], 1, "exists already and is not overwritten"),
        (["--out", tmp_path / "new", "--by", "size"], 2, "--by 'size' was given; expected one of lpi_stable"),
        (["--out", tmp_path / "new", "--by", "lpi_stable"], 2, "needs --against"),
    ):
        found, _, err = run(monkeypatch, capsys, "prune", tmp_path / "no-model", *options)
        assert (found, message in flat(err)) == (code, True), err
