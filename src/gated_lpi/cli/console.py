"""What every verb shares: where text goes, progress bars, and how errors end the program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from gated_lpi.runs.progress import Advance

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class ConsoleProgress:
    """A `Progress` of rich bars on standard error; notes stay as lines."""

    @contextmanager
    def task(self, label: str) -> Iterator[Advance]:
        """Show a bar until the `with` block ends."""
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=err) as bars:
            bar = bars.add_task(label, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)

    def note(self, text: str) -> None:
        """Print a line."""
        err.print(text, markup=False)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output, for scripts."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
