"""The page as Markdown that Git hosts show: the same content, figures as files beside it.

1. The page's own markup is read again, element by element; it holds few kinds of them, and every text is a text.
2. Each text is escaped on its own, so that no name in it can become a link, a table's cell or markup.
3. Links within the page lead to the headings of its sections, by the names that hosts give these.
4. What Markdown has no sign for stays markup that hosts allow: `<details>`, `<code>`, `<sub>`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser

from gated_lpi._common.entries import printable

INLINE = {"strong": "**", "em": "*"}
KEPT = ("sub", "sup", "code")  # as they are
LEFT_OUT = ("nav", "script", "style")
BLOCKS = ("p", "h1", "h2", "h3", "h4", "li", "figcaption", "caption", "summary", "dt", "dd")
SIGNS = re.compile(r"([\\`*_\[\]|~$])")
SECTION = re.compile(r'<h2 id="([\w-]+)-title">([^<]*)</h2>')  # as `html.section` writes it
START = re.compile(r"^(\s*)([-+#=]|\d+[.)])")


def escaped(text: str) -> str:
    """A text as Markdown that shows it as it is, on one line: no link, no markup, no cell of a table ends in it."""
    one_line = " ".join(printable(text).split("\n")).replace("\r", " ")
    marked = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SIGNS.sub(r"\\\1", marked).replace("://", ":&#47;/").replace("www.", "www&#46;")


def at_start(text: str) -> str:
    """A text that begins a line, without beginning a list or heading."""

    def shielded(found: re.Match[str]) -> str:
        sign = found[2]
        return f"{found[1]}{sign[:-1]}\\{sign[-1]}"

    return START.sub(shielded, text)


def markdown(body: str, figures: str) -> str:
    """The page's body as Markdown.

    Args:
        body: as `sections.body` has it.
        figures: the folder of the figures' PNG files, from the page.
    """
    reader = _Reader(figures, {f"#{anchor}": anchor_of(title) for anchor, title in SECTION.findall(body)})
    reader.feed(body)
    reader.close()
    return "\n\n".join(part for part in reader.parts if part.strip()) + "\n"


def anchor_of(title: str) -> str:
    """Where a link leads to a heading, as Git hosts name it: small letters, blanks as hyphens, no other signs."""
    return "#" + re.sub(r"[^\w\- ]", "", html.unescape(title).lower()).replace(" ", "-")


class _Reader(HTMLParser):
    """Walks through the page and gathers blocks of Markdown."""

    def __init__(self, figures: str, sections: Mapping[str, str]) -> None:
        super().__init__(convert_charrefs=True)
        self._sections = sections
        self.parts: list[str] = []
        self._figures = figures
        self._text: list[str] | None = None  # of the block that is open
        self._silent = 0
        self._links: list[str] = []
        self._marks: list[tuple[str, int]] = []
        self._rows: list[list[str]] = []
        self._head = 0
        self._depth = 0  # of lists
        self._numeric: list[bool] = []
        self._figure = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in LEFT_OUT:
            self._silent += 1
        elif tag == "a":
            self._open_link(given.get("href", ""))
        elif tag in INLINE:
            self._mark(INLINE[tag])
        elif tag in KEPT:
            self._add(f"<{tag}>")
        elif tag == "span":
            self._mark(INLINE["em"] if "verdict" in given.get("class", "") else "")
        elif tag == "figure":
            self._figure = given.get("id", "").removeprefix("figure-")
        elif given.get("aria-label") and self._figure and tag in ("div", "img"):
            self._picture(given["aria-label"])
        elif tag == "img" and self._figure:
            self._picture(given.get("alt", ""))
        elif tag == "table":
            self._rows, self._head = [], 0
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._begin()
            if tag == "th":
                self._numeric = [*(self._numeric if len(self._rows[-1]) else []), given.get("class") == "number"]
        elif tag == "details":
            self.parts.append("<details>")
        elif tag in ("ul", "ol"):
            self._end_item()
            self._depth += 1
        elif tag == "p" and self._text is not None and self._depth:
            self._add(" ")
        elif tag in BLOCKS:
            self._begin()

    def handle_endtag(self, tag: str) -> None:
        if tag in LEFT_OUT:
            self._silent -= 1
        elif tag == "a":
            self._add(self._links.pop())
        elif tag in INLINE or tag == "span":
            self._close_mark()
        elif tag in KEPT:
            self._add(f"</{tag}>")
        elif tag in ("th", "td"):
            self._rows[-1].append(self._end())
        elif tag == "thead":
            self._head = len(self._rows)
        elif tag == "table":
            self.parts.append(_table(self._rows, self._numeric))
        elif tag == "details":
            self.parts.append("</details>")
        elif tag in ("ul", "ol"):
            self._depth -= 1
        elif tag == "figure":
            self._figure = ""
        elif tag == "li":
            self._end_item()
        elif tag == "p" and self._depth and self._text is not None:
            return
        elif tag in BLOCKS and self._text is not None:
            self._block(tag, self._end())

    def handle_data(self, data: str) -> None:
        if self._silent or (self._text is None and not data.strip()):
            return
        if self._text is None:
            self._begin()
        self._add(escaped(data))

    def _begin(self) -> None:
        loose = self._end()  # text that no block holds
        if loose:
            self.parts.append(at_start(loose))
        self._text = []

    def _add(self, text: str) -> None:
        if self._text is not None and not self._silent:
            self._text.append(text)

    def _mark(self, sign: str) -> None:
        self._marks.append((sign, len(self._text or [])))

    def _close_mark(self) -> None:
        """What was emphasised, with its signs close to it: blanks stay outside."""
        sign, start = self._marks.pop()
        if self._text is None or self._silent:
            return
        said = "".join(self._text[start:])
        inner = said.strip()
        before, after = said[: len(said) - len(said.lstrip())], said[len(said.rstrip()) :]
        self._text[start:] = [f"{before}{sign}{inner}{sign}{after}" if inner else said]

    def _end(self) -> str:
        said = " ".join("".join(self._text or []).split())
        self._text = None
        return said

    def _end_item(self) -> None:
        """An item of a list, or what stands before a list within it."""
        if self._text is not None and self._depth:
            said = self._end()
            if said:
                item = f"{'  ' * (self._depth - 1)}- {at_start(said)}"
                last = self.parts[-1] if self.parts else ""
                if last.lstrip().startswith("- "):
                    self.parts[-1] = f"{last}\n{item}"
                else:
                    self.parts.append(item)

    def _block(self, tag: str, said: str) -> None:
        if not said:
            return
        if tag.startswith("h"):
            self.parts.append(f"{'#' * int(tag[1])} {at_start(said)}")
        elif tag == "summary":
            self.parts[-1] = f"{self.parts[-1]}<summary>{said}</summary>"
        elif tag == "dt":
            self.parts.append(f"**{said}**")
        elif tag == "li":
            self.parts.append(f"- {at_start(said)}")
        else:
            self.parts.append(at_start(said))

    def _open_link(self, to: str) -> None:
        to = self._sections.get(to, to)
        within = to in self._sections.values()
        if (within or to.startswith(("http://", "https://"))) and not self._silent:
            self._add("[")
            safe = to.translate({ord(sign): f"%{ord(sign):02X}" for sign in "()<> |\\"})
            self._links.append(f"]({safe})")
        else:
            self._links.append("")

    def _picture(self, words: str) -> None:
        self.parts.append(f"![{escaped(words)}]({self._figures}/{self._figure}.png)")


def _table(rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Rows, of which the first is the head, as a table; numbers to the right."""
    line = ["--:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(cell or ' ' for cell in row)} |" for row in (rows[0], line, *rows[1:]))
