"""Public checkpoint suites as data: `suites.toml`, checked when it is read.

A suite names repositories of one kind, what their branch names leave unsaid (tokens per step, what `main` is) and what
is known to be wrong with some checkpoints.
"""

from __future__ import annotations

import fnmatch
import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gated_lpi._common.entries import LARGEST
from gated_lpi.checkpoints.names import REPOSITORY, SCHEMES, repository_tokens
from gated_lpi.checkpoints.types import Checkpoint

_Count = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]
SEED_MARK = "{seed}"
_Positive = Annotated[int, Field(strict=True, gt=0, le=LARGEST)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Defect(_Row):
    """Something known to be wrong.

    Attributes:
        what: in words.
        source: an address that says so.
        repos: which repositories it concerns, all of the suite if empty.
        steps: single steps and [first, last] ranges; if empty, it concerns the series rather than single checkpoints.
        stage: the stage, any if empty.
    """

    what: str
    source: str
    repos: tuple[str, ...] = ()
    steps: tuple[_Count | tuple[_Count, _Count], ...] = ()
    stage: str = ""

    def concerns(self, repo: str) -> bool:
        """Whether it is about this repository."""
        return not self.repos or repo in self.repos

    @property
    def place(self) -> str:
        """What it concerns, in words: repositories, stage and steps; "" for the whole suite."""
        steps = [str(span) if isinstance(span, int) else f"{span[0]} to {span[1]}" for span in self.steps]
        one = len(steps) == 1 and isinstance(self.steps[0], int)
        told = f"{'step' if one else 'steps'} {', '.join(steps)}" if steps else ""
        return ", ".join(filter(None, (*self.repos, self.stage, told)))

    def __str__(self) -> str:
        return f"{self.place}: {self.what}" if self.place else self.what

    def afflicts(self, checkpoint: Checkpoint) -> bool:
        """Whether it is about this very checkpoint."""
        if not self.concerns(checkpoint.repo) or (self.stage and self.stage != checkpoint.stage):
            return False
        spans = [(span, span) if isinstance(span, int) else span for span in self.steps]
        return any(first <= checkpoint.step <= last for first, last in spans)


class Index(_Row):
    """For names that count checkpoints: index i has seen (i + first) · tokens training tokens, approximately.

    Attributes:
        tokens: training tokens between two checkpoints.
        first: what is added to an index.
    """

    tokens: _Positive
    first: _Count = 0


class Point(_Row):
    """One checkpoint in a repository of its own.

    Attributes:
        repo: the repository.
        tokens: training tokens, where the repository's name tells none.
    """

    repo: str
    tokens: _Count | None = None

    @model_validator(mode="after")
    def _known_tokens(self) -> Point:
        if self.tokens is None and repository_tokens(self.repo) is None:
            raise ValueError(f"{self.repo}: its name tells no tokens, so `tokens` is needed")
        return self


class Suite(_Row):
    """One public suite.

    Attributes:
        name: what it is called.
        scheme: name of a row of `gated_lpi.checkpoints.names.SCHEMES`, or "repository".
        repos: its repositories, each a series; one with * stands for all that match.
        points: instead, one repository per checkpoint, together a series.
        codenames: branches whose names tell nothing, in training order; their places count as their steps.
        joined: for a repository, others whose branches belong to the same series.
        tokens_per_step: training tokens in a step, where names tell no tokens.
        tokens_stages: the stages that this holds for, all if empty.
        index: for names that count checkpoints.
        moe: whether the models are mixtures of experts.
        runs: how they can be run: "as they are"; with "trust_remote_code"; after gated-lpi "import"; or "not".
        why: why not as they are.
        replicates: repositories that differ in the seed alone, {seed} in its place: arms with `seeds` take them.
        main: what the default branch is, where it is known.
        notes: what to know before use.
        defects: what is known to be wrong with some checkpoints.
    """

    name: str
    scheme: str
    repos: tuple[str, ...] = ()
    points: tuple[Point, ...] = Field(default=(), alias="point")
    codenames: tuple[str, ...] = ()
    joined: dict[str, tuple[str, ...]] = {}
    tokens_per_step: _Positive | None = None
    tokens_stages: tuple[str, ...] = ()
    index: Index | None = None
    moe: bool = False
    runs: Literal["as they are", "trust_remote_code", "import", "not"] = "as they are"
    why: str = ""
    replicates: tuple[str, ...] = ()
    main: str = ""
    notes: tuple[str, ...] = ()
    defects: tuple[Defect, ...] = Field(default=(), alias="defect")

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        if bool(self.repos) == bool(self.points):
            raise ValueError(f"suite {self.name} needs either repos or points")
        if (self.runs == "as they are") is bool(self.why):
            raise ValueError(f"suite {self.name}: why goes with runs, and says why not as they are")
        if any(SEED_MARK not in repo for repo in self.replicates):
            raise ValueError(f"suite {self.name}: replicates need {SEED_MARK} where the seed stands")
        known = {scheme.name for scheme in (*SCHEMES, REPOSITORY)}
        if self.scheme not in known:
            raise ValueError(f"suite {self.name}: no scheme {self.scheme!r}; known are {', '.join(sorted(known))}")
        return self

    def matches(self, repo: str) -> bool:
        """Whether a repository is one of the suite's series."""
        return any(fnmatch.fnmatchcase(repo.lower(), pattern.lower()) for pattern in self.repos)

    @property
    def obstacle(self) -> str:
        """How its models can be run, if not as they are, in words; else ""."""
        ways = {
            "as they are": "",
            "trust_remote_code": "need trust_remote_code",
            "import": "need gated-lpi import first",
            "not": "CANNOT BE RUN",
        }
        return f"{ways[self.runs]}: {self.why}" if self.why else ""

    @property
    def choice(self) -> str:
        """Its repositories, in words: those that are named outright, then patterns that others match."""
        named = [repo for repo in self.repos if "*" not in repo]
        patterns = [repo for repo in self.repos if "*" in repo]
        matching = f"{'or one ' if named else 'any '}that matches {' or '.join(patterns)}" if patterns else ""
        return ", ".join(filter(None, (*named, matching)))


class _Table(_Row):
    suite: tuple[Suite, ...]

    @model_validator(mode="after")
    def _unique(self) -> _Table:
        names = [suite.name for suite in self.suite]
        if len(set(names)) != len(names):
            raise ValueError("two suites have one name")
        return self


@cache
def suites() -> tuple[Suite, ...]:
    """The public checkpoint suites that are known, in the order of the table."""
    text = (files("gated_lpi.checkpoints") / "suites.toml").read_text(encoding="utf-8")
    return _Table.model_validate(tomllib.loads(text)).suite


def suite_named(name: str) -> Suite | None:
    """The suite of that name, whatever its case."""
    return next((suite for suite in suites() if suite.name == name.lower()), None)


def suite_holding(source: str) -> Suite | None:
    """The suite that a name is of: its own, that of one of its series, or that of one checkpoint's repository."""
    points = (suite for suite in suites() if any(point.repo == source for point in suite.points))
    return suite_named(source) or suite_of(source) or next(points, None)


def suite_of(repo: str) -> Suite | None:
    """The suite that a repository belongs to as a series of its own."""
    return next((suite for suite in suites() if suite.matches(repo)), None)
