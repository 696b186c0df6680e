"""Errors that say nothing of the work at hand but that the machine has no more of something: memory, disk, files."""

from __future__ import annotations

import errno

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MACHINE = _DISK | {errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_NO_MEMORY = ("can't allocate memory", "not enough memory")  # torch, on a CPU
_NO_ROOM = ("failed to map segment", "cannot allocate memory")  # the loader of libraries, in an ImportError


def is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own, torch's on a CPU or a GPU, or the operating system's."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, ImportError):
        return any(sign in str(error).lower() for sign in _NO_ROOM)
    if not isinstance(error, RuntimeError):
        return False
    return type(error).__name__ == "OutOfMemoryError" or any(sign in str(error) for sign in _NO_MEMORY)


def is_of_the_machine(error: BaseException) -> bool:
    """Whether whatever is worked on would meet the error as well."""
    return is_of_memory(error) or (isinstance(error, OSError) and error.errno in _MACHINE)


def explained(error: BaseException) -> str | None:
    """What happened and what to do, in one line; None for an error of another kind."""
    if is_of_memory(error):
        first = (str(error).strip().splitlines() or ["no more to be had"])[0]
        return (
            f"memory ran out ({first[:200]}). Give the work less at a time (a smaller `memory` or `batch_size`, fewer "
            "facts) or the machine more, and run the same command again; what was complete is kept"
        )
    if isinstance(error, OSError) and error.errno is not None:
        place = "standard output or a file" if error.filename is None else str(error.filename)
        advice = "Free space" if error.errno in _DISK else "Mend its permissions or the disk"
        return (
            f"{place} could not be read or written: {error.strerror}. {advice}, and run the same command again; what "
            "was complete is kept"
        )
    return None
