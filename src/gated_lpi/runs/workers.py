"""Calls in several processes of this machine at once, each of one thread.

1. A worker is a process of its own. It reads calls from its standard input, one after the other, and writes frames: how
   far it is, what is to be said, and in the end what came of the call.
2. It computes with one thread, so that what it computes does not depend on how many workers there are.
3. Workers end with this process, however it ends: each holds the end of a pipe that is closed then (its lifeline). They
   are in sessions of their own, which Ctrl-C does not reach; what it interrupts is this process.
"""

from __future__ import annotations

import os
import pickle
import selectors
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, NamedTuple

from gated_lpi.errors import GatedLPIError, RunError
from gated_lpi.runs.progress import Advance, Progress

LENGTH = 8  # bytes that say how long a frame is
CHUNK = 2**20
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LEAVING = 5.0  # seconds for a worker to end in by itself


class Call(NamedTuple):
    """What a worker is to do.

    Attributes:
        function: one that can be imported; called with the arguments and a `Progress`.
        arguments: that can be pickled.
        label: what it is, for errors.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    label: str


def in_workers(
    calls: Sequence[Call], count: int, progress: Progress, report: Callable[[int, int, int], None] | None = None
) -> Iterator[tuple[int, Any]]:
    """Yield (index of the call, what it returned) as they come; calls are begun in their order.

    Args:
        calls: what is to be done.
        count: how many at once.
        progress: told what calls have to say, with their labels.
        report: called with (index of the call, done, total) as a call goes on.

    Raises:
        RunError: a worker died.
        Exception: what a call raised; the others are ended.
    """
    waiting = deque(enumerate(calls))
    with ExitStack() as stack, selectors.DefaultSelector() as ready:
        for _ in range(min(count, len(calls))):
            worker = stack.enter_context(_worker())
            ready.register(worker.frames, selectors.EVENT_READ, worker)
            worker.begin(*waiting.popleft())
        while ready.get_map():
            for key, _ in ready.select():
                worker = key.data
                kind, value = worker.receive()
                index, call = worker.index, worker.call
                if kind == "note":
                    progress.note(f"{call.label}: {value}")
                elif kind == "advance" and report is not None:
                    report(index, *value)
                elif kind == "error":
                    raise value
                elif kind == "result":
                    if waiting:
                        worker.begin(*waiting.popleft())
                    else:
                        ready.unregister(worker.frames)
                    yield index, value


class _Worker:
    """A worker as this process sees it.

    Attributes:
        index, call: what it is at.
        frames: where it writes.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._calls: IO[bytes] = process.stdin
        self.frames = process.stdout.fileno()  # never read through a buffer, of which `select` knows nothing

    def begin(self, index: int, call: Call) -> None:
        """Have it do the next call."""
        self.index, self.call = index, call
        with suppress(BrokenPipeError):  # found when the answer is read
            pickle.dump((call.function, call.arguments), self._calls)
            self._calls.flush()

    def receive(self) -> tuple[str, Any]:
        """Its next frame, waited for."""
        frame: tuple[str, Any] = pickle.loads(self._read(int.from_bytes(self._read(LENGTH))))
        return frame

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            parts.append(os.read(self.frames, min(count, CHUNK)))
            count -= len(parts[-1])
            if not parts[-1]:
                code = self._process.wait()
                raise RunError(
                    f"{self.call.label}: the process that worked on it ended ({_ending(code)}). What was complete is "
                    "kept: run the same command again, with fewer workers if memory ran out"
                )
        return b"".join(parts)


@contextmanager
def _worker() -> Iterator[_Worker]:
    """A worker, for as long as the `with` block runs at most."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    environment |= dict.fromkeys(THREADS, "1")
    lifeline, ours = os.pipe()
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", "from gated_lpi.runs.workers import main; main()", str(lifeline)],
        stdin=pipe,
        stdout=pipe,
        env=environment,
        pass_fds=[lifeline],
        start_new_session=True,
    )
    os.close(lifeline)
    try:
        yield _Worker(process)
    finally:
        os.close(ours)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LEAVING)
        process.kill()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                assert stream is not None
                stream.close()
        process.wait()


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


class _Told:
    """The `Progress` of a call in a worker, whose tasks and notes are frames."""

    def __init__(self, write: Callable[[str, Any], None]) -> None:
        self._write = write

    @contextmanager
    def task(self, label: str) -> Iterator[Advance]:
        """Pass on how far it is."""
        del label
        yield lambda done, total: self._write("advance", (done, total))

    def note(self, text: str) -> None:
        """Pass on a line."""
        self._write("note", text)


def main() -> None:
    """A worker: do what is asked until there is no more, or the one who asks is gone."""
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed goes to standard error
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), name="lifeline", daemon=True).start()

    def write(kind: str, value: Any) -> None:
        content = pickle.dumps((kind, value))
        frames.write(len(content).to_bytes(LENGTH) + content)
        frames.flush()

    import torch

    torch.set_num_threads(1)
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            result = function(*arguments, _Told(write))
        except Exception as error:
            if not isinstance(error, GatedLPIError):
                error.add_note(traceback.format_exc())
            write("error", _portable(error))
        else:
            write("result", result)


def _portable(error: Exception) -> Exception:
    """An error that can be passed on; another in its place where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RunError(f"{type(error).__name__}: {error}")
    return error


def _end_with(lifeline: int) -> None:
    """End this process once nobody holds the other end of the lifeline."""
    os.read(lifeline, 1)
    os._exit(1)
