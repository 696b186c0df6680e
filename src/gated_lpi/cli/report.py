"""`gated-lpi report`: a run folder → its report as HTML, Markdown or PDF, and figures, made again."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from gated_lpi.cli.console import out as console

NAME = "report"
INTERRUPTED = "interrupted; the run is unchanged, and each file of the report whole, new or old: run the command again"


class Format(StrEnum):
    """In which form the page is written."""

    HTML = "html"
    MD = "md"
    PDF = "pdf"


def command(
    run: Annotated[str, typer.Argument(help="Folder or fsspec address of a run.")],
    out: Annotated[str | None, typer.Option(help="Folder or address for the report; default: the run's own.")] = None,
    format: Annotated[  # noqa: A002 - what the option is called
        list[Format] | None,
        typer.Option(
            "--format",
            help="html: one page that needs nothing else (default); md: for a Git host, beside its figures; pdf: needs "
            "Chromium or Chrome. May be given several times.",
        ),
    ] = None,
    explorer: Annotated[
        str | None,
        typer.Option(
            help="Address of the run's explorer, which names of units lead to, or none. Default: in html where "
            "gated-lpi explore listens by itself, else none."
        ),
    ] = None,
) -> None:
    """Write the report of a run again: a page, figures as PNG and SVG, a JSON summary.

    Example: `gated-lpi report demo-run --format html --format pdf --out report`
    """
    from gated_lpi.report import build_report
    from gated_lpi.results import open_run

    formats = [one.value for one in format or (Format.HTML,)]
    files = build_report(open_run(run), out, formats=formats, explorer=explorer)  # type: ignore[arg-type]
    for page in files.pages.values():
        console.print(f"report: {page}", markup=False)
