"""What a checkpoint is, and what is known of its weights."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gated_lpi._common.entries import writable
from gated_lpi._common.weight_files import Stamp

STEPS = "steps"
WORDS = "words"
BYTES = "bytes"
BILLION_TOKENS = "billion tokens"
INDEX = "index"
PROGRESS = (STEPS, WORDS, BYTES)  # what a series may be chosen and aligned on as it is
SHOWN = 12  # names that a line has room for


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights of a series.

    Attributes:
        path: folder that holds the weights, None while they are on a hub only.
        key: its name within the series, e.g. "step-100".
        step: what `step_unit` counts, as a rule optimizer steps taken.
        tokens: training tokens seen, None where unknown.
        stage: stage of the training run, "" where it has one only.
        commit: pinned commit, "" for a local folder.
        repo, revision: repository and branch on the hub, "" for a local folder.
        step_unit: STEPS, or, where a series does not tell its optimizer steps, WORDS, BYTES, BILLION_TOKENS or INDEX.
        folder: its folder within the branch, "" where the branch itself is the checkpoint.
        tokenizer: folder or repository of its tokenizer, "" where that is beside the weights, or on the branch main.
        remote_code: whether code that comes with it may be fetched and run.
    """

    path: Path | None
    key: str
    step: int
    tokens: int | None
    stage: str
    commit: str = ""
    repo: str = ""
    revision: str = ""
    step_unit: str = STEPS
    folder: str = ""
    tokenizer: str = ""
    remote_code: bool = False


@dataclass(frozen=True)
class Excluded:
    """A branch, repository, folder or file that is left out of a series, and why.

    Name and reason are to be shown: what no output can take (halves of surrogate pairs) is spelt out in them.

    Attributes:
        name: of the branch, folder or file.
        reason: why it is left out.
        repo: the repository that it is of, "" for a local folder.
    """

    name: str
    reason: str
    repo: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", writable(self.name))
        object.__setattr__(self, "reason", writable(self.reason))


def of_one_unit(checkpoints: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[Excluded]]:
    """Those that count what most of them count, and the others, left out: a series has one axis."""
    units = Counter(checkpoint.step_unit for checkpoint in checkpoints)
    usual = max(units, key=lambda unit: units[unit], default=STEPS)
    return [c for c in checkpoints if c.step_unit == usual], [
        Excluded(c.key, f"counts {c.step_unit}, and most of the series {usual}", c.repo)
        for c in checkpoints
        if c.step_unit != usual
    ]


def left_out(excluded: Iterable[Excluded]) -> tuple[str, ...]:
    """What is excluded, a line for each reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for item in excluded:
        reasons[item.reason].append(item.name)
    return tuple(f"left out: {shortened(names)}: {reason}" for reason, names in reasons.items())


def shortened(names: Sequence[str]) -> str:
    """Names, the first `SHOWN` of them, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


@dataclass(frozen=True)
class LocalListing:
    """What is in a folder.

    Attributes:
        checkpoints: in training order.
        excluded: all else, which is left out, with the reasons.
    """

    checkpoints: tuple[Checkpoint, ...]
    excluded: tuple[Excluded, ...]

    @property
    def ignored(self) -> tuple[str, ...]:
        """The names of what is left out."""
        return tuple(item.name for item in self.excluded)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is left out, a line for each reason."""
        return left_out(self.excluded)


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file.

    Attributes:
        name: the file's.
        size: bytes.
        sha256: of its bytes.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class WeightsReport:
    """Weights that were read in full and found finite.

    Attributes:
        files: the files, in name order.
        sha256: one digest over the names and digests of all files; equal for byte-identical checkpoints only.
        parameters: number of stored values.
        dtypes: number of stored values of each dtype.
        aside: names of safetensors files that lie beside the weights and are no part of them, so that neither digest
            nor check covers them.
        stamp: by what `refuse_changed` sees whether a file was written to since; no part of what was found.
    """

    files: tuple[WeightFile, ...]
    sha256: str
    parameters: int
    dtypes: Mapping[str, int]
    aside: tuple[str, ...] = ()
    stamp: Stamp = field(default=(), compare=False, repr=False)
