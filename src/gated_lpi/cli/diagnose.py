"""`gated-lpi diagnose`: what is wrong with the training of a run's arms, with the evidence."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from gated_lpi.cli.console import err, print_json
from gated_lpi.cli.console import out as console

NAME = "diagnose"
FOUND = 3


def command(
    run: Annotated[str, typer.Argument(help="Folder or fsspec address of a run.")],
    json: Annotated[bool, typer.Option("--json", help="Print findings, thresholds and what was not judged.")] = False,
) -> None:
    """Look for expert collapse, routing instability and neuron churn in every arm of a run, each with its evidence.

    Exit code 0: nothing is wrong; 3: something was found.

    Example: `gated-lpi diagnose runs/mine --json`
    """
    from gated_lpi.diagnosis import NAMES, THRESHOLDS, examine
    from gated_lpi.results import open_run

    opened = open_run(run)
    found = examine(opened)
    if json:
        content = {
            "findings": [dataclasses.asdict(finding) for finding in found.findings],
            "thresholds": {name: threshold._asdict() for name, threshold in THRESHOLDS.items()},
            "unjudged": list(found.unjudged),
        }
        print_json({"run": str(opened.path), **content})
    else:
        for line in found.unjudged:
            err.print(f"not judged: {line}", markup=False)
        if found.findings:
            table = Table("arm", "finding", "value", "threshold", "checkpoints", "evidence")
            for one in found.findings:
                numbers = f"{one.value:.2f}", f"{one.threshold:.2f}"
                table.add_row(one.arm, one.name, *numbers, ", ".join(one.checkpoints), one.evidence)
            console.print(table)
        else:
            console.print(f"{opened.path}: no {', '.join(NAMES)}", markup=False)
    if found.findings:
        raise typer.Exit(FOUND)
