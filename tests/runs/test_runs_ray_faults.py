"""What befalls Ray's own processes, and the one that started them: a run goes on or ends, and leaves none behind."""

import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from gated_lpi.checkpoints import Hub, list_series
from gated_lpi.errors import FactsError, RunError
from gated_lpi.experiments.settings import EngineSpec, StorageSpec
from gated_lpi.runs import ray_guard
from gated_lpi.runs.job import JobOutcome
from gated_lpi.runs.local_engine import LocalEngine
from gated_lpi.runs.ray_engine import RESTARTS, RayEngine
from gated_lpi.runs.ray_host import RayDiedError
from hub_server import HubServer, files_in
from ray_runs import STEPS, assert_same, jobs_of, save_series
from torture import signals

DRIVER = """
import sys, time
from pathlib import Path
import ray_runs
from gated_lpi.runs.ray_engine import RayEngine
from gated_lpi.experiments.settings import EngineSpec
for outcome in RayEngine(EngineSpec(kind="ray")).outcomes(ray_runs.jobs_of(Path(sys.argv[1]), "moe")):
    print("scored", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_series(tmp_path_factory.mktemp("source"))


@pytest.fixture
def temporary(monkeypatch):
    """A folder with a short name for Ray, which is to be started on this machine."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield folder


def kill(processes, name):
    """Kill the process of a Ray that calls itself so."""
    found = [process for process in processes if name_of(process).startswith(name)]
    os.kill(found[0], signal.SIGKILL)


def wait_for_none(processes, seconds=10):
    """Wait until none of these is left."""
    deadline = time.monotonic() + seconds
    while left := [process for process in processes if ray_guard.is_alive(process)]:
        assert time.monotonic() < deadline, [Path(f"/proc/{process}/cmdline").read_text() for process in left]
        time.sleep(0.1)


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize(
    "name",
    ["ray::DashboardA", "ray::RuntimeEnv", "raylet", "gcs_server"],
)
@pytest.mark.slow
def test_a_ray_that_breaks_down_is_started_again(source, caplog, name):
    jobs = jobs_of(source, "moe")
    outcomes = RayEngine(EngineSpec(kind="ray", retries=0), ahead=0).outcomes(jobs)
    found = [next(outcomes)]
    processes = ray_guard.below(os.getpid())
    kill(processes, name)
    found += outcomes
    assert_same(found, list(LocalEngine().outcomes(jobs)))
    wait_for_none(processes)
    assert "started again, 1 of 3 times" in caplog.text


def test_a_ray_that_breaks_down_again_and_again_ends_the_run_with_what_to_do(source, monkeypatch):
    asked = []

    def breaking(_request, jobs):
        asked.append([(job.arm, job.checkpoint.key) for job in jobs])
        yield JobOutcome(jobs[0].arm, jobs[0].checkpoint.key, None, {})
        raise RayDiedError("Ray broke down")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("gated_lpi.runs.ray_engine.hosted", breaking)
    jobs = jobs_of(source, "moe") + [replace(job, arm="again") for job in jobs_of(source, "moe")]
    with pytest.raises(RunError, match="Ray broke down"):
        list(RayEngine(EngineSpec(kind="ray")).outcomes(jobs))
    keys = [(job.arm, job.checkpoint.key) for job in jobs]
    assert asked == [keys[n:] for n in range(RESTARTS + 1)]  # what has an outcome is not asked for again


@pytest.mark.parametrize(
    ("cause", "kind", "words"),
    [
        (FactsError("as it is without Ray"), FactsError, "as it is without Ray"),
        ("ObjectStoreFullError", RunError, "the store is full.*run the same command again"),
        ("OutOfDiskError", RunError, "the store is full.*run the same command again"),
        (None, RunError, "run the same command again"),
    ],
)
def test_an_error_in_a_task_is_one_of_this_package(cause, kind, words):
    known = importlib.import_module("ray.exceptions")
    cause = getattr(known, cause)("the store is full") if isinstance(cause, str) else cause
    error = known.RayTaskError("score_on_node", "a traceback", cause or ValueError("lost on its way"))
    error.cause = cause
    found = RayEngine(EngineSpec(kind="ray"))._own_error(error)
    assert type(found) is kind
    assert re.search(words, str(found))
    assert "\n" not in str(found)


@pytest.mark.slow
@pytest.mark.usefixtures("temporary")
def test_a_ray_does_not_outlive_a_driver_that_is_killed(source):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    command = [sys.executable, "-c", DRIVER, str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as driver:
        try:
            assert driver.stdout.readline() == b"scored\n"
            processes = ray_guard.below(driver.pid)
            assert len(ray_guard.servers(driver.pid)) == 2
        finally:
            driver.kill()
    wait_for_none(processes)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_on_ray_that_gets_a_signal_ends_with_its_ray(temporary, tmp_path, number):
    with signals.experiment(tmp_path) as (file, environment, hub):
        file.write_text(file.read_text().replace("[storage]", '[engine]\nkind = "ray"\n[storage]'))
        hub.fault("slow", "GET .*safetensors$", times=9, seconds=60)

        def wait():
            deadline = time.monotonic() + 120
            while not hub.asked("GET .*safetensors$"):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert using(temporary)

        code, said, seconds = signals.attempt(file, tmp_path / "run", environment, number, wait)
    assert signals.verdict(number, 60.0, code, said, seconds) is None
    wait_for_none(using(temporary))


def using(folder):
    """Processes with an open file in this folder."""
    found = []
    for process in map(int, (path.name for path in Path("/proc").glob("[0-9]*"))):
        with suppress(OSError):
            if any(str(link.readlink()).startswith(folder) for link in Path(f"/proc/{process}/fd").iterdir()):
                found.append(process)
    return found


def test_a_guard_ends_what_has_lost_its_parents_and_nothing_else():
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    start = f"import subprocess; print(subprocess.Popen({sleep}, start_new_session=True).pid, flush=True); input()"
    lifeline, ours = os.pipe()
    command = [sys.executable, ray_guard.__file__, str(lifeline), sys.executable, "-c", start]
    with (
        subprocess.Popen(sleep) as other,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[lifeline]) as guard,
    ):
        orphan = int(guard.stdout.readline())
        assert orphan in ray_guard.below(guard.pid)
        child = next(process for process in ray_guard.below(guard.pid) if process != orphan)
        os.kill(child, signal.SIGSTOP)  # it does not end by itself
        assert ray_guard.is_alive(orphan)
        os.close(ours)
        os.close(lifeline)
        assert guard.wait(10) == 0
        assert not ray_guard.is_alive(orphan)
        assert not ray_guard.is_alive(child)
        assert other.poll() is None
        other.kill()


@pytest.fixture
def two_nodes(monkeypatch):
    """A cluster of two nodes with one core each on this machine: it, and the node that is not its head."""
    ray = importlib.import_module("ray")
    cluster_utils = importlib.import_module("ray.cluster_utils")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        head = {**size, "include_dashboard": False, "temp_dir": folder}
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        try:
            node = cluster.add_node(**size)
            monkeypatch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster, node
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.mark.slow
def test_a_run_on_two_nodes_of_which_one_dies_equals_one_in_this_process(two_nodes, source, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    cluster, node = two_nodes
    branches = {f"step{step}": files_in(source / "moe" / f"step-{step}") for step in STEPS}
    with HubServer({"org/model": branches}) as hub:
        hub.fault("slow", "GET .*safetensors", times=99, seconds=2.0)  # so that every task takes a while
        listing = Hub(endpoint=hub.url, cache_dir=tmp_path / "listing", token=False)
        checkpoints = list_series("org/model", hub=listing).checkpoints
        storage = [StorageSpec(cache_dir=str(tmp_path / name), endpoint=hub.url) for name in ("there", "here")]
        outcomes = RayEngine(EngineSpec(kind="ray")).outcomes(jobs_of(source, "moe", storage[0], checkpoints))
        found = [next(outcomes)]
        wait_for_task(node.all_processes["raylet"][0].process.pid)
        cluster.remove_node(node, allow_graceful=False)
        found += outcomes
        hub.faults.clear()
        assert_same(found, list(LocalEngine().outcomes(jobs_of(source, "moe", storage[1], checkpoints))))


def wait_for_task(raylet):
    """Wait until a worker of this node scores a checkpoint."""
    deadline = time.monotonic() + 60
    while not any(name_of(process).startswith("ray::moe") for process in ray_guard.below(raylet)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def name_of(process):
    """What a process calls itself; "" if it has ended."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""
