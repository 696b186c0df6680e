"""`gated-lpi train`: the arms that an experiment trains, without scoring them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gated_lpi.cli.console import ConsoleProgress
from gated_lpi.cli.console import out as console
from gated_lpi.errors import OptionError

NAME = "train"
INTERRUPTED = "interrupted; what was complete is kept, and the same command goes on from there"


def command(
    experiment: Annotated[Path | None, typer.Argument(help="Experiment file (TOML).")] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder or fsspec address for the run; an unfinished one of the same experiment goes on."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Instead of a file: demo.")] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="Train this arm only: repeat for several. Default: all that are trained.")
    ] = None,
) -> None:
    """Train the arms of an experiment, and score nothing yet. `gated-lpi run` with the same --out goes on from there.

    Checkpoints are in training/ARM/step-N of the folder. A stopped training goes on, and ends with the same weights.

    Example: `gated-lpi train experiment.toml --out runs/mine --arm moe --arm dense`
    """
    from gated_lpi.experiments import load_experiment
    from gated_lpi.experiments import preset as named
    from gated_lpi.runs.train import train_experiment

    if (experiment is None) == (preset is None):
        raise OptionError("Expected an experiment file or --preset with a name, and not both.")
    chosen = load_experiment(experiment) if experiment is not None else named(str(preset))
    if out is None:
        raise OptionError("No folder for the run was given; expected --out with a new folder, or that of this run.")
    run, series = train_experiment(chosen, out, ConsoleProgress(), only=arm)
    for name, checkpoints in series.items():
        folder = run.training_folder(name)
        console.print(f"trained: {name}: {len(checkpoints)} checkpoints in {folder}", markup=False)
