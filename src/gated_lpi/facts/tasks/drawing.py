"""Draws that depend on their seed alone, and what the parameters of tasks may be."""

import operator
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TypeVar

from gated_lpi.errors import OptionError
from gated_lpi.facts.messages import brief
from gated_lpi.facts.types import FactSet, Relation, Sample

T = TypeVar("T")

Whole = int | Sequence[int]
"""A whole number or several, each of which gives a relation of its own."""

NO_CONTROL, EVERY_CONTROL = "none", "all"
TRIES = 1000  # for each sample, before the differing ones are taken to be used up


class Draw:
    """Choices, all from `Random.random`, which Python promises to leave as it is from version to version.

    Args:
        task: what is drawn for.
        seed: a whole number of at least 0.
        apart: whatever else shall have draws of its own.

    Raises:
        OptionError: the seed is something else.
    """

    def __init__(self, task: str, seed: int, *apart: object) -> None:
        self._random = Random(" ".join(map(str, (task, whole("seed", seed, 0), *apart))))

    def below(self, limit: int) -> int:
        """A whole number from 0 to `limit` − 1."""
        return int(self._random.random() * limit)

    def between(self, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""
        return least + self.below(most - least + 1)

    def among(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def some(self, items: Iterable[T], count: int | None = None) -> list[T]:
        """`count` items that differ in place, all of them if None, in any order."""
        left = list(items)
        count = len(left) if count is None else count
        for place in range(count):
            other = place + self.below(len(left) - place)
            left[place], left[other] = left[other], left[place]
        return left[:count]


def differing(make: Callable[[], Sample], n: int, what: str) -> tuple[Sample, ...]:
    """Samples [n] that `make` gives, each once.

    Raises:
        OptionError: it gives fewer that differ.
    """
    found: dict[Sample, None] = {}
    for _ in range(TRIES * n):
        found[make()] = None
        if len(found) == n:
            return tuple(found)
    raise OptionError(f"n={n} was given, but {what} has {len(found)} questions that differ; ask for fewer")


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """A parameter that is a whole number.

    Raises:
        OptionError: it is something else, or out of bounds.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # that is what is seen here
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least or (most is not None and number > most):
        bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise OptionError(f"{name}={brief(value)} was given; expected a whole number {bounds}")
    return number


def wholes(name: str, value: object, least: int, most: int | None = None) -> tuple[int, ...]:
    """A parameter that is a whole number or several, each once.

    Raises:
        OptionError: it is something else, or a number is out of bounds.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        numbers = tuple(dict.fromkeys(whole(name, one, least, most) for one in value))
        if numbers:
            return numbers
        raise OptionError(f"{name}={brief(value)} was given; expected at least one whole number")
    return (whole(name, value, least, most),)


def chosen(name: str, value: object, known: Sequence[str]) -> str:
    """A parameter that is one of several words.

    Raises:
        OptionError: it is another.
    """
    if value not in known:
        raise OptionError(f"{name}={brief(value)} was given; expected one of {', '.join(known)}")
    return str(value)


def variants(control: object, known: Sequence[str]) -> tuple[str, ...]:
    """Which variants of a task are asked for: itself, a control, or itself and all of them.

    Raises:
        OptionError: there is no such control.
    """
    given = chosen("control", control, (NO_CONTROL, *known, EVERY_CONTROL))
    return (NO_CONTROL, *known) if given == EVERY_CONTROL else (given,)


def titled(name: str, variant: str) -> str:
    """What a relation is called: the task and its difficulty, and the control that it is."""
    return name if variant == NO_CONTROL else f"{name} ({variant})"


def fact_set(name: str, relations: Iterable[Relation], /, **parameters: object) -> FactSet:
    """The facts of a task; their source is a text from which `load_facts` makes them again."""
    given = ",".join(f"{key}={_written(value)}" for key, value in parameters.items() if value is not None)
    return FactSet(tuple(relations), f"{name}:{given}")


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
