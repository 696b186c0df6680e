"""HTML from small pure functions: everything is escaped unless it is `Html` already."""

from __future__ import annotations

import html
from collections.abc import Sequence

from gated_lpi.report.explorer_links import Explorer, Linked, Phrase
from gated_lpi.report.tables import Column, Table, show

NUMERIC = ("count", "number", "share", "percent")
VOID = ("br", "hr", "img", "meta")
FORBIDDEN = {code: "\ufffd" for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Html(str):
    """Text that is markup and needs no escaping."""

    __slots__ = ()


def escape(text: str) -> Html:
    """Text as markup: `<`, `>`, `&` and quotes escaped, characters that HTML forbids replaced."""
    return text if isinstance(text, Html) else Html(html.escape(text.translate(FORBIDDEN)))


def tag(name: str, *children: str, **attributes: str) -> Html:
    """One element. Attributes: `class_` is `class`, `data_x` is `data-x`."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*parts: str) -> Html:
    """Parts one after the other, each escaped unless it is markup."""
    return Html("".join(escape(part) for part in parts))


def items(texts: Sequence[str]) -> Html:
    """A bulleted list."""
    return tag("ul", *(tag("li", text) for text in texts))


def section(anchor: str, title: str, *children: str) -> Html:
    """A section with its heading, that a link can go to."""
    return tag(
        "section", tag("h2", title, id=f"{anchor}-title"), *children, id=anchor, aria_labelledby=f"{anchor}-title"
    )


def data_table(table: Table, explorer: Explorer | None = None) -> Html:
    """A table with its caption; numbers to the right, a frame that scrolls where it is too wide, names that lead to the
    explorer.
    """
    head = tag("tr", *(tag("th", column.label, scope="col", class_=_alignment(column)) for column in table.columns))
    body = [
        tag("tr", *(_cell(column, value, explorer) for column, value in zip(table.columns, row, strict=True)))
        for row in table.rows
    ]
    inner = tag("table", tag("caption", table.caption), tag("thead", head), tag("tbody", *body))
    return tag("div", inner, class_="scroll", role="region", tabindex="0", aria_label=f"Table: {table.name}")


def linked(text: Linked | Phrase, explorer: Explorer | None) -> Html:
    """Text whose names lead to the explorer."""
    if explorer is None:
        return escape(text.text)
    parts = text.parts if isinstance(text, Phrase) else (text,)
    return join(*(part if isinstance(part, str) else tag("a", part.text, href=explorer.link(part)) for part in parts))


def folded(title: str, *children: str) -> Html:
    """Content that opens on a click."""
    return tag("details", tag("summary", title), *children)


def figure(number: int, name: str, title: str, caption: str, place: Html) -> Html:
    """A chart, or the place where a script draws it, with its caption."""
    words = tag("figcaption", tag("strong", f"Figure {number}. {title}."), f" {caption}")
    return tag("figure", tag("div", place, class_="scroll"), words, id=f"figure-{name}")


def _cell(column: Column, value: object, explorer: Explorer | None) -> Html:
    if isinstance(value, Linked | Phrase):
        return tag("td", linked(value, explorer), class_="words")
    if column.form == "tokens" and isinstance(value, tuple):
        chips = [tag("code", show((token,), "tokens")) for token in value]
        return tag("td", Html(" ".join(chips)), class_="tokens")
    return tag("td", show(value, column.form), class_=_alignment(column))


def _alignment(column: Column) -> str:
    return "number" if column.form in NUMERIC else "words"
