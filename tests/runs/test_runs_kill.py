"""A run that is killed at any moment, again and again, ends with the same numbers as one that was left alone.

The run is a child made with `fork`, so that twenty kills cost twenty runs and no start of Python. The child is killed
with SIGKILL, which it cannot notice, at random moments spread over what a whole run takes.
"""

import functools
import json
import random
import signal
import time

import pytest
import xarray as xr
from huggingface_hub import constants

from alike import same_run
from children import Child
from gated_lpi.experiments import Experiment
from gated_lpi.results import open_run
from gated_lpi.runs import run_experiment
from hub_server import HubServer, files_in
from tiny_runs import QUICK
from tiny_text import CAPITALS, save_checkpoint, save_facts

KILLS = 24
STEPS = (0, 10, 20, 30, 40)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    for seed, step in enumerate(STEPS):
        save_checkpoint(folder / "series" / f"step-{step}", "OLMoE", seed)
    (folder / "series" / "step-20" / "model.safetensors").unlink()
    return Experiment.model_validate(
        {
            "name": "kill",
            "facts": {"source": str(save_facts(folder / "facts", [CAPITALS])), "templates": "first"},
            **QUICK,
            "arms": [{"name": "a", "series": str(folder / "series")}],
        }
    )


def in_a_child(experiment, out, wait):
    """Run in a forked child, killed when `wait` returns (None: never); whether it came to its end."""
    child = Child(lambda: run_experiment(experiment, out), out.with_suffix(".log"))
    if wait is not None:
        wait()
    code = child.wait(600) if wait is None else child.kill()
    assert code in (0, -signal.SIGKILL), f"the run failed instead of being killed: {child.said()}"
    return code == 0


def plain_rows(store):
    """The steps that plain xarray sees, and those of the provenance."""
    if not store.path.exists():
        return [], []
    seen = xr.open_zarr(store.path, chunks=None)
    return seen["step"].values.tolist(), [record["step"] for record in seen.attrs["checkpoints"]]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_with_the_same_numbers(experiment, tmp_path):
    started = time.monotonic()
    assert in_a_child(experiment, tmp_path / "whole", None)
    whole_seconds = time.monotonic() - started
    whole = open_run(tmp_path / "whole")
    moments = random.Random(0)
    kills, finished, rounds = 0, False, 0
    while kills < KILLS or not finished:
        out = tmp_path / f"killed-{rounds}"
        moment = functools.partial(time.sleep, moments.uniform(0.0, whole_seconds / 2))
        finished = in_a_child(experiment, out, moment if kills < KILLS else None)
        kills += not finished
        if (out / "run.json").exists():
            rows, logged = plain_rows(open_run(out).store("a"))
            assert rows == logged  # xarray sees complete rows only, whatever the kill interrupted
        if finished:
            again = open_run(out)
            same_run(again, whole)
            assert [r["key"] for r in again.quarantined("a")] == ["step-20"]
            assert json.loads((out / "run.json").read_text()) == json.loads((whole.path / "run.json").read_text())
            rounds += 1
    assert kills >= 20
    assert whole.scores("a")["step"].values.tolist() == [0, 10, 30, 40]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.slow
def test_killed_in_the_middle_of_downloads_a_run_goes_on_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16_384)  # of ten megabytes these files have none
    names = [f"step{step}-tokens{step}B" for step in STEPS[:3]]
    for seed, name in enumerate(names):
        save_checkpoint(tmp_path / "series" / name, "OLMoE", seed)
    series = {"main": {}, **{name: files_in(tmp_path / "series" / name) for name in names}}
    cache = tmp_path / "cache"
    with HubServer({"org/tiny": series}) as server:
        settings = {
            "name": "kill",
            "facts": {"source": str(save_facts(tmp_path / "facts", [CAPITALS])), "templates": "first"},
            "storage": {"endpoint": server.url, "cache_dir": str(cache)},
            **QUICK,
        }
        local = {"arms": [{"name": "a", "series": str(tmp_path / "series")}]}
        whole = run_experiment(Experiment.model_validate(settings | local), tmp_path / "whole")
        experiment = Experiment.model_validate(settings | {"arms": [{"name": "a", "series": "org/tiny"}]})
        server.fault("trickle", "GET .*safetensors$", times=99, seconds=1.0)
        for name in names:
            commit = server.commit("org/tiny", name)
            asked = functools.partial(server.asked, f"GET .*{commit}.*safetensors$")
            in_a_child(experiment, tmp_path / "run", functools.partial(wait_for_half_a_file, asked, cache))
            assert half_files(cache)
        server.faults.clear()
        assert in_a_child(experiment, tmp_path / "run", None)
    run = open_run(tmp_path / "run")
    xr.testing.assert_equal(run.scores("a").load(), whole.scores("a").load())
    assert run.record("a") == whole.record("a")
    assert run.quarantined("a") == []
    assert not list(cache.rglob("*.safetensors"))
    assert half_files(cache) == []


def wait_for_half_a_file(asked, cache):
    """Until the file is on its way and some of it, not all, is on disk."""
    deadline = time.monotonic() + 60
    while not (asked() and half_files(cache)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def half_files(cache):
    """Downloads that were begun and not ended."""
    return [path for path in cache.rglob("*.incomplete") if path.stat().st_size]
