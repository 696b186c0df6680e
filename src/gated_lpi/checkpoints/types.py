"""What a checkpoint is, and what is known of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STEPS = "steps"
BILLION_TOKENS = "billion tokens"
INDEX = "index"


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights of a series.

    path: folder that holds the weights, None while they are on a hub only. key: its name within the series, e.g.
    "step-100". step: what `step_unit` counts, as a rule optimizer steps taken. tokens: training tokens seen, None
    where unknown. stage: stage of the training run, "" where it has one only. commit: pinned commit, "" for a local
    folder. repo, revision: repository and branch on the hub, "" for a local folder. step_unit: STEPS, or, where a
    series does not tell its optimizer steps, BILLION_TOKENS or INDEX.
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


@dataclass(frozen=True)
class Excluded:
    """A branch, repository or folder that is left out of a series, and why."""

    name: str
    reason: str
    repo: str = ""


@dataclass(frozen=True)
class LocalListing:
    """The checkpoints of a folder in training order, and the sub-folders that are none."""

    checkpoints: tuple[Checkpoint, ...]
    excluded: tuple[Excluded, ...]

    @property
    def ignored(self) -> tuple[str, ...]:
        """The names of the sub-folders that are no checkpoints."""
        return tuple(folder.name for folder in self.excluded)


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file: name, size in bytes and SHA-256 of its bytes."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class WeightsReport:
    """Weights that were read in full and found finite.

    sha256: one digest over the names and digests of all files; equal for byte-identical checkpoints only.
    parameters: number of stored values. dtypes: number of stored values of each dtype.
    """

    files: tuple[WeightFile, ...]
    sha256: str
    parameters: int
    dtypes: Mapping[str, int]
