"""`gated-lpi verify`: every byte of a run that has a digest, compared with it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from gated_lpi.cli.console import ConsoleProgress, print_json
from gated_lpi.cli.console import out as console

NAME = "verify"
DAMAGED = 4


def command(
    run: Annotated[str, typer.Argument(help="Folder or fsspec address of a run.")],
    json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check that a run's scores, records, trained checkpoints and report are what was written. Nothing is changed.

    What is damaged is made again when the same experiment is run again into the folder. Exit code 4: something is.

    Example: `gated-lpi verify runs/mine`
    """
    from gated_lpi.results import open_run, verify_run, writer_of

    opened = open_run(run)
    owner = writer_of(opened.path)
    with ConsoleProgress().task("verify") as advance:
        found = verify_run(opened, advance)
    damaged = [finding for finding in found if finding.status == "damaged"]
    if json:
        content = {"damaged": len(damaged), "findings": [dataclasses.asdict(finding) for finding in found]}
        print_json({"run": str(opened.path), "writer": None if owner is None else str(owner), **content})
    else:
        if owner is not None:
            console.print(f"being written by {owner}: what it is writing now is not checked", markup=False)
        for finding in found:
            line = f"{finding.status}: {finding.what}: {finding.why}; {finding.remedy}"
            console.print(line, markup=False)
        console.print(f"{opened.path}: {_verdict(len(damaged), len(found) - len(damaged))}", markup=False)
    if damaged:
        raise typer.Exit(DAMAGED)


def _verdict(damaged: int, unsealed: int) -> str:
    if damaged:
        return f"{damaged} parts are damaged"
    return f"nothing is damaged, {unsealed} parts have no digests" if unsealed else "all is what was written"
