"""Summaries over known facts: relations and checkpoints that know none have no weight, and leave gaps."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from gated_lpi.errors import OptionError
from gated_lpi.metrics import summarise

NAN = float("nan")
FIRST = [[4.0, 3.0, 0.0, 0.0], [0.0, 0.0, 8.0, 1.0]]
SECOND = [[NAN] * 4, [0.0, 1.0, 2.0, 5.0]]


@pytest.fixture
def arm() -> xr.Dataset:
    """Four FFN units of two layers, two relations, four checkpoints: the third knows nothing."""
    known = np.array([FIRST, SECOND, [[NAN] * 4] * 2, SECOND], dtype=np.float32)
    return xr.Dataset(
        {
            "lpi_known": (("checkpoint", "relation", "unit"), known),
            "n_known": (("checkpoint", "relation"), [[3, 1], [0, 2], [0, 0], [0, 1]]),
            "target_rank": (("checkpoint", "prompt"), [[0, 1, 9, 2], [10, 10, 3, 4], [50] * 4, [10, 99, 9, 10]]),
            "error_bound": (
                ("checkpoint", "prompt", "block_index"),
                np.zeros((4, 4, 2)) + np.array([0.0, 0.0, 3.0, 1.0])[None, :, None],
            ),
        },
        coords={
            "step": ("checkpoint", [0, 10, 20, 30]),
            "layer": ("unit", [0, 0, 1, 1]),
            "block": ("unit", np.array(["ffn"] * 4, dtype=object)),
            "block_layer": ("block_index", [0, 1]),
            "block_kind": ("block_index", np.array(["ffn", "ffn"], dtype=object)),
            "n_prompts": ("relation", [3, 3]),
        },
    )


def values(summary: xr.Dataset, name: str) -> Any:
    return summary[name].sel(kind="ffn").to_numpy().tolist()


def test_by_hand(arm: xr.Dataset) -> None:
    summary = summarise(arm, facts="known", fraction=0.5, draws=50)
    assert summary.attrs["facts"] == "known"
    assert summary["known_prompts"].to_numpy().tolist() == [4, 2, 0, 1]
    # Means: (3 of the first relation, 1 of the second) 3, 2.25, 2, 0.25; then the second relation's 0, 1, 2, 5 alone.
    np.testing.assert_allclose(values(summary, "layer_profile"), [[5.25, 2.25], [1, 7], [NAN, NAN], [1, 7]])
    # Top halves {0, 1}, {2, 3}, none, {2, 3}; a pair with the third checkpoint is no pair.
    np.testing.assert_allclose(values(summary, "stability"), [0.0, NAN, NAN])
    np.testing.assert_allclose(values(summary, "importance_share"), [5.25 / 7.5, 7 / 8, NAN, 7 / 8])
    np.testing.assert_allclose(values(summary, "ties"), [0, 0, NAN, 0])
    for name in ("entropy", "gini", "importance_share_chance", "importance_share_low"):
        assert np.isnan(values(summary, name)).tolist() == [False, False, True, False]
    # Gains: 0, 0, 0, 4.75, all in {2, 3}.
    np.testing.assert_allclose(values(summary, "gain_top_set"), [1.0, NAN, NAN])
    np.testing.assert_allclose(values(summary, "positive_gain"), [4.75, NAN, NAN])


def test_correlations_are_of_the_checkpoints_that_have_a_profile(arm: xr.Dataset) -> None:
    summary = summarise(arm, facts="known", fraction=0.5, draws=5)
    np.testing.assert_allclose(
        values(summary, "profile_pearson"), [[1, -1, NAN, -1], [-1, 1, NAN, 1], [NAN] * 4, [-1, 1, NAN, 1]]
    )
    assert values(summary, "rho_pairs") == [3, 0]  # all; of the later half one checkpoint is left
    assert values(summary, "consolidation_profile") == pytest.approx(NAN, nan_ok=True)  # the third does not agree


def test_bounds_are_those_of_the_known_prompts(arm: xr.Dataset) -> None:
    # Bounds of the prompts: 0, 0, 3, 1. Known are all, the last two, and the third: means 1, 2, 3.
    found = values(summarise(arm, facts="known", fraction=0.5, draws=5), "undecided")
    # 2 + 1 and 0.25 + 1 both reach 2.25 − 1; with bounds of 2, and of 3, so do 0 and 1 reach what 2 may be.
    np.testing.assert_allclose(found, [2, 2, NAN, 2])


def test_draws_without_a_known_fact_count_for_nothing(arm: xr.Dataset) -> None:
    summary = summarise(arm, facts="known", fraction=0.5, draws=50)
    # At the second and fourth one relation alone is known: every draw that is defined gives the estimate.
    for end in ("low", "high"):
        np.testing.assert_allclose(np.array(values(summary, f"importance_share_{end}"))[[1, 3]], 7 / 8)


def test_facts_known_at_the_end_have_one_mask(arm: xr.Dataset) -> None:
    at_end = arm.rename(lpi_known="lpi_known_last", n_known="n_known_last").isel(checkpoint=[0, 1])
    at_end = at_end.assign(known_last=(("checkpoint", "prompt"), [[True, False, False, True]] * 2))
    summary = summarise(at_end, facts="known_last", fraction=0.5, draws=5)
    assert summary["known_prompts"].to_numpy().tolist() == [4, 2]
    # Bounds 0 and 1: 0.5 on average. 2 + 0.5 reaches 2.25 − 0.5, 0.25 + 0.5 does not; 1 + 0.5 reaches 2 − 0.5.
    assert values(summary, "undecided") == [1, 1]


def test_experts_have_gaps_as_well(arm: xr.Dataset) -> None:
    moe = arm.assign_coords(expert=("unit", [0, 1, 0, 1]), shared=("unit", [False] * 4))
    summary = summarise(moe, facts="known", fraction=0.25, draws=5)
    # Experts (layer, number): 3, 2.25, 2, 0.25: the first; then the last, twice.
    np.testing.assert_allclose(summary["expert_stability"], [0.0, NAN, NAN])


@pytest.mark.parametrize(
    ("change", "facts", "message"),
    [
        (lambda arm: arm, "some", "facts is 'some'; expected one of 'all', 'known', 'known_last'"),
        (lambda arm: arm, "known_last", "no lpi_known_last, n_known_last"),
        (lambda arm: arm.drop_vars("n_known"), "known", "no n_known"),
        (
            lambda arm: arm.assign(n_known=(("checkpoint", "relation"), [[3, 1], [0, 2], [1, 0], [0, 1]])),
            "known",
            "lpi_known holds 4 values that are NaN",
        ),
        (lambda arm: arm, "all", "no lpi_mean"),
    ],
)
def test_what_is_not_there_is_refused(arm: xr.Dataset, change: Any, facts: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        summarise(change(arm), facts=facts, draws=3)
