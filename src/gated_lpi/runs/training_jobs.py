"""Training several arms: one after the other in this process, or several at once in workers of one thread each.

How long an arm took is noted in its folder, `.seconds`: what this and earlier attempts took that came to their end, or
were stopped in between by an error or Ctrl-C.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from gated_lpi.runs.progress import Progress
from gated_lpi.runs.workers import Call, in_workers
from gated_lpi.training import ArmSpec
from gated_lpi.training.corpus import Corpus
from gated_lpi.training.schedule import checkpoint_steps
from gated_lpi.training.sharing import adopt
from gated_lpi.training.spec import TrainingSpec
from gated_lpi.training.trainer import arm_identity, train_arm

SECONDS = ".seconds"


@dataclass(frozen=True)
class TrainingJob:
    """One arm that is to be trained, as data that can be pickled.

    Attributes:
        arm: what is trained.
        spec: how.
        corpus: on what.
        tokenizer: made for it.
        folder: where its checkpoints go.
    """

    arm: ArmSpec
    spec: TrainingSpec
    corpus: Corpus
    tokenizer: PreTrainedTokenizerFast
    folder: Path


def train_all(
    jobs: Sequence[TrainingJob], progress: Progress, *, workers: int | None = None, others: Sequence[Path] = ()
) -> None:
    """Train the arms that are not trained yet.

    Args:
        jobs: the arms.
        progress: shown how far it is.
        workers: how many at once, each with one thread; None: one after the other, in this process.
        others: folders of arms of other runs, whose checkpoints are taken where they were trained alike.

    Raises:
        RunExistsError: an arm's folder holds something else.
        WriteError: a checkpoint cannot be written.
        FactsError: the corpus has no token to predict.
        RunError: a worker died.
    """
    for job in jobs:
        source = adopt(job.folder, arm_identity(job.arm, job.spec, job.corpus, job.tokenizer), others)
        if source is not None:
            progress.note(f"{job.arm.name}: trained before, as {source.name} of {source.parent.parent.name}: not again")
    left = jobs if workers is None else [job for job in jobs if _is_finished(job)]
    for job in left:
        train_one(job, progress)
    if workers is not None:
        _train_in_workers([job for job in jobs if not _is_finished(job)], workers, progress)


def _train_in_workers(jobs: Sequence[TrainingJob], workers: int, progress: Progress) -> None:
    calls = [Call(train_one, (job,), job.arm.name) for job in jobs]
    done, total = [0] * len(jobs), sum(job.spec.steps for job in jobs)
    with progress.task(f"train {len(jobs)} arms") as advance:

        def report(index: int, steps: int, _: int) -> None:
            done[index] = steps
            advance(sum(done), total)

        for index, _ in in_workers(calls, workers, progress, report):
            report(index, jobs[index].spec.steps, 0)


def _is_finished(job: TrainingJob) -> bool:
    return all(
        (job.folder / f"step-{step}").is_dir() for step in checkpoint_steps(job.spec.steps, job.spec.checkpoints)
    )


def train_one(job: TrainingJob, progress: Progress) -> None:
    """Train one arm in this process; a finished one takes no time."""
    with progress.task(f"train {job.arm.name}") as advance, _timed(job):
        train_arm(job.arm, job.spec, job.corpus, job.tokenizer, job.folder, progress=advance)


@contextmanager
def _timed(job: TrainingJob) -> Iterator[None]:
    """Add what an unfinished arm takes to what it took before."""
    finished = _is_finished(job)
    began = time.monotonic()
    try:
        yield
    finally:
        if not finished:
            with suppress(OSError):  # a figure that nothing rests on
                before = seconds_of(job.folder)
                (job.folder / SECONDS).write_text(f"{before + time.monotonic() - began:.1f}\n", encoding="utf-8")


def seconds_of(arm: Path) -> float:
    """What the training of an arm took, as far as it was noted."""
    try:
        return float((arm / SECONDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0
