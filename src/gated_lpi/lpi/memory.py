"""How many prompts are worked on at a time, and in how large pieces, so that the working set stays below a cap.

The working set is what attribution holds beside the model and the result: recorded activations, log p and the tiles
of the estimators.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gated_lpi.errors import OptionError
from gated_lpi.models import Model

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
TOKENS_SEEN = 24  # positions of a prompt that the forward pass holds activations of, at most a few layers at a time
FULL_TILES = 2**29


class Pieces(NamedTuple):
    """What is worked on at a time.

    Attributes:
        prompts: prompts in a batch.
        pairs: pairs of prompt and unit whose float64 arrays are held.
        numbers: numbers in one [units, V] matrix.
    """

    prompts: int
    pairs: int
    numbers: int


def parse_memory(given: int | str) -> int:
    """Bytes from a number, or from text such as "512MB" or "2GiB".

    Raises:
        OptionError: it says no amount of memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)?\s*", str(given), re.IGNORECASE)
    unit = (match[2] or "").upper() if match else None
    if match is None or unit not in UNITS:
        raise OptionError(f"memory={given!r} was given; expected bytes, or an amount such as '512MB' or '2GiB'")
    return int(float(match[1]) * UNITS[unit])


def pieces(model: Model, batch_size: int, memory: int | None) -> Pieces:
    """Split the work so that it fits into `memory` bytes; None takes `batch_size` prompts at a time.

    Raises:
        OptionError: less than one prompt fits.
    """
    tiles = FULL_TILES if memory is None else min(FULL_TILES, memory // 2)
    sizes = Pieces(batch_size, max(1, tiles // 512), max(1, tiles // 32))
    if memory is None:
        return sizes
    fixed = tiles + fixed_bytes(model)
    each = prompt_bytes(model)
    prompts = (memory - fixed) // each
    if prompts < 1:
        least = 2 * (fixed_bytes(model) + each)
        raise OptionError(
            f"memory={memory} bytes hold less than one prompt of this model's working set; give at least "
            f"{least / 1e6:.0f}MB"
        )
    return sizes._replace(prompts=min(batch_size, prompts))


def usual_batch(vocabulary: int, d: int) -> int:
    """Prompts that are worked on together where nobody says how many.

    What is done once for a batch should not weigh more than what is done for each prompt: for a small vocabulary that
    is the number of calls, for a wide residual stream of width `d` the products of [d, d] matrices.
    """
    return max(192, min(2048, max(2**23 // vocabulary, d // 4)))


def prompt_bytes(model: Model) -> int:
    """Bytes that one prompt of a batch takes: log p and its copies, bases, coefficients, activations."""
    number = 4 if str(model.dtype) == "torch.float32" else 8
    d = model.readout.weight.shape[1]
    vocabulary = model.readout.vocabulary
    widths = sum(writer.width * (8 if writer.kind == "routed" else 1) for b in model.blocks for writer in b.writers)
    widest = max(writer.width for b in model.blocks for writer in b.writers)
    return number * (3 * vocabulary + 2 * d * len(model.blocks) + widths + 8 * TOKENS_SEEN * (d + widest))


def fixed_bytes(model: Model) -> int:
    """Bytes that are held whatever the number of prompts: what is prepared, and rows of the unembedding by rank."""
    d = model.readout.weight.shape[1]
    return 8 * (2 * d * d + 2 * len(model.units) + 4 * model.readout.vocabulary + 4096 * d)
