"""Tables as data, and how their values are written: one place for rounding, signs and intervals.

Rows hold raw values; `show` writes them for people and `plain` for machines. The same `show` writes the numbers
in sentences, so a sentence and a table cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gated_lpi.report.estimates import Estimate
from gated_lpi.report.explorer_links import Linked, Phrase

Form = Literal["text", "count", "number", "share", "percent", "tokens"]
MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
RHO_AVG, SIGMA_REL = "\N{GREEK SMALL LETTER RHO}_avg", "\N{GREEK SMALL LETTER SIGMA}_rel"


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        label: its heading.
        form: how its values are written. "share" is a value in [0, 1] written in %, "percent" one that is in % already,
            "tokens" a tuple of strings whose spaces and control characters are made visible. "share", "percent" and
            "number" take `Estimate`s too.
    """

    label: str
    form: Form = "text"


@dataclass(frozen=True)
class Table:
    """A table as data.

    Attributes:
        name: what it is called in files.
        caption: how to read it.
        columns: from left to right.
        rows: raw values, one for each column.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]


def show(value: Any, form: Form = "text") -> str:
    """Write one value for people; – for what is not there."""
    if isinstance(value, Estimate):
        written = show(value.value, form)
        if not value.has_interval:
            return written
        return f"{written} [{_bare(value.low, form)}, {_bare(value.high, form)}]"
    if isinstance(value, Linked | Phrase):
        return value.text
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if form in ("share", "percent"):
        return f"{_bare(value, form)}%"
    if form == "number":
        return _bare(value, form)
    if form == "count":
        return f"{int(value):,}"
    if form == "tokens":
        return " ".join(visible(token) for token in value)
    return str(value)


def plain(table: Table) -> dict[str, Any]:
    """A table as dicts and lists for JSON: an estimate is [value, low, high], NaN and infinity are None."""
    return {
        "caption": table.caption,
        "columns": [column.label for column in table.columns],
        "rows": [[_plain(value) for value in row] for row in table.rows],
    }


def visible(token: str) -> str:
    """A token with its spaces as ␣, and other characters without a shape as escapes such as \\n or \\u200b."""
    return "".join("␣" if c == " " else c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)


def listing(words: Sequence[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _bare(value: float, form: Form) -> str:
    """A number without its sign of unit: one decimal from 1% on, three significant digits elsewhere."""
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == 0 and form == "number":
        return "0"
    scaled = (100 * value if form == "share" else value) + 0.0  # no negative zero
    if form != "number":
        written = f"{scaled:.1f}" if abs(scaled) >= 1 or scaled == 0 else f"{scaled:.2g}"
    else:
        written = f"{scaled:,.0f}" if abs(scaled) >= 1000 else f"{scaled:#.3g}".rstrip(".")
    return written.replace("-", MINUS) if "e" not in written else written


def _plain(value: Any) -> Any:
    if isinstance(value, Linked | Phrase):
        return value.text
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
