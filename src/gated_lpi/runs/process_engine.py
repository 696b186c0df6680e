"""Scoring in several processes of this machine, each of one thread; what is on a hub is left to this process.

Checkpoints that are on this machine are scored several at a time (`workers`). Those that have to be downloaded go one
after the other, since the downloads and the disk budget, not the cores, are what they wait for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gated_lpi.runs.job import Engine, Job, JobOutcome
from gated_lpi.runs.progress import Progress, Silent
from gated_lpi.runs.scoring import score_checkpoint
from gated_lpi.runs.workers import Call, in_workers


class ProcessEngine:
    """Scores jobs in workers.

    Args:
        workers: how many at once.
        rest: the engine of jobs whose checkpoint is not on this machine.
    """

    def __init__(self, workers: int, rest: Engine) -> None:
        self.workers = workers
        self.rest = rest

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[JobOutcome]:
        """Yield the outcome of each job, those of one arm in their order.

        Raises:
            RunError: a worker died.
        """
        here = [job for job in jobs if job.checkpoint.path is not None]
        calls = [Call(_score, (job,), f"{job.arm} {job.checkpoint.key}") for job in here]
        left = {arm: [i for i, job in enumerate(here) if job.arm == arm] for arm in {job.arm for job in here}}
        done: dict[int, JobOutcome] = {}
        for index, outcome in in_workers(calls, self.workers, Silent()):
            done[index] = outcome
            order = left[outcome.arm]
            while order and order[0] in done:
                yield done.pop(order.pop(0))
        yield from self.rest.outcomes([job for job in jobs if job.checkpoint.path is None])


def _score(job: Job, progress: Progress) -> JobOutcome:
    del progress  # one checkpoint is one step
    return score_checkpoint(job)
