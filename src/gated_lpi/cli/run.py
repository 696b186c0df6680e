"""`gated-lpi run`: an experiment file → a run folder with a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gated_lpi.cli.console import ConsoleProgress
from gated_lpi.cli.console import out as console

if TYPE_CHECKING:
    from gated_lpi.runs import Experiment

NAME = "run"


def command(
    experiment: Annotated[Path, typer.Argument(help="Experiment file (TOML).")],
    out: Annotated[Path, typer.Option(help="Folder for the run; an unfinished run of the same experiment goes on.")],
) -> None:
    """Run an experiment file: train or find its checkpoints, attribute them, measure, ablate and report.

    Example: `gated-lpi run experiment.toml --out runs/mine`
    """
    from gated_lpi.runs import load_experiment

    finish(load_experiment(experiment), out)


def finish(experiment: Experiment, out: Path) -> None:
    """Run an experiment with progress bars, write its report and say where it is."""
    from gated_lpi.report import build_report
    from gated_lpi.runs import run_experiment

    progress = ConsoleProgress()
    run = run_experiment(experiment, out, progress)
    with progress.task("report") as advance:
        files = build_report(run)
        advance(1, 1)
    for arm in run.arms:
        record = run.record(arm)
        if record is not None and record.ablation.hit < 0.9:
            table = record.ablation
            console.print(
                f"warning: {arm} recalls {table.hit:.1%} of the facts (HIT@{table.k}), below 90%: its ablations "
                "say little"
            )
    console.print(f"report: {files.html}", markup=False)
