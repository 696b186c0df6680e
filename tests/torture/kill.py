"""SIGKILL at random moments over training, attribution, ablation and report: taken up, a run ends as if left alone.

A try is a kill. A round takes a new folder and goes on, kill after kill, until the run is complete; then all arrays,
records, the quarantine, trained weights and the report's numbers are those of a run that was left alone, and
`verify_run` finds nothing. In between, whatever is there can be read, and holds complete checkpoints only.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import xarray as xr

from alike import same_run
from children import Child
from gated_lpi.cli.run import QUARANTINED
from gated_lpi.experiments import Experiment
from gated_lpi.report import build_report
from gated_lpi.results import Run, open_run, verify_run
from gated_lpi.runs import run_experiment
from tiny_runs import as_toml, two_arms
from torture.attack import Ground

MOST_KILLS = 9  # of one round
START = "start"  # what a run is at before its first task
PATIENCE = 300.0  # seconds after which a run that nobody kills hangs


Timeline: TypeAlias = Sequence[tuple[str, float]]
"""The phases of a run that was left alone, in their order, with the seconds that each took."""


@dataclass
class Phases:
    """A `Progress` that keeps in a file what a run is at, so that whoever kills it can tell; and when each began."""

    file: Path
    began: list[tuple[str, float]] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def task(self, label: str) -> Iterator[Callable[[int, int], None]]:
        self.enter(label)
        yield lambda _done, _total: None

    def enter(self, phase: str) -> None:
        self.began.append((phase, time.monotonic()))
        self.file.write_text(phase)

    def timeline(self) -> list[tuple[str, float]]:
        """How long each phase took that was entered, the last of which only marks the end."""
        pairs = zip(self.began, self.began[1:], strict=False)
        return [(phase, after - before) for (phase, before), (_, after) in pairs]


@dataclass
class Killing:
    """Rounds of kills of one experiment.

    begin: starts a run into a folder; it keeps its phase in a file. whole: the run that was left alone. phases: of it;
    as many kills are aimed at each.
    """

    ground: Ground
    begin: Callable[[Path, Path], "Victim | Command"]
    whole: Run
    phases: Timeline
    report: bool
    hit: Counter[str] = field(default_factory=Counter)

    def carry_out(self) -> None:
        """Rounds until there were enough kills."""
        for seed in self.ground.seeds():
            with self.ground.judging(seed):
                self._round(seed)
        self.ground.remark("killed in: " + ", ".join(f"{phase} {n}" for phase, n in sorted(self.hit.items())))

    def _round(self, seed: int) -> None:
        chance, out = random.Random(seed), self.ground.folder / f"round-{seed}"
        most = min(MOST_KILLS, self.ground.count - self.ground.tried)
        kills, code = 0, None
        for phase in sorted(chance.choices(range(len(self.phases)), k=most)):
            name, seconds = self.phases[phase]
            code, hit = self._kill(out, name, chance.uniform(0.0, seconds))
            if code is not None:
                break
            self.hit[hit] += 1
            kills += 1
            self._look_at(out)
        if code is None:
            self._finish(out, kills)
        run = open_run(out)
        same_run(run, self.whole, report=self.report)
        assert verify_run(run) == []
        if kills:  # else it was done before the moment came
            self.ground.came("survived", kills)
        shutil.rmtree(out)

    def _kill(self, out: Path, phase: str, seconds: float) -> tuple[int | None, str]:
        """Kill a run so many seconds into a phase; its exit code if it ended before, and where it was."""
        file = self.ground.folder / "phase"
        file.write_text(START)
        victim = self.begin(out, file)
        deadline = time.monotonic() + PATIENCE
        code = None
        while file.read_text() != phase and code is None and time.monotonic() < deadline:
            code = victim.wait(0.003)
        if code is None:
            code = victim.wait(seconds)
        if code is None:
            victim.kill()
        assert code in (None, 0), f"it ended with {code}: {victim.said()[-1500:]}"
        return code, file.read_text() or "between phases"

    def _finish(self, out: Path, kills: int) -> None:
        """Let a run come to its end."""
        victim = self.begin(out, self.ground.folder / "phase")
        code = victim.wait(PATIENCE)
        if code is None:
            victim.kill()
        assert code == 0, f"taken up after {kills} kills it ended with {code} (None: never): {victim.said()[-1500:]}"

    def _look_at(self, out: Path) -> None:
        """Plain xarray sees complete rows only, and what is there verifies but for what was being made."""
        if not (out / "run.json").exists():
            return
        run = open_run(out)
        for arm in run.arms:
            path = run.store(arm).path
            if path.exists():
                seen = xr.open_zarr(path, chunks=None)
                assert seen["step"].values.tolist() == [one["step"] for one in seen.attrs["checkpoints"]]
        found = [finding for finding in verify_run(run) if finding.what != "report"]
        assert all("commit" in finding.why for finding in found), found


class Victim:
    """A forked run."""

    def __init__(self, work: Callable[[], object], log: Path) -> None:
        self._child = Child(work, log)
        self.wait, self.kill, self.said = self._child.wait_or_none, self._child.kill, self._child.said


class Command:
    """A run by the command line, in a process group of its own; its exit code is 0 where some are in quarantine."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        self._log = log
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, *arguments], stdout=said, stderr=said, env=environment, start_new_session=True
            )

    def wait(self, seconds: float) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(seconds)
            return 0 if code == QUARANTINED else code
        return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def said(self) -> str:
        return self._log.read_text(errors="replace")


def forked(ground: Ground) -> None:
    """The local engine, with training and report, in forked children."""
    experiment, log = two_arms(ground.folder), ground.folder / "log"

    def work(out: Path, phases: Phases) -> None:
        phases.enter(START)
        run = run_experiment(experiment, out, phases)
        phases.enter("report")
        build_report(run)

    left_alone = Phases(ground.folder / "phase")
    work(ground.folder / "whole", left_alone)
    left_alone.enter("end")
    whole = open_run(ground.folder / "whole")
    assert [one["key"] for one in whole.quarantined("folder")] == ["step-10"]

    def begin(out: Path, file: Path) -> Victim:
        return Victim(lambda: work(out, Phases(file)), log)

    Killing(ground, begin, whole, left_alone.timeline(), report=True).carry_out()


def commanded(ground: Ground) -> None:
    """The whole command, from the start of Python on."""
    _by_command(ground, two_arms(ground.folder), {}, report=True)


def on_ray(ground: Ground) -> None:
    """The Ray engine: drivers are killed, their cluster of two workers lives on."""
    import ray

    experiment = two_arms(ground.folder).with_settings(engine={"kind": "ray"})
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as place:
        options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        ray.init(address="local", _temp_dir=place, object_store_memory=80 * 2**20, **options)
        try:
            address = ray.get_runtime_context().gcs_address
            _by_command(ground, experiment, {"RAY_ADDRESS": address}, report=False)
        finally:
            ray.shutdown()


def _by_command(ground: Ground, experiment: Experiment, environment: dict[str, str], *, report: bool) -> None:
    file = ground.folder / "experiment.toml"
    file.write_text(as_toml(experiment))
    arguments = ["-m", "gated_lpi", "run", str(file), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **environment}

    def begin(out: Path, _file: Path) -> Command:
        return Command([*arguments, str(out)], ground.folder / "log", environment)

    started = time.monotonic()
    first = begin(ground.folder / "whole", ground.folder / "phase")
    assert first.wait(PATIENCE) == 0, first.said()
    whole = open_run(ground.folder / "whole")
    phases = [(START, 0.8 * (time.monotonic() - started))]  # from outside no more is known
    Killing(ground, begin, whole, phases, report=report).carry_out()
