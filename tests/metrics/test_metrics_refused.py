"""Two names for one set of weights: what would compare them is refused, and said to be."""

import numpy as np
import pytest
import xarray as xr

from gated_lpi.metrics import summarise, summary_to_json


def scores(digests, seed=0):
    """Two relations, forty units of each kind; checkpoints with one digest have the same scores."""
    random = np.random.default_rng(seed)
    by_digest = {digest: random.random((2, 80)).astype(np.float32) for digest in dict.fromkeys(digests)}
    lpi = np.stack([by_digest[digest] for digest in digests])
    steps = np.arange(len(digests)) * 10
    return xr.Dataset(
        {"lpi": (("checkpoint", "relation", "unit"), lpi), "lpi_mean": (("checkpoint", "unit"), lpi.mean(axis=1))},
        {
            "step": ("checkpoint", steps),
            "checkpoint_key": ("checkpoint", [f"step-{step}" for step in steps]),
            "weights_sha256": ("checkpoint", np.array(digests, dtype=object)),
            "n_prompts": ("relation", [3, 3]),
            "layer": ("unit", np.tile([0, 1], 40)),
            "block": ("unit", ["ffn"] * 40 + ["attention"] * 40),
        },
    )


PAIRED = ("stability", "gain_top_set", "gain_top_by_gain", "positive_gain", "stability_low", "gain_top_set_chance")


def test_a_duplicate_pair_has_no_stability_and_no_concentration():
    summary = summarise(scores(["a", "b", "b", "c"]), draws=10)
    for name in PAIRED:
        assert np.isnan(summary[name].sel(pair=1)).all(), name
        assert not np.isnan(summary[name].isel(pair=[0, 2])).any(), name
        assert summary[name].dims == ("kind", "pair")
    assert summary.attrs["refused_pairs"] == ["step-10 and step-20: the same weights (SHA-256 b)"]
    assert summary_to_json(summary)["data_vars"]["stability"]["data"][0][1] is None


def test_without_duplicates_nothing_is_refused():
    known, unknown = scores(["a", "b", "c"]), scores(["a", "b", "c"]).drop_vars("weights_sha256")
    assert "refused_pairs" not in summarise(known, draws=10).attrs
    xr.testing.assert_identical(summarise(known, draws=10), summarise(unknown, draws=10))


def test_unknown_digests_are_no_duplicates():
    summary = summarise(scores(["", "", "a"]), draws=10)
    assert (summary["stability"].sel(pair=0) == 1).all()  # the same scores, and nothing known against it


@pytest.mark.parametrize(("digests", "step"), [(["a", "b", "b"], np.nan), (["a", "a", "a"], np.nan)])
def test_a_duplicate_pair_consolidates_nothing(digests, step):
    summary = summarise(scores(digests), draws=10, stability_threshold=0.99)
    assert np.array_equal(summary["consolidation_stability"], [step, step], equal_nan=True)
