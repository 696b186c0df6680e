"""A power cut after every write: of a first append, a further one, a heal, and of each small file of a run.

A try is one state that a cut may leave (`power_cuts`): the writes that came first, and the next file absent, empty, cut
short or zeroed. What is taken up from there ends whole; it may refuse only where the disk lost what it said it had.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from unittest.mock import patch

import xarray as xr

from alike import same_run
from gated_lpi.errors import GatedLPIError
from gated_lpi.experiments import Experiment
from gated_lpi.results import Run, open_run, verify_run
from gated_lpi.runs import run_experiment
from power_cuts import STATES, contents, put, writes_of
from tiny_runs import two_arms
from tiny_store import filled, scores, signed, taken_up
from torture.attack import Ground, Outcome, refused_clearly

Files: TypeAlias = Mapping[str, bytes | None]
SMALL = ("run.json", "results/folder.quarantine.json", "results/folder.json", "results/trained.json")


@dataclass(frozen=True)
class Cut:
    """A state of a folder, and what judges what comes of it."""

    what: str
    judge: Callable[[], Outcome]


def cut(ground: Ground) -> None:
    """Each cut once, in an order that mixes them."""
    with patch.object(os, "fsync", lambda _: None):  # what is lost is decided here
        cuts = [*_of_stores(ground.folder / "stores"), *_of_files(ground.folder / "runs")]
        random.Random(0).shuffle(cuts)
        ground.wants(min(ground.count, len(cuts)))
        for seed in ground.seeds():
            one = cuts[seed % len(cuts)]
            with ground.judging(seed, one.what):
                ground.came(one.judge())


def _of_stores(folder: Path) -> Iterator[Cut]:
    first = filled(folder / "alone", (0,)).open().load()
    whole = filled(folder / "whole", (0, 5, 2)).open().load()
    place = folder / "first"
    for what, files in writes_of(place, lambda: filled(place, (0,))).cuts():
        yield Cut(f"first append: {what}", _judge_store(folder / "try", files, first, 1))
    store = filled(folder / "further", (0, 5))
    for what, files in writes_of(store.path.parent, lambda: store.append(scores(2), signed(2))).cuts():
        yield Cut(f"further append: {what}", _judge_store(folder / "try", files, whole, 1))
    hurt = filled(folder / "hurt", (0, 5, 2))
    (hurt.path / "lpi" / "c" / "0" / "0" / "0").write_bytes(b"")
    damage = hurt.damage()
    for what, files in writes_of(hurt.path.parent, lambda: hurt.heal(damage)).cuts():
        yield Cut(f"heal: {what}", _judge_store(folder / "try", files, whole, 2))


def _judge_store(folder: Path, files: Files, whole: xr.Dataset, may_miss: int) -> Callable[[], Outcome]:
    def judge() -> Outcome:
        put(folder, files)
        outcome = taken_up(folder, whole, may_miss)
        assert outcome != "refused"
        return "survived" if outcome == "whole" else "healed"

    return judge


def _of_files(folder: Path) -> Iterator[Cut]:
    """Each small file of a run as it is placed, and as a disk that lied may lose it later."""
    folder.mkdir()
    experiment = two_arms(folder)
    out = folder / "run"
    writes = writes_of(out, lambda: run_experiment(experiment, out))
    whole = open_run(shutil.copytree(out, folder / "whole"))
    finished = contents(out)
    for name in SMALL:
        done = writes.order.index(name)
        for state, spoil in STATES.items():
            kept = whole.path / name
            before = {**_tree(writes.after(done)), name: spoil(kept.read_bytes())}
            yield Cut(f"{name} {state} as it is placed", _judge_run(folder, before, experiment, whole))
            later = {**finished, name: spoil(kept.read_bytes())}
            yield Cut(f"{name} {state} later", _judge_run(folder, later, experiment, whole))


def _tree(files: dict[str, bytes]) -> dict[str, bytes]:
    """What counts of the files of a run under way: the Trainer's own and drafts are written by others."""
    return {name: content for name, content in files.items() if not name.startswith("training/")}


def _judge_run(folder: Path, files: Files, experiment: Experiment, whole: Run) -> Callable[[], Outcome]:
    def judge() -> Outcome:
        out = folder / "run"  # where it was: the record of what was trained holds the place
        put(out, files)
        before = contents(out)
        try:
            run = run_experiment(experiment, out)
        except GatedLPIError as error:
            refused_clearly(error)
            assert contents(out).keys() >= before.keys() - {".writer.json"}, "what was refused was touched"
            return "refused"
        same_run(run, whole)
        assert verify_run(run) == []
        return "healed"

    return judge
