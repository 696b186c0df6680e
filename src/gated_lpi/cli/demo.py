"""`gated-lpi demo`: the whole way, on three small models trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gated_lpi.cli.run import finish

NAME = "demo"
INTERRUPTED = "interrupted; what was complete is kept, and the same command goes on from there"


def command(
    out: Annotated[Path, typer.Option(help="Folder for the run; an unfinished demo in it is taken up again.")] = Path(
        "demo-run"
    ),
) -> None:
    """Train a mixture-of-experts model and two dense twins, attribute every checkpoint, measure, ablate and report.

    All three are trained on one corpus. About four minutes and 2 GB of memory on two cores.

    Example: `gated-lpi demo --out demo-run`
    """
    from gated_lpi.experiments import preset

    finish(preset("demo"), out)
