"""Reading the small JSON files of a run: whole and as they were written, or an error that says what to do."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gated_lpi.errors import RunError
from gated_lpi.folders import Folder, read_text
from gated_lpi.foreign import ForeignTextError, has_surrogate, parse_json
from gated_lpi.runs.problems import describe

DEEPEST = 64
M = TypeVar("M", bound=BaseModel)
Number = Annotated[int, Field(ge=0, lt=2**63)]


class Entry(BaseModel):
    """What is said of one checkpoint in any file of a run: at least these, and whatever else was noted."""

    model_config = ConfigDict(strict=True, extra="allow")

    key: Annotated[str, Field(min_length=1)]
    step: Number
    tokens: Number | None = None
    stage: str = ""
    commit: str = ""


def read_file(file: Folder, model: type[M], what: str, advice: str) -> M | None:
    """The content of a file, None if there is none.

    Raises:
        RunError: it is not JSON, or not that of a `model`: "FILE cannot be read as WHAT (why); ADVICE".
    """
    try:
        text = read_text(file)
        return None if text is None else validated(text, model)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read as {what} ({error}); {advice}") from error


def validated(text: str, model: type[M]) -> M:
    """The content of a text of JSON.

    Raises:
        ValueError: says in one line why it is no `model`.
    """
    content = parse_json(text)
    _refuse_odd(content)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ForeignTextError(describe(error, model)) from None


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
