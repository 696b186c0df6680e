"""Work in a forked child that may be killed, starved or signalled: a start of Python would take ten times as long."""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from gated_lpi.cli import main


class Child:
    """A forked child that does something, with what it says in a file.

    Args:
        work: what it does; it ends with 0, with the code of a SystemExit, or with 99 and a traceback.
        log: where its standard output and error go; default: nowhere.
    """

    def __init__(self, work: Callable[[], object], log: Path | None = None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.log = log
        self.pid = os.fork()
        if self.pid == 0:
            self._work(work)

    def _work(self, work: Callable[[], object]) -> None:
        code = 99
        try:
            target = os.open(self.log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, 1)
            os.dup2(target, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stderr, sys.stdout):
                with suppress(OSError):
                    stream.flush()
            os._exit(code)

    def ended(self) -> int | None:
        """Its exit code (minus the signal that killed it), None while it lives."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return None if pid == 0 else os.waitstatus_to_exitcode(status)

    def wait(self, seconds: float) -> int:
        """Its exit code once it has ended; it is killed after so many seconds, and the code is then -SIGKILL."""
        deadline = time.monotonic() + seconds
        while (code := self.ended()) is None:
            if time.monotonic() > deadline:
                return self.kill()
            time.sleep(0.005)
        return code

    def wait_or_none(self, seconds: float) -> int | None:
        """Its exit code if it ends within so many seconds, else None."""
        deadline = time.monotonic() + seconds
        while (code := self.ended()) is None and time.monotonic() < deadline:
            time.sleep(0.002)
        return code

    def kill(self) -> int:
        """End it with SIGKILL; its exit code."""
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def limit(self, what: int, most: int) -> None:
        """Lower what it may use of a resource (resource.RLIMIT_…), from now on."""
        resource.prlimit(self.pid, what, (most, most))

    def address_space(self) -> int:
        """Bytes of address space that it has; 0 if it is gone."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        except (OSError, IndexError):
            return 0

    def said(self) -> str:
        """What it has printed."""
        assert self.log is not None
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def command(arguments: Sequence[str]) -> Callable[[], None]:
    """What `gated-lpi` does with these arguments."""

    def work() -> None:
        sys.argv = ["gated-lpi", *arguments]
        main()

    return work
