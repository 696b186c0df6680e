"""The result store: round trips, atomic appends, and what is left when writing fails."""

import errno
import os

import numpy as np
import pytest
import xarray as xr

from gated_lpi.errors import RunError
from gated_lpi.results import ResultStore
from tiny_store import filled, record, scores


def test_a_store_gives_back_what_was_put_in(tmp_path):
    opened = filled(tmp_path).open()
    assert opened.sizes["checkpoint"] == 3
    assert opened["step"].values.tolist() == [0, 2, 5]
    assert opened["tokens"].values.tolist() == [0, 20, 50]
    assert opened["stage"].values.tolist() == ["train"] * 3
    assert opened["block"].values.tolist() == ["ffn"] * 6
    assert opened["layer"].sizes == {"unit": 6}
    assert opened.attrs["norm"] == "frozen"
    assert [r["weights_sha256"][-1] for r in opened.attrs["checkpoints"]] == ["0", "2", "5"]
    for row, step in enumerate((0, 2, 5)):
        one = scores(step)
        assert np.array_equal(opened["lpi"][row], one["lpi"])
        assert np.array_equal(opened["target_id"][row], one["target_id"])
        assert opened["lpi"].dtype == np.float32


def test_texts_come_back_as_they_stand_whatever_their_order_in_memory(tmp_path):
    texts = np.array(["a", "bb", "ccc", ""], dtype=np.dtypes.StringDType())
    store, chosen = ResultStore(tmp_path / "arm.zarr"), np.array([[0, 1, 2, 3], [2, 1, 1, 0]])
    for step in (0, 2):
        given = texts[chosen.T]
        assert not given.flags.c_contiguous
        store.append(xr.Dataset({"said": (("of", "rank"), given)}), record(step))
    for row in store.open()["said"].values:
        assert row.tolist() == [["a", "ccc"], ["bb", "bb"], ["ccc", "bb"], ["", "a"]]


def test_checkpoints_come_back_in_training_order(tmp_path):
    opened = filled(tmp_path, (5, 0, 2)).open()
    assert opened["step"].values.tolist() == [0, 2, 5]
    assert np.array_equal(opened["lpi"][2], scores(5)["lpi"])
    assert [r["step"] for r in opened.attrs["checkpoints"]] == [0, 2, 5]


def test_unknown_tokens_are_marked(tmp_path):
    store = ResultStore(tmp_path / "arm.zarr")
    store.append(scores(1), {"key": "step-1", "step": 1, "tokens": None})
    assert store.open()["tokens"].values.tolist() == [-1]


def full_after(monkeypatch, writes):
    """A disk that can take so many files and folders more, and says so when it is to have them for good."""
    real, calls = os.fsync, []

    def fsync(opened):
        calls.append(1)
        if len(calls) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(opened)

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


@pytest.mark.parametrize("fails_after", range(0, 40, 6))
def test_a_full_disk_costs_the_checkpoint_being_written_and_no_other(tmp_path, monkeypatch, fails_after):
    store = filled(tmp_path)
    before = store.open().load()
    full_after(monkeypatch, fails_after)
    with pytest.raises(RunError, match=r"step-9.*No space left.*3 checkpoints before it are complete"):
        store.append(scores(9), record(9))
    monkeypatch.undo()
    xr.testing.assert_identical(store.open().load(), before)
    store.append(scores(9), record(9))
    after = store.open()
    assert after["step"].values.tolist() == [0, 2, 5, 9]
    assert np.array_equal(after["lpi"][3], scores(9)["lpi"])
    xr.testing.assert_identical(after.isel(checkpoint=slice(3)).load().drop_attrs(), before.drop_attrs())


def test_a_full_disk_at_the_first_checkpoint_leaves_an_empty_store(tmp_path, monkeypatch):
    store = ResultStore(tmp_path / "arm.zarr")
    full_after(monkeypatch, 7)
    with pytest.raises(RunError, match="No space left"):
        store.append(scores(0), record(0))
    monkeypatch.undo()
    assert store.keys() == []
    store.append(scores(0), record(0))
    assert store.keys() == ["step-0"]


def test_a_checkpoint_is_added_once(tmp_path):
    with pytest.raises(RunError, match="already"):
        filled(tmp_path).append(scores(2), record(2))


@pytest.mark.parametrize(
    ("other", "name"),
    [(scores(9, n=7), "layer"), (scores(9).assign_coords(layer=("unit", np.arange(6) + 1)), "layer")],
    ids=["another number of units", "other layers"],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, other, name):
    store = filled(tmp_path)
    with pytest.raises(RunError, match=f"'{name}' of this checkpoint does not fit"):
        store.append(other, record(9))
    assert store.keys() == ["step-0", "step-2", "step-5"]


def test_an_empty_store_says_so(tmp_path):
    with pytest.raises(RunError, match="no complete checkpoint"):
        ResultStore(tmp_path / "none.zarr").open()


def test_a_folder_that_is_no_store_is_an_error(tmp_path):
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(RunError, match="not a store of results"):
        ResultStore(tmp_path).records()


def test_what_a_variable_is_made_of_is_told_by_checkpoint(tmp_path):
    store = filled(tmp_path, steps=(5, 0))
    made_of = store.made_of("lpi")
    assert list(made_of) == ["step-0", "step-5"]
    assert len({*made_of.values(), *store.made_of("target_rank").values()}) == 4
    store.append(scores(2), record(2))
    assert list(store.made_of("lpi")) == ["step-0", "step-2", "step-5"]
    assert store.made_of("lpi").items() >= made_of.items()
    assert ResultStore(tmp_path / "nothing.zarr").made_of("lpi") == {}
