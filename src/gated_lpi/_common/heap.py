"""Giving freed memory back to the system.

glibc keeps what is freed in pieces between what is still held, and repeated forward passes leave a heap of several
times what any of them needs. Where memory is capped, the pages of such pieces are given back between them. Other C
libraries have no such call, and none is known to need one.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def give_back() -> None:
    """Give free pages of the heap back to the system; nothing is done where the C library cannot."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
