"""What became of a campaign: a row for each attack, as text and as Markdown."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from torture.attack import OUTCOMES, Attack

HEAD = ("attack", "what", "tried", *OUTCOMES, "wrong", "seconds")


@dataclass
class Row:
    """What became of one attack. wrong: why and the seed, of each try that came out as none may."""

    attack: Attack
    asked: int
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, int]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tried(self) -> int:
        return self.counts.total() + len(self.wrong)

    def take(self, message: tuple) -> None:
        """What an attack tells (`Ground`)."""
        kind, *rest = message
        if kind == "came":
            self.counts[rest[0]] += rest[1]
        elif kind == "wrong":
            self.wrong.append((rest[0], rest[1]))
        elif kind == "asked":
            self.asked = rest[0]
        else:
            self.remarks.append(rest[0])

    def cells(self) -> tuple[str, ...]:
        tried = f"{self.tried:,}" if self.tried >= self.asked else f"{self.tried:,} of {self.asked:,}"
        counts = (f"{self.counts[outcome]:,}" for outcome in OUTCOMES)
        return (self.attack.name, self.attack.what, tried, *counts, f"{len(self.wrong):,}", f"{self.seconds:,.0f}")


def failed(rows: Sequence[Row]) -> bool:
    """Whether anything came out as it may not, or an attack made no try at all."""
    return any(row.wrong or (not row.tried and not row.remarks) for row in rows)


def as_text(rows: Sequence[Row]) -> str:
    """The table for a terminal, with what has to be known below it."""
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    remarks = [f"{row.attack.name}: {remark}" for row in rows for remark in row.remarks]
    return "\n".join([*lines, "", *remarks] if remarks else lines)


def as_markdown(rows: Sequence[Row], how: str) -> str:
    """The table for docs/reliability.md, with the machine and the day. how: the command."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * 2}{'---:|' * (len(HEAD) - 2)}"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    remarks = [f"- {row.attack.name}: {remark}" for row in rows for remark in row.remarks]
    return "\n".join([f"`{how}`, {datetime.now(UTC):%Y-%m-%d}, {machine()}:", "", *lines, "", *remarks]).rstrip() + "\n"


def machine() -> str:
    """What this was run on, in words."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    named = f" ({models[0]})" if models else ""
    return (
        f"{os.cpu_count()} cores{named}, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def put_between_marks(file: Path, text: str) -> None:
    """Put a text between the marks of a document in place of what is there.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = "<!-- torture: begin -->\n", "<!-- torture: end -->"
    content = file.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{file} has no line {begin.strip()!r} and {end!r}, between which the table belongs")
    head, _, rest = content.partition(begin)
    file.write_text(f"{head}{begin}{text}{end}{rest.partition(end)[2]}", encoding="utf-8")


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, numbers to the right."""
    return [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
