"""The loopback hub may be asked: huggingface_hub is told so, and given no token of whoever runs the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from gated_lpi.checkpoints import Hub
from hub_server import HubServer, files_in
from tiny_models import tiny_module
from tiny_text import save_checkpoint, tiny_tokenizer


@pytest.fixture(autouse=True)
def _online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)


@pytest.fixture
def hub_of(tmp_path):
    """Make a `Hub` for a server, with a cache of its own and waits of milliseconds."""

    def make(server: HubServer, cache: Path | None = None, **options) -> Hub:
        options = {"base_delay": 0.01, "timeout": 5.0, **options}
        return Hub(endpoint=server.url, cache_dir=cache or tmp_path / "cache", token=False, **options)

    return make


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two steps of a tiny mixture of experts, as save_pretrained writes them: the second in shards."""
    folder = tmp_path_factory.mktemp("models")
    save_checkpoint(folder / "one", "Qwen3-MoE", seed=1)
    tiny_module("Qwen3-MoE", seed=2).save_pretrained(folder / "two", max_shard_size="60KB")
    tiny_tokenizer().save_pretrained(folder / "two")
    return {name: files_in(folder / name) for name in ("one", "two")}
