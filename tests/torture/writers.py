"""Two `gated-lpi run` on one folder at once, begun at random moments, and a reader that looks all the while.

A try is a pair. One does the work, and the other is refused with the name of the first, or takes up what that one left
and finds it done. Every look sees complete checkpoints, equal to those of a run that was left alone.
"""

import random
import shutil
import time
from pathlib import Path

import numpy as np

from alike import complete, same_run
from children import Child, command
from gated_lpi.cli.run import QUARANTINED
from gated_lpi.results import Run, open_run, verify_run
from tiny_runs import as_toml, two_arms
from torture.attack import Ground, Outcome, ended_clearly

PATIENCE = 300.0
DONE = (0, QUARANTINED)


def collide(ground: Ground) -> None:
    """Pairs of commands, one after the other."""
    file = ground.folder / "experiment.toml"
    file.write_text(as_toml(two_arms(ground.folder)))
    started = time.monotonic()
    first = Child(command(["run", str(file), "--out", str(ground.folder / "whole")]), ground.folder / "log")
    assert first.wait(PATIENCE) in DONE, first.said()
    seconds, whole = time.monotonic() - started, open_run(ground.folder / "whole")
    polls = 0
    for seed in ground.seeds():
        out = ground.folder / f"run-{seed}"
        with ground.judging(seed):
            outcome, looks = _pair(ground, file, out, whole, random.Random(seed).uniform(0.0, seconds))
            polls += looks
            ground.came(outcome)
        shutil.rmtree(out, ignore_errors=True)
    ground.remark(f"{polls:,} looks of readers meanwhile, none inconsistent")


def _pair(ground: Ground, file: Path, out: Path, whole: Run, offset: float) -> tuple[Outcome, int]:
    """Two commands, the second so many seconds after the first; what came of the second, and how often it was read."""
    run = command(["run", str(file), "--out", str(out)])
    began, polls = time.monotonic(), 0
    children = [Child(run, ground.folder / "first")]
    codes: list[int | None] = [None]
    try:
        while None in codes or len(children) < 2:
            assert time.monotonic() - began < PATIENCE, "a command hangs"
            if len(children) < 2 and (time.monotonic() - began >= offset or codes[0] is not None):
                children.append(Child(run, ground.folder / "second"))
                codes.append(None)
            codes = [child.ended() if code is None else code for child, code in zip(children, codes, strict=True)]
            polls += _look(out, whole)
            time.sleep(0.02)
    finally:
        for child, code in zip(children, codes, strict=True):
            if code is None:
                child.kill()
    refused = [child for child, code in zip(children, codes, strict=True) if code not in DONE]
    assert len(refused) < 2, [child.said()[-800:] for child in children]
    for child in refused:
        ended_clearly(codes[children.index(child)] or 0, child.said())
        assert "is being written by" in " ".join(child.said().split()), child.said()[-800:]
    found = open_run(out)
    same_run(found, whole, report=True)
    assert verify_run(found) == []
    return ("refused" if refused else "survived"), polls


def _look(out: Path, whole: Run) -> int:
    """Read all there is; how many times something was."""
    if not (out / "run.json").exists():
        return 0
    run, seen = open_run(out), 0
    for arm in run.arms:
        found, wanted = complete(run, arm), whole.scores(arm).load()
        if found is None:
            continue
        seen += 1
        steps = wanted["step"].values.tolist()
        rows = [steps.index(step) for step in found["step"].values.tolist()]
        assert len(found.attrs["checkpoints"]) == len(rows), "provenance and rows differ"
        for name in ("lpi", "lpi_mean", "target_rank"):
            assert np.array_equal(found[name].values, wanted[name].values[rows]), f"{name} of a checkpoint is wrong"
        assert run.record(arm) in (None, whole.record(arm))
    return seen
