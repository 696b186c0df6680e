"""The processes of one Ray, known by a mark in their environment; run as a program, it ends them after their driver.

    python ray_guard.py MARK < PIPE

A driver that is killed takes Ray's servers with it (the kernel sees to that), but not what they started: workers go on
until they notice, agents for minutes or for good. This program waits for the end of the pipe whose other end the driver
holds, however that comes, and then kills every process that has MARK in its environment. A mark is drawn anew for each
Ray that is started, and handed down from process to process, so that no other Ray is ever touched.

It needs /proc, so Linux; elsewhere Ray has a reaper of its own. It imports nothing but the standard library: it is
started as a file, in a few milliseconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "GATED_LPI_RAY"
SERVERS = ("raylet", "gcs_server")
_PROC = Path("/proc")


def supported() -> bool:
    """Whether this system tells the environment of a process."""
    return (_PROC / "self" / "environ").exists()


@contextmanager
def guarded(mark: str) -> Iterator[None]:
    """See to it that no process with this mark outlives the `with` block, or this process."""
    command = [sys.executable, "-I", "-S", __file__, mark]
    silent = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=silent, stderr=silent, start_new_session=True
    ) as guard:
        try:
            yield
        finally:
            assert guard.stdin is not None
            guard.stdin.close()


def marked(mark: str) -> list[int]:
    """Processes with this mark that are alive."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in _PROC.iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with suppress(OSError):  # it has just ended, or is another user's
                if wanted in (folder / "environ").read_bytes().split(b"\0") and is_alive(int(folder.name)):
                    found.append(int(folder.name))
    return found


def servers(mark: str) -> list[int]:
    """Those without which Ray does not go on."""
    found = []
    for process in marked(mark):
        with suppress(OSError):
            if (_PROC / str(process) / "comm").read_text().strip() in SERVERS:
                found.append(process)
    return found


def is_alive(process: int) -> bool:
    """Whether a process is there and has not ended yet."""
    try:
        state = (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def end_all(mark: str) -> None:
    """Kill what has this mark, until nothing has."""
    if not supported():
        return
    while processes := marked(mark):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdin.read()
    end_all(sys.argv[1])
