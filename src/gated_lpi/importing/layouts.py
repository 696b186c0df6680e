"""Layouts of training frameworks as data: `layouts.toml`, checked when it is read."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gated_lpi.errors import OptionError
from gated_lpi.importing.moves import MOVES, ZEROS

LAYER, EXPERT = "{layer}", "{expert}"


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Move(_Row):
    """How one tensor of the model is made.

    Attributes:
        to: its name in the model of transformers.
        sources: names in the checkpoint, the first of which that is there is read; with {expert}, all experts' are
            stacked.
        how: a function of `moves`, or "zeros".
    """

    to: str
    sources: tuple[str, ...] = Field(default=(), alias="from")
    how: str = "copied"

    @model_validator(mode="after")
    def _known(self) -> Move:
        if self.how != ZEROS and self.how not in MOVES:
            raise ValueError(f"{self.to}: how = {self.how!r}; known are {', '.join([*MOVES, ZEROS])}")
        if (self.how == ZEROS) is bool(self.sources):
            raise ValueError(f"{self.to}: needs `from`, unless it is made of zeros")
        return self


class Layout(_Row):
    """How a framework stores a type of model.

    Attributes:
        name: what it is called.
        model_type: that of transformers; "" where a config.json is given.
        framework: whose layout it is.
        about: what is particular.
        layer: a tensor that every layer has; their number is that of layers.
        prefixes: what may stand before all names, and is taken off.
        aside: patterns of names that are no weights of the model.
        nothing: patterns of weights that the model has no place for, and that do nothing where they are all 0; where
            they are not, the checkpoint is of another model.
        config: keys of the config that no tensor tells, as published models have them.
        sizes: keys of the config → the tensor and axis that tell them.
        lists: keys of the config → the tensor whose layers they list.
        moves: how each tensor is made; none: names are the model's own.
    """

    name: str
    model_type: str
    framework: str
    about: str
    layer: str = ""
    prefixes: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    nothing: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    sizes: dict[str, tuple[str, int]] = {}
    lists: dict[str, str] = {}
    moves: tuple[Move, ...] = Field(default=(), alias="tensor")

    def is_aside(self, name: str) -> bool:
        """Whether a tensor is none of the model's weights."""
        return any(fnmatchcase(name, pattern) for pattern in self.aside)

    def does_nothing(self, name: str) -> bool:
        """Whether a tensor may be left out if it is all 0."""
        return any(fnmatchcase(name, pattern) for pattern in self.nothing)

    def without_prefix(self, names: list[str]) -> str:
        """The longest of the prefixes that all of these names have; "" if none."""
        return max((p for p in self.prefixes if names and all(n.startswith(p) for n in names)), key=len, default="")


class _Table(_Row):
    layout: tuple[Layout, ...]


@cache
def layouts() -> tuple[Layout, ...]:
    """The layouts that are known."""
    text = (files("gated_lpi.importing") / "layouts.toml").read_text(encoding="utf-8")
    return _Table.model_validate(tomllib.loads(text)).layout


def layout_named(name: str) -> Layout:
    """The layout of that name.

    Raises:
        OptionError: there is none; lists those that there are.
    """
    for layout in layouts():
        if layout.name == name:
            return layout
    raise OptionError(f"layout {name!r} was given; expected one of {', '.join(one.name for one in layouts())}")
