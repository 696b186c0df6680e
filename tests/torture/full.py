"""The machine has no more of something: disk, file size, memory, open files; or takes no writes; in every phase.

A try is one `gated-lpi run` from which something is taken at a random moment. Either it had enough, or it ends with an
exit code above 0 and one line that says what happened; then the same command, with all there is, ends as if left alone.
Without memory a library may abort, and the interpreter fail or wait for a thread that it could not begin, before
anybody can say so; that is counted apart, and what was kept has to be good all the same. A small disk of its own
(tmpfs) is used where this process may mount one; elsewhere those ways are left out, and it is said.
"""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from alike import same_run
from children import Child, command
from gated_lpi.cli.run import QUARANTINED
from gated_lpi.results import Run, open_run, verify_run
from tiny_runs import as_toml, two_arms
from torture.attack import Ground, Outcome, ended_clearly

PATIENCE = 300.0
SHORT = 60.0  # without memory: seconds after which a run waits for a thread that never began
DONE = (0, QUARANTINED)
DISK = 64 * 2**20  # bytes of the small disk


@dataclass(frozen=True)
class Scene:
    """What is run, and what comes of it when nothing is taken: the run, and how many seconds it takes."""

    file: Path
    log: Path
    whole: Run
    seconds: float

    def begin(self, out: Path) -> Child:
        return Child(command(["run", str(self.file), "--out", str(out)]), self.log)


Way = Callable[[Scene, Path, random.Random], tuple[int, str]]
"""Runs into a folder while something is taken; exit code and what it said."""


def starve(ground: Ground) -> None:
    """Each way in turn."""
    file = ground.folder / "experiment.toml"
    file.write_text(as_toml(two_arms(ground.folder)))
    started = time.monotonic()
    first = Child(command(["run", str(file), "--out", str(ground.folder / "whole")]), ground.folder / "log")
    assert first.wait(PATIENCE) in DONE, first.said()
    whole = open_run(ground.folder / "whole")
    scene = Scene(file, ground.folder / "log", whole, time.monotonic() - started)
    ways: dict[str, Way] = {
        "file size": _file_size,
        "memory": _memory,
        "open files": _open_files,
        "nowhere to print": _nowhere_to_print,
    }
    with _small_disk(ground.folder / "disk") as disk:
        if disk is None:
            ground.remark("left out, as nothing may be mounted here: a full disk, a read-only disk")
        else:
            ways |= {"full disk": _full_disk, "read-only disk": _read_only}
        ended, speechless = Counter[str](), Counter[str]()
        for seed in ground.seeds():
            name = sorted(ways)[seed % len(ways)]
            place = disk if disk is not None and name.endswith("disk") else ground.folder
            out = place / f"run-{seed}"
            with ground.judging(seed, name):
                outcome, how = _starved(scene, name, ways[name], out, random.Random(seed))
                ended[name] += outcome == "refused"
                if how:
                    speechless[how] += 1
                ground.came(outcome)
            _clear(out)
        ground.remark("ended by: " + ", ".join(f"{name} {ended[name]}" for name in sorted(ways)))
        shown = ", ".join(f"{how} {count}" for how, count in sorted(speechless.items())) or "none"
        ground.remark(f"of those by memory, without a line: {shown}")


def _starved(scene: Scene, name: str, way: Way, out: Path, chance: random.Random) -> tuple[Outcome, str]:
    """What came of a way, and how it ended if nobody could say why."""
    code, said = way(scene, out, chance)
    outcome: Outcome = "survived"
    how = _without_a_word(code, said) if name == "memory" else ""
    if code not in DONE:
        outcome = "refused"
        if not how:
            ended_clearly(code, said)
    again = scene.begin(out)
    code = again.wait(PATIENCE)
    assert code in DONE, f"with all there is it ends with {code}: {again.said()[-1500:]}"
    run = open_run(out)
    same_run(run, scene.whole, report=True)
    assert verify_run(run) == []
    return outcome, how


def _without_a_word(code: int, said: str) -> str:
    """How a run ended that has no memory left for saying so: in C or Rust, or in the interpreter; "" if it did not."""
    ways = {-signal.SIGABRT: "aborted by a library", -signal.SIGSEGV: "crashed in a library", -signal.SIGKILL: "hung"}
    return ways.get(code, "error of the interpreter" if code > 0 and "\nSystemError: " in said else "")


def _after_a_while(
    scene: Scene, out: Path, chance: random.Random, take: Callable[[Child], object], patience: float = PATIENCE
) -> tuple[int, str]:
    """Run, and take something at a random moment."""
    child = scene.begin(out)
    code = child.wait_or_none(chance.uniform(0.0, 0.9 * scene.seconds))
    if code is None:
        take(child)
        code = child.wait(patience)
    return code, child.said()


def _file_size(scene: Scene, out: Path, chance: random.Random) -> tuple[int, str]:
    most = chance.choice((0, 100, 2000, 50_000, 500_000))
    # What it prints goes to a file as well, and has to be said all the same.
    return _after_a_while(scene, out, chance, lambda child: child.limit(resource.RLIMIT_FSIZE, max(most, 20_000)))


def _memory(scene: Scene, out: Path, chance: random.Random) -> tuple[int, str]:
    more = chance.choice((1, 4, 16, 64)) * 10**6

    def take(child: Child) -> None:
        child.limit(resource.RLIMIT_AS, child.address_space() + more)

    return _after_a_while(scene, out, chance, take, max(SHORT, 3 * scene.seconds))


def _open_files(scene: Scene, out: Path, chance: random.Random) -> tuple[int, str]:
    most = chance.choice((10, 12, 16, 24))
    return _after_a_while(scene, out, chance, lambda child: child.limit(resource.RLIMIT_NOFILE, most))


def _nowhere_to_print(scene: Scene, out: Path, chance: random.Random) -> tuple[int, str]:
    """Standard output is /dev/full; the line comes on standard error."""
    del chance

    def work() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        command(["run", str(scene.file), "--out", str(out)])()

    child = Child(work, scene.log)
    return child.wait(PATIENCE), child.said()


def _full_disk(scene: Scene, out: Path, chance: random.Random) -> tuple[int, str]:
    ballast = out.parent / "ballast"

    def fill(_child: Child) -> None:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass

    try:
        return _after_a_while(scene, out, chance, fill)
    finally:
        ballast.unlink(missing_ok=True)


def _read_only(scene: Scene, out: Path, chance: random.Random) -> tuple[int, str]:
    def remount(how: str) -> int:
        return subprocess.run(["mount", "-o", f"remount,{how}", str(out.parent)], capture_output=True).returncode

    def freeze(child: Child) -> None:
        deadline = time.monotonic() + 20
        while remount("ro") and time.monotonic() < deadline and child.address_space():  # busy while a file is written
            time.sleep(0.005)

    try:
        return _after_a_while(scene, out, chance, freeze)
    finally:
        assert remount("rw") == 0, "the disk cannot be written to again"


@contextmanager
def _small_disk(place: Path) -> Iterator[Path | None]:
    """A disk of its own for as long as the `with` block runs; None if this process may mount none."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=True)


def _clear(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
