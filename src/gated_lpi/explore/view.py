"""What a page is made of: a template with its values, its charts and tables, and the state in its address.

A view is a function of the workspace and of the address' parameters, so whoever has the address has the page. Exports
call the same function and take one of its charts or tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from gated_lpi.errors import OptionError
from gated_lpi.explore.sheet import Sheet
from gated_lpi.report.chart import Chart

if TYPE_CHECKING:
    from gated_lpi.explore.workspace import Workspace


@dataclass(frozen=True)
class Drawn:
    """A chart on a page.

    Attributes:
        chart: what it shows.
        table: the name of the page's table that has its numbers, for who cannot see it.
        links: where points lead, by what they are called (`Line.hover`).
    """

    chart: Chart
    table: str
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """A page.

    Attributes:
        title: of the page, without the run's name.
        template: which lays it out.
        values: for the template.
        charts, sheets: by name.
        redirect: where to go instead; "" to stay.
        waits: whether something that the page is about is still being made.
    """

    title: str
    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    charts: Mapping[str, Drawn] = field(default_factory=dict)
    sheets: Mapping[str, Sheet] = field(default_factory=dict)
    redirect: str = ""
    waits: bool = False


class Params:
    """The parameters of an address."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = {key: value for key, value in given.items() if value != ""}

    def text(self, key: str) -> str | None:
        """A parameter's value; None if it is not there."""
        return self._given.get(key)

    def whole(self, key: str) -> int | None:
        """A parameter that is a whole number of at least 0; None if it is not there.

        Raises:
            OptionError: it is none.
        """
        value = self._given.get(key)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit()) or len(value) > 18:
            raise OptionError(
                f"{key}={value!r} was given; expected a whole number of 0 or more: mend it, or leave it out"
            )
        return int(value)

    def number(self, key: str) -> float | None:
        """A parameter that is a number; None if it is not there.

        Raises:
            OptionError: it is none.
        """
        value = self._given.get(key)
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise OptionError(f"{key}={value!r} was given; expected a number such as 0.01: mend it, or leave it out")
        return number

    def one_of(self, key: str, allowed: Mapping[str, Any] | tuple[str, ...], default: str) -> str:
        """A parameter that is one of some words.

        Raises:
            OptionError: it is another.
        """
        value = self._given.get(key, default)
        if value not in allowed:
            raise OptionError(f"{key}={value!r} was given; expected one of {', '.join(allowed)}")
        return value

    def to(self, page: str, /, **changes: Any) -> str:
        """The address of a page with these parameters, some of them changed; None leaves one out."""
        return address(page, **{**self._given, **changes})


def address(page: str, /, **params: Any) -> str:
    """The address of a page with parameters; those that are None or "" are left out."""
    kept = {key: str(value) for key, value in params.items() if value is not None and value != ""}
    query = "&".join(f"{_quoted(key)}={_quoted(value)}" for key, value in kept.items())
    return f"/{page}?{query}" if query else f"/{page}"


@lru_cache(maxsize=2**15)
def _quoted(text: str) -> str:
    """A text as addresses have it; those of a page are mostly the same."""
    return quote_plus(text)


ViewFunction = Callable[["Workspace", Params], View]
