"""Tasks by name: "arithmetic", "arithmetic:steps=2/3,n=50", "gsm8k:test.jsonl", parameters as the functions have."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gated_lpi.errors import FactsError, OptionError
from gated_lpi.facts.messages import brief
from gated_lpi.facts.tasks.arithmetic import arithmetic
from gated_lpi.facts.tasks.gsm8k import EXPECTED, gsm8k
from gated_lpi.facts.tasks.people import people
from gated_lpi.facts.tasks.retrieval import key_value, needle
from gated_lpi.facts.tasks.two_hop import two_hop
from gated_lpi.facts.tasks.variables import variables
from gated_lpi.facts.types import FactSet, OnError

MADE: dict[str, Callable[..., FactSet]] = {
    "two-hop": two_hop,
    "arithmetic": arithmetic,
    "key-value": key_value,
    "needle": needle,
    "variables": variables,
    "people": people,
}
READ = "gsm8k"

_NUMBER = r"-?[0-9]{1,18}"
_NUMBERS = re.compile(f"{_NUMBER}(?:/{_NUMBER})*")


def is_task(source: str) -> bool:
    """Whether a source names a task; a file or folder of such a name is "./arithmetic"."""
    return source.partition(":")[0] in (*MADE, READ)


def task_of(source: str, separator: str | None = None, on_error: OnError = "raise") -> FactSet:
    """Make or read the facts of a task.

    Args:
        source: its name, and after a colon parameters (key=value, joined by commas; several numbers as 1/2/3), or the
            file for "gsm8k".
        separator: what stands between prompt and answer in relations that name none.
        on_error: whether lines of a file that cannot be used are raised or skipped.

    Raises:
        FactsError: the file of the task is not named, or cannot be used.
        OptionError: the task has no such parameter, or it may not have this value.
    """
    name, _, rest = source.partition(":")
    if name == READ:
        if not rest:
            raise FactsError(f"{READ} is read from a file; give {READ}:FILE, with lines of {EXPECTED}")
        facts = gsm8k(rest, on_error=on_error)
    else:
        facts = MADE[name](**_parameters(name, rest))
    if separator is None:
        return facts
    named = (replace(r, separator=separator) if r.separator is None else r for r in facts.relations)
    return replace(facts, relations=tuple(named))


def _parameters(name: str, text: str) -> dict[str, Any]:
    """The parameters that a text gives a task; what they may be is seen by the task."""
    known = inspect.signature(MADE[name]).parameters
    given: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if key not in known or not equals or key in given:
            reason = "is given twice" if key in given else "is no parameter of this task with a value"
            raise OptionError(
                f"{name}: {brief(part)} {reason}; give key=value, joined by commas, each once, from {', '.join(known)}"
            )
        given[key] = _value(value)
    return given


def _value(text: str) -> object:
    """A word, a whole number, or several that are parted by "/"."""
    if text in ("true", "false"):
        return text == "true"
    if not _NUMBERS.fullmatch(text):
        return text
    numbers = tuple(map(int, text.split("/")))
    return numbers[0] if len(numbers) == 1 else numbers
