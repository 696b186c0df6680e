"""How SIGINT and SIGTERM end the command line: within seconds and with one line, whatever it is in the middle of.

1. The first signal raises `Interrupted` in the main thread. It passes as a KeyboardInterrupt does, so that files are
   closed, drafts deleted and tasks cancelled on its way. Whatever exception arrives in its place, the program ends.
2. Not in the middle of an import, where an exception may pass through C++ that aborts the program. It is raised once
   the import is done; one that takes longer than IMPORT_GRACE is ended as in 4.
3. Some code lets no exception pass: destructors, callbacks from C, a bare `except:`. An `Interrupted` that is freed
   before it arrived was lost in such a place, and is raised again.
4. What is still there GRACE seconds after the signal (a call into C, a lock) is ended by a thread, which is woken
   through a pipe and needs nothing of the main thread. What a run keeps survives that, as it survives SIGKILL. A
   second signal does it at once.
5. The exit code is 128 + the signal: 130 or 143. Exit handlers are run; threads are not waited for, then or at any
   other end of the command line.

Only the command line asks for this; a program that imports the package keeps its own handlers. A signal that is ignored
when the program starts (SIGINT, in the background of a script) stays ignored.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

GRACE = 4.0  # seconds to unwind in
IMPORT_GRACE = 1.0  # seconds for an import to be done
POLL = 0.05
IMPORTING = "<frozen importlib._bootstrap>"
ENDING = (signal.SIGINT, signal.SIGTERM)
LOST = 0  # on the pipe, where signals have numbers from 1
SHOW_CURSOR = b"\x1b[?25h"  # progress bars hide it


class Interrupted(KeyboardInterrupt):
    """The program got a signal that asks it to end."""


class _Watch:
    """The handlers, the thread behind them and what has come so far.

    Attributes:
        kept: the line to end with.
        number: the signal that came.
        settled: whether the program is over, so that nothing is to be raised.
    """

    def __init__(self) -> None:
        self.kept = "interrupted"
        self.number: int | None = None
        self.settled = False
        self._said = threading.Lock()
        self._raised: weakref.ref[Interrupted] | None = None
        self._main = threading.get_ident()
        self._held = False  # until an import is done
        self._own = 0  # signals on their way that this class has sent
        self._before = {number: signal.getsignal(number) for number in ENDING}
        self._hook_before = sys.unraisablehook
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        threading.Thread(target=self._wait, name="signals", daemon=True).start()
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        sys.unraisablehook = self._unraisable
        for number, handler in self._before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def remove(self) -> None:
        """Put back what was there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        sys.unraisablehook = self._hook_before
        os.close(self._write)  # ends the thread

    def forked(self) -> None:
        """Leave the parent's pipe alone in a child made with `fork`, which signals end as they end any program."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def say(self) -> None:
        """Write the line, once."""
        if self._first():
            with suppress(OSError):
                sys.stderr.write(f"{self.kept}\n")
                sys.stderr.flush()

    def _end_hard(self) -> NoReturn:
        """End the program without the main thread, which may hold the lock of sys.stderr."""
        if self._first():
            line = f"{self.kept}\n".encode()
            with suppress(OSError):
                os.write(2, SHOW_CURSOR + line if os.isatty(2) else line)
        os._exit(128 + (self.number or signal.SIGTERM))

    def _first(self) -> bool:
        return self._said.acquire(blocking=False)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        self._held = not self.settled and _importing(frame)
        if not self.settled and not self._held:
            error = Interrupted(signal.Signals(self.number).name)
            self._raised = weakref.ref(error, self._lost)
            try:
                raise error
            finally:
                del error  # the traceback holds this frame, which must not hold the exception

    def _lost(self, raised: weakref.ref[Interrupted]) -> None:
        """Have it raised again, by the thread: here it would be lost once more."""
        if raised is self._raised and not self.settled:
            os.write(self._write, bytes([LOST]))

    def _unraisable(self, about: sys.UnraisableHookArgs) -> None:
        if not isinstance(about.exc_value, Interrupted):  # is raised again, so there is nothing to report
            self._hook_before(about)

    def _wait(self) -> None:
        """Count signals; end the program at the second one, or when time is up after the first."""
        began: float | None = None
        while began is None or time.monotonic() < began + (IMPORT_GRACE if self._held else GRACE):
            ready, _, _ = select.select([self._read], [], [], None if began is None else POLL)
            came = os.read(self._read, 1) if ready else None
            if came == b"":
                os.close(self._read)
                return
            if came is not None and came[0] in ENDING:
                if self._own:
                    self._own -= 1
                elif began is not None:
                    break
                else:
                    self.number = self.number or came[0]
                    began = time.monotonic()
            elif self.number is not None and (came is not None or self._held):
                self._again(self.number)
        self._end_hard()

    def _again(self, number: int) -> None:
        """Have the signal handled once more, a moment later: the place that lets nothing pass is left by then."""
        time.sleep(POLL / 5)
        self._own += 1
        signal.pthread_kill(self._main, number)  # a real one, which wakes the main thread where it waits


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != IMPORTING:
        frame = frame.f_back
    return frame is not None


_watch: _Watch | None = None
os.register_at_fork(after_in_child=lambda: None if _watch is None else _watch.forked())


def ended_by_signals(program: Callable[[], None], *, leave: bool = False) -> None:
    """Run a program that SIGINT and SIGTERM end, if this is the main thread and no caller does so already.

    Args:
        program: what to run.
        leave: end the process with it, whatever threads still do, rather than return: what follows would not be
            interrupted.
    """
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        program()
        return
    watch = _watch = _Watch()
    failure: BaseException | None = None
    try:
        try:
            program()
        finally:
            watch.settled = True
    except BaseException as error:  # whatever the signal has become on its way
        failure = error
    if watch.number is not None:
        watch.say()
        _leave(128 + watch.number)
    if leave and (failure is None or isinstance(failure, SystemExit)):
        _leave(_exit_code(failure))
    _watch = None
    watch.remove()
    if failure is not None:
        raise failure


def _exit_code(failure: SystemExit | None) -> int:
    """The exit code that Python would give; what it would print is printed."""
    code = None if failure is None else failure.code
    if code is None or isinstance(code, int):
        return code or 0
    sys.stderr.write(f"{code}\n")
    return 1


def _leave(code: int) -> NoReturn:
    """End the process from the main thread; the watch sees to it that this comes to an end, too, after a signal."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def say_at_interruption(kept: str) -> None:
    """Set the line that an interrupted program ends with: what is kept, and how to go on."""
    if _watch is not None:
        _watch.kept = kept


def interrupted() -> bool:
    """Whether a signal has come that ends the program."""
    return _watch is not None and _watch.number is not None


def end() -> NoReturn:
    """Say what is kept and leave, with the exit code of the signal, or of SIGINT if none has come."""
    number: int = signal.SIGINT
    if _watch is not None:  # else the command is called from a program that sees to its signals itself
        _watch.settled = True
        _watch.say()
        number = _watch.number or number
    sys.exit(128 + number)
