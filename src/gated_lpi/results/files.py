"""The small JSON files of a run: written with a digest of themselves, read whole and as they were written.

Each has the keys `format`, the version of how runs are laid out, and `sha256`, the digest of all else. So a flipped bit
is found, and a file of a later version is refused. Files of format 1 have neither key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gated_lpi._common.folders import Folder, read_text, write_atomically
from gated_lpi._common.foreign import ForeignTextError, has_surrogate, parse_json
from gated_lpi.errors import RunError
from gated_lpi.options.explain import describe

FORMAT = 2
NO_FORMAT = 10**6  # no version of this package comes to this many formats: such a number is damage
FORMAT_KEY = "format"
SEAL = "sha256"
DEEPEST = 64
M = TypeVar("M", bound=BaseModel)
Number = Annotated[int, Field(ge=0, lt=2**63)]


class NewerFormatError(RunError):
    """A file that a later version of this package wrote."""


class Entry(BaseModel):
    """What is said of one checkpoint in any file of a run: at least these, and whatever else was noted.

    Attributes:
        key: its name within the series.
        step: what the series counts, as a rule optimizer steps.
        step_unit: what that is; records of earlier versions do not say.
        tokens: training tokens seen, None where unknown.
        stage: of the training run, "" where it has one only.
        commit: pinned commit, "" for a local folder.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    key: Annotated[str, Field(min_length=1)]
    step: Number
    step_unit: str = "steps"
    tokens: Number | None = None
    stage: str = ""
    commit: str = ""


def write_file(file: Folder, content: Mapping[str, Any]) -> None:
    """Write plain values as JSON, with the format's version and a digest.

    Raises:
        WriteError: the file could not be written.
        RunError: the address cannot be reached.
    """
    write_atomically(file, json.dumps(sealed(content), indent=2) + "\n")


def read_file(file: Folder, model: type[M], what: str, advice: str) -> M | None:
    """The content of a file, None if there is none.

    Args:
        file: where it is.
        model: what its content must be.
        what: what errors call it.
        advice: what errors say to do.

    Raises:
        RunError: it is not JSON, was changed after it was written, or is not that of a `model`: "FILE cannot be read as
            WHAT (why); ADVICE".
        NewerFormatError: a later version of this package wrote it.
    """
    try:
        text = read_text(file)
        return None if text is None else validated(text, model)
    except NewerError as error:
        raise NewerFormatError(f"{file} {error}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read as {what} ({error}); {advice}") from error


def validated(text: str, model: type[M]) -> M:
    """The content of a text of JSON, without what `sealed` adds.

    Raises:
        NewerError: a later version of this package wrote it.
        ForeignTextError: says in one line why it is no `model`; a `ValueError`, as all that is raised here.
    """
    content = unsealed(parsed(text))
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ForeignTextError(describe(error, model)) from None


def parsed(text: str) -> Any:
    """A text of JSON, unless it holds what no file of a run holds.

    Raises:
        ForeignTextError: says in one line what is wrong with it; a `ValueError`.
    """
    content = parse_json(text)
    _refuse_odd(content)
    return content


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with the format's version, and a digest of all of it."""
    plain: dict[str, Any] = json.loads(json.dumps({FORMAT_KEY: FORMAT, **content}))
    return plain | {SEAL: digest(plain)}


def unsealed(content: Any) -> Any:
    """What was sealed; content of format 1, or that is no object, as it is.

    Raises:
        NewerError: it was sealed by a later version; a `ValueError`.
        ForeignTextError: it is not what was sealed; a `ValueError`, too.
    """
    if not isinstance(content, dict) or not content.keys() & {FORMAT_KEY, SEAL}:
        return content
    rest = {key: value for key, value in content.items() if key != SEAL}
    version = rest.get(FORMAT_KEY)
    if isinstance(version, int) and FORMAT < version < NO_FORMAT:
        raise NewerError(
            f"was written by a later version of gated-lpi (format {version}; this one reads up to {FORMAT}). Install "
            "that version: pip install --upgrade gated-lpi"
        )
    if content.get(SEAL) != digest(rest):
        raise ForeignTextError("its digest is not that of its content: it was damaged or edited after it was written")
    del rest[FORMAT_KEY]
    return rest


def digest(content: Any) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class NewerError(ValueError):
    """Content that a later version sealed; the message lacks the name of the file."""


def _refuse_odd(content: Any) -> None:
    """Refuse texts that cannot be written, and nesting far beyond what any file of a run has."""
    level = [content]
    for _ in range(DEEPEST):
        for value in level:
            if isinstance(value, str) and has_surrogate(value):
                raise ForeignTextError(f"{value[:60]!r} holds half of a surrogate pair, which no file can hold")
        level = [item for value in level for item in _inside(value)]
        if not level:
            return
    raise ForeignTextError(f"lists or objects nested more than {DEEPEST} deep")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []
