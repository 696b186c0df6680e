"""How errors and notes about facts are worded: where it is, what was given, and how much of a long list is shown."""

import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from gated_lpi.errors import FactsError

SHOWN = 4

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = 60


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` (a file, a relation, a position) in front of a `FactsError` raised inside.

    Raises:
        FactsError: what was raised inside, with the place in front.
    """
    try:
        yield
    except FactsError as error:
        raise FactsError(f"{where}: {error}") from None


def listed(items: Iterable[str]) -> str:
    """The first few items, and how many more there are."""
    every = list(items)
    rest = len(every) - SHOWN
    return ", ".join(every[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def brief(value: object) -> str:
    """A value's beginning, however large, deep or odd it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "of too many digits to show"


def shown(value: object) -> str:
    """A value's type and its beginning."""
    return f"{type(value).__name__} {brief(value)}"


def plain(text: str) -> str:
    """A text as it is, or quoted and escaped where a terminal or a file could not take its characters."""
    return text if text.isprintable() else repr(text)
