"""Scores of every unit by every method, and what became of those that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import xarray as xr

from gated_lpi.errors import GatedLPIError
from gated_lpi.facts import Encoded, FactSet
from gated_lpi.methods.attribution import attribute_asked
from gated_lpi.methods.table import method_for
from gated_lpi.models import Model
from gated_lpi.options import MethodOptions, Scoring
from gated_lpi.prompting import Prompting

Advance = Callable[[int, int], None]


class Meter:
    """Progress of parts that take unlike long, as one count.

    Args:
        progress: called with (passes over the facts done, in all); None: nobody is told.
        total: passes in all.
    """

    def __init__(self, progress: Advance | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    @contextmanager
    def part(self, passes: int) -> Iterator[Advance]:
        """What tells of a part that takes so many passes; it is done when the `with` block ends."""

        def advance(done: int, total: int) -> None:
            self._tell(self._done + passes * done // max(total, 1))

        yield advance
        self._done += passes
        self._tell(self._done)

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(min(done, self._total), self._total)


@dataclass
class Failures:
    """What could not be done, while the rest goes on.

    Attributes:
        notes: a line for each.
        first: the first error.
    """

    notes: list[str] = field(default_factory=list)
    first: Exception | None = None

    @contextmanager
    def kept(self, what: str) -> Iterator[None]:
        """Take note of an error inside the `with` block, which ends there; `what` says of what it is."""
        try:
            yield
        except (GatedLPIError, RuntimeError, MemoryError) as error:  # torch's own, out of memory too, are RuntimeErrors
            self.notes.append(f"{what}: {error}")
            self.first = self.first or error


@dataclass(frozen=True)
class Scorer:
    """A model that is asked the same facts by one method after the other.

    Attributes:
        model, facts, asked, how: as for `attribute_asked`.
        scoring: which units, and how much is worked on at a time.
        meter: progress.
    """

    model: Model
    facts: FactSet
    asked: Encoded
    how: Prompting
    scoring: Scoring
    meter: Meter

    def __call__(self, options: MethodOptions, passes: int) -> xr.Dataset:
        """Scores of all prompts by a method that takes so many passes."""
        with self.meter.part(passes) as advance:
            return attribute_asked(self.model, self.facts, self.asked, self.how, options, self.scoring, advance)

    def units(self, options: MethodOptions, passes: int) -> xr.DataArray:
        """The method's own variable, (prompt, unit)."""
        return self(options, passes)[method_for(options).name].load()
