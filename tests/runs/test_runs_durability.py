"""Whatever a power cut leaves of an append, a store counts rightly: what is there verifies, or is made again, or refused.

Files are written in a known order, and what was synced before a later one is on the disk. So a cut leaves: some first
files whole, the next one absent, cut short or full of zeros, and of those not synced yet any in such a state. Disks that
lie, and lose what they said was written, are tried as well: then the loss must be found.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tiny_store import filled, record, scores

from gated_lpi.errors import RunError
from gated_lpi.runs import ResultStore

STATES = {
    "absent": lambda _: None,
    "empty": lambda _: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What is lost is decided here, so nothing has to reach a disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def signed(step):
    return record(step, weights_sha256=f"{step:064x}")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(folder, files):
    """Make a folder hold these files and no others; None: not there."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def append_noting_the_order(monkeypatch, store, step):
    """Append a checkpoint: the files in the order in which each came to its place."""
    placed, replace = [], Path.replace

    def noting(self, target):
        placed.append(str(Path(target).relative_to(store.path.parent)))
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", noting)
        store.append(scores(step), signed(step))
    return placed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("whole"), (0, 5, 2)).open().load()


def make_again(store, steps=(0, 5, 2)):
    """What a run does: leave out what does not verify, append what is missing. Checkpoints that it had to make."""
    store.heal(store.damage())
    missing = [step for step in steps if f"step-{step}" not in store.keys()]
    for step in missing:
        store.append(scores(step), signed(step))
    assert not list(store.damage().lines())
    return missing


def check(folder, whole, may_miss):
    """A re-run makes the store whole, having computed no more than it may, or refuses with the file's name."""
    store = ResultStore(folder / "arm.zarr")
    try:
        missing = make_again(store)
    except RunError as refused:
        assert str(folder) in str(refused)
        return "refused"
    assert len(missing) <= may_miss
    again = store.open().load()
    for name in whole.variables:
        assert np.array_equal(again[name], whole[name]), name
    return "healed" if missing else "whole"


def test_every_prefix_of_an_append(tmp_path, monkeypatch, whole):
    folder = tmp_path / "store"
    store = filled(folder, (0, 5))
    before = contents(folder)
    order = append_noting_the_order(monkeypatch, store, 2)
    after = contents(folder)
    commit = order.index("arm.commit.json")
    assert order[commit:] == ["arm.commit.json", "arm.zarr/zarr.json"]
    assert set(after) == set(before) | set(order)
    outcomes = []
    for done in range(len(order) + 1):
        first = {name: after[name] for name in order[:done]}
        put(folder, before | first)
        outcomes.append(check(folder, whole, 1))
        if done == len(order):
            break
        for state in STATES.values():
            put(folder, before | first | {order[done]: state(after[order[done]])})
            outcomes.append(check(folder, whole, 1))
    assert outcomes[0] == "healed"
    assert outcomes[len(order) * 5] == "whole"
    assert "refused" not in outcomes


def test_files_that_were_not_synced_yet_may_be_lost_in_any_order(tmp_path, monkeypatch, whole):
    folder = tmp_path / "store"
    store = filled(folder, (0, 5))
    before = contents(folder)
    order = append_noting_the_order(monkeypatch, store, 2)
    after = contents(folder)
    data = order[: order.index("arm.commit.json")]
    for name in data:
        for state in STATES.values():
            put(folder, before | {other: after[other] for other in data} | {name: state(after[name])})
            assert check(folder, whole, 1) == "healed"


def test_a_disk_that_lost_what_it_said_was_written_is_found_out(tmp_path, whole):
    folder = tmp_path / "store"
    filled(folder, (0, 5, 2))
    sound = contents(folder)
    for name, content in sound.items():
        for state in (STATES["absent"], STATES["zeroed"]):
            put(folder, sound | {name: state(content)})
            store = ResultStore(folder / "arm.zarr")
            harmless = name.endswith("/zarr.json") and name != "arm.zarr/zarr.json"  # its content is in the group's too
            assert harmless or any(store.damage().lines()), name
            assert check(folder, whole, 1) in ("whole", "healed"), name
    put(folder, sound | {"arm.zarr/zarr.json": b"", "arm.commit.json": b""})
    assert check(folder, whole, 0) == "refused"


def test_every_prefix_of_the_first_append(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    store = ResultStore(folder / "arm.zarr")
    order = append_noting_the_order(monkeypatch, store, 0)
    alone = store.open().load()
    after = contents(folder)
    draft = order[0].split("/")[0]
    drafted = {name.replace("arm.zarr/", f"{draft}/"): content for name, content in after.items()}
    for done, name in enumerate(order):
        for state in (STATES["absent"], STATES["zeroed"]):
            put(folder, {other: drafted[other] for other in order[:done]} | {name: state(drafted[name])})
            again = ResultStore(folder / "arm.zarr")
            assert make_again(again, (0,)) == [0]
            xr.testing.assert_equal(again.open().load(), alone)
            assert not list(folder.glob(".arm.zarr.*"))
