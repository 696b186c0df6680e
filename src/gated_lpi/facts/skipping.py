"""Facts that cannot be used while they are read: the first is an error, or each is left out and listed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from gated_lpi.errors import FactsError
from gated_lpi.facts.messages import listed
from gated_lpi.facts.types import OnError, Skipped


@dataclass
class Skips:
    """What becomes of a fact that cannot be used: it is raised, or put here.

    Attributes:
        on_error: "raise" or "skip".
        skipped: the facts that were left out, with their reasons.
    """

    on_error: OnError
    skipped: list[Skipped] = field(default_factory=list)

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Read the fact at this place: a `FactsError` is located there, and raised or kept."""
        try:
            yield
        except FactsError as error:
            if self.on_error == "raise":
                raise FactsError(f"{place}: {error}") from None
            self.skipped.append(Skipped(place, str(error)))

    def note(self, count: int, what: str) -> list[str]:
        """One line on what was skipped of `count`, if anything was."""
        if not self.skipped:
            return []
        return [f"skipped {len(self.skipped)} of {count} {what}: {listed(map(str, self.skipped))}"]

    def within(self, file: str) -> tuple[Skipped, ...]:
        """What was skipped, by its place in this file."""
        return tuple(replace(skipped, fact=f"{file}: {skipped.fact}") for skipped in self.skipped)


def none_left(where: str, skipped: Sequence[Skipped], expected: str) -> FactsError:
    """The error of a source each of whose facts was skipped; `expected` says what to give instead."""
    return FactsError(
        f"{where}: no fact is left, for all {len(skipped)} were skipped: {listed(map(str, skipped))}; "
        f"mend them or give {expected}"
    )
