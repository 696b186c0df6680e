"""`gated-lpi report`: a run folder → report.html and figures, made again."""

from __future__ import annotations

from typing import Annotated

import typer

from gated_lpi.cli.console import out as console

NAME = "report"
INTERRUPTED = "interrupted; the run is unchanged, and each file of the report whole, new or old: run the command again"


def command(
    run: Annotated[str, typer.Argument(help="Folder or fsspec address of a run.")],
    out: Annotated[str | None, typer.Option(help="Folder or address for the report; default: the run's own.")] = None,
) -> None:
    """Write the report of a run again: one self-contained HTML file, figures as PNG and SVG, a JSON summary.

    Example: `gated-lpi report demo-run`
    """
    from gated_lpi.report import build_report
    from gated_lpi.results import open_run

    console.print(f"report: {build_report(open_run(run), out).html}", markup=False)
