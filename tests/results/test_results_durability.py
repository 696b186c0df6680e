"""Whatever a power cut leaves of an append, a store counts rightly: all of it verifies, is made again, or is refused.

Files are written in a known order, and what was synced before a later one is on the disk. So a cut leaves: some first
files whole, the next one absent, cut short or full of zeros, and of those not synced yet any in such a state. Disks
that lie, and lose what they said was written, are tried as well: then the loss must be found.
"""

import os

import pytest
import xarray as xr

from gated_lpi.results import ResultStore
from power_cuts import STATES, contents, put, writes_of
from tiny_store import filled, made_again, scores, signed, taken_up


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What is lost is decided here, so nothing has to reach a disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("whole"), (0, 5, 2)).open().load()


@pytest.mark.slow
def test_every_prefix_of_an_append(tmp_path, whole):
    folder = tmp_path / "store"
    store = filled(folder, (0, 5))
    writes = writes_of(folder, lambda: store.append(scores(2), signed(2)))
    commit = writes.order.index("arm.commit.json")
    assert writes.order[commit:] == ["arm.commit.json", "arm.zarr/zarr.json"]
    assert contents(folder) == writes.after(len(writes.order))
    outcomes = []
    for _, files in writes.cuts():
        put(folder, files)
        outcomes.append(taken_up(folder, whole, 1))
    assert (outcomes[0], outcomes[-1]) == ("healed", "whole")
    assert "refused" not in outcomes
    assert len(outcomes) == 5 * len(writes.order) + 1


@pytest.mark.slow
def test_files_that_were_not_synced_yet_may_be_lost_in_any_order(tmp_path, whole):
    folder = tmp_path / "store"
    store = filled(folder, (0, 5))
    writes = writes_of(folder, lambda: store.append(scores(2), signed(2)))
    commit = writes.order.index("arm.commit.json")
    synced = writes.after(commit)
    for name in writes.order[:commit]:
        for state in STATES.values():
            put(folder, synced | {name: state(synced[name])})
            assert taken_up(folder, whole, 1) == "healed"


@pytest.mark.slow
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
            assert taken_up(folder, whole, 1) in ("whole", "healed"), name
    put(folder, sound | {"arm.zarr/zarr.json": b"", "arm.commit.json": b""})
    assert taken_up(folder, whole, 0) == "refused"


def test_every_prefix_of_the_first_append(tmp_path):
    folder = tmp_path / "store"
    store = ResultStore(folder / "arm.zarr")
    writes = writes_of(folder, lambda: store.append(scores(0), signed(0)))
    assert contents(folder) == writes.after(len(writes.order))
    alone = store.open().load()
    for _, files in list(writes.cuts())[::3]:  # the campaign has all of them
        put(folder, files)
        again = ResultStore(folder / "arm.zarr")
        made_again(again, (0,))
        xr.testing.assert_equal(again.open().load(), alone)
        assert not list(folder.glob(".arm.zarr.*"))


def test_every_prefix_of_a_heal(tmp_path, whole):
    """A checkpoint in the middle is damaged, so that the last one takes its place."""
    folder = tmp_path / "store"
    store = filled(folder, (0, 5, 2))
    (folder / "arm.zarr" / "lpi" / "c" / "0" / "0" / "0").write_bytes(b"")
    damage = store.damage()
    writes = writes_of(folder, lambda: store.heal(damage))
    assert contents(folder) == writes.after(len(writes.order))
    for _, files in list(writes.cuts())[::3]:
        put(folder, files)
        assert taken_up(folder, whole, 2) == "healed"
