"""What a checkpoint is, and what is known of its weights once they have been checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights of a series.

    path: folder that holds the weights. key: its name within the series, e.g. "step-100".
    step: optimizer steps taken. tokens: training tokens seen, None where unknown.
    stage: stage of the training run, "" where it has one only. commit: pinned commit, "" for a local folder.
    """

    path: Path
    key: str
    step: int
    tokens: int | None
    stage: str
    commit: str = ""


@dataclass(frozen=True)
class LocalListing:
    """The checkpoints of a folder in training order, and the names of the sub-folders that are none."""

    checkpoints: tuple[Checkpoint, ...]
    ignored: tuple[str, ...]


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
