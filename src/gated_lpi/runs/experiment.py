"""What is run, as plain data that can be written to a file: facts, arms, options, metrics, ablations."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gated_lpi.errors import OptionError
from gated_lpi.flatten import flatten
from gated_lpi.lpi import ALL_UNITS
from gated_lpi.lpi.attribute import Norm, Positions, Target, Templates
from gated_lpi.training import ArmKind, TrainingSpec


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FactsSpec(_Spec):
    """Which facts, and through which of their templates: see `load_facts` and `FactSet.prompts`."""

    source: str = "builtin"
    templates: Templates = "held_out"


class AttributionSpec(_Spec):
    """Options of `attribute`."""

    norm: Norm = "frozen"
    target: Target = "object"
    estimator: str = "fast"
    tolerance: float = Field(default=1e-3, gt=0, le=1)
    units: tuple[str, ...] = ALL_UNITS
    positions: Positions = "summed"
    batch_size: int = Field(default=256, ge=1)
    memory: str | None = None


class MetricsSpec(_Spec):
    """Options of `metrics.summarise`: top set's share, windows of steps, bootstrap draws."""

    fraction: float = Field(default=0.01, gt=0, le=1)
    windows: dict[str, tuple[int, int]] | None = None
    draws: int = Field(default=200, ge=1)
    seed: int = 0


class AblationSpec(_Spec):
    """What is ablated at the last checkpoint: the top heads, and the top share of FFN units, each beside random ones.

    In a model with fewer than twice as many heads as a row asks for, half of its heads are ablated instead.
    """

    heads: tuple[int, ...] = (1, 10)
    units: tuple[float, ...] = (0.01,)
    random_draws: int = Field(default=20, ge=1)
    k: int = Field(default=10, ge=1)
    top_units: int = Field(default=10, ge=0)
    seed: int = 0


class Arm(_Spec):
    """One series of checkpoints: trained by the run (`train`), or a folder of checkpoints (`checkpoints`)."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    train: ArmKind | None = None
    checkpoints: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.train is None) == (self.checkpoints is None):
            raise ValueError(f"arm {self.name!r} needs exactly one of `train` (a kind) and `checkpoints` (a folder)")
        return self


class Experiment(_Spec):
    """A whole experiment."""

    name: str
    facts: FactsSpec = FactsSpec()
    attribution: AttributionSpec = AttributionSpec()
    metrics: MetricsSpec = MetricsSpec()
    ablation: AblationSpec = AblationSpec()
    training: TrainingSpec = TrainingSpec()
    arms: tuple[Arm, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"arms need different names; given were {', '.join(names)}")
        return self

    def differences(self, other: Experiment) -> list[str]:
        """Keys in which two experiments differ, with both values."""
        mine, theirs = flatten(self.model_dump(mode="json")), flatten(other.model_dump(mode="json"))
        return [
            f"{key} ({mine.get(key)!r} there, {theirs.get(key)!r} given)"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]


def load_experiment(path: str | Path) -> Experiment:
    """Read an experiment file (TOML).

    Raises:
        OptionError: the file is not there, is not TOML, or has a key or value that means nothing; names the key,
            the value and what is allowed.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"no experiment file could be read at {str(path)!r} ({error.strerror})") from error
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path} is not TOML: {error}") from error
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'experiment'}: {e['msg']} (given: {e['input']!r})"
            for e in error.errors()
        )
        raise OptionError(f"{path} is not an experiment: {problems}") from error


def preset(name: str) -> Experiment:
    """An experiment that comes with the package, such as "demo".

    Raises:
        OptionError: there is none of this name.
    """
    folder = Path(__file__).parent.parent / "presets"
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise OptionError(f"preset {name!r} was asked for; there are {', '.join(known)}")
    return load_experiment(folder / f"{name}.toml")
