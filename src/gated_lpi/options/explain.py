"""What is wrong with an experiment file, in words: the key, the value, what is allowed, and the nearest key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

SHOWN = 200
A_TEXT, A_LIST, A_NUMBER = "a text", "a list", "a number"  # which of several forms a value has; no keys

PLAIN = (  # what pydantic says, and the same in plain words; the first that fits is taken
    (r"^Value error, ", ""),
    (r"^Input should be a valid integer\b.*", "expected a whole number"),
    (r"^Input should be a valid number\b.*", "expected a number"),
    (r"^Input should be a finite number\b.*", "expected a finite number"),
    (r"^Input should be a valid boolean\b.*", "expected true or false"),
    (r"^Input should be a valid string\b.*", "expected a text"),
    (r"^Input should be a valid (list|array|tuple)\b.*", "expected a list"),
    (r"^Input should be (a valid dictionary|an object)\b.*", "expected a table of keys"),
    (r"^Input should be (less|greater) than ", r"expected a number \1 than "),
    (r"^Input should be ", "expected "),
)


def in_plain_words(said: str) -> str:
    """What pydantic says of a value, as this package says it."""
    pattern, words = next(((p, w) for p, w in PLAIN if re.search(p, said)), ("^", ""))
    return re.sub(pattern, words, said, count=1)


def describe(error: ValidationError, model: type[BaseModel], whole: str = "experiment") -> str:
    """All problems that validating `model`, called `whole`, found, in one line."""
    problems = error.errors()
    broken = {problem["loc"][:end] for problem in problems for end in range(len(problem["loc"]))}
    # A list whose entry is wrong counts as too short as well, which helps nobody.
    return "; ".join(_one(p, model, whole) for p in problems if not (p["type"] == "too_short" and p["loc"] in broken))


def _one(problem: Any, model: type[BaseModel], whole: str) -> str:
    keys = [str(part) for part in problem["loc"] if part not in (A_TEXT, A_LIST, A_NUMBER)]
    where = ".".join(key if len(key) <= SHOWN else _shown(key) for key in keys) or whole
    if problem["type"] == "extra_forbidden":
        known = _keys(model, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        advice = f"did you mean {near[0]}? " if near else ""
        given = _shown(problem["input"])
        return f"{where}: there is no such key (given: {given}); {advice}allowed are {', '.join(known)}"
    allowed = problem.get("ctx", {}).get("expected")
    word = _near(problem["input"], allowed)
    advice = f"; did you mean {word}?" if word else ""
    given = "" if isinstance(problem["input"], dict) else f" (given: {_shown(problem['input'])})"
    return f"{where}: {in_plain_words(problem['msg'])}{given}{advice}"


def _shown(given: object) -> str:
    """What was given, as far as a line has room for it."""
    try:
        text = repr(given)
    except (ValueError, RecursionError):  # an integer of over 4,300 digits, or lists in lists without end
        text = f"a value of type {type(given).__name__} that is too large to show"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _near(given: object, allowed: object) -> str:
    """The allowed word most like the given one, if any is."""
    words = [word.strip("' ") for word in str(allowed or "").replace(" or ", ",").split(",")]
    found = difflib.get_close_matches(given, words, n=1) if isinstance(given, str) else []
    return found[0] if found else ""


def _keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys of the part of a model that `path` leads to; numbers in it are places in a list."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            inner = _model_in(model.model_fields[part].annotation)
            model = model if inner is None else inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner)) is not None), None)
