"""Giving freed memory back to the system.

glibc keeps what is freed in pieces between what is still held, and repeated forward passes leave a heap of several
times what any of them needs. Where memory is capped, the pages of such pieces are given back between them, and large
blocks are kept apart from the heap: else small ones that stay, a few rows of every layer, are cut from the holes that
large ones leave, and the next layer's fit there no more. Other C libraries have no such calls, and none is known to
need them.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

M_MMAP_THRESHOLD, LARGE = -3, 2**20  # bytes; the first is glibc's number for what the second sets


def give_back() -> None:
    """Give free pages of the heap back to the system; nothing is done where the C library cannot."""
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def keep_large_apart() -> None:
    """Have blocks of `LARGE` bytes and more go back to the system as soon as they are freed, in this process."""
    choose = _of_libc("mallopt")
    if choose is not None:
        choose(M_MMAP_THRESHOLD, LARGE)


@cache
def _of_libc(name: str) -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
