"""Which checkpoints of a cache are worked with: processes that share a cache do not delete each other's files.

A process that fetches a checkpoint holds it with a locked file of its own, in `.gated-lpi-held` of the repository's
folder in the cache, until it evicts it or ends. The operating system lets go of the lock of a process that was killed,
so that a file that can be locked is held by nobody, and is removed.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_FOLDER = ".gated-lpi-held"
_mine: dict[tuple[Path, str], FileLock] = {}
_guard = threading.Lock()


def hold(storage: Path, commit: str) -> None:
    """Hold a checkpoint, if this process does not yet.

    A cache that cannot be written to can lose nothing either, and is not held.

    Args:
        storage: the repository's folder in the cache.
        commit: the checkpoint's.
    """
    with _guard, suppress(OSError), deciding(storage):
        if (storage, commit) in _mine:
            return
        # A lock of a file that no other process knows is there at once.
        lock = FileLock(storage / _FOLDER / f"{commit}.{os.getpid()}.{uuid.uuid4().hex[:8]}", thread_local=False)
        lock.acquire(timeout=0)
        _mine[storage, commit] = lock


def release(storage: Path, commit: str) -> None:
    """Let go of a checkpoint, if this process holds it."""
    with _guard:
        lock = _mine.pop((storage, commit), None)
    if lock is not None:
        lock.release()
        with suppress(OSError):
            Path(lock.lock_file).unlink()


def is_held(storage: Path, commit: str) -> bool:
    """Whether any process holds a checkpoint; to be asked while `deciding`, so that the answer stays true."""
    held = False
    for path in (storage / _FOLDER).glob(f"{commit}.*"):
        try:
            with FileLock(path, timeout=0):
                pass
            path.unlink(missing_ok=True)
        except Timeout:
            held = True
    return held


@contextmanager
def deciding(storage: Path) -> Iterator[None]:
    """Keep other processes from beginning to hold or to delete checkpoints of a repository; for moments only."""
    folder = storage / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        yield
