"""`gated-lpi study`: a controlled experiment carried out, analysed and written down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from gated_lpi.cli.console import ConsoleProgress, err, print_json
from gated_lpi.cli.console import out as console
from gated_lpi.cli.run import QUARANTINED, say_quarantined
from gated_lpi.errors import OptionError

if TYPE_CHECKING:
    from gated_lpi.studies import Study, StudyResult

NAME = "study"
INTERRUPTED = "interrupted; what was complete is kept, and the same command goes on from there"


def command(
    study: Annotated[str | None, typer.Argument(help="Name of a study, or a file (TOML).")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of studies; runs and arms in it that are the same are made once.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="local or ray, in place of what the study says.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes at once, one thread each. Default: as the study says, or a core each.")
    ] = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try checkpoints again that could not be used before.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="All studies that come with the package, one by one.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Say which studies there are, and what they ask.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be trained and analysed; do nothing.")] = False,
    publish: Annotated[
        Path | None,
        typer.Option(
            help="Copy all pages in --out to this folder, beside those that are there, and an index of all; run "
            "nothing. Without --out: lay out what is there anew."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Carry out a controlled experiment: train its arms, score them, analyse the run, write a page of findings.

    A study is a file: an experiment with `seeds` and a `grid`, and what is asked of it (docs/studies.md).

    Exit code 3: done, but checkpoints that cannot be used were put in quarantine.

    Example: `gated-lpi study twins --out studies`
    """
    from gated_lpi.results import open_run
    from gated_lpi.studies import load_study, studies
    from gated_lpi.studies import publish as copy_pages
    from gated_lpi.studies.carry_out import missing_text, refuse_missing_text

    if listed:
        _list([load_study(name) for name in studies()], json)
        return
    if publish is not None:
        if study is not None or every:
            raise OptionError("--publish copies all pages of --out and runs nothing; leave out studies to be run.")
        published = copy_pages(out, publish)
        if published.kept:
            where = "" if out is None else f", not in {out}"
            console.print(f"kept as published before{where}: {', '.join(published.kept)}", markup=False)
        if published.written:
            console.print(f"published: {', '.join(published.written)}", markup=False)
        console.print(f"index: {published.page}", markup=False)
        return
    if every == (study is not None):
        raise OptionError("Expected the name of a study, a file, or --all, and not both; --list names all studies.")
    asked = [load_study(name) for name in (studies() if study is None else (study,))]
    asked = [_on(one, engine, workers) for one in asked]
    if plan:
        _plan(asked, json)
        return
    if out is None:
        raise OptionError(
            "No folder for the study was given; expected --out with one, which several studies may share."
        )
    done = [one for one in asked if not every or missing_text(one) is None]  # of all, one is not to keep up the others
    results = [_carry_out(one, out, retry_quarantined, quiet=json) for one in done]
    if json:
        content = [result.model_dump(mode="json") for result in results]
        print_json(content if every else content[0])
    runs = dict.fromkeys(one.run for one in done)  # several studies may share one
    quarantined = sum(say_quarantined(open_run(out / name), err if json else console) for name in runs)
    for one in asked:
        refuse_missing_text(one)
    if quarantined:
        raise typer.Exit(QUARANTINED)


def _on(study: Study, engine: str | None, workers: int | None) -> Study:
    """The study with the engine that is asked for; a worker for each core where nobody says."""
    own = study.experiment.engine.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    keys: dict[str, Any] = {"workers": next(n for n in (workers, own, cores) if n is not None)}
    if engine is not None:
        keys["kind"] = engine
    return study.model_copy(update={"experiment": study.experiment.with_settings(engine=keys)})


def _list(studies: list[Study], json: bool) -> None:
    if json:
        print_json([_described(study) for study in studies])
        return
    table = Table("study", "asks", "run of")
    for study in studies:
        table.add_row(study.name, " ".join(study.question), study.run)
    console.print(table)


def _described(study: Study) -> dict[str, Any]:
    return {
        "study": study.name,
        "title": study.title,
        "question": list(study.question),
        "run": study.run,
        "groups": {group: len(arms) for group, arms in study.experiment.groups.items()},
        "analyses": [analysis.label for analysis in study.analyses],
    }


def _plan(studies: list[Study], json: bool) -> None:
    """What each study would train, score and analyse; a run that several analyse is made once."""
    plans = []
    for study in studies:
        experiment = study.experiment
        trained = [experiment.training_of(arm) for arm in experiment.arms if arm.train]
        steps, checkpoints = sum(one.steps for one in trained), sum(one.checkpoints for one in trained)
        plans.append(_described(study) | {"arms": len(experiment.arms), "steps": steps, "checkpoints": checkpoints})
    if json:
        print_json(plans)
        return
    table = Table("study", "run of", "arms", "training steps", "checkpoints", "analyses")
    for one in plans:
        numbers = [str(one["arms"]), f"{one['steps']:,}", f"{one['checkpoints']:,}"]
        table.add_row(one["study"], one["run"], *numbers, ", ".join(one["analyses"]))
    console.print(table)


def _carry_out(study: Study, out: Path, retry_quarantined: bool, *, quiet: bool) -> StudyResult:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from gated_lpi.studies import run_study

    disable_progress_bars()
    result = run_study(study, out, ConsoleProgress(), retry_quarantined=retry_quarantined)
    if not quiet:
        _show(result)
        console.print(f"page: {out / f'{study.name}.findings' / 'page.md'}", markup=False)
        console.print(f"index of all findings: {out / 'index.md'}", markup=False)
    return result


def _show(result: StudyResult) -> None:
    from gated_lpi.studies.page import effect, method_name

    table = Table("claim", "by", "verdict", "effect", title=result.title)
    for verdict in result.verdicts:
        table.add_row(verdict.claim, method_name(verdict.method), verdict.verdict, effect(verdict))
    console.print(table)
