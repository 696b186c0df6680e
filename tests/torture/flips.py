"""One bit flipped in one place of a finished run: found by `verify_run`, or harmless; and never used.

A try is a flip, in a file drawn by chance and so in any of them: scores, their metadata, records, trained checkpoints,
figures, the page. Harmless is what leaves all that is read of the run equal. Of those that were found a sample is made
good by running again; the arrays have to come out equal.
"""

import random
import shutil
from collections import Counter
from pathlib import Path

from alike import same_run
from gated_lpi.errors import GatedLPIError
from gated_lpi.experiments import Experiment
from gated_lpi.report import build_report
from gated_lpi.results import Run, open_run, verify_run
from gated_lpi.runs import run_experiment
from tiny_runs import two_arms
from torture.attack import Ground, Outcome, refused_clearly

SAMPLE = 8  # every so many tries, what was found is made good


def flip(ground: Ground) -> None:
    """Flips, one after the other, each in the sound run."""
    experiment, out = two_arms(ground.folder), ground.folder / "run"
    build_report(run_experiment(experiment, out))
    sound = open_run(shutil.copytree(out, ground.folder / "sound"))
    same_run(open_run(out), sound, report=True)
    kinds: Counter[str] = Counter()
    for seed in ground.seeds():
        chance = random.Random(seed)
        kind = chance.choice(sorted(_kinds(out)))
        file = chance.choice(_kinds(out)[kind])
        place = chance.randrange(8 * file.stat().st_size)
        with ground.judging(seed, f"bit {place} of {file.relative_to(out)}"):
            outcome = _flipped(file, place, experiment, sound, seed % SAMPLE == 0)
            ground.came(outcome)
            kinds[kind] += 1
        shutil.rmtree(out)
        shutil.copytree(sound.path, out)
    ground.remark("flipped in: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))


def _kinds(out: Path) -> dict[str, list[Path]]:
    """The files of a run by what they are, so that small ones have their share."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.stat().st_size):
        place = path.relative_to(out)
        inside = any(part.endswith(".zarr") for part in place.parts)
        kind = ("chunks" if path.suffix != ".json" else "metadata") if inside else place.parts[0]
        kinds.setdefault(kind, []).append(path)
    return kinds


def _flipped(file: Path, place: int, experiment: Experiment, sound: Run, mend: bool) -> Outcome:
    """What comes of a flip: found and made good, refused, or harmless."""
    content = bytearray(file.read_bytes())
    content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)
    out = open_or_refused(sound, file)
    if out is None:
        return "refused"
    found = [finding for finding in verify_run(out) if finding.status == "damaged"]
    if not found:
        same_run(out, sound, report=True)
        return "survived"
    if not mend:
        _never_used(out, sound)
        return "refused"
    try:
        again = run_experiment(experiment, out.path)
    except GatedLPIError as error:
        refused_clearly(error)
        return "refused"
    build_report(again)
    same_run(again, sound, report=True)
    assert not verify_run(again)
    return "healed"


def open_or_refused(sound: Run, file: Path) -> Run | None:
    """The flipped run, None if it is refused, by an error that names the file."""
    try:
        return open_run(sound.path.with_name("run"))
    except GatedLPIError as error:
        reason = refused_clearly(error)
        assert file.name in reason
        return None


def _never_used(run: Run, sound: Run) -> None:
    """Reading gives what was written, or an error of the tree."""
    try:
        same_run(run, sound, trained=False)  # nothing but a run reads those, which leaves out what it finds
    except GatedLPIError as error:
        refused_clearly(error)
