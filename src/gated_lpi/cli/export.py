"""`gated-lpi export`: a run's results as Parquet, CSV or netCDF, or as a card to share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gated_lpi.cli.console import out as console
from gated_lpi.cli.console import print_json
from gated_lpi.errors import OptionError

NAME = "export"
FORMATS = ("parquet", "csv", "netcdf", "card")
INTERRUPTED = "interrupted; files that were named are whole, the one being written is gone: run the command again"


def command(
    run: Annotated[str, typer.Argument(help="Folder or fsspec address of a run.")],
    out: Annotated[str, typer.Option(help="Folder for the files; none that is there is overwritten.")],
    form: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "parquet",
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm; repeat for more. Default: all.")] = None,
    steps: Annotated[
        str, typer.Option(help="Of units in parquet and csv: all checkpoints, the last, or a training step.")
    ] = "all",
    json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Write a run's results for other programs (tables of units and metrics, or netCDF), or as a card to share.

    Tables: ARM.units, a row a unit and checkpoint, and metrics, a row a number; docs/results.md has their columns.

    Example: `gated-lpi export demo-run --format parquet --out tables`
    """
    from gated_lpi.export import write_card, write_netcdf, write_tables
    from gated_lpi.results import open_run

    if form not in FORMATS:
        raise OptionError(f"--format {form} was given; expected one of {', '.join(FORMATS)}")
    if form in ("netcdf", "card") and steps != "all":
        raise OptionError(f"--steps was given, and belongs to parquet and csv, not to {form}; leave it out")
    if form == "card" and arm:
        raise OptionError("--arm was given, and a card is of a whole run; leave it out, or ask for another --format")
    opened = open_run(run)
    files: tuple[Path, ...]
    if form == "card":
        files = write_card(opened, out)
    elif form == "netcdf":
        files = write_netcdf(opened, out, arms=arm or None)
    else:
        at: str | int = int(steps) if steps.isdecimal() else steps
        files = write_tables(opened, out, "csv" if form == "csv" else "parquet", arms=arm or None, steps=at)
    if json:
        print_json({"files": [str(file) for file in files]})
        return
    for file in files:
        console.print(str(file), markup=False)
