"""Scoring on a local Ray of two workers: the numbers of this process, whatever happens to the workers."""

import importlib
import json
import re
import shutil
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import xarray as xr
from huggingface_hub import constants

from gated_lpi import load_facts
from gated_lpi.checkpoints import Checkpoint, Hub, fetch, list_local, list_series
from gated_lpi.errors import OptionError, RunError
from gated_lpi.experiments import Experiment
from gated_lpi.experiments.settings import EngineSpec, StorageSpec
from gated_lpi.runs import run_experiment
from gated_lpi.runs.access import hub_of
from gated_lpi.runs.job import Failure, Job
from gated_lpi.runs.local_engine import LocalEngine
from gated_lpi.runs.ray_engine import RayEngine, score_on_node
from hub_server import HubServer, files_in
from ray_runs import STEPS, assert_same, experiment, jobs_of, lasting, save_series
from tiny_text import save_checkpoint

CLUSTER = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 2**20, "log_to_driver": False}


@pytest.fixture(autouse=True)
def _one_thread():
    """As many threads as a task with num_cpus = 1 gets, so that sums are added up in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_series(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def temporary():
    """A folder with a short name: the paths of Ray's sockets may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        yield folder


@pytest.fixture(scope="module")
def cluster(temporary):
    """A Ray of this machine with two workers, whose environment has a folder NODE_DISK and may ask a hub."""
    ray = importlib.import_module("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        patch.setenv("NODE_DISK", f"{temporary}/node")
        ray.init(address="local", logging_level="error", _temp_dir=f"{temporary}/ray", **CLUSTER)
        yield ray
        ray.shutdown()


def workers(task):
    """Processes of a Ray of this process that run a task now whose name matches."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if re.fullmatch(f"ray::{task}", "".join(process.cmdline()[:1])):
                found.append(process)
    return found


def wait_for_quiet(task, seconds=6.0, limit=90):
    """Wait until no such task was seen for so long."""
    limit += time.monotonic()
    seen = time.monotonic()
    while time.monotonic() - seen < seconds:
        assert time.monotonic() < limit, f"{task} still runs"
        seen = time.monotonic() if workers(task) else seen
        time.sleep(0.05)


class Killer:
    """Kills the worker of a task, each time that it runs, up to `times` times."""

    def __init__(self, task, times):
        self.task, self.times, self.killed = task, times, []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self):
        while len(self.killed) < self.times and not self._over.wait(0.05):
            for process in workers(self.task):
                if process.pid not in self.killed:
                    self.killed.append(process.pid)
                    with suppress(psutil.NoSuchProcess):
                        process.kill()


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"pip install 'gated-lpi\[ray\]'"):
        RayEngine(EngineSpec(kind="ray"))


def test_a_request_that_ray_cannot_meet_is_refused(source):
    with pytest.raises(OptionError, match=r"num_gpus = 1\.5.*Give 2"):
        RayEngine(EngineSpec(kind="ray", num_gpus=1.5))
    for storage, need in ((StorageSpec(device="cuda"), 1), (StorageSpec(device_map="auto"), 2)):
        with pytest.raises(OptionError, match=f"Ray hides GPUs.*num_gpus = {need}"):
            next(RayEngine(EngineSpec(kind="ray")).outcomes(jobs_of(source, "moe", storage)))


def test_an_address_where_no_ray_is_is_an_error(source, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "no address at all")
    with pytest.raises(RunError, match=r"'no address at all'.*RAY_ADDRESS"):
        next(RayEngine(EngineSpec(kind="ray")).outcomes(jobs_of(source, "moe")))


@pytest.mark.slow
def test_a_ray_that_it_starts_itself_is_stopped(source, temporary, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", temporary)
    with pytest.raises(OptionError, match=r"asks for CPU 9,999; Ray's nodes have CPU \d+\. Ask for less"):
        next(RayEngine(EngineSpec(kind="ray", num_cpus=9999)).outcomes(jobs_of(source, "moe")))
    assert not importlib.import_module("ray").is_initialized()


@pytest.mark.usefixtures("cluster")
def test_a_run_equals_one_in_this_process(source, tmp_path):
    here = run_experiment(experiment(source), tmp_path / "here")
    there = run_experiment(experiment(source), tmp_path / "there", engine=RayEngine(EngineSpec(kind="ray")))
    assert there.scores("moe")["step"].values.tolist() == list(STEPS)
    assert there.scores("dense")["step"].values.tolist() == [0, 100, 1000]
    for arm in here.arms:
        mine, theirs = there.scores(arm).load(), here.scores(arm).load()
        xr.testing.assert_equal(mine, theirs)
        assert set(mine.variables) == set(theirs.variables)
        assert there.record(arm) == here.record(arm)
        records = [[lasting(record) for record in run.store(arm).records()] for run in (there, here)]
        assert records[0] == records[1]
        assert there.quarantine(arm).keys() == here.quarantine(arm).keys()
    assert there.quarantine("dense").keys() == {"step-10"}


@pytest.mark.usefixtures("cluster")
def test_odd_checkpoints_are_quarantined_as_in_this_process(source, tmp_path):
    odd = shutil.copytree(source / "moe", tmp_path / "moe")
    config = json.loads((odd / "step-10" / "config.json").read_text())
    (odd / "step-10" / "config.json").write_text(json.dumps(config | {"hidden_act": "nonesuch"}))
    shutil.rmtree(odd / "step-100")
    save_checkpoint(odd / "step-100", "Qwen3")
    content = experiment(source, ["moe"]).model_dump() | {"arms": [{"name": "moe", "checkpoints": str(odd)}]}
    spec = Experiment.model_validate(content)
    here = run_experiment(spec, tmp_path / "here")
    there = run_experiment(spec, tmp_path / "there", engine=RayEngine(EngineSpec(kind="ray")))
    assert here.quarantine("moe").keys() == {"step-10", "step-100"}
    assert here.quarantined("moe")[1]["error"] == "MisfitError"
    for mine, theirs in zip(there.quarantined("moe"), here.quarantined("moe"), strict=True):
        assert mine["quarantined"].replace("there", "here") == theirs["quarantined"]
        assert mine["error"] == theirs["error"]


@pytest.mark.usefixtures("cluster")
def test_an_error_that_is_no_checkpoints_fault_ends_the_run_after_what_came_before_it(source):
    good, bad = jobs_of(source, "moe")[:1], jobs_of(source, "moe", StorageSpec(device="nonsense"))[1:2]
    outcomes = RayEngine(EngineSpec(kind="ray")).outcomes(good + bad)
    assert next(outcomes).key == "step-0"
    with pytest.raises(OptionError, match="device 'nonsense' was given"):
        next(outcomes)


@pytest.mark.usefixtures("cluster")
def test_a_task_that_fits_on_no_node_is_an_error(source):
    engine = RayEngine(EngineSpec(kind="ray", num_cpus=3, memory="1MB"), patience=0)
    with pytest.raises(OptionError, match="asks for CPU 3, memory 1,000,000; Ray's nodes have CPU 2, memory"):
        next(engine.outcomes(jobs_of(source, "moe")))


@pytest.mark.usefixtures("cluster")
def test_a_variable_that_the_node_does_not_have_is_an_error(source):
    jobs = jobs_of(source, "moe", StorageSpec(cache_dir="$NO_SUCH_DISK/cache"))
    with pytest.raises(OptionError, match=r"'\$NO_SUCH_DISK/cache' names an environment variable"):
        next(RayEngine(EngineSpec(kind="ray")).outcomes(jobs))


def test_a_node_with_another_version_is_an_error(source):
    job = jobs_of(source, "moe")[0]
    with pytest.raises(RunError, match=r"the driver has gated-lpi 0\.0\.0, the node .*same version"):
        score_on_node(job.arm, job.checkpoint, job.experiment, job.facts, job.storage, 1, "0.0.0")


@pytest.mark.usefixtures("cluster")
@pytest.mark.slow
def test_no_more_is_started_than_can_run_and_may_wait(source, tmp_path):
    """Folders that are missing when their task starts give a quarantine; those that come later are found."""
    one = list_local(source / "moe")[0]
    facts = load_facts(source / "facts")
    late = [Checkpoint(tmp_path / f"late-{n}", f"late-{n}", n, None, "") for n in range(6)]
    jobs = [Job("moe", checkpoint, experiment(source), facts) for checkpoint in late]
    outcomes = RayEngine(EngineSpec(kind="ray"), ahead=1).outcomes(jobs)
    first = next(outcomes)
    wait_for_quiet("moe late-.*")
    for checkpoint in late:
        shutil.copytree(one.path, checkpoint.path)
    found = [first, *outcomes]
    assert [o.key for o in found] == [checkpoint.key for checkpoint in late]
    assert [o.scores is None for o in found] == [True] * 3 + [False] * 3  # two that run, one ahead


@pytest.fixture
def hub(source, monkeypatch):
    """A hub with one series."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    branches = {f"step{step}": files_in(source / "moe" / f"step-{step}") for step in STEPS[:3]}
    with HubServer({"org/model": branches}) as server:
        yield server


def hub_jobs(source, hub, cache):
    storage = StorageSpec(cache_dir=str(cache), endpoint=hub.url)
    listing = Hub(endpoint=hub.url, cache_dir=source / "listing", token=False)
    return jobs_of(source, "moe", storage, list_series("org/model", hub=listing).checkpoints)


def weights_in(folder):
    return [path for path in Path(folder).rglob("*.safetensors") if path.is_file()]


@pytest.mark.usefixtures("cluster")
def test_nodes_download_into_their_own_cache_and_leave_nothing(source, hub, tmp_path, temporary):
    jobs = hub_jobs(source, hub, "$NODE_DISK/cache")
    hub.fault("wrong", f"GET .*{jobs[1].checkpoint.commit}/.*safetensors", times=99)
    first, second, third = RayEngine(EngineSpec(kind="ray")).outcomes(jobs)
    assert_same([first, third], list(LocalEngine().outcomes(hub_jobs(source, hub, tmp_path)[::2])))
    assert second.scores is None
    assert second.record["error"] == "WeightsError"
    assert second.failure is Failure.CHECKPOINT
    assert all(o.fetched is None for o in (first, second, third))
    assert weights_in(f"{temporary}/node/cache") == []


@pytest.mark.usefixtures("cluster")
def test_what_a_nodes_cache_has_is_used_and_stays(source, hub, temporary):
    job = hub_jobs(source, hub, f"{temporary}/node/full")[0]
    fetch(job.checkpoint, hub=hub_of(job.storage))
    downloads = len(hub.asked("GET .*safetensors"))
    (outcome,) = RayEngine(EngineSpec(kind="ray")).outcomes([job])
    assert outcome.scores is not None
    assert len(hub.asked("GET .*safetensors")) == downloads
    assert len(weights_in(f"{temporary}/node/full")) >= 1


@pytest.mark.slow
def test_a_killed_worker_costs_time_only(cluster, source, hub, tmp_path):
    jobs = hub_jobs(source, hub, "$NODE_DISK/cache")
    hub.fault("slow", f"GET .*{jobs[1].checkpoint.commit}/.*safetensors", seconds=20)
    with Killer("moe step10", times=1) as killer:
        found = list(RayEngine(EngineSpec(kind="ray")).outcomes(jobs))
    assert len(killer.killed) == 1
    assert_same(found, list(LocalEngine().outcomes(hub_jobs(source, hub, tmp_path))))
    assert cluster.is_initialized()  # what was running before is left running


@pytest.mark.usefixtures("cluster")
def test_a_checkpoint_whose_worker_always_dies_is_quarantined(source, hub):
    jobs = hub_jobs(source, hub, "$NODE_DISK/cache")[:2]
    hub.fault("slow", f"GET .*{jobs[0].checkpoint.commit}/.*safetensors", times=9, seconds=20)
    with Killer("moe step0", times=9) as killer:
        first, second = RayEngine(EngineSpec(kind="ray", retries=1)).outcomes(jobs)
    assert len(killer.killed) == 2
    assert first.scores is None
    assert first.record["error"] == "WorkerLostError"
    assert first.failure is Failure.WORKER
    assert "died at each of 2 attempts (engine.retries = 1)" in first.record["quarantined"]
    assert (first.key, first.record["step"]) == ("step0", 0)
    assert second.scores is not None


@pytest.mark.usefixtures("cluster")
@pytest.mark.slow
def test_leaving_early_cancels_what_runs(source, hub):
    jobs = hub_jobs(source, hub, "$NODE_DISK/cache")[:2]
    hub.fault("slow", f"GET .*{jobs[1].checkpoint.commit}/.*safetensors", seconds=60)
    outcomes = RayEngine(EngineSpec(kind="ray")).outcomes(jobs)
    assert next(outcomes).key == "step0"
    outcomes.close()
    wait_for_quiet("moe step.*")
