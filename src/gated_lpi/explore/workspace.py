"""What is explored: a run, followed while it grows, and what is made of it in the background.

1. Arms are opened when the first page is asked for, and again when their store has changed.
2. One thread then makes, in this order: when units were in top sets, all units' curves of mean scores, what is small,
   curves by relation, and the findings of the whole run: summaries, which the run keeps, verdicts and diagnosis.
3. A page shows what there is, and says what is still being made.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Condition, Lock, Thread

from gated_lpi import score_schema as schema
from gated_lpi._common.folders import is_remote, read_text, refuse_links
from gated_lpi.errors import GatedLPIError, OptionError, RunError
from gated_lpi.explore.arm import Arm
from gated_lpi.explore.curves import Advance
from gated_lpi.explore.said import Said, measured, said
from gated_lpi.report.arms import Results
from gated_lpi.results import Run, writer_of
from gated_lpi.results.commit import META

FOLDER = "explore"
LOOK = 1.0  # seconds between looks at a folder
LOOK_FAR = 30.0  # at an address


@dataclass(frozen=True)
class Progress:
    """What is being made.

    Attributes:
        words: of what.
        done, total: how far it is; 0 of 0 where that cannot be said.
    """

    words: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Findings:
    """What is found of a whole run.

    Attributes:
        results: the summaries of all arms; None until they are known, or where there are none.
        said: verdicts and diagnosis; None until they are known, which takes longer.
        error: why there are none.
    """

    results: Results | None = None
    said: Said | None = None
    error: str = ""


class Workspace:
    """A run that is explored.

    Args:
        run: from `open_run`.
        by_relation: whether every unit's curve by relation is indexed too, which takes as much room as the scores.
        findings: whether summaries and verdicts are made.
    """

    def __init__(self, run: Run, *, by_relation: bool = True, findings: bool = True) -> None:
        self.run = run
        self.findings = Findings()
        self.notes: dict[str, str] = {}
        self._by_relation = by_relation
        self._findings = findings
        self._arms: dict[str, Arm] = {}
        self._missing: dict[str, str] = {}
        self._stamp: dict[str, str] | None = None
        self._looked = 0.0
        self._version = 0
        self._progress: Progress | None = None
        self._lock = Lock()
        self._wanted = Condition()
        self._again = False
        self._ended = False
        self._thread: Thread | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def arms(self) -> dict[str, Arm]:
        """The arms that have results, as they are now."""
        self._follow()
        return self._arms

    @property
    def missing(self) -> dict[str, str]:
        """Why the others have none."""
        return self._missing

    @property
    def progress(self) -> Progress | None:
        """What is being made just now; None: nothing."""
        return self._progress

    @property
    def version(self) -> int:
        """A number that changes whenever there is more to be shown."""
        return self._version

    def look(self) -> int:
        """Look for what was added to the run meanwhile; the version that there is now."""
        self._follow()
        return self._version

    @property
    def writer(self) -> str:
        """Who writes to the run, in words; "" if nobody does."""
        owner = writer_of(self.run.path)
        return "" if owner is None else str(owner)

    def arm(self, name: str | None) -> Arm:
        """An arm that has results; the first of them for None.

        Raises:
            OptionError: it has none, or there is no such arm.
            RunError: no arm has any yet.
        """
        arms = self.arms
        if not arms:
            raise RunError("no arm of this run has a complete checkpoint yet; load the page again when one is")
        if not name:
            return next(iter(arms.values()))
        if name not in arms:
            why = self._missing.get(name, "there is no such arm")
            raise OptionError(f"arm {name!r} was asked for: {why}. With results are {', '.join(arms)}")
        return arms[name]

    def settle(self, seconds: float = 600.0) -> None:
        """Wait until nothing is being made.

        Raises:
            TimeoutError: it took longer.
        """
        _ = self.arms
        end = time.monotonic() + seconds
        with self._wanted:
            while self._again or self._progress is not None:
                if not self._wanted.wait(max(0.0, end - time.monotonic())):
                    raise TimeoutError(f"still being made after {seconds:g} s: {self._progress}; wait longer")

    def close(self) -> None:
        """End the thread, and delete what was kept outside the run."""
        with self._wanted:
            self._ended = True
            self._wanted.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _follow(self) -> None:
        """Open the arms anew if their stores changed since they were looked at."""
        every = LOOK_FAR if is_remote(self.run.path) else LOOK
        with self._lock:
            if self._stamp is not None and time.monotonic() - self._looked < every:
                return
            stamp = {name: self._stamp_of(name) for name in self.run.arms}
            self._looked = time.monotonic()
            if stamp == self._stamp:
                return
            arms, missing = {}, {}
            for name in self.run.arms:
                if self._stamp is not None and name in self._arms and self._stamp[name] == stamp[name]:
                    arms[name] = self._arms[name]
                    continue
                try:
                    arms[name] = Arm(self.run, name, self._folder(name))
                    arms[name].take_over(self._arms)
                except (RunError, OptionError) as error:
                    missing[name] = str(error)
            self._arms, self._missing, self._stamp = arms, missing, stamp
            self._version += 1
        with self._wanted:
            self._again = True
            if self._thread is None:
                self._thread = Thread(target=self._work, name="explore", daemon=True)
                self._thread.start()
            self._wanted.notify_all()

    def _stamp_of(self, name: str) -> str:
        """What changes when a checkpoint is added to an arm, or units are followed at one, or its record is written."""
        results = self.run.path / "results"
        files = (results / f"{name}.zarr" / META, results / f"{name}.follow.zarr" / META, results / f"{name}.json")
        said = []
        for file in files:
            try:
                if isinstance(file, Path):
                    found = file.stat()
                    said.append(f"{found.st_mtime_ns}:{found.st_size}:{found.st_ino}")
                else:
                    said.append(str(hash(read_text(file))))
            except (OSError, ValueError, RunError):
                said.append("")
        return " ".join(said)

    def _folder(self, name: str) -> Path:
        """Where what is derived of an arm is kept: in the run, or where that cannot be, for as long as this lives."""
        folder = self.run.local / FOLDER / name
        try:
            refuse_links(self.run.local / FOLDER, deep=True)
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.touch()
            probe.unlink()
        except (OSError, RunError):
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="gated-lpi-explore-")
            folder = Path(self._scratch.name) / name
            folder.mkdir(exist_ok=True)
        return folder

    def _work(self) -> None:
        while True:
            with self._wanted:
                while not self._again and not self._ended:
                    self._wanted.wait()
                if self._ended:
                    return
                self._again = False
                self._progress = Progress("what the run holds")
            for words, action in self._actions():
                if self._ended or self._again:
                    break
                self._progress = Progress(words)
                try:
                    action(partial(self._advance, words))
                except _EndedError:
                    return
                except (GatedLPIError, OSError) as error:
                    self.notes[words] = f"{words} cannot be shown: {error}"
                else:
                    self.notes.pop(words, None)
                self._version += 1
            with self._wanted:
                self._progress = None
                self._wanted.notify_all()

    def _advance(self, words: str, done: int, total: int) -> None:
        self._progress = Progress(words, done, total)
        if self._ended:
            raise _EndedError

    def _actions(self) -> Iterator[tuple[str, Callable[[Advance], None]]]:
        arms = list(self._arms.values())
        for arm in arms:
            for method in arm.methods:
                yield f"top sets of {arm.name} by {method}", partial(arm.count_lives, method)
                yield f"curves of {arm.name} by {method}", partial(arm.index, schema.mean_of(method))
        for arm in arms:
            yield f"what is kept of all of {arm.name}", partial(_hold, arm)
        for arm in arms:
            for method in arm.methods:
                if method in arm.scores and self._by_relation:
                    yield f"curves by relation of {arm.name} by {method}", partial(arm.index, method)
        if self._findings:
            yield "summaries", self._measure
            yield "verdicts and diagnosis", self._say

    def _measure(self, _told: Advance) -> None:
        """Summaries, which the run keeps."""
        if not self._arms:
            self.findings = Findings(error="no checkpoint is complete yet")
            return
        try:
            self.findings = Findings(measured(self.run, tuple(self._arms), self._missing), self.findings.said)
        except GatedLPIError as error:
            self.findings = Findings(error=str(error))

    def _say(self, _told: Advance) -> None:
        """Verdicts and diagnosis, from what was said before of the same scores, or anew."""
        results = self.findings.results
        if results is not None:
            file = self._folder(next(iter(self._arms))).parent / "said.json"
            self.findings = Findings(results, said(self.run, tuple(self._arms), file))


class _EndedError(Exception):
    """The workspace was closed meanwhile."""


def _hold(arm: Arm, told: Advance) -> None:
    """Read what pages need of all checkpoints."""
    small = list(arm.small)
    for place, variable in enumerate(small):
        told(place, len(small) + 1)
        arm.over_time(variable)
    told(len(small), len(small) + 1)
    _ = arm.bounds
