"""Where the explorer of a run is, and what there a name of the report leads to.

The explorer listens at one port unless that is taken, so that a report can lead to it although it is started later.
Addresses name the run, and the explorer of another one refuses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from gated_lpi.errors import OptionError
from gated_lpi.unit_names import short_name

PORT = 8765
ADDRESS = f"http://127.0.0.1:{PORT}/"
NONE = "none"


class Linked(NamedTuple):
    """A name in a table that the explorer has a page of.

    Attributes:
        text: the name, as the explorer has it.
        page: the page.
        params: its parameters.
    """

    text: str
    page: str
    params: tuple[tuple[str, str], ...]


class Phrase(NamedTuple):
    """Text in a table with names in it that the explorer has pages of.

    Attributes:
        parts: from left to right.
    """

    parts: tuple[str | Linked, ...]

    @property
    def text(self) -> str:
        """All of it, without where names lead to."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


@dataclass(frozen=True)
class Explorer:
    """The explorer of a run.

    Attributes:
        address: where it is, with a slash at its end.
        run: the run's name.
    """

    address: str
    run: str

    def link(self, to: Linked) -> str:
        """The address of what a name leads to."""
        return f"{self.address}{to.page}?{urlencode([('run', self.run), *to.params])}"


def unit_link(arm: str, name: str, checkpoint: str, method: str | None = None) -> Linked:
    """A neuron, by its short name, at a checkpoint."""
    params = [("arm", arm), ("unit", name), ("checkpoint", checkpoint)]
    return Linked(name, "unit", tuple(params if method is None else [*params, ("method", method)]))


def units_link(arm: str, name: str, checkpoint: str) -> Linked:
    """The neurons of an expert or head, by its short name, at a checkpoint."""
    return Linked(name, "units", (("arm", arm), ("q", name), ("checkpoint", checkpoint)))


def units_links(arm: str, labels: Sequence[str], checkpoint: str, most: int) -> Phrase | None:
    """At most so many experts or heads, by their labels, and how many more there are; None for none of them."""
    if not labels:
        return None
    parts: list[str | Linked] = []
    for label in labels[:most]:
        parts += [", ", units_link(arm, short_name(label), checkpoint)]
    more = len(labels) - most
    return Phrase((*parts[1:], *([f" and {more:,} more"] if more > 0 else [])))


def explorer_at(address: str | None, run: str) -> Explorer | None:
    """The explorer at an address that somebody gave; None for "none".

    Raises:
        OptionError: it is no address of the web.
    """
    if address is None or address == NONE:
        return None
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
    except ValueError:
        sound = False
    if not sound or any(c.isspace() or not c.isprintable() for c in address):
        raise OptionError(
            f"the explorer's address {address!r} was given; expected one such as {ADDRESS}, as gated-lpi explore "
            f'prints it, or "{NONE}" for names that lead nowhere'
        )
    return Explorer(address if address.endswith("/") else f"{address}/", run)
