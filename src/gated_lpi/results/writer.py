"""One writer at a time in a run's folder; readers need nothing of this.

On this machine the operating system holds a lock on the file .writer.lock for as long as the process lives, so that one
which is killed leaves none. Over NFS that is as good as the server's locks: NFSv4 has them, NFSv3 with lockd, and where
there are none at all the lock is a file that says who made it (filelock's soft lock).

At an address (an object store) there are no locks. A lease stands in: the object .writer.json, renewed once a minute
by its owner and void after ten minutes without. It keeps apart writers whose clocks agree to a few minutes, which is
less than a lock; beside it, a store refuses a checkpoint if somebody else added one since it was read.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from gated_lpi._common.folders import Folder, is_remote, make, read_text, unwritten, write_atomically
from gated_lpi.errors import RunBusyError, RunError
from gated_lpi.results.files import validated

if TYPE_CHECKING:
    from upath import UPath

LOCK = ".writer.lock"
OWNER = ".writer.json"
RENEW = 60.0
EXPIRE = 600.0


class Owner(BaseModel):
    """Who writes to a run.

    Attributes:
        host: name of the machine.
        process: its number there.
        command: what was started.
        token: tells one start from another.
        since: when it began, in seconds of the owner's clock since 1970.
        renewed: its last sign of life, in the same seconds.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    host: str
    process: Annotated[int, Field(ge=0)]
    command: str
    token: str
    since: float
    renewed: float

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {self.process} on {self.host}, since {since} ({self.command})"


@contextmanager
def writing(folder: Folder) -> Iterator[Callable[[], None]]:
    """Be the only one that writes to a run's folder for as long as the `with` block runs; the folder is made.

    The block is given a function, which raises RunBusyError once the folder has another owner. A lease may come to
    that, a lock may not.

    Raises:
        RunBusyError: another process writes to it; names it.
        WriteError: the folder cannot be written to.
    """
    try:
        make(folder)
    except OSError as error:
        raise unwritten(folder, error) from error
    with _leased(folder) if is_remote(folder) else _locked(folder) as check:
        yield check


def writer_of(folder: Folder) -> Owner | None:
    """Who writes to a folder: who said so last, unless they ended, or are known or taken to be gone; None if nobody."""
    owner = _said(folder)
    if owner is None or (owner.host == socket.gethostname() and not _lives(owner.process)):
        return None
    return None if is_remote(folder) and time.time() - owner.renewed > EXPIRE else owner


def is_ours(name: str) -> bool:
    """Whether a name in a run's folder is of a file that is kept here."""
    return name in (LOCK, OWNER)


@contextmanager
def _locked(folder: Path) -> Iterator[Callable[[], None]]:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunBusyError(_busy(folder, writer_of(folder))) from None
    except OSError as error:
        raise unwritten(folder / LOCK, error) from error
    try:
        _say(folder, _me())
        yield lambda: None
    finally:
        with suppress(OSError):
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()


@contextmanager
def _leased(folder: UPath) -> Iterator[Callable[[], None]]:
    there = writer_of(folder)
    if there is not None:
        raise RunBusyError(
            f"{_busy(folder, there)}. Its lease is void {EXPIRE / 60:g} minutes after its last sign of life; if you "
            f"know that it has ended, delete {folder / OWNER} and run again at once"
        )
    me = _me()
    _say(folder, me)

    def check() -> None:
        owner = _said(folder)
        if owner is not None and owner.token != me.token:
            raise RunBusyError(
                f"{_busy(folder, owner)}, which took over; what this process appended is kept: let the other go on"
            )

    check()
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW):
            with suppress(RunError, OSError):  # the next time, or the lease is void
                check()
                _say(folder, me.model_copy(update={"renewed": time.time()}))

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()
        owner = _said(folder)
        if owner is not None and owner.token == me.token:
            with suppress(OSError):
                folder.fs.rm_file((folder / OWNER).path)


def _said(folder: Folder) -> Owner | None:
    with suppress(OSError, ValueError, RunError):
        text = read_text(folder / OWNER)
        return None if text is None else validated(text, Owner)
    return None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _me() -> Owner:
    return Owner(
        host=socket.gethostname(),
        process=os.getpid(),
        command=shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])[:200],
        token=uuid.uuid4().hex,
        since=time.time(),
        renewed=time.time(),
    )


def _say(folder: Folder, owner: Owner) -> None:
    write_atomically(folder / OWNER, json.dumps(owner.model_dump(), indent=1) + "\n")


def _busy(folder: Folder, owner: Owner | None) -> str:
    who = "another process" if owner is None else str(owner)
    return (
        f"{folder} is being written by {who}. One run at a time may write to a folder: wait until that one has ended, "
        "end it, or give another folder. Reading it (open_run, metrics) is possible meanwhile"
    )
