"""Checkpoints that are folders of one branch: listed, inspected, fetched and evicted one by one."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from gated_lpi.checkpoints import check_weights, evict, fetch, inspect_series, list_series
from gated_lpi.errors import CheckpointError, WeightsError
from hub_server import HubServer
from tiny_models import tiny_module


@pytest.fixture
def server(models):
    main = {
        "README.md": b"# tiny",
        **{f"iter_0000100/{name}": content for name, content in models["one"].items()},
        **{f"iter_0000020/{name}": content for name, content in models["two"].items()},
        **{f"iter_0000300/{name}": content for name, content in models["one"].items()},
        "logs/run.txt": b"",
        "old/iter_0000007/model.safetensors": b"",
        "iter_0000400/.metadata": b"a pickle",
        "iter_0000400/__0_0.distcp": b"weights",
    }
    with HubServer({"a/b": {"main": main}}) as running:
        yield running


def test_folders_of_main_are_a_series(server, hub_of):
    series = list_series("a/b", hub=hub_of(server))
    assert [(c.key, c.step, c.revision, c.folder) for c in series.checkpoints] == [
        (f"iter_{n:07}", n, "main", f"iter_{n:07}") for n in (20, 100, 300, 400)
    ]
    assert {c.commit for c in series.checkpoints} == {server.commit("a/b", "main")}
    reasons = {item.name: item.reason for item in series.excluded}
    assert set(reasons) == {"main", "logs", "old/iter_0000007"}
    assert "a folder within a folder" in reasons["old/iter_0000007"]
    assert any("folders of the branch main" in note for note in series.notes)
    count = len(server.requests)
    assert list_series("a/b", hub=hub_of(server), offline=True) == series
    assert len(server.requests) == count


def test_each_folder_is_inspected_by_itself(server, hub_of):
    hub = hub_of(server)
    series = list_series("a/b", hub=hub)
    report = inspect_series(series, hub=hub)
    assert report.duplicates == (("iter_0000100", "iter_0000300"),)
    assert "torch distributed checkpoint" in report.unusable["iter_0000400"]
    assert "gated-lpi import" in report.unusable["iter_0000400"]
    assert len(server.asked("GET /api/models/a/b/revision")) == 1, "one listing serves all folders"


def test_a_folder_is_fetched_and_evicted_without_the_others(server, hub_of):
    hub = hub_of(server)
    second, first = list_series("a/b", hub=hub).checkpoints[:2]
    fetched = {c.step: fetch(c, hub=hub) for c in (first, second)}
    for seed, step in ((1, 100), (2, 20)):
        assert fetched[step].path.name == f"iter_{step:07}"
        loaded = AutoModelForCausalLM.from_pretrained(fetched[step].path).state_dict()
        expected = tiny_module("Qwen3-MoE", seed=seed).state_dict()
        assert all(torch.equal(value, loaded[key]) for key, value in expected.items())
    assert not list(fetched[20].path.parent.glob("README.md"))
    assert evict(fetched[100], hub=hub) > 0
    assert not (fetched[100].path / "model.safetensors").exists()
    check_weights(fetched[20].path)
    assert fetch(second, hub=hub, offline=True).path == fetched[20].path
    with pytest.raises(CheckpointError, match=r"model.safetensors|config.json"):
        fetch(first, hub=hub, offline=True)


def test_wrong_bytes_in_a_folder_are_removed(server, hub_of):
    hub = hub_of(server)
    first = list_series("a/b", hub=hub).checkpoints[1]
    server.fault("wrong", "GET .*iter_0000100/model.safetensors", bytes=b"x" * 10)
    with pytest.raises((WeightsError, CheckpointError)):
        fetch(first, hub=hub)
    check_weights(fetch(first, hub=hub).path)


def test_a_training_checkpoint_is_not_fetched(server, hub_of):
    hub = hub_of(server)
    with pytest.raises(WeightsError, match=r"torch distributed checkpoint.*gated-lpi import"):
        fetch(list_series("a/b", hub=hub).checkpoints[-1], hub=hub)


def test_what_counts_another_thing_than_the_rest_is_left_out(hub_of, tmp_path):
    branches = {"main": {}, "chck_1M": {}, "chck_10M": {}, "step-5": {}}
    with HubServer({"a/b": branches}) as server:
        series = list_series("a/b", hub=hub_of(server))
    assert [(c.key, c.step, c.step_unit, c.tokens) for c in series.checkpoints] == [
        ("chck_1M", 10**6, "words", None),
        ("chck_10M", 10**7, "words", None),
    ]
    assert next(item for item in series.excluded if item.name == "step-5").reason.startswith("counts steps, and most")
    assert any("training words, which are neither optimizer steps nor tokens" in note for note in series.notes)
    for name in branches:
        (tmp_path / name).mkdir()
    assert [c.step_unit for c in list_series(tmp_path).checkpoints] == ["words", "words"]


def test_code_names_are_read_by_the_suite_s_order(hub_of):
    names = ("starling", "kestrel", "main", "deeper-starling", "experiment")
    with HubServer({"marin-community/marin-8b-base": {name: {} for name in names}}) as server:
        series = list_series("marin", hub=hub_of(server))
    assert [(c.key, c.step, c.step_unit) for c in series.checkpoints] == [
        ("kestrel", 0, "index"),
        ("starling", 4, "index"),
        ("deeper-starling", 5, "index"),
    ]
    assert {item.name for item in series.excluded} == {"main", "experiment"}


def test_seeds_in_one_repository_are_parallel(hub_of):
    names = ("step0-seed-default", "step50-seed-default", "step0-seed-large-aux-2", "step50-seed-large-aux-2")
    with HubServer({"a/b": {name: {} for name in names}}) as server:
        series = list_series("a/b", hub=hub_of(server))
    assert series.stages == ("seed-default", "seed-large-aux-2")
    assert [c.step for c in series.checkpoints] == [0, 50, 0, 50]
    assert any("seed-default, seed-large-aux-2 are replicates" in note for note in series.notes)
