"""What is run, as plain data that can be written to a file: facts, arms, options, metrics, ablations."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from gated_lpi.checkpoints import parse_count
from gated_lpi.checkpoints.selection import Spacing
from gated_lpi.errors import OptionError
from gated_lpi.facts.types import Templates
from gated_lpi.flatten import flatten
from gated_lpi.lpi.attribute import Norm, Positions, Target
from gated_lpi.lpi.memory import parse_memory
from gated_lpi.runs.problems import describe
from gated_lpi.runs.settings import EngineSpec, Spec, StorageSpec
from gated_lpi.training import ArmKind, TrainingSpec

EstimatorName = Literal["fast", "exact", "reference"]
UnitName = Literal["ffn", "attention", "heads", "experts", "blocks"]
SETTINGS = ("engine", "storage")
SELECTION = ("steps", "tokens", "count", "spacing", "every", "stages", "tokens_aligned_with")


def _count(given: object) -> object:
    return parse_count(given) if isinstance(given, str) else given


Count = Annotated[int, BeforeValidator(_count), Field(ge=0)]


def _several(given: object) -> object:
    return given if given is None or isinstance(given, list | tuple) else (given,)


def _amount(given: object) -> object:
    if isinstance(given, str):
        parse_memory(given)
    return given


class FactsSpec(Spec):
    """Which facts, and through which of their templates: see `load_facts` and `FactSet.prompts`."""

    source: str = "builtin"
    templates: Templates = "held_out"


class AttributionSpec(Spec):
    """Options of `attribute`."""

    norm: Norm = "frozen"
    target: Target = "object"
    estimator: EstimatorName = "fast"
    tolerance: float = Field(default=1e-3, gt=0, le=1)
    units: tuple[UnitName, ...] = Field(default=get_args(UnitName), min_length=1)
    positions: Positions = "summed"
    batch_size: int | None = Field(default=None, ge=1)
    memory: Annotated[str | None, BeforeValidator(_amount)] = None


class MetricsSpec(Spec):
    """Options of `metrics.summarise`: top set's share, windows of steps, bootstrap draws."""

    fraction: float = Field(default=0.01, gt=0, le=1)
    windows: dict[str, tuple[int, int]] | None = None
    draws: int = Field(default=200, ge=1)
    seed: int = 0


class AblationSpec(Spec):
    """What is ablated at the last checkpoint: the top heads, and the top share of FFN units, each beside random ones.

    In a model with fewer than twice as many heads as a row asks for, half of its heads are ablated instead.
    """

    heads: tuple[int, ...] = (1, 10)
    units: tuple[float, ...] = (0.01,)
    random_draws: int = Field(default=20, ge=1)
    k: int = Field(default=10, ge=1)
    top_units: int = Field(default=10, ge=0)
    seed: int = 0


class Arm(Spec):
    """One series of checkpoints. Exactly one of the first three says where it is from.

    Attributes:
        train: trained by the run: a kind of model.
        checkpoints: a folder of checkpoints, all of which are taken.
        series: a suite, a repository, several repositories or a folder: see `list_series`.
        steps, tokens, count, spacing, every, stages: which checkpoints of the series: see `select`. Steps and tokens
            are numbers, or text such as "10K" and "2.5T".
        tokens_aligned_with: the name of another arm: take those nearest in training tokens to its checkpoints.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    train: ArmKind | None = None
    checkpoints: str | None = None
    series: str | tuple[str, ...] | None = None
    steps: Annotated[tuple[Count, ...] | None, BeforeValidator(_several)] = None
    tokens: Annotated[tuple[Count, ...] | None, BeforeValidator(_several)] = None
    count: int | None = Field(default=None, ge=1)
    spacing: Spacing | None = None
    every: int | None = Field(default=None, ge=1)
    stages: Annotated[tuple[str, ...] | None, BeforeValidator(_several)] = None
    tokens_aligned_with: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [key for key in ("train", "checkpoints", "series") if getattr(self, key) is not None]
        if len(sources) != 1:
            raise ValueError(
                f"arm {self.name!r} needs exactly one of `train` (a kind), `checkpoints` (a folder) and `series` (a "
                f"suite, repository or folder to choose from); it has {' and '.join(sources) or 'none'}"
            )
        chosen = [key for key in SELECTION if getattr(self, key) is not None]
        if chosen and self.series is None:
            raise ValueError(
                f"arm {self.name!r} has {', '.join(chosen)}, which choose from a `series`, and no `series`; give the "
                "folder or repository as `series`"
            )
        ways = [key for key in ("steps", "tokens", "count", "every", "tokens_aligned_with") if key in chosen]
        if len(ways) > 1:
            raise ValueError(f"arm {self.name!r} chooses by {' and '.join(ways)} at once; give one of them")
        if self.spacing is not None and self.count is None:
            raise ValueError(f"arm {self.name!r} has spacing = {self.spacing!r} but no `count`, which it belongs to")
        return self


class Experiment(Spec):
    """A whole experiment. `engine` and `storage` say how it is carried out, all else what its results are."""

    name: str
    facts: FactsSpec = FactsSpec()
    attribution: AttributionSpec = AttributionSpec()
    metrics: MetricsSpec = MetricsSpec()
    ablation: AblationSpec = AblationSpec()
    training: TrainingSpec = TrainingSpec()
    engine: EngineSpec = EngineSpec()
    storage: StorageSpec = StorageSpec()
    arms: tuple[Arm, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"arms need different names; given were {', '.join(names)}")
        aligned = {arm.name: arm.tokens_aligned_with for arm in self.arms if arm.tokens_aligned_with is not None}
        for name, other in aligned.items():
            others = [known for known in names if known != name and known not in aligned]
            if other not in others:
                raise ValueError(
                    f"arm {name!r} has tokens_aligned_with = {other!r}; expected another arm that is not aligned "
                    f"itself: {', '.join(others) or 'there is none'}"
                )
        return self

    def differences(self, other: Experiment) -> list[str]:
        """Keys in which the results of two experiments would differ, with both values."""
        mine, theirs = (flatten(e.model_dump(mode="json", exclude=set(SETTINGS))) for e in (self, other))
        return [
            f"{key} ({mine.get(key)!r} there, {theirs.get(key)!r} given)"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]

    def with_settings(self, **sections: dict[str, Any]) -> Experiment:
        """The same experiment with some keys of `engine` or `storage` set anew.

        Raises:
            OptionError: a value that means nothing.
        """
        content = self.model_dump(mode="json")
        return _validated(content | {name: content[name] | keys for name, keys in sections.items()}, "these settings")


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not TOML: {error}") from error
    return _validated(content, str(path))


def _validated(content: dict[str, Any], source: str) -> Experiment:
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise OptionError(f"{source} is not an experiment: {describe(error, Experiment)}") from error


def preset(name: str) -> Experiment:
    """An experiment that comes with the package, such as "demo".

    Raises:
        OptionError: there is none of this name.
    """
    known = presets()
    if name not in known:
        raise OptionError(f"preset {name!r} was asked for; there are {', '.join(known)}")
    return load_experiment(_PRESETS / f"{name}.toml")


_PRESETS = Path(__file__).parent.parent / "presets"


def presets() -> tuple[str, ...]:
    """The names of the experiments that come with the package."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))
