"""Scoring in this process: one checkpoint computes while the next ones are downloaded.

1. One thread downloads checkpoints in their order, at most `prefetch` ahead of the one that computes.
2. What this run downloaded and still holds stays within the disk budget. Before a download that would not fit,
   scored checkpoints are deleted; if that is not enough, the download waits for the one that computes.
3. Only files that this run itself brought are ever deleted.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from gated_lpi.checkpoints import Fetched, evict, fetch, sweep
from gated_lpi.errors import OptionError
from gated_lpi.runs.access import fetched_to, hub_of
from gated_lpi.runs.downloads import Ledger, download_bytes
from gated_lpi.runs.failures import failed
from gated_lpi.runs.job import Job, JobOutcome
from gated_lpi.runs.scoring import score_checkpoint


class LocalEngine:
    """Scores jobs one after the other in this process.

    Args:
        prefetch: how many checkpoints ahead are downloaded while one computes.
        disk_budget: the most bytes of its own downloads that it holds at a time; None: what `prefetch` needs.
        ledger: what the run downloaded before it was interrupted, which counts as its own.
    """

    def __init__(self, *, prefetch: int = 1, disk_budget: int | None = None, ledger: Ledger | None = None) -> None:
        self.prefetch = prefetch
        self.disk_budget = disk_budget
        self.ledger = Ledger() if ledger is None else ledger

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[JobOutcome]:
        """Yield the outcome of each job, in order. A checkpoint's files are there until the next is asked for.

        Raises:
            OptionError: a checkpoint is larger than the disk budget; before anything is downloaded.
        """
        if self.disk_budget is not None:
            refuse_small_budget(jobs, self.disk_budget)
        downloads = _Downloads([job for job in jobs if job.checkpoint.path is None], self)
        try:
            for job in jobs:
                try:
                    yield self._outcome(job, downloads)
                finally:  # also when nobody asks for the next one
                    downloads.scored(job)
        finally:
            downloads.stop()

    def _outcome(self, job: Job, downloads: _Downloads) -> JobOutcome:
        if job.checkpoint.path is not None:
            downloads.ahead()
            return score_checkpoint(job)
        try:
            fetched = downloads.take(job)
        except OptionError:  # the budget
            raise
        except Exception as error:
            return failed(job, error)
        local = fetched_to(job.checkpoint, fetched)
        return dataclasses.replace(score_checkpoint(dataclasses.replace(job, checkpoint=local)), fetched=fetched)


def refuse_small_budget(jobs: Sequence[Job], budget: int) -> None:
    """Check that the largest download fits into the budget.

    Raises:
        OptionError: it does not; says how much is needed.
    """
    sizes = {job.checkpoint.key: download_bytes(job) for job in jobs if job.checkpoint.path is None}
    if not sizes:
        return
    key = max(sizes, key=lambda name: sizes[name])
    if sizes[key] > budget:
        raise OptionError(
            f"storage.disk_budget is {budget:,} bytes, but checkpoint {key} alone takes {sizes[key]:,}. Give at least "
            f"that; twice as much lets the next checkpoint be downloaded while one computes. Nothing was downloaded"
        )


@dataclass
class _Download:
    """One checkpoint on its way or here.

    Attributes:
        job: which one.
        size: bytes that it takes of the budget.
        result: where it is, once it is here.
        scored: whether its files are not needed any more.
    """

    job: Job
    size: int
    result: Future[Fetched] = field(default_factory=Future)
    scored: bool = False


class _Downloads:
    """The downloads of a sequence of jobs: started in order, in a thread, within a budget."""

    def __init__(self, jobs: Sequence[Job], options: LocalEngine) -> None:
        self._waiting = list(jobs)
        self._held: list[_Download] = []
        self._options = options
        self._queue: queue.SimpleQueue[_Download | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def take(self, job: Job) -> Fetched:
        """Wait for a job's checkpoint, and let those after it start.

        Raises:
            CheckpointError: it could not be had.
        """
        while not any(download.job is job for download in self._held):
            if not self._start_next():
                self._refuse_full()
        self.ahead()
        return next(download for download in self._held if download.job is job).result.result()

    def ahead(self) -> None:
        """Start downloads for as long as there is room and not more than `prefetch` are ahead."""
        while self._waiting and self._unscored() <= self._options.prefetch and self._start_next():
            pass

    def scored(self, job: Job) -> None:
        """Say that a job's files are not needed any more; they go when their room is needed, by default at once."""
        for download in self._held:
            download.scored |= download.job is job
        if self._options.disk_budget is None:
            self._make_room(None)

    def stop(self) -> None:
        """Delete what was scored, start nothing more and wait for nothing."""
        self._waiting.clear()
        self._queue.put(None)
        self._make_room(None)

    def _unscored(self) -> int:
        return sum(not download.scored for download in self._held)

    def _start_next(self) -> bool:
        budget = self._options.disk_budget
        size = 0 if budget is None else download_bytes(self._waiting[0])
        if budget is not None and not self._make_room(budget - size):
            return False
        download = _Download(self._waiting.pop(0), size)
        self._held.append(download)
        self._queue.put(download)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="downloads", daemon=True)
            self._thread.start()
        return True

    def _make_room(self, most: int | None) -> bool:
        """Delete scored checkpoints, oldest first, until at most so many bytes are held (None: all of them).

        A download that was given up while it was under way counts as scored; it is not waited for.
        """
        for download in [held for held in self._held if held.scored and held.result.done()]:
            if most is not None and sum(held.size for held in self._held) <= most:
                break
            if not download.job.storage.keep_downloads and download.result.exception() is None:
                fetched = download.result.result()
                evict(fetched, hub=hub_of(download.job.storage))
                if not any(path.exists() for path in fetched.downloaded_files):  # another process may work with them
                    self._options.ledger.forget(download.job.checkpoint)
            if not download.job.storage.keep_downloads or download.result.exception() is not None:
                self._held.remove(download)
        return most is None or sum(held.size for held in self._held) <= most

    def _refuse_full(self) -> None:
        held = sum(download.size for download in self._held)
        raise OptionError(
            f"storage.disk_budget is {self._options.disk_budget:,} bytes, of which {held:,} are taken by checkpoints "
            "that are to be kept (storage.keep_downloads). Give more, or let finished checkpoints be deleted"
        )

    def _work(self) -> None:
        while (download := self._queue.get()) is not None:
            try:
                download.result.set_result(self._fetch(download))
            except BaseException as error:
                download.result.set_exception(error)

    def _fetch(self, download: _Download) -> Fetched:
        checkpoint, hub, ledger = download.job.checkpoint, hub_of(download.job.storage), self._options.ledger
        if ledger.announced(checkpoint, hub) and not hub.is_offline:
            sweep(checkpoint, hub)
        mine = ledger.announce(checkpoint, hub)
        fetched = fetch(checkpoint, hub=hub)
        if mine:
            return ledger.claim(fetched)
        download.size = min(download.size, fetched.bytes)  # the rest was there before, and stays
        return fetched
