"""A parent for the host and its Ray that ends them when the one who asked for them is gone; run as a program.

    python ray_guard.py LIFELINE COMMAND...

Of a driver that is killed, Ray's servers are killed by the kernel, but not what they have started: workers go on until
they notice, agents for good. So the command is started by this program, which on Linux is who orphans below it are
handed to: nothing that comes of the command can get away from it, and nothing else is ever touched. Once LIFELINE (a
pipe's file descriptor, whose other end only the one who asked holds) is closed, or the command has ended, it kills
whatever is left below it. Elsewhere it kills the command's process group, and workers follow their servers.

It imports nothing but the standard library and is started as a file, in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from select import select

SERVERS = ("raylet", "gcs_server")
POLL = 0.2
_PROC = Path("/proc")
_PR_SET_CHILD_SUBREAPER = 36


def below(ancestor: int) -> list[int]:
    """Processes that come of this one and have not ended; none where the system has no /proc."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.glob("[0-9]*"):
        state = _state(int(folder.name))
        if state is not None:
            children.setdefault(state[1], []).append(int(folder.name))

    def walk(process: int) -> Iterator[int]:
        for child in children.get(process, ()):
            yield child
            yield from walk(child)

    return [process for process in walk(ancestor) if is_alive(process)]


def servers(guard: int) -> list[int]:
    """The processes below a guard without which Ray does not go on."""
    found = []
    for process in below(guard):
        with suppress(OSError):  # it has just ended
            if (_PROC / str(process) / "comm").read_text().strip() in SERVERS:
                found.append(process)
    return found


def is_alive(process: int) -> bool:
    """Whether a process is there and has not ended, as /proc says."""
    state = _state(process)
    return state is not None and state[0] not in "ZX"


def _state(process: int) -> tuple[str, int] | None:
    """A process's state and its parent."""
    try:
        words = (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return words[0], int(words[1])


def _guard(lifeline: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    host = subprocess.Popen(command, start_new_session=True)
    os.close(0)  # these are the host's
    os.close(1)
    while host.poll() is None and not select([lifeline], [], [], POLL)[0]:
        _reap(host.pid)
    with suppress(ProcessLookupError):
        os.killpg(host.pid, signal.SIGKILL)
    while left := below(os.getpid()):
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(POLL / 10)
        _reap(host.pid)


def _reap(host: int) -> None:
    """Take note of the end of orphans, so that they are gone; of the host, its Popen does."""
    for process in _zombies():
        if process != host:
            with suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)


def _zombies() -> list[int]:
    states = {int(folder.name): _state(int(folder.name)) for folder in _PROC.glob("[0-9]*")}
    return [process for process, state in states.items() if state is not None and state == ("Z", os.getpid())]


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2:])
