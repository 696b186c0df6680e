"""`gated-lpi run`: an experiment file → a run folder with a report, or what that would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gated_lpi.cli.console import ConsoleProgress
from gated_lpi.cli.console import out as console
from gated_lpi.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from gated_lpi.experiments import Experiment
    from gated_lpi.results import Run

NAME = "run"
INTERRUPTED = "interrupted; what was complete is kept, and the same command goes on from there"
QUARANTINED = 3


def command(
    experiment: Annotated[Path | None, typer.Argument(help="Experiment file (TOML).")] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder or fsspec address for the run; an unfinished run of the same experiment goes on."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Instead of a file: demo, paper or pythia-160m.")] = None,
    engine: Annotated[str | None, typer.Option(help="local or ray, in place of what the file says.")] = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try checkpoints again that could not be used before.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Estimate downloads, disk, memory, time; do nothing.")] = False,
    price: Annotated[float | None, typer.Option(help="With --plan: price of the machine per hour.")] = None,
    flops: Annotated[
        str | None, typer.Option(help="With --plan: operations per second that it does, such as 200G or 20T.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="With --plan: print it as JSON.")] = False,
) -> None:
    """Run an experiment file: train or find its checkpoints, attribute them, measure, ablate and report.

    Exit code 3: done, but checkpoints that cannot be used were put in quarantine.

    Example: `gated-lpi run experiment.toml --out runs/mine`
    """
    from gated_lpi.experiments import load_experiment
    from gated_lpi.experiments import preset as named

    if (experiment is None) == (preset is None):
        raise OptionError("Expected an experiment file or --preset with a name, and not both.")
    chosen = load_experiment(experiment) if experiment is not None else named(str(preset))
    if engine is not None:
        chosen = chosen.with_settings(engine={"kind": engine})
    if plan:
        _plan(chosen, price, flops, json)
        return
    if price is not None or flops is not None or json:
        raise OptionError(
            "--price, --flops and --json belong to --plan, which was not given; add it, or leave them out"
        )
    if out is None:
        raise OptionError("No folder for the run was given; expected --out with a new folder, or that of this run.")
    if finish(chosen, out, retry_quarantined=retry_quarantined):
        raise typer.Exit(QUARANTINED)


def finish(experiment: Experiment, out: str | Path, *, retry_quarantined: bool = False) -> int:
    """Run an experiment with progress bars, write its report and say where it is.

    Returns:
        How many checkpoints are quarantined.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from gated_lpi.report import build_report
    from gated_lpi.runs import run_experiment

    disable_progress_bars()  # downloads go on while other bars are shown
    progress = ConsoleProgress()
    run = run_experiment(experiment, out, progress, retry_quarantined=retry_quarantined)
    count = say_quarantined(run, console)
    for arm in run.arms:
        for same in run.duplicates(arm):
            console.print(
                f"warning: {arm}: identical weights: {', '.join(same)}; J_stab and R_t between them are refused",
                markup=False,
            )
    with progress.task("report") as advance:
        files = build_report(run)
        advance(1, 1)
    for arm in run.arms:
        studied = run.record(arm)
        if studied is not None and studied.ablation.hit < 0.9:
            table = studied.ablation
            console.print(
                f"warning: {arm} recalls {table.hit:.1%} of the facts (HIT@{table.k}), below 90%: its ablations "
                "say little"
            )
    console.print(f"report: {files.html}", markup=False)
    return count


def say_quarantined(run: Run, to: Console) -> int:
    """Name the checkpoints of a run that are quarantined, with the reason, and count them."""
    quarantined = [(arm, record) for arm in run.arms for record in run.quarantined(arm)]
    for arm, record in quarantined:
        why = f"({record['error']}): {record['quarantined']}"
        to.print(f"quarantined: {arm} {record['key']} {why}", markup=False)
    if quarantined:
        to.print(f"{len(quarantined)} checkpoints are quarantined; --retry-quarantined tries them again", markup=False)
    return len(quarantined)


def _plan(experiment: Experiment, price: float | None, flops: str | None, json: bool) -> None:
    from gated_lpi.checkpoints import parse_count
    from gated_lpi.cli.plan import show
    from gated_lpi.runs.plan import plan

    speed = {} if flops is None else {"flops": float(parse_count(flops.upper().replace("G", "B")))}
    show(plan(experiment, price_per_hour=price, **speed), json)
