"""Tokenizers that live elsewhere than beside the weights, and code that comes with a checkpoint: named by arm."""

import dataclasses

import pytest
from huggingface_hub import constants

from gated_lpi.checkpoints import Hub
from gated_lpi.errors import ModelError, OptionError, WeightsError
from gated_lpi.experiments import Experiment
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.runs.access import load_checkpoint, on_this_machine
from gated_lpi.runs.choose import choose_checkpoints
from hub_server import HubServer, files_in
from tiny_models import tiny_module
from tiny_text import save_checkpoint, tiny_tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint with its tokenizer, the same without, and the tokenizer's files alone."""
    folder = tmp_path_factory.mktemp("models")
    save_checkpoint(folder / "whole", "Qwen3-MoE", seed=1)
    tiny_module("Qwen3-MoE", seed=1).save_pretrained(folder / "bare")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture
def storage(files, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    bare, tokenizer = files_in(files / "bare"), files_in(files / "tokenizer")
    repos = {
        "a/b": {"main": tokenizer, "step1": bare},
        "a/none": {"main": {}, "step1": bare},
        "a/tokenizer": {"main": tokenizer},
    }
    with HubServer(repos) as server:
        yield StorageSpec(endpoint=server.url, cache_dir=str(tmp_path / "cache"))


def arm(**keys):
    return Experiment.model_validate({"name": "e", "arms": [{"name": "a", **keys}]})


def chosen(experiment, storage, said=None):
    hub = Hub(endpoint=storage.endpoint, cache_dir=storage.cache_dir)
    said = [] if said is None else said
    return choose_checkpoints(experiment, {}, hub, lambda _, line: said.append(line))["a"]


def test_a_branch_without_one_takes_that_of_main_and_says_so(storage):
    (checkpoint,) = chosen(arm(series="a/b"), storage)
    with on_this_machine(checkpoint, storage) as local:
        model = load_checkpoint(local, storage)
    assert model.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert "no tokenizer beside the weights; that of the branch main of a/b is used" in model.notes
    assert model.provenance["tokenizer_source"] == "a/b:main"


def test_one_that_an_arm_names(storage, files):
    for named in ("a/tokenizer", str(files / "tokenizer")):
        (checkpoint,) = chosen(arm(series="a/none", tokenizer=named), storage)
        with on_this_machine(checkpoint, storage) as local:
            model = load_checkpoint(local, storage)
        assert model.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
        assert f"the tokenizer is that of {named}, as asked for" in model.notes


def test_none_anywhere(storage, files, tmp_path):
    (checkpoint,) = chosen(arm(series="a/none"), storage)
    with on_this_machine(checkpoint, storage) as local:
        with pytest.raises(WeightsError, match="a/none holds no tokenizer at main"):
            load_checkpoint(local, storage)
        for named, words in ((str(tmp_path), "and holds none"), ("/not/there", "no folder '/not/there'")):
            with pytest.raises(ModelError, match=words):
                load_checkpoint(dataclasses.replace(local, tokenizer=named), storage)
    bare = dataclasses.replace(checkpoint, path=files / "bare", repo="")
    with pytest.raises(ModelError, match="an arm's `tokenizer`"):
        load_checkpoint(bare, storage)


def test_code_is_off_and_is_said_where_it_is_on(storage):
    said = []
    assert not any(c.remote_code for c in chosen(arm(series="a/b"), storage, said))
    assert not any("trust_remote_code" in line for line in said)
    assert all(c.remote_code for c in chosen(arm(series="a/b", trust_remote_code=True), storage, said))
    assert any("code that comes with its checkpoints is run" in line for line in said)
    for keys in ({"tokenizer": "x"}, {"trust_remote_code": True}):
        with pytest.raises((ValueError, OptionError), match="`train` beside tokenizer or trust_remote_code"):
            arm(train="moe", **keys)
