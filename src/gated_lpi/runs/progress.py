"""How long work reports its progress: an engine announces tasks, whoever shows them implements `Progress`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int, int], None]
"""Called with (done, total) as a task goes on."""


def part(advance: Advance, number: int, parts: int) -> Advance:
    """What the part of a number, of parts that are equally long, is to call in place of the whole task's `advance`."""
    return lambda done, total: advance(number * total + done, parts * total)


class Progress(Protocol):
    """Shows tasks, one at a time."""

    def task(self, label: str) -> AbstractContextManager[Advance]:
        """Show a task while the `with` block runs; call what it returns with (done, total)."""
        ...

    def note(self, text: str) -> None:
        """Show one line that stays."""
        ...


def _ignore(_done: int, _total: int) -> None:
    """Take a task's progress and show nothing."""


class Silent:
    """A `Progress` that shows nothing."""

    @contextmanager
    def task(self, label: str) -> Iterator[Advance]:
        """Ignore the task."""
        del label
        yield _ignore

    def note(self, text: str) -> None:
        """Ignore the line."""
