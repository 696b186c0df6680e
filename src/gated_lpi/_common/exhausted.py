"""Errors that say nothing of the work at hand but that the machine has no more of something: memory, disk, files."""

from __future__ import annotations

import errno

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MACHINE = _DISK | {errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "cannot allocate memory"),  # torch on a CPU, mmap
    "failed to map segment",  # the loader of libraries, in an ImportError
    *("can't start new thread", "threadpoolbuilderror"),  # Python, and Rust in what the tokenizers raise
)


def is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own, torch's on a CPU or a GPU, or the operating system's."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    name = type(error).__name__
    if not isinstance(error, RuntimeError | ImportError) and name not in ("PanicException", "SafetensorError"):
        return False
    return name == "OutOfMemoryError" or any(sign in str(error).lower() for sign in _NO_MEMORY)


def is_of_the_machine(error: BaseException) -> bool:
    """Whether whatever is worked on would meet the error as well."""
    return is_of_memory(error) or (isinstance(error, OSError) and error.errno in _MACHINE)


def cause_in_the_machine(error: BaseException) -> BaseException | None:
    """The error, or the one that it was made of, which is of the machine; None if none is."""
    seen: BaseException | None = error
    while seen is not None and not is_of_the_machine(seen):
        seen = seen.__cause__
    return seen


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
