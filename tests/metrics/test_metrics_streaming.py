"""Summaries read a checkpoint at a time: the numbers are those of whole arrays, and memory does not grow with them."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gated_lpi.errors import DamagedError, OptionError
from gated_lpi.metrics import _set_draws as set_draws
from gated_lpi.metrics import (
    bootstrap,
    gain_concentration,
    importance_share,
    random_share_chance,
    summarise,
    top_set,
    top_set_stability,
    topset,
)
from gated_lpi.metrics._set_draws import MEASURES, SetDraws
from gated_lpi.metrics.topset import greatest
from gated_lpi.results.store import ResultStore

FRACTION, DRAWS = 0.03, 40


def random_arm(checkpoints: int, units: int, dtype: type = np.float64) -> xr.Dataset:
    """FFN units alone, a fifth of which score 0 throughout."""
    random = np.random.default_rng(3)
    prompts = np.array([5, 2, 9, 4])
    lpi = random.standard_normal((checkpoints, 4, units)) ** 3 * (random.random(units) > 0.2)
    return xr.Dataset(
        {
            "lpi": (("checkpoint", "relation", "unit"), lpi.astype(dtype)),
            "lpi_mean": (("checkpoint", "unit"), np.average(lpi, axis=1, weights=prompts).astype(dtype)),
        },
        coords={
            "step": ("checkpoint", np.arange(checkpoints)),
            "n_prompts": ("relation", prompts),
            "layer": ("unit", np.arange(units) % 3),
            "block": ("unit", np.array(["ffn"] * units, dtype=object)),
        },
    )


def measures(mean: np.ndarray) -> np.ndarray:
    """All of `MEASURES` of [T, N], one after the other."""
    gains = gain_concentration(mean[:-1], mean[1:], FRACTION)
    shares = importance_share(mean, FRACTION)
    return np.concatenate([top_set_stability(mean, FRACTION), gains.top_set, gains.top_by_gain, shares])


def whole(arm: xr.Dataset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Intervals by the bootstrap over whole arrays."""
    data = arm["lpi"].transpose("relation", "checkpoint", "unit").to_numpy()
    found = bootstrap(measures, data, arm["n_prompts"], draws=DRAWS)
    pairs = arm.sizes["checkpoint"] - 1
    low, high = (np.split(ends, [pairs, 2 * pairs, 3 * pairs]) for ends in (found.low, found.high))
    return {name: (low[i], high[i]) for i, name in enumerate(MEASURES)}


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 units, blocks of three draws."""
    monkeypatch.setattr(set_draws, "PRODUCT", 1)
    monkeypatch.setattr(set_draws, "BLOCK", 3)


@pytest.mark.parametrize("units", [7, 64, 5000])
@pytest.mark.usefixtures("in_small_parts")
def test_intervals_are_those_of_whole_arrays(units: int) -> None:
    arm = random_arm(4, units)
    summary = summarise(arm, fraction=FRACTION, draws=DRAWS)
    for name, (low, high) in whole(arm).items():
        np.testing.assert_allclose(summary[f"{name}_low"].to_numpy()[0], low, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(summary[f"{name}_high"].to_numpy()[0], high, rtol=1e-12, err_msg=name)


def test_single_precision_differs_in_its_last_digits_only() -> None:
    arm = random_arm(3, 5000, np.float32)
    summary = summarise(arm, fraction=FRACTION, draws=DRAWS)
    for name, (low, high) in whole(arm).items():
        np.testing.assert_allclose(summary[f"{name}_low"].to_numpy()[0], low, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(summary[f"{name}_high"].to_numpy()[0], high, rtol=1e-6, err_msg=name)


def test_how_the_work_is_cut_up_decides_no_more_than_a_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = random_arm(3, 5000, np.float32)
    first = summarise(arm, fraction=FRACTION, draws=DRAWS)
    monkeypatch.setattr(set_draws, "PRODUCT", 5000)
    monkeypatch.setattr(set_draws, "ROOM", 1)  # one draw at a time
    xr.testing.assert_allclose(summarise(arm, fraction=FRACTION, draws=DRAWS), first, rtol=1e-9)


def test_what_random_sets_hold_is_that_of_whole_arrays() -> None:
    arm = random_arm(4, 5000)
    summary = summarise(arm, fraction=FRACTION, draws=DRAWS)
    mean = arm["lpi_mean"].to_numpy()
    for name, values in (("importance_share", mean), ("gain_top_set", np.diff(mean, axis=0))):
        chance = random_share_chance(values, FRACTION, draws=DRAWS)
        for end, expected in (("", chance.mean), ("_low", chance.low), ("_high", chance.high)):
            np.testing.assert_allclose(summary[f"{name}_chance{end}"].to_numpy()[0], expected, rtol=1e-12)


def test_weights_may_differ_between_checkpoints() -> None:
    data = np.random.default_rng(1).standard_normal((2, 3, 400))
    weights = np.array([[1.0, 4.0, 2.0], [3.0, 0.0, 1.0]])
    draws = SetDraws(3, 400, fraction=FRACTION, draws=DRAWS, level=0.9, seed=5)
    for scores, prompts in zip(data, weights, strict=True):
        draws.add(scores, prompts)
    low, high = draws.intervals()["stability"]
    counts = np.random.default_rng(5).multinomial(3, [1 / 3] * 3, size=DRAWS)
    found = []
    for count in counts:
        if (count * weights[1]).sum() > 0:  # else all it drew is the relation without weight
            mean = [np.average(one, axis=0, weights=count * w) for one, w in zip(data, weights, strict=True)]
            found.append(top_set_stability(mean, FRACTION)[0])
    assert len(found) < DRAWS
    np.testing.assert_allclose([low[0], high[0]], np.quantile(found, [0.05, 0.95]), rtol=1e-12)


def test_a_checkpoint_without_scores_leaves_gaps() -> None:
    data = np.random.default_rng(1).standard_normal((3, 400))
    draws = SetDraws(3, 400, fraction=FRACTION, draws=DRAWS, level=0.9, seed=5)
    draws.add(data, np.ones(3))
    draws.skip()
    draws.add(data, np.ones(3))
    found = draws.intervals()
    assert np.isnan(found["stability"][0]).tolist() == [True, True]
    assert np.isnan(found["importance_share"][0]).tolist() == [False, True, False]


@given(
    arrays(np.float32, st.integers(1, 300), elements=st.integers(-3, 3).map(float)),
    st.floats(0.01, 1.0),
    st.integers(1, 5),
)
def test_the_greatest_are_the_top_set_ties_and_all(values: np.ndarray, fraction: float, stride: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topset, "FEW", 1)
        patch.setattr(topset, "STRIDE", stride)
        members = top_set(values, fraction)
        np.testing.assert_array_equal(greatest(values, members.size), members)


def test_a_sample_that_misleads_costs_time_only() -> None:
    values = np.zeros(10 * topset.FEW, dtype=np.float32)
    values[:: topset.STRIDE] = 1.0 + np.arange(10 * 64)  # all that is sampled is far above the rest
    np.testing.assert_array_equal(greatest(values, 1500), np.sort(np.argsort(-values, kind="stable")[:1500]))


def stored(folder: Path, checkpoints: int) -> ResultStore:
    store = ResultStore(folder / f"{checkpoints}.zarr")
    arm = random_arm(checkpoints, 60_000, np.float32)
    for step in range(checkpoints):
        store.append(arm.isel(checkpoint=step).drop_vars("step"), {"key": f"step-{step}", "step": step})
    return store


def peak(store: ResultStore) -> int:
    """Bytes that summarising an arm takes at most."""
    scores = store.open()
    tracemalloc.start()
    try:
        summarise(scores, fraction=FRACTION, draws=3)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_checkpoints(tmp_path: Path) -> None:
    few, many = (peak(stored(tmp_path, count)) for count in (3, 9))
    assert many < 1.3 * few  # all at once, it would be three times as much


def test_scores_are_verified_as_they_are_read(tmp_path: Path) -> None:
    store = stored(tmp_path, 3)
    chunk = store.path / "lpi" / "c" / "1" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(DamagedError, match="of step-1 is not what was written"):
        summarise(store.open(), draws=3)


def test_a_block_without_bounds_is_refused() -> None:
    arm = random_arm(2, 9)
    bounds = (("checkpoint", "prompt", "block_index"), np.zeros((2, 1, 2)))
    coords = {"block_layer": ("block_index", [0, 1]), "block_kind": ("block_index", ["ffn", "ffn"])}
    with pytest.raises(OptionError, match="no ffn block of layer 2"):
        summarise(arm.assign(error_bound=bounds).assign_coords(coords), draws=3)
