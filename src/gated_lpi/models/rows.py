"""Rows of the table of families as TOML: how one that was proposed is shown, and how a user gives one.

    name = "Cohere2"
    norm = "layer"
    parallel = true
    logit_multiplier_attribute = "logit_scale"

Keys are the fields of `Family`; what is left out is as in the default row.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gated_lpi.errors import OptionError
from gated_lpi.models.families import Family

_FIELDS = {field.name: field for field in dataclasses.fields(Family) if field.name != "source"}
_ROW = TypeAdapter(Family)


def differences(family: Family) -> Iterator[tuple[str, Any]]:
    """Fields of a row that are not as in the default row, with their values; its name comes first."""
    for name, field in _FIELDS.items():
        value = getattr(family, name)
        if field.default is dataclasses.MISSING or value != field.default:
            yield name, value


def row_as_toml(family: Family) -> str:
    """A row as `read_row` takes it, one field a line."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in differences(family)]
    return "\n".join(lines)


def read_row(path: str | Path) -> Family:
    """Read a row that a user wrote.

    Args:
        path: a TOML file; keys are fields of `Family`. Without a name, the file's name is the row's.

    Raises:
        OptionError: it cannot be read, is no TOML, or has a key or value that no row has.
    """
    file = Path(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(
            f"{str(path)!r} was given as a row of the table of families and cannot be read as TOML ({error}); "
            "`gated-lpi check MODEL` shows a row to begin with"
        ) from error
    return row_of({"name": file.stem, **content}, str(file))


def row_of(content: Mapping[str, Any], source: str) -> Family:
    """The row that keys and values say, as a file of `read_row` or the `family_row` of an arm holds them.

    Args:
        content: fields of `Family`, its name among them.
        source: where they are from, as messages name it.

    Raises:
        OptionError: a key or value that no row has.
    """
    unknown = sorted(content.keys() - _FIELDS.keys())
    if unknown:
        raise OptionError(
            f"{source} has the key {unknown[0]!r}, which no row has; expected some of {', '.join(_FIELDS)}"
        )
    for name, value in content.items():
        truth = isinstance(_FIELDS[name].default, bool)
        if truth is not isinstance(value, bool):
            expected = "true or false, which are written without quotes" if truth else "no truth value"
            raise OptionError(f"{source} has {name} = {value!r}; expected {expected}: docs/families.md says what it is")
    try:
        return _ROW.validate_python({"model_types": (), **content, "source": source})
    except ValidationError as error:
        first = error.errors()[0]
        raise OptionError(
            f"{source} has {first['loc'][0]} = {first['input']!r}: {first['msg']}; docs/families.md says what each "
            "field of a row is"
        ) from error
