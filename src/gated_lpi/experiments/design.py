"""Sweeps: a table of training options and the values that each is to have, as cells, one for every combination.

    [grid]                                      cells = [{ size = { experts = 8, expert_width = 96 } },
    load_balancing = [0.0, 0.01]                         { size = { experts = 16, expert_width = 48 } }]
    size.experts = [8, 16]

A grid has a cell for every combination of its values; `cells` lists them, where several options belong together. Both
at once are combined with each other. A cell is named after its options and values, "load_balancing-0.01-experts-8", or
by the key `name` of a listed one.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from gated_lpi._common.flatten import flatten

MOST_CELLS = 1000
_NAME = "name"

Plain = bool | int | float | str | list[Any] | dict[str, Any]


def _lists(given: object) -> object:
    """A grid with dotted keys, once each of them is known to have a list of different values."""
    if not isinstance(given, dict):
        return given
    flat = flatten(given)
    for key, values in flat.items():
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"{key} is {values!r}; expected a list of values to try: {key} = [{_written(values)}, …]")
        twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
        if twice is not None:
            raise ValueError(f"{key} lists {twice!r} twice; leave one out")
    if math.prod(map(len, flat.values())) > MOST_CELLS:
        sizes = " times ".join(f"{len(values)} {key}" for key, values in flat.items())
        raise ValueError(f"{sizes} are more than {MOST_CELLS} cells; list those that are wanted as `cells`")
    return flat


def _filled(given: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    for i, cell in enumerate(given):
        if not cell.keys() - {_NAME}:
            raise ValueError(f"cell {i} has no training option; expected a table such as {{ load_balancing = 0.1 }}")
    return given


Grid = Annotated[dict[str, tuple[Plain, ...]], BeforeValidator(_lists), Field(min_length=1)]
Cells = Annotated[tuple[dict[str, Plain], ...], Field(min_length=1, max_length=MOST_CELLS), AfterValidator(_filled)]


class Cell(NamedTuple):
    """One combination.

    Attributes:
        name: of its options and values, for the names of arms.
        training: the options, nested as in `training`.
    """

    name: str
    training: dict[str, Any]


def cells_of(grid: Mapping[str, Sequence[Any]] | None, listed: Sequence[Mapping[str, Any]] | None) -> list[Cell]:
    """Every cell of a grid and of listed cells, combined; one without name and options where there is neither.

    Raises:
        ValueError: an option is in both, or is the seed.
    """
    rows = [({}, "")] if listed is None else [_listed(cell) for cell in listed]
    for row, _ in rows:
        both = row.keys() & (grid or {}).keys()
        if both:
            raise ValueError(f"{', '.join(sorted(both))} is in grid and in cells; leave it out of one of them")
    found = []
    for row, name in rows:
        for values in itertools.product(*(grid or {}).values()):
            crossed = dict(zip(grid or {}, values, strict=True))
            parts = [name or _named(row), _named(crossed)]
            if "seed" in row | crossed:
                raise ValueError("seed is in a grid, whose cells are things to compare; give `seeds`, or `replicates`")
            found.append(Cell("-".join(filter(None, parts)), _nested(row | crossed)))
    return found


def _listed(cell: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A listed cell's options with dotted keys, and its own name, "" if it has none."""
    return flatten({key: value for key, value in cell.items() if key != _NAME}), str(cell.get(_NAME, ""))


def _named(options: Mapping[str, Any]) -> str:
    short = {key: key.rsplit(".", 1)[-1] for key in options}
    unique = len(set(short.values())) == len(short)
    return "-".join(f"{short[key] if unique else key}-{_legal(value)}" for key, value in options.items())


def _legal(value: Any) -> str:
    """A value as a part of a name: letters, digits, dots, underscores and dashes."""
    if isinstance(value, dict):
        return _named(flatten(value))
    if isinstance(value, list | tuple):
        return "_".join(map(_legal, value))
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, last = key.split(".")
        place = tree
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def _written(value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return "…"


def shared_keys(training: Mapping[str, Any], cell: Cell) -> Iterator[str]:
    """The dotted keys of options that an arm and a cell both have."""
    yield from sorted(flatten(training).keys() & flatten(cell.training).keys())
