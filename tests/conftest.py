"""Shared by all tests: no network, two threads at most, no waiting for the disk, no deadlines."""

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No power is cut here: tests of what is synced, and when, count the calls or lose files themselves."""
    with patch.object(os, "fsync", lambda _: None):
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures as files, for tests of what else is in them: drawing takes most of the time."""
    monkeypatch.setattr("gated_lpi.report.build.FORMATS", ())
    monkeypatch.setattr("gated_lpi.report.build.matplotlib_figure", lambda _chart: None)
