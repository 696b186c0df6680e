"""Runs over a hub's series: downloads ahead, a disk budget, eviction, pinned commits, what fails on the way."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
import xarray as xr
from huggingface_hub import constants

from gated_lpi.checkpoints import fetch, list_series
from gated_lpi.errors import OptionError, RunError
from gated_lpi.experiments import Experiment
from gated_lpi.results import open_run
from gated_lpi.runs import LocalEngine, run_experiment
from gated_lpi.runs import local_engine as module
from gated_lpi.runs.access import hub_of
from gated_lpi.runs.downloads import Ledger, listed_bytes
from gated_lpi.runs.job import Job
from hub_server import HubServer, files_in
from tiny_runs import BY_LPI, Notes, tiny_experiment
from tiny_text import CAPITALS, FACTS, save_checkpoint, save_facts

REPO = "org/tiny"
STEPS = (0, 10, 20, 30)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contents")
    for seed, step in enumerate(STEPS):
        save_checkpoint(folder / f"step{step}-tokens{step}B", "Qwen3", seed)
    return folder


@pytest.fixture
def server(contents, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    branches = {folder.name: files_in(folder) for folder in sorted(contents.iterdir())}
    with HubServer({REPO: {"main": {}, **branches}}) as running:
        yield running


def experiment(server, tmp_path, arm=None, **storage):
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    where = {"endpoint": server.url, "cache_dir": str(tmp_path / "cache"), **storage}
    return tiny_experiment(facts, {"name": "a", "series": REPO, **(arm or {})}, attribution=BY_LPI, storage=where)


def weights_in(cache):
    """The snapshots that hold weights; os.walk passes over folders that vanish while it looks, as a download's do."""
    found = (Path(folder) for folder, _, names in os.walk(cache) if "model.safetensors" in names)
    return sorted(folder.name for folder in found if folder.parent.name == "snapshots")


def test_a_hub_series_gives_what_the_folder_gives(server, contents, tmp_path):
    run = run_experiment(experiment(server, tmp_path), tmp_path / "run")
    local = experiment(server, tmp_path, {"series": str(contents)})
    xr.testing.assert_equal(run.scores("a").load(), run_experiment(local, tmp_path / "local").scores("a").load())
    commits = [server.commit(REPO, f"step{step}-tokens{step}B") for step in STEPS]
    assert [record["commit"] for record in run.scores("a").attrs["checkpoints"]] == commits
    assert run.record("a").ablation.checkpoint == "step30-tokens30B"
    assert weights_in(tmp_path / "cache") == []
    assert len(server.asked(r"GET .*safetensors$")) == len(STEPS)  # the last one was ablated without a second download


def test_the_next_checkpoint_is_downloaded_while_one_computes(server, tmp_path, monkeypatch):
    score, ahead = module.score_checkpoint, []

    def slow(job):
        deadline = time.monotonic() + 20
        while job.checkpoint.step < 30 and time.monotonic() < deadline:
            if len(weights_in(tmp_path / "cache")) == 2:
                break
            time.sleep(0.01)
        ahead.append(len(weights_in(tmp_path / "cache")))
        return score(job)

    monkeypatch.setattr(module, "score_checkpoint", slow)
    run_experiment(experiment(server, tmp_path), tmp_path / "run")
    assert ahead == [2, 2, 2, 1]


class Watched:
    """The most weight files that a cache held at a time."""

    def __init__(self, cache):
        self.cache, self.most, self._stop = cache, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.is_set():
            self.most = max(self.most, len(weights_in(self.cache)))
            time.sleep(0.002)


@pytest.mark.parametrize(("checkpoints", "most"), [(1.5, 1), (2.5, 2), (3.5, 3)])
def test_downloads_stay_within_the_budget(server, tmp_path, checkpoints, most):
    spec = experiment(server, tmp_path)
    size = listed_bytes(list_series(REPO, hub=hub_of(spec.storage)).checkpoints[0], hub_of(spec.storage))
    spec = spec.with_settings(storage={"disk_budget": int(size * checkpoints)}, engine={"prefetch": 3})
    with Watched(tmp_path / "cache") as watched:
        run = run_experiment(spec, tmp_path / "run")
    assert run.scores("a").sizes["checkpoint"] == len(STEPS)
    assert watched.most <= most
    assert weights_in(tmp_path / "cache") == []


def test_a_budget_below_one_checkpoint_is_refused_before_any_download(server, tmp_path):
    with pytest.raises(OptionError, match=r"disk_budget is 1,000 bytes, but checkpoint step\S+ alone takes [\d,]+\."):
        run_experiment(experiment(server, tmp_path, disk_budget=1000), tmp_path / "run")
    assert not server.asked(r"GET .*safetensors$")


def test_what_was_there_before_stays(server, tmp_path):
    spec = experiment(server, tmp_path)
    hub = hub_of(spec.storage)
    fetch(list_series(REPO, hub=hub).checkpoints[1], hub=hub)
    run_experiment(spec, tmp_path / "run")
    assert weights_in(tmp_path / "cache") == [server.commit(REPO, "step10-tokens10B")]


def test_downloads_are_kept_when_that_is_wanted(server, tmp_path):
    run_experiment(experiment(server, tmp_path, keep_downloads=True), tmp_path / "run")
    assert len(weights_in(tmp_path / "cache")) == len(STEPS)


def test_what_a_killed_run_downloaded_is_deleted_by_the_next(server, tmp_path):
    spec = experiment(server, tmp_path)
    hub = hub_of(spec.storage)
    checkpoint = list_series(REPO, hub=hub).checkpoints[0]
    assert Ledger(tmp_path / "downloads.json").announce(checkpoint, hub)
    fetch(checkpoint, hub=hub)  # and here it was killed
    jobs = [Job("a", checkpoint, spec, FACTS, spec.storage)]
    for ledger, left in ((Ledger(tmp_path / "another.json"), 1), (Ledger(tmp_path / "downloads.json"), 0)):
        (outcome,) = LocalEngine(ledger=ledger).outcomes(jobs)
        assert outcome.scores is not None
        assert len(weights_in(tmp_path / "cache")) == left
    assert json.loads((tmp_path / "downloads.json").read_text())["snapshots"] == []


def test_a_checkpoint_that_cannot_be_fetched_is_quarantined(server, tmp_path):
    files = dict(server.repos[REPO]["step10-tokens10B"])
    del files["model.safetensors"]
    server.move(REPO, "step10-tokens10B", {**files, "pytorch_model.bin": b"pickled"})
    server.fault("wrong", f"GET .*{server.commit(REPO, 'step20-tokens20B')}.*safetensors", times=9)
    run = run_experiment(experiment(server, tmp_path), tmp_path / "run")
    assert run.scores("a")["step"].values.tolist() == [0, 30]
    pickled, wrong = run.quarantined("a")
    assert "pickled weights only" in pickled["quarantined"]
    assert "SHA-256" in wrong["quarantined"]
    assert wrong["commit"] == server.commit(REPO, "step20-tokens20B")


@pytest.fixture
def hurried(monkeypatch):
    """Waiting for the hub takes no time."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))


def fail_weights(server, *steps):
    for step in steps:
        commit = server.commit(REPO, f"step{step}-tokens{step}B")
        server.fault("status", rf"\w+ .*{commit}.*safetensors", times=9999, code=503)


@pytest.mark.usefixtures("hurried")
def test_one_checkpoint_that_the_hub_does_not_give_is_quarantined(server, tmp_path):
    fail_weights(server, 10, 30)
    run = run_experiment(experiment(server, tmp_path), tmp_path / "run")
    assert run.scores("a")["step"].values.tolist() == [0, 20]
    assert [(record["step"], record["error"]) for record in run.quarantined("a")] == [
        (10, "FetchError"),
        (30, "FetchError"),
    ]


@pytest.mark.usefixtures("hurried")
def test_an_outage_ends_the_run_and_puts_nothing_in_quarantine(server, tmp_path):
    fail_weights(server, 10, 20, 30)
    both = r"step10\S* of a and step20\S* of a could not be fetched.*503 Service Unavailable.*run again"
    with pytest.raises(RunError, match=both):
        run_experiment(experiment(server, tmp_path), tmp_path / "run")
    assert open_run(tmp_path / "run").scores("a")["step"].values.tolist() == [0]
    assert open_run(tmp_path / "run").quarantined("a") == []
    server.faults.clear()
    run = run_experiment(experiment(server, tmp_path), tmp_path / "run")
    assert run.scores("a")["step"].values.tolist() == list(STEPS)


def test_a_run_keeps_to_the_commits_that_it_began_with(server, contents, tmp_path):
    spec = experiment(server, tmp_path, {"count": 2})
    first = run_experiment(spec, tmp_path / "run")
    server.move(REPO, "step0-tokens0B", files_in(contents / "step20-tokens20B"))
    server.repos[REPO]["step40-tokens40B"] = files_in(contents / "step10-tokens10B")
    asked = len(server.requests)
    again = run_experiment(spec, tmp_path / "run")
    assert len(server.requests) == asked
    xr.testing.assert_identical(again.scores("a").load(), first.scores("a").load())


def test_choices_and_duplicates_are_told_before_any_download(server, contents, tmp_path):
    server.repos[REPO]["step20-tokens20B"] = files_in(contents / "step10-tokens10B")
    notes = Notes()
    arms = [
        {"name": "a", "series": REPO, "tokens": ["11B", "20B"]},
        {"name": "b", "series": str(contents), "tokens_aligned_with": "a"},
    ]
    spec = Experiment.model_validate(experiment(server, tmp_path).model_dump() | {"arms": arms})
    run = run_experiment(spec, tmp_path / "run", notes)
    assert (
        "a: asked for 11,000,000,000 tokens, nearest is 10,000,000,000 (step10-tokens10B, -1,000,000,000)" in notes.said
    )
    assert any("identical weights: step10-tokens10B, step20-tokens20B" in line for line in notes.said)
    assert run.scores("b")["step"].values.tolist() == [10, 20]
