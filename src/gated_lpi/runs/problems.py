"""What is wrong with an experiment file, in words: the key, the value, what is allowed, and the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """All problems that validating `model` found, in one line."""
    problems = error.errors()
    broken = {problem["loc"][:end] for problem in problems for end in range(len(problem["loc"]))}
    # A list whose entry is wrong counts as too short as well, which helps nobody.
    return "; ".join(_one(p, model) for p in problems if not (p["type"] == "too_short" and p["loc"] in broken))


def _one(problem: Any, model: type[BaseModel]) -> str:
    where = ".".join(map(str, problem["loc"])) or "experiment"
    if problem["type"] == "extra_forbidden":
        keys = _keys(model, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), keys, n=1)
        advice = f"did you mean {near[0]}? " if near else ""
        return f"{where}: there is no such key (given: {problem['input']!r}); {advice}allowed are {', '.join(keys)}"
    allowed = problem.get("ctx", {}).get("expected")
    word = _near(problem["input"], allowed)
    advice = f"; did you mean {word}?" if word else ""
    given = "" if isinstance(problem["input"], dict) else f" (given: {problem['input']!r})"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}{given}{advice}"


def _near(given: object, allowed: object) -> str:
    """The allowed word most like the given one, if any is."""
    words = [word.strip("' ") for word in str(allowed or "").replace(" or ", ",").split(",")]
    found = difflib.get_close_matches(str(given), words, n=1)
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
