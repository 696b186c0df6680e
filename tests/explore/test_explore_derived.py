"""What the explorer derives of a run is what the store holds, stays true as the run grows, and can be lost."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated_lpi.explore.curves import Curves
from gated_lpi.explore.lives import lives
from gated_lpi.explore.ranking import rows_of
from gated_lpi.metrics import top_set
from gated_lpi.results import ResultStore
from tiny_store import filled, record, scores


def nobody(_done, _total):
    """Whom nobody tells."""


def curves_of(store, folder):
    """The curves of a store's scores, brought up to date, what the store holds of them, and how many were read."""
    scores, made_of = store.open(), store.made_of("lpi")
    curves = Curves(folder, "lpi")
    done = []
    curves.refresh(scores, made_of, lambda at, of: done.append((at, of)))
    return curves, made_of, scores["lpi"].to_numpy(), len(done) - 1


def same(curves, made_of, expected):
    return all(np.array_equal(curves.of(unit, made_of), expected[..., unit]) for unit in range(expected.shape[-1]))


def test_curves_are_added_to_and_only_what_changed_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("gated_lpi.explore.curves.MOST", 2)
    store = filled(tmp_path, steps=(0, 20, 40))
    *found, read = curves_of(store, tmp_path / "index")
    assert same(*found)
    assert read == 3
    assert curves_of(store, tmp_path / "index")[3] == 0
    store.append(scores(10), record(10))  # between those that are there
    *found, read = curves_of(store, tmp_path / "index")
    assert read == 2  # it, and the one of the segment that was not full
    assert same(*found)
    assert len(list((tmp_path / "index").glob("*.bin"))) == 2
    next((tmp_path / "index").glob("*.bin")).write_bytes(b"cut")
    next((tmp_path / "index").glob("*.json")).write_text("{}")
    assert same(*curves_of(store, tmp_path / "index")[:3])


def test_curves_of_a_checkpoint_that_changed_are_not_used(tmp_path):
    store = filled(tmp_path)
    curves_of(store, tmp_path / "index")
    chunk = store.path / "lpi" / "c" / "1" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\x00")
    assert store.heal(store.damage()) == ["step-2"]
    store.append(scores(3), record(2))  # other scores under the same name
    *found, read = curves_of(store, tmp_path / "index")
    assert read == 3  # of the only segment, which spoke of one that is gone
    assert same(*found)


def test_a_mean_is_a_curve_of_one_number(tmp_path):
    store = ResultStore(tmp_path / "arm.zarr")
    store.append(scores(0).drop_vars(["lpi", "target_rank"]).assign(lpi=("unit", np.arange(6.0))), record(0))
    curves, made_of, expected, _ = curves_of(store, tmp_path / "index")
    assert [curves.of(unit, made_of).tolist() for unit in range(6)] == [[[value]] for value in expected[0].tolist()]


def test_curves_leave_room_on_the_disk(tmp_path, monkeypatch):
    store = filled(tmp_path, steps=(0,))
    monkeypatch.setattr("gated_lpi.explore.curves.SPARE", 10**15)
    with pytest.raises(OSError, match=r"would take .* GB more and the disk has .* free .* GB and start again"):
        curves_of(store, tmp_path / "index")


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_lives_are_counted_as_by_hand(data, tmp_path_factory):
    times = data.draw(st.integers(1, 6))
    values = data.draw(
        st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=times, max_size=times).map(np.array)
    ).astype(np.float64)
    kinds = {"ffn": np.arange(6), "attention": np.arange(6, 9)}
    made_of = {f"step-{at}": f"{at}" for at in range(times)}
    file = tmp_path_factory.mktemp("lives") / "tops.npz"
    asked = []
    found = [lives(file, made_of, kinds, 0.4, lambda at: (asked.append(at), values[at])[1], nobody) for _ in range(2)][
        1
    ]
    assert len(asked) == times  # the second time from the file
    inside = np.zeros((times, 9), dtype=bool)
    for at in range(times):
        for units in kinds.values():
            inside[at, units[top_set(values[at, units], 0.4)]] = True
        assert np.array_equal(np.flatnonzero(inside[at]), found.sets[at])
        assert found.least["ffn"][at] == values[at, :6][inside[at, :6]].min()
    for unit in range(9):
        mine = inside[:, unit]
        stays = [bool(later) for now, later in pairwise(mine) if now]
        longest = max(map(len, "".join("x" if one else " " for one in mine).split()), default=0)
        assert found.times[unit] == mine.sum()
        assert found.first[unit] == (mine.argmax() if mine.any() else -1)
        assert found.longest[unit] == longest
        assert np.isnan(found.stays[unit]) if not stays else found.stays[unit] == np.float32(np.mean(stays))


@settings(deadline=None)
@given(
    values=st.lists(st.one_of(st.integers(0, 4).map(float), st.just(float("nan"))), min_size=1, max_size=30),
    first=st.integers(0, 31),
    count=st.integers(1, 31),
    descending=st.booleans(),
)
def test_rows_are_those_of_a_full_sort(values, first, count, descending):
    array = np.array(values)
    among = np.arange(0, len(values), 2)
    key = np.where(np.isnan(array[among]), np.inf, -array[among] if descending else array[among])
    expected = among[np.argsort(key, kind="stable")][first : first + count]
    assert np.array_equal(rows_of(array, among, first, count, descending=descending), expected)
