"""Scoring on Ray: one task for each checkpoint, on this machine's cores or on a cluster.

1. Each job becomes one task with the CPUs, GPUs and memory of `[engine]`. Facts and experiment are put into the object
   store once. A task downloads a hub's checkpoint to a folder of its own below its node's cache and deletes it
   again, so that tasks on one node cannot delete each other's files, and a second attempt finds what a killed one left.
2. Tasks are started in the order of the jobs. Only so many are under way or waiting to be collected as the cluster can
   run at a time and `ahead` more; a result stays on the node that made it until its turn comes.
3. A task whose worker or node dies is started again, `retries` times; after that its checkpoint is quarantined. Ray's
   own retries are switched off: after running out of memory they have no limit. An error of the task's own code is
   not retried; it ends the run as it would without Ray.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from gated_lpi.checkpoints import Checkpoint, Hub, fetch
from gated_lpi.errors import CheckpointError, OptionError, RunError
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.experiments.settings import EngineSpec, StorageSpec
from gated_lpi.facts import FactSet
from gated_lpi.runs.access import hub_of
from gated_lpi.runs.failures import unusable
from gated_lpi.runs.job import Failure, Job, JobOutcome
from gated_lpi.runs.ray_host import RayDiedError, WorkerLostError, hosted
from gated_lpi.runs.ray_session import LOCAL, address, connected, installed_ray
from gated_lpi.runs.scoring import score_checkpoint
from gated_lpi.version import __version__

SCRATCH = ".gated-lpi/scratch"
PATIENCE = 900.0
POLL = 5.0
RESTARTS = 3
_log = logging.getLogger(__name__)


class RayEngine:
    """Scores jobs as Ray tasks.

    Uses the Ray of this process if there is one; else connects to the cluster at $RAY_ADDRESS; else starts Ray on this
    machine, beside a process of its own (`ray_host`), and stops it at the end.

    Args:
        spec: what a task needs, and how often it is tried again.
        ahead: how many jobs are under way or done beyond those that can run at a time; default: as many again, at
            least 2. The outcome of a slow checkpoint is waited for while so many others go on.
        patience: seconds to wait for a node that a task fits on, which a cluster may have to start first.

    Raises:
        OptionError: Ray is not installed, or the request is one that Ray cannot meet.
    """

    def __init__(self, spec: EngineSpec, *, ahead: int | None = None, patience: float = PATIENCE) -> None:
        if spec.num_gpus > 1 and not spec.num_gpus.is_integer():
            raise OptionError(
                f"engine.num_gpus = {spec.num_gpus:g} was given; Ray gives a task a part of one GPU, or whole ones. "
                f"Give {math.ceil(spec.num_gpus)}"
            )
        self.spec = spec
        self.ahead = ahead
        self.patience = patience
        self._ray = installed_ray()

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[JobOutcome]:
        """Yield the outcome of each job: those of one arm in their order, arms as they come.

        However it ends, tasks that still run are cancelled.

        Raises:
            OptionError: no node has what a task asks for.
            RunError: Ray could not be reached, or broke down.
        """
        self._refuse_hidden_gpus(jobs)
        if self._ray.is_initialized() or address() != LOCAL:
            with connected(self._ray):
                yield from self.outcomes_connected(jobs)
            return
        left = {(job.arm, job.checkpoint.key): job for job in jobs}
        for restart in range(RESTARTS + 1):
            try:
                for outcome in hosted({"spec": self.spec, "ahead": self.ahead}, list(left.values())):
                    del left[outcome.arm, outcome.key]
                    yield outcome
                return
            except RayDiedError as error:
                if restart == RESTARTS:
                    raise
                _log.warning("Ray broke down and is started again, %d of %d times: %s", restart + 1, RESTARTS, error)

    def outcomes_connected(self, jobs: Sequence[Job]) -> Iterator[JobOutcome]:
        """What `outcomes` yields, on the Ray that this process is connected to.

        Raises:
            OptionError: no node has what a task asks for.
            RunError: Ray broke down.
        """
        tasks = _Tasks(self._ray, self, jobs)
        try:
            yield from tasks.outcomes()
        except self._ray.exceptions.RayError as error:
            raise self._own_error(error) from error
        finally:
            tasks.cancel()

    def _own_error(self, error: Exception) -> Exception:
        """What an error of Ray's is to this package: the error of a task as it would be without Ray, or a RunError."""
        known = self._ray.exceptions
        cause = error.cause if isinstance(error, known.RayTaskError) else error
        if isinstance(cause, Exception) and not isinstance(cause, known.RayError):
            return cause
        return RunError(
            f"Ray broke down ({_first_line(cause or error)}). What was appended is kept: run the same command again to "
            "go on"
        )

    def _refuse_hidden_gpus(self, jobs: Sequence[Job]) -> None:
        cuda = {f"device = {job.storage.device!r}" for job in jobs if job.storage.device.startswith("cuda")}
        spread = {f"device_map = {job.storage.device_map!r}" for job in jobs if job.storage.device_map}
        if (cuda or spread) and not self.spec.num_gpus:
            raise OptionError(
                f"storage.{min(cuda | spread)} with engine.num_gpus = 0: Ray hides GPUs from tasks that ask for none. "
                f"Give num_gpus = {2 if spread else 1}"
            )


@dataclass
class _Flight:
    """A job under way.

    Attributes:
        job: which one.
        done: resolves as soon as the task ends.
        outcome: what the task returns, where it was made.
        attempts: how often it was started.
        landed: whether the task has ended.
        lost: why there is no outcome: its worker died each time.
    """

    job: Job
    done: Any = None
    outcome: Any = None
    attempts: int = 0
    landed: bool = False
    lost: WorkerLostError | None = None


class _Tasks:
    """The tasks of a sequence of jobs."""

    def __init__(self, ray: Any, engine: RayEngine, jobs: Sequence[Job]) -> None:
        spec = engine.spec
        resources = {"num_cpus": spec.num_cpus, "num_gpus": spec.num_gpus, "memory": spec.memory}
        needs = {"CPU": spec.num_cpus, "GPU": spec.num_gpus, "memory": spec.memory}
        self._ray = ray
        self._task = ray.remote(**{key: value for key, value in resources.items() if value is not None})(score_on_node)
        self._needs = {key: value for key, value in needs.items() if value} or {"CPU": 1.0}
        self._threads = max(1, int(spec.num_cpus))
        self._retries = spec.retries
        self._ahead = engine.ahead
        self._patience = engine.patience
        self._waiting = deque(jobs)
        self._flights: list[_Flight] = []
        self._shared: dict[int, Any] = {}
        self._unfit_since: float | None = None

    def outcomes(self) -> Iterator[JobOutcome]:
        """Start tasks and yield what comes of them."""
        outcome: JobOutcome | None
        while self._waiting or self._flights:
            self._start_more()
            flight = self._next_in_order()
            if flight is None:
                self._watch()
            elif (outcome := self._collect(flight)) is not None:
                self._flights.remove(flight)
                del flight
                yield outcome
                outcome = None  # the object store may drop it while the next one is waited for

    def cancel(self) -> None:
        """Stop what still runs."""
        for flight in self._flights:
            if not flight.landed:
                with suppress(Exception):  # the connection may be what is gone
                    self._ray.cancel(flight.done, force=True)
        self._flights.clear()
        self._waiting.clear()

    def _start_more(self) -> None:
        if not self._waiting:
            return
        slots = self._slots()
        room = slots + (max(2, slots) if self._ahead is None else self._ahead)
        while self._waiting and len(self._flights) < max(1, room):
            flight = _Flight(self._waiting.popleft())
            self._start(flight)
            self._flights.append(flight)

    def _start(self, flight: _Flight) -> None:
        job = flight.job
        hub = hub_of(job.storage)
        path = None if job.checkpoint.path is None else job.checkpoint.path.absolute()
        flight.attempts += 1
        flight.done, flight.outcome = self._task.options(
            name=f"{job.arm} {job.checkpoint.key}", num_returns=2, max_retries=0
        ).remote(
            job.arm,
            dataclasses.replace(job.checkpoint, path=path),
            self._once(job.experiment),
            self._once(job.facts),
            job.storage.model_copy(update={"endpoint": hub.address, "offline": hub.is_offline}),
            self._threads,
            __version__,
            job.known_last,
        )

    def _once(self, value: object) -> Any:
        if id(value) not in self._shared:
            self._shared[id(value)] = self._ray.put(value)
        return self._shared[id(value)]

    def _slots(self) -> int:
        """How many tasks fit on the cluster at a time."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        slots = sum(min(int(node.get(key, 0) / need + 1e-9) for key, need in self._needs.items()) for node in nodes)
        if slots:
            self._unfit_since = None
            return slots
        if self._unfit_since is None:
            self._unfit_since = time.monotonic()
            if self._patience:
                _log.warning("%s; waiting %g seconds for a node", self._misfit(nodes), self._patience)
        if time.monotonic() - self._unfit_since >= self._patience:
            raise OptionError(f"{self._misfit(nodes)}. Ask for less in [engine], or give Ray a larger node")
        return 0

    def _misfit(self, nodes: Sequence[dict[str, float]]) -> str:
        def words(amounts: dict[str, float]) -> str:
            return ", ".join(f"{key} {amounts.get(key, 0):,.10g}" for key in self._needs)

        return f"A checkpoint asks for {words(self._needs)}; Ray's nodes have {'; '.join(map(words, nodes)) or 'none'}"

    def _next_in_order(self) -> _Flight | None:
        """A flight that has landed and is its arm's first."""
        arms = set()
        for flight in self._flights:
            if flight.landed and flight.job.arm not in arms:
                return flight
            arms.add(flight.job.arm)
        return None

    def _watch(self) -> None:
        """Wait until a task ends, or long enough for the cluster to have changed."""
        flying = {flight.done: flight for flight in self._flights if not flight.landed}
        ended, _ = self._ray.wait(list(flying), num_returns=1, timeout=POLL)
        for done in ended:
            flight = flying[done]
            try:
                self._ray.get(done)
                flight.landed = True
            except self._ray.exceptions.RayTaskError:
                flight.landed = True  # raised in its turn, after the outcomes before it
            except self._lost_errors as error:
                self._again(flight, error)

    def _collect(self, flight: _Flight) -> JobOutcome | None:
        """A landed flight's outcome; None if it was lost with its node and is under way again."""
        if flight.lost is not None:
            return unusable(flight.job, flight.lost, Failure.WORKER)
        try:
            outcome: JobOutcome = self._ray.get(flight.outcome)
        except self._lost_errors as error:
            self._again(flight, error)
            return None
        return outcome

    def _again(self, flight: _Flight, error: Exception) -> None:
        """Start a task again whose worker is gone, or give it up."""
        _log.info("%s %s: attempt %d: %s", flight.job.arm, flight.job.checkpoint.key, flight.attempts, error)
        if flight.attempts <= self._retries:
            flight.landed = False
            self._start(flight)
            return
        flight.landed = True
        flight.lost = WorkerLostError(
            f"its worker died at each of {flight.attempts} attempts (engine.retries = {self._retries}); the last "
            f"time Ray said: {_first_line(error)} If memory ran out, ask for more in engine.memory or num_gpus, so "
            "that fewer tasks share a machine; then run again with --retry-quarantined"
        )

    @property
    def _lost_errors(self) -> tuple[type[Exception], ...]:
        known = self._ray.exceptions
        return (known.WorkerCrashedError, known.NodeDiedError, known.OutOfMemoryError, known.ObjectLostError)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def score_on_node(
    arm: str,
    checkpoint: Checkpoint,
    experiment: Experiment,
    facts: FactSet,
    storage: StorageSpec,
    threads: int,
    version: str,
    known_last: tuple[bool, ...] | None = None,
) -> tuple[None, JobOutcome]:
    """Score one checkpoint with so many threads, on the node that this runs on.

    Args:
        arm: name of its arm.
        checkpoint: which one.
        experiment: how it is attributed.
        facts: those of the experiment.
        storage: where it is from, kept and computed on.
        threads: of torch.
        version: of this package, as the driver has it.
        known_last: whether the fact of each prompt is known to the arm's last checkpoint.

    Returns:
        None, a sign that it is done, which is small; and its outcome.

    Raises:
        RunError: the node has another version of this package than the driver.
        OptionError: the cache's folder names an environment variable that the node does not have.
    """
    if version != __version__:
        raise RunError(
            f"the driver has gated-lpi {version}, the node {os.uname().nodename} has {__version__}; install the same "
            "version on all nodes"
        )
    torch.set_num_threads(threads)
    storage = storage.model_copy(update={"cache_dir": _expanded(storage.cache_dir)})
    with _own_folder(Job(arm, checkpoint, experiment, facts, storage, known_last)) as job:
        outcome = score_checkpoint(job)
    return None, dataclasses.replace(outcome, fetched=None)


def _expanded(cache_dir: str | None) -> str | None:
    """A folder's name with "~" and environment variables as they are on this machine."""
    if cache_dir is None:
        return None
    expanded = os.path.expandvars(cache_dir)
    if "$" in expanded:
        raise OptionError(
            f"storage.cache_dir = {cache_dir!r} names an environment variable that the node {os.uname().nodename} "
            "does not have. Set it where Ray is started on the nodes, or give a plain folder"
        )
    return str(Path(expanded).expanduser())


@contextmanager
def _own_folder(job: Job) -> Iterator[Job]:
    """The job, with a cache that holds nothing else if its checkpoint is to be downloaded and deleted again.

    What is in the node's cache already is used from there, and stays.
    """
    hub = hub_of(job.storage)
    kept = dataclasses.replace(job, storage=job.storage.model_copy(update={"keep_downloads": True}))
    if job.checkpoint.path is not None or hub.is_offline or job.storage.keep_downloads:
        yield kept
        return
    path = _cached(job.checkpoint, hub)
    if path is not None:
        yield dataclasses.replace(kept, checkpoint=dataclasses.replace(job.checkpoint, path=path))
        return
    name = f"{hub.address} {job.checkpoint.repo} {job.checkpoint.commit} {job.checkpoint.folder}"
    folder = hub.cache / SCRATCH / hashlib.sha256(name.encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # another run may want the same checkpoint
        try:
            yield dataclasses.replace(kept, storage=kept.storage.model_copy(update={"cache_dir": str(folder)}))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _cached(checkpoint: Checkpoint, hub: Hub) -> Path | None:
    """The checkpoint's folder if all of it is in the node's cache."""
    try:
        hub.inventory(checkpoint.repo, checkpoint.commit, checkpoint.folder)
        return fetch(checkpoint, hub=dataclasses.replace(hub, offline=True)).path
    except CheckpointError:
        return None
