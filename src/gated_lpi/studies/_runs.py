"""What analyses ask of a run: which groups have scores, by which methods, and their checkpoints as models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gated_lpi.checkpoints import Checkpoint, list_local
from gated_lpi.errors import OptionError, RunError
from gated_lpi.results import Run
from gated_lpi.runs.access import hub_of
from gated_lpi.runs.choose import choose_checkpoints
from gated_lpi.runs.progress import Progress
from gated_lpi.runs.workers import Call, in_workers


def with_scores(run: Run) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The arms of each group that have scores, and a note for each that has none.

    Raises:
        RunError: no arm has any.
    """
    groups: dict[str, tuple[str, ...]] = {}
    notes = []
    for group, arms in run.experiment.groups.items():
        scored = tuple(arm for arm in arms if run.store(arm).keys())
        notes += [f"{arm} has no scores and is left out" for arm in arms if arm not in scored]
        if scored:
            groups[group] = scored
    if not groups:
        raise RunError(f"{run.path} has no scores yet; run the study again until a checkpoint is complete")
    return groups, notes


def methods_of(run: Run, arms: Iterable[str], asked: Iterable[str] | None) -> tuple[str, ...]:
    """The methods that all of some arms have scores of units by; those that were asked for, if any were.

    Raises:
        OptionError: one that was asked for is missing.
    """
    each = [run.methods(arm) for arm in arms]
    known = tuple(name for name in each[0] if all(name in others for others in each)) if each else ()
    missing = [name for name in asked or () if name not in known]
    if missing:
        raise OptionError(
            f"methods {', '.join(missing)} were asked for; the run has scores by {', '.join(known) or 'none'}: name "
            "them in attribution.methods of the study whose run it is"
        )
    return known if asked is None else tuple(asked)


def checkpoints_of(run: Run) -> dict[str, dict[str, Checkpoint]]:
    """The checkpoints of every arm by their keys, wherever they are.

    Raises:
        CheckpointError: a series that is not there any more.
    """
    trained = {arm.name: list_local(run.training_folder(arm.name)) for arm in run.experiment.arms if arm.train}
    hub = hub_of(run.experiment.storage)
    chosen = choose_checkpoints(run.experiment, trained, hub, lambda _arm, _text: None, run.path / "series")
    return {arm: {checkpoint.key: checkpoint for checkpoint in found} for arm, found in chosen.items()}


def each(
    run: Run, function: Callable[..., Any], arguments: list[tuple[Any, ...]], label: str, progress: Progress
) -> list[Any]:
    """Call a function with each of some arguments and a progress, in as many processes as the engine has workers."""
    workers = run.experiment.engine.workers
    found: list[Any] = [None] * len(arguments)
    with progress.task(label) as advance:
        if workers is None:
            for index, given in enumerate(arguments):
                advance(index, len(arguments))
                found[index] = function(*given, progress)
        else:
            calls = [Call(function, given, label) for given in arguments]
            for done, (index, result) in enumerate(in_workers(calls, workers, progress), 1):
                found[index] = result
                advance(done, len(arguments))
    return found
