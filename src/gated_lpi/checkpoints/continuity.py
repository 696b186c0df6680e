"""Do the weights of a series go on from each other? What hashes cannot see: a step 0 of another run, experts that were
left at their initial values by a converter, one shard or layer that is another checkpoint's.

1. Of every matrix (each expert's apart) the same few thousand values are drawn at each checkpoint: positions are drawn
   once, from the tensor's name and shape. A checkpoint is read once, one tensor at a time, and need not stay.
2. Distance of two checkpoints of one matrix, over its values a and b: d = ‖a − b‖ / √(½(‖a‖² + ‖b‖²)). 0: equal; √2: as
   two independent draws. Their likeness is the cosine of a and b.
3. Every matrix is compared with the series' own trend, and flagged where it
   jumps      d of an interval is over `JUMP` times what the intervals beside it let expect, at their speed, and large;
   strays     it is farther from both neighbours than `STRAY` times these are from each other;
   rests      it does not move while most of the model does;
   unrelated  it is no more like the one before than two random draws are, while most of the model is;
   parts      so it is, as most of the model is, and other neighbours of the series are alike.
   Most of the model is the median over kinds of matrices, since nearly all matrices of a mixture are its experts'.
What is flagged may be what training did: a warm-up, a frozen embedding, an expert that no token was routed to.
4. What cannot be told is said: no trend in so few checkpoints, or neighbours that are unrelated where none are alike.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gated_lpi._common.weight_files import weight_files
from gated_lpi.checkpoints.types import Checkpoint
from gated_lpi.checkpoints.weights import tensors_of
from gated_lpi.errors import OptionError

SAMPLES = 2048  # values of each matrix: its cosine is known to 1/√2048 ≈ 0.02
JUMP, STRAY = 6.0, 1.6
LARGE = 0.2  # distance from which on a jump is told
STILL = 1e-4  # of the median matrix's distance
ALIKE = 0.3  # cosine from which on most of a model goes on from the checkpoint before
UNLIKE = 0.06  # cosine below which most of it does not; early training leaves more, in hundreds of steps
TREND = 3  # intervals, of which the neighbours say what to expect of one

Values = NDArray[np.float32]
What = Literal["jumps", "strays", "rests", "unrelated", "parts"]


@dataclass(frozen=True)
class Signature:
    """Values of one checkpoint's matrices, drawn at the same places at every checkpoint.

    Attributes:
        key: the checkpoint's name.
        step: what the series counts.
        values: by the matrix's name, [at most SAMPLES]; of stacked experts each has a name of its own, "NAME[3]".
    """

    key: str
    step: int
    values: dict[str, Values]


@dataclass(frozen=True)
class Break:
    """Matrices of one kind that do not go on from the checkpoint before.

    Attributes:
        what: "jumps", "strays", "rests", "unrelated" or "parts".
        before, key: the two checkpoints; it is the later one that differs, or the earlier one where it is the first.
        kind: the matrices' name, * for the numbers of layers and experts.
        matrices: how many of them.
        of: how many there are of this kind.
        distance: the median of theirs.
        usual: the median over the kinds of matrices, over the same interval.
    """

    what: What
    before: str
    key: str
    kind: str
    matrices: int
    of: int
    distance: float
    usual: float

    def __str__(self) -> str:
        words = {
            "jumps": "farther from it than the intervals beside it let expect",
            "strays": "farther from both neighbours than these are from each other",
            "rests": "unchanged, while most of the model moves",
            "unrelated": "no more like it than two random draws, while most of the model is",
            "parts": "no more like it than two random draws, as most of the model is, while other neighbours are alike",
        }
        count = "" if self.of == 1 else f" ({self.matrices} of {self.of})"
        return (
            f"{self.key} after {self.before}: {self.kind}{count} {words[self.what]}; distance {self.distance:.2g}, "
            f"of the median kind {self.usual:.2g}"
        )


@dataclass(frozen=True)
class Continuity:
    """How the weights of a series go on.

    Attributes:
        keys: of the checkpoints, in training order.
        distances: [T − 1], the median over kinds of matrices, of each interval; NaN without a common matrix.
        breaks: what does not follow the series' trend.
        apart: names of matrices that not all checkpoints have, and that are not compared.
        untold: what these checkpoints cannot tell; "" where there is nothing of the kind.
    """

    keys: tuple[str, ...]
    distances: tuple[float, ...]
    breaks: tuple[Break, ...]
    apart: tuple[str, ...] = ()
    untold: str = ""


def signature(folder: str | Path, key: str = "", step: int = 0) -> Signature:
    """Draw the values of the matrices in a checkpoint's folder.

    Raises:
        WeightsError: the folder has no weights that can be read.
    """
    values: dict[str, Values] = {}
    for path in weight_files(Path(folder)).paths:
        for name, tensor in tensors_of(path):
            if tensor.dim() < 2 or not tensor.is_floating_point():
                continue
            flat = tensor.reshape(-1, tensor[0].numel()) if tensor.dim() > 2 else tensor.reshape(1, -1)
            rows = min(len(flat), 4096)
            at = _places(name, flat.shape[1])
            for i in range(rows):
                drawn = flat[i][at].float().numpy()
                if drawn.any() and float(drawn.min()) != float(drawn.max()):
                    values[f"{name}[{i}]" if tensor.dim() > 2 else name] = drawn
    return Signature(key or str(folder), step, values)


def _places(name: str, size: int) -> NDArray[np.int64]:
    if size <= SAMPLES:
        return np.arange(size)
    return np.random.default_rng(zlib.crc32(name.encode())).integers(size, size=SAMPLES)


def check_continuity(
    checkpoints: Sequence[Checkpoint],
    reach: Callable[[Checkpoint], Signature] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Continuity:
    """Compare the weights of neighbouring checkpoints with the series' own trend.

    Args:
        checkpoints: of one stage, in training order; two at least, and four for a trend worth the name, without
            which `untold` says so.
        reach: gives a checkpoint's signature; by default it is that of its folder, which has to be on this machine.
        progress: called with (done, total).

    Raises:
        OptionError: fewer than two checkpoints, or several stages.
        WeightsError: weights that cannot be read.
    """
    if len(checkpoints) < 2 or len({c.stage for c in checkpoints}) > 1:
        raise OptionError(
            f"{len(checkpoints)} checkpoints of {len({c.stage for c in checkpoints})} stages were given. Continuity is "
            "that of two checkpoints of one stage or more: choose them, with --stage where there are several."
        )
    found: list[Signature] = []
    for done, checkpoint in enumerate(checkpoints):
        if progress is not None:
            progress(done, len(checkpoints))
        found.append(_local(checkpoint) if reach is None else reach(checkpoint))
    if progress is not None:
        progress(len(checkpoints), len(checkpoints))
    return compare(found)


def _local(checkpoint: Checkpoint) -> Signature:
    if checkpoint.path is None:
        raise OptionError(f"{checkpoint.key} is not on this machine. Fetch it first, or say how with `reach`.")
    return signature(checkpoint.path, checkpoint.key, checkpoint.step)


def compare(signatures: Sequence[Signature]) -> Continuity:
    """Compare signatures of checkpoints in training order."""
    names = sorted(set().union(*(one.values for one in signatures)))
    common = [name for name in names if all(name in one.values for one in signatures)]
    gaps = np.array([max(b.step - a.step, 1) for a, b in pairwise(signatures)], dtype=np.float64)
    keys = tuple(one.key for one in signatures)
    if not common:
        untold = "no matrix is in all of these checkpoints, so nothing is compared: choose those of one model"
        return Continuity(keys, (math.nan,) * len(gaps), (), tuple(names), untold)
    stacks = {name: [one.values[name].astype(np.float64) for one in signatures] for name in common}
    near = np.array([[_distance(a, b) for a, b in pairwise(stacks[name])] for name in common])  # [matrix, T − 1]
    like = np.array([[_cosine(a, b) for a, b in pairwise(stacks[name])] for name in common])
    total = _kinds(range(len(common)), common)
    usual, alike = (
        np.median([np.median(table[rows], axis=0) for rows in total.values()], axis=0) for table in (near, like)
    )
    unlike, others = alike < UNLIKE, bool((alike > ALIKE).any())
    flags: dict[tuple[What, int], list[int]] = defaultdict(list)
    for row, name in enumerate(common):
        values = stacks[name]
        noise = 5.0 / math.sqrt(len(values[0]))
        for i, distance in enumerate(near[row]):
            if usual[i] > 0 and distance < STILL * usual[i]:
                flags["rests", i].append(row)
            elif abs(like[row, i]) < noise and alike[i] > ALIKE:
                flags["unrelated", i].append(row)
            elif like[row, i] < noise and unlike[i] and others:
                flags["parts", i].append(row)
            elif distance > LARGE and distance > JUMP * _expected(near[row], gaps, i):
                flags["jumps", i].append(row)
            elif i + 1 < len(gaps) and distance > LARGE:
                across = _distance(values[i], values[i + 2])
                if min(distance, near[row, i + 1]) > STRAY * across:
                    flags["strays", i].append(row)
    breaks = [
        Break(
            what,
            keys[i],
            keys[i + 1],
            kind,
            len(rows),
            len(total[kind]),
            float(np.median(near[rows, i])),
            float(usual[i]),
        )
        for (what, i), flagged in sorted(flags.items(), key=lambda item: (item[0][1], item[0][0]))
        for kind, rows in _kinds(flagged, common).items()
    ]
    apart = tuple(name for name in names if name not in common)
    return Continuity(keys, tuple(usual.tolist()), tuple(breaks), apart, _untold(unlike, others))


def _untold(unlike: NDArray[np.bool_], others: bool) -> str:
    """What intervals, [T − 1], of which some are of unrelated checkpoints, leave open."""
    said = []
    if unlike.any() and not others:
        said.append(
            f"{int(unlike.sum())} of {len(unlike)} pairs of neighbours are no more like each other than two random "
            "draws, and none are clearly alike: these are different runs, or checkpoints too far apart to tell; choose "
            "some that stand closer"
        )
    if len(unlike) < TREND:
        said.append(f"so few show no trend: give {TREND + 1} or more, or look for distances near 1.41 yourself")
    return "; ".join(said)


def _expected(near: NDArray[np.float64], gaps: NDArray[np.float64], i: int) -> float:
    """How far a matrix may come over an interval at the speed of those beside it; √2 where there is none."""
    beside = [j for j in (i - 2, i - 1, i + 1, i + 2) if 0 <= j < len(gaps)]
    return min(max((near[j] * max(1.0, gaps[i] / gaps[j]) for j in beside), default=math.sqrt(2)), math.sqrt(2))


def _kinds(rows: Iterable[int], names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        found[re.sub(r"(?<=[.\[])\d+(?=[.\]]|$)", "*", names[row])].append(row)
    return found


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    size = math.sqrt(0.5 * (float(a @ a) + float(b @ b)))
    return float(np.linalg.norm(a - b)) / size if size else 0.0


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    size = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0
