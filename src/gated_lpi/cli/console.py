"""What every verb shares: where text goes, and progress bars.

Names of files, branches, tensors, relations and whatever errors say of them were written by others, and could hold what
a terminal obeys. So the consoles here spell out control characters in all that they are given (colours are their own),
take nothing for markup, and `guarded` does the same for logs, warnings and tracebacks.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.table import Table

from gated_lpi._common.entries import printable

if TYPE_CHECKING:
    from gated_lpi.runs.progress import Advance


class _Printable(Console):
    """A console that sends no control character but its own."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, texts with control characters spelt out."""
        super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does; what is within tables and bars is spelt out here."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


out = _Printable(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = _Printable(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def folding(*columns: str) -> Table:
    """A table that folds cells where the screen is too narrow: names that are cut off look alike."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


class ConsoleProgress:
    """A `Progress` of rich bars on standard error; notes stay as lines."""

    @contextmanager
    def task(self, label: str) -> Iterator[Advance]:
        """Show a bar until the `with` block ends."""
        columns = (
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=err, disable=err.quiet) as bars:
            bar = bars.add_task(label, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)

    def note(self, text: str) -> None:
        """Print a line."""
        err.print(text, markup=False)


class _Record(logging.LogRecord):
    """What a program tells its log, with control characters spelt out."""

    def getMessage(self) -> str:
        return printable(super().getMessage())


@contextmanager
def guarded() -> Iterator[None]:
    """Spell out control characters in logs, warnings and tracebacks, which this package's consoles do not see."""
    if logging.getLogRecordFactory() is not _Record:
        logging.setLogRecordFactory(_Record)
        warnings.formatwarning = _spelt(warnings.formatwarning)
    try:
        yield
    finally:
        sys.excepthook = _print_traceback  # typer has put its own there


def _spelt(format_warning: Any) -> Any:
    @wraps(format_warning)
    def spelt(*arguments: Any, **options: Any) -> str:
        return printable(format_warning(*arguments, **options))

    return spelt


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output, for scripts."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
