"""How much is worked through at a time: on a CPU what stays in its caches, elsewhere what keeps a GPU busy.

A GPU takes some microseconds to begin an operation, however little it has to do; tiles that fit a processor's cache
would have it wait nearly all of the time.
"""

from __future__ import annotations

import torch

BUSY = 2**23  # numbers of a matrix that an operation is worth beginning for


def at_once(cached: int, device: torch.device, other: int = BUSY) -> int:
    """How many numbers, or rows, to work through at a time.

    Args:
        cached: of them on a CPU.
        device: where the work is done.
        other: of them on anything else, unless `cached` is more.
    """
    return cached if device.type == "cpu" else max(cached, other)
