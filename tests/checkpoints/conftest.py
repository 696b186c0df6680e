"""The loopback hub may be asked: huggingface_hub is told so, and given no token of whoever runs the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from gated_lpi.checkpoints import Hub
from hub_server import HubServer


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
