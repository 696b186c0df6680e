"""A Ray of this machine, in a process of its own that can be replaced.

A Ray breaks down whole if one of its servers or agents ends. Whoever is connected to it then waits for a minute or for
good, or is ended with it, and cannot connect to another. So what connects to it is a child, the host:

1. The host starts Ray, has the jobs scored on it and writes outcomes to a pipe, one after the other.
2. This process reads them. If Ray's servers or the host are gone, it raises `RayDiedError`; a new host can be started.
3. However that ends, and also if this process is killed, a guard between the two ends all processes of the host and its
   Ray (`ray_guard`).
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select
from typing import Any

from gated_lpi.errors import GatedLPIError, RunError
from gated_lpi.runs import ray_guard
from gated_lpi.runs.job import Failure, Job, JobOutcome

POLL = 0.5
SETTLED = 2.0  # seconds after which a Ray that is breaking down has broken down
LENGTH = 8  # bytes that say how long a frame is
CHUNK = 2**20
LEAVING = 10.0  # seconds for a host to stop its Ray in

Frame = tuple[str, Any]  # "started", "outcome" or "error", and what it is


class RayDiedError(RunError):
    """The Ray that was started on this machine broke down."""


class WorkerLostError(RunError):
    """The process or machine that scored a checkpoint died, each time that it was tried."""


def hosted(request: Any, jobs: Sequence[Job]) -> Iterator[JobOutcome]:
    """What comes of jobs on a Ray that is started for them, as it comes.

    Args:
        request: keywords of the host's `RayEngine`.
        jobs: what is scored.

    Raises:
        RayDiedError: Ray broke down; some outcomes may have come before.
        Exception: what the engine raises in the host.
    """
    with _host() as host:
        host.send((request, list(jobs)))
        left = len(jobs)
        while left:
            kind, value = host.receive()
            failed = kind == "error" or (kind == "outcome" and value.failure is Failure.WORKER)
            if failed and host.breaks_down():
                raise _died()
            if kind == "error":
                host.let_go()
                raise value
            if kind == "outcome":
                left -= 1
                yield value
        host.let_go()


class _Host:
    """The host as this process sees it."""

    def __init__(self, guard: subprocess.Popen[bytes]) -> None:
        self._guard = guard
        self._servers: list[int] = []

    def send(self, request: Any) -> None:
        """Tell the host what to do."""
        assert self._guard.stdin is not None
        with suppress(BrokenPipeError):  # found when the answer is read
            pickle.dump(request, self._guard.stdin)
            self._guard.stdin.flush()

    def receive(self) -> Frame:
        """Wait for the next frame.

        Raises:
            RayDiedError: Ray is gone.
        """
        frame: Frame = pickle.loads(self._read(int.from_bytes(self._read(LENGTH))))
        if frame[0] == "started":
            self._servers = ray_guard.servers(self._guard.pid)
        return frame

    def _read(self, count: int) -> bytes:
        """So many bytes, waited for as long as Ray lives."""
        assert self._guard.stdout is not None
        source, parts = self._guard.stdout.fileno(), []
        while count:
            if select([source], [], [], POLL)[0]:
                parts.append(os.read(source, min(count, CHUNK)))
                count -= len(parts[-1])
                if not parts[-1]:
                    raise _died()
            elif not self._alive():
                raise _died()
        return b"".join(parts)

    def breaks_down(self) -> bool:
        """Whether Ray is gone, or will be in a moment."""
        end = time.monotonic() + SETTLED
        while self._alive() and time.monotonic() < end:
            time.sleep(POLL / 5)
        return not self._alive()

    def let_go(self) -> None:
        """Let the host stop its Ray, which deletes what it has spilled to the disk."""
        assert self._guard.stdin is not None
        with suppress(BrokenPipeError):
            self._guard.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._guard.wait(LEAVING)

    def _alive(self) -> bool:
        return all(map(ray_guard.is_alive, self._servers))


@contextmanager
def _host() -> Iterator[_Host]:
    """A host, for as long as the `with` block runs at most."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    lifeline, ours = os.pipe()
    command = [sys.executable, "-I", "-S", ray_guard.__file__, str(lifeline)]
    command += [sys.executable, "-m", "gated_lpi.runs.ray_host"]
    pipe = subprocess.PIPE
    # In a session of its own it is not reached by Ctrl-C: this process ends it.
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, env=environment, pass_fds=[lifeline], start_new_session=True
    ) as guard:
        os.close(lifeline)
        try:
            yield _Host(guard)
        finally:
            os.close(ours)


def _died() -> RayDiedError:
    return RayDiedError(
        "Ray on this machine broke down: one of its servers or agents ended, or could not start (its logs: "
        f"{Path(os.environ.get('RAY_TMPDIR', '/tmp')) / 'ray/session_latest/logs'}). What was appended is kept: run "
        "the same command again to go on"
    )


def main() -> None:
    """The host: read a request, write frames."""
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed goes to standard error

    def write(kind: str, value: Any = None) -> None:
        frame = pickle.dumps((kind, value))
        frames.write(len(frame).to_bytes(LENGTH) + frame)
        frames.flush()

    def fail(error: Exception) -> None:
        if not isinstance(error, GatedLPIError):
            error.add_note(traceback.format_exc())
        write("error", error)

    from gated_lpi.runs.ray_engine import RayEngine
    from gated_lpi.runs.ray_session import connected, installed_ray

    request, jobs = pickle.load(sys.stdin.buffer)
    try:
        with connected(installed_ray()):
            write("started")
            try:
                for outcome in RayEngine(**request, patience=0.0).outcomes_connected(jobs):
                    write("outcome", outcome)
            except Exception as error:
                fail(error)
                sys.stdin.buffer.read()  # Ray has to be there while the other side looks whether it is
    except RunError as error:  # it could not be started
        fail(error)


if __name__ == "__main__":
    main()
