"""The summary dataset: every number of a tiny arm by hand, what may be absent, and what is refused."""

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

import gated_lpi.metrics
from gated_lpi.errors import OptionError
from gated_lpi.metrics import layer_profile, profile_correlation, summarise, summary_to_json

NAN = float("nan")

# Three checkpoints; units 0, 1 are FFN units of layer 0, units 2, 3 of layer 1; 4, 5 are attention units of layer 1.
TINY = [
    [4.0, 3.0, 2.0, 1.0, 0.5, 0.0],
    [1.0, 5.0, 4.0, 0.0, 1.5, 0.5],
    [2.0, 6.0, 4.0, -1.0, 1.0, 2.0],
]


@pytest.fixture
def tiny() -> xr.Dataset:
    """Two relations that agree, so that every bootstrap draw is the estimate."""
    mean = np.array(TINY, dtype=np.float32)
    return xr.Dataset(
        {
            "lpi_mean": (("checkpoint", "unit"), mean),
            "lpi": (("checkpoint", "relation", "unit"), np.stack([mean, mean], axis=1)),
            "target_rank": (("checkpoint", "prompt"), [[7, 99, 4, 0], [0, 3, 4, 5], [0, 0, 0, 0]]),
            "expert_utilisation": (("checkpoint", "expert_unit"), [[1, 0.5, 0.5], [1, 1, 0], [1, 0, 1]]),
        },
        coords={
            "step": ("checkpoint", [0, 100, 200]),
            "tokens": ("checkpoint", [0, 1000, 2000]),
            "stage": ("checkpoint", ["pretrain", "pretrain", "anneal"]),
            "n_prompts": ("relation", [3, 1]),
            "layer": ("unit", [0, 0, 1, 1, 1, 1]),
            "block": ("unit", ["ffn", "ffn", "ffn", "ffn", "attention", "attention"]),
            "expert_unit_layer": ("expert_unit", [1, 1, 1]),
            "expert_unit_expert": ("expert_unit", [-1, 0, 1]),  # one shared expert, two routed ones
        },
    )


def random_arm(checkpoints: int = 4, units: int = 30) -> xr.Dataset:
    random = np.random.default_rng(5)
    prompts = np.array([5, 2, 9])
    lpi = random.standard_normal((checkpoints, 3, units))
    return xr.Dataset(
        {
            "lpi": (("checkpoint", "relation", "unit"), lpi),
            "lpi_mean": (("checkpoint", "unit"), np.average(lpi, axis=1, weights=prompts)),
        },
        coords={
            "step": ("checkpoint", 10 * np.arange(checkpoints)),
            "n_prompts": ("relation", prompts),
            "layer": ("unit", np.arange(units) % 3),
            "block": ("unit", np.where(np.arange(units) < units // 2, "ffn", "attention")),
        },
    )


def values(summary: xr.Dataset, name: str, kind: str) -> Any:
    return summary[name].sel(kind=kind).to_numpy().tolist()


def test_error_bounds_leave_top_sets_open(tiny: xr.Dataset) -> None:
    assert values(summarise(tiny, fraction=0.5, draws=20), "undecided", "ffn") == [0, 0, 0]
    # Blocks: FFN of layer 0 (units 0 and 1), FFN of layer 1 (2 and 3), attention of layer 1; two prompts.
    bounds = np.zeros((3, 2, 3))
    bounds[0, :, 1] = [0.0, 1e6]
    coords = {"block_layer": ("block_index", [0, 1, 1]), "block_kind": ("block_index", ["ffn", "ffn", "attention"])}
    certified = tiny.drop_vars("target_rank").assign_coords(coords)
    certified = certified.assign(error_bound=(("checkpoint", "prompt", "block_index"), bounds))
    summary = summarise(certified, fraction=0.5, draws=20)
    assert values(summary, "undecided", "ffn") == [2, 0, 0]
    assert values(summary, "undecided", "attention") == [0, 0, 0]


def test_top_sets_by_hand(tiny: xr.Dataset) -> None:
    summary = summarise(tiny, fraction=0.5, draws=20)
    # FFN top halves: {0, 1}, {1, 2}, {1, 2}. Attention: {4}, {4}, {5}.
    assert values(summary, "stability", "ffn") == pytest.approx([1 / 3, 1.0])
    assert values(summary, "stability", "attention") == [1.0, 0.0]
    assert summary["units"].to_numpy().tolist() == [4, 2]
    assert summary["top_units"].to_numpy().tolist() == [2, 1]
    assert summary["ties"].to_numpy().tolist() == [[0, 0, 0], [0, 0, 0]]
    # Chance: two of four units 7/18; one of two units 1/2, between 0 and 1.
    assert summary["stability_chance"].to_numpy().tolist() == pytest.approx([7 / 18, 1 / 2])
    assert summary["stability_chance_low"].to_numpy().tolist() == [0.0, 0.0]
    assert summary["stability_chance_high"].to_numpy().tolist() == [1.0, 1.0]


def test_concentration_by_hand(tiny: xr.Dataset) -> None:
    summary = summarise(tiny, fraction=0.5, draws=20)
    # FFN gains −3, 2, 2, −1, then 1, 1, 0, −1: 4 and 2 in all. {1, 2} hold 4 of 4, then 1 of 2.
    assert values(summary, "positive_gain", "ffn") == [4.0, 2.0]
    assert values(summary, "gain_top_set", "ffn") == [1.0, 0.5]
    assert values(summary, "gain_top_by_gain", "ffn") == [1.0, 1.0]
    assert values(summary, "gain_top_set_chance", "ffn") == [0.5, 0.5]
    # Importance 4 + 3 + 2 + 1, then 1 + 5 + 4, then 2 + 6 + 4.
    assert values(summary, "importance_share", "ffn") == pytest.approx([7 / 10, 9 / 10, 10 / 12])
    # Attention at the first checkpoint: one unit of two carries all.
    assert values(summary, "entropy", "attention")[0] == 0.0
    assert values(summary, "effective_units", "attention")[0] == 1.0
    assert values(summary, "gini", "attention")[0] == pytest.approx(0.5)


def test_what_routing_explains_by_hand(tiny: xr.Dataset) -> None:
    # Two experts of one layer, of two units each, and attention. FFN top halves: {0, 1}, {1, 2}, {1, 2}.
    moe = tiny.assign_coords(
        layer=("unit", [1] * 6), expert=("unit", [0, 0, 1, 1, -1, -1]), shared=("unit", [False] * 6)
    )
    summary = summarise(moe, fraction=0.5, draws=500)
    # Expert 0 holds 2, then 1 of 2: one of them is shared for certain, J = 1/3. After that expert 0 and expert 1 hold
    # one each, and share it with probability 1/2: 0, 1 or 2 units, J = 0, 1/3, 1.
    assert values(summary, "stability_routing_null", "ffn") == pytest.approx([1 / 3, 0.5 / 3 + 0.25], abs=0.05)
    assert values(summary, "stability_routing_null_low", "ffn") == pytest.approx([1 / 3, 0.0])
    assert values(summary, "stability_routing_null_high", "ffn") == pytest.approx([1 / 3, 1.0])
    np.testing.assert_allclose(values(summary, "stability_given_counts", "ffn"), [NAN, 1.0])
    # Gains in expectation, first pair: unit 0 0; 1 (5 − 4 + 5 − 3) / 2; 2 (4 − 2 + 4 − 1) / 2; 3 0. All in {1, 2}.
    # Second: of 2, 6, 4, −1 over (1, 5) and (4, 0): 0.5, (5 + 1) / 2, 4 / 2, 0.
    assert values(summary, "gain_top_set_routing_null", "ffn") == pytest.approx([1.0, 5 / 5.5])
    # Experts' sums: 7, 3; 6, 4; 8, 3: the first is on top throughout.
    assert summary["expert_stability"].to_numpy().tolist() == [1.0, 1.0]
    assert int(summary["top_experts"]) == 1
    assert float(summary["expert_stability_chance"]) == 0.5


def test_shared_experts_are_experts_and_blocks_are_not(tiny: xr.Dataset) -> None:
    shared = tiny.assign_coords(expert=("unit", [0, 0, -1, -1, -1, -1]), shared=("unit", [False] * 2 + [True] * 4))
    assert int(summarise(shared, fraction=0.5, draws=5)["top_experts"]) == 1
    dense = tiny.assign_coords(expert=("unit", [-1] * 6), shared=("unit", [False] * 6))
    found = summarise(dense, fraction=0.5, draws=5)
    assert "expert_stability" not in found
    # Dense: the layer is the group, as it is where the scores do not say. {0, 1} of layer 0, then {1} and {2}.
    assert values(found, "stability_routing_null", "ffn")[0] == pytest.approx(1 / 3)
    xr.testing.assert_equal(found, summarise(tiny, fraction=0.5, draws=5))


def test_layers_by_hand(tiny: xr.Dataset) -> None:
    summary = summarise(tiny, windows={"start": (0, 100), "end": (200, 10_000)}, draws=5)
    assert values(summary, "layer_profile", "ffn") == [[7.0, 3.0], [6.0, 4.0], [8.0, 3.0]]
    # No attention in layer 0: NaN there, and a profile of one layer is constant.
    np.testing.assert_array_equal(values(summary, "layer_profile", "attention"), [[NAN, 0.5], [NAN, 2.0], [NAN, 3.0]])
    np.testing.assert_allclose(values(summary, "profile_pearson", "ffn"), np.ones((3, 3)))
    assert np.isnan(values(summary, "profile_pearson", "attention")).all()
    np.testing.assert_allclose(values(summary, "rho_avg", "ffn"), [1.0, NAN])  # one pair, then none
    assert values(summary, "rho_pairs", "ffn") == [1, 0]
    # FFN, first two checkpoints: layer 0: 7, 6: 0.5 / 6.5; layer 1: 3, 4: 0.5 / 3.5. Attention: 0.5, 2: 0.75 / 1.25.
    spread = (0.5 / 6.5 + 0.5 / 3.5) / 2
    np.testing.assert_allclose(values(summary, "sigma_rel", "ffn"), [spread, NAN])
    np.testing.assert_allclose(values(summary, "sigma_rel_median", "ffn"), [spread, NAN])
    np.testing.assert_allclose(values(summary, "sigma_rel_layer", "attention"), [[NAN, 0.6], [NAN, NAN]])
    assert summary["window_first_step"].to_numpy().tolist() == [0, 200]
    assert summary["window_last_step"].to_numpy().tolist() == [100, 200]


def test_consolidation_by_hand(tiny: xr.Dataset) -> None:
    summary = summarise(tiny, fraction=0.5, draws=5)
    # FFN: J = 1/3, 1: settled from step 100; every profile correlates with the last: from step 0.
    # Attention: J = 1, 0: never; its profiles have no correlation: never.
    np.testing.assert_array_equal(summary["consolidation_stability"], [100.0, NAN])
    np.testing.assert_array_equal(summary["consolidation_profile"], [0.0, NAN])
    assert summarise(tiny, fraction=0.5, draws=5, stability_threshold=0.3)["consolidation_stability"][0] == 0.0


def test_profiles_consolidate_on_the_last_one(tiny: xr.Dataset) -> None:
    # One FFN unit in each of three layers. The profile of step 0 runs against the last one; that of step 100 agrees.
    arm = tiny.isel(unit=[0, 1, 2]).assign_coords(layer=("unit", [0, 1, 2])).drop_vars("lpi")
    arm["lpi_mean"] = (("checkpoint", "unit"), [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    assert summarise(arm, draws=5)["consolidation_profile"].to_numpy().tolist() == [100.0]


def test_hits_by_hand(tiny: xr.Dataset) -> None:
    summary = summarise(tiny, draws=5)
    assert summary["hit_k"].to_numpy().tolist() == [1, 5, 10]
    assert summary["hit"].to_numpy().tolist() == [[0.25, 0.5, 0.75], [0.25, 0.75, 1.0], [1.0, 1.0, 1.0]]
    # 2 of 4, z² = 3.841459: 1/2 ± 1.959964 · sqrt(1/16 + 3.841459/64) / (1 + 3.841459/4) = 1/2 ± 0.349964.
    assert float(summary["hit_low"][0, 1]) == pytest.approx(0.150036, abs=1e-5)
    assert float(summary["hit_high"][0, 1]) == pytest.approx(0.849964, abs=1e-5)


def test_routing_by_hand(tiny: xr.Dataset) -> None:
    summary = summarise(tiny, draws=5)
    assert summary["moe_layer"].to_numpy().tolist() == [1]
    # The shared expert is left out: (1/2, 1/2), (1, 0), (0, 1).
    assert summary["utilisation_entropy"].to_numpy()[:, 0].tolist() == [1.0, 0.0, 0.0]
    assert summary["load_imbalance"].to_numpy()[:, 0].tolist() == [1.0, 2.0, 2.0]
    np.testing.assert_allclose(summary["routing_distance"][:, 0], [0.557923, 1.0], atol=1e-6)


def test_relations_that_agree_leave_no_width(tiny: xr.Dataset) -> None:
    summary = summarise(tiny, fraction=0.5, draws=20)
    for name in ("stability", "gain_top_set", "gain_top_by_gain", "importance_share"):
        np.testing.assert_allclose(summary[f"{name}_low"], summary[name], rtol=1e-5)
        np.testing.assert_allclose(summary[f"{name}_high"], summary[name], rtol=1e-5)


def test_relations_that_differ_leave_some() -> None:
    summary = summarise(random_arm(), fraction=0.2, draws=50)
    for name in ("stability", "gain_top_set", "importance_share"):
        assert (summary[f"{name}_low"] < summary[f"{name}_high"]).any()
        assert (summary[f"{name}_low"] >= 0).all()
        assert (summary[f"{name}_high"] <= 1).all()


def test_labels_and_options_travel_along(tiny: xr.Dataset) -> None:
    summary = summarise(tiny, fraction=0.5, draws=5, seed=3)
    assert summary["kind"].to_numpy().tolist() == ["ffn", "attention"]
    assert summary["stage"].to_numpy().tolist() == ["pretrain", "pretrain", "anneal"]
    assert summary["pair_step"].to_numpy().tolist() == [0, 100]
    assert summary["pair_next_step"].to_numpy().tolist() == [100, 200]
    assert summary["window"].to_numpy().tolist() == ["all", "late"]
    assert summary["window_first_step"].to_numpy().tolist() == [0, 100]  # late: the last 2 of 3
    assert summary.attrs == {
        "fraction": 0.5,
        "level": 0.95,
        "draws": 5,
        "seed": 3,
        "stability_threshold": 0.5,
        "profile_threshold": 0.95,
        "method": "lpi",
    }


def test_layers_of_a_random_arm_are_those_of_the_functions() -> None:
    arm = random_arm()
    summary = summarise(arm, draws=5)
    ffn = np.flatnonzero(arm["block"] == "ffn")
    profiles = layer_profile(arm["lpi_mean"].to_numpy()[:, ffn], arm["layer"].to_numpy()[ffn], 3)
    np.testing.assert_allclose(values(summary, "layer_profile", "ffn"), profiles)
    for kind in ("pearson", "spearman"):
        np.testing.assert_allclose(values(summary, f"profile_{kind}", "ffn"), profile_correlation(profiles, kind))


def test_the_order_of_units_and_of_dimensions_does_not_matter() -> None:
    arm = random_arm()
    order = np.random.default_rng(0).permutation(arm.sizes["unit"])
    first = summarise(arm, fraction=0.2, draws=20)
    second = summarise(arm.isel(unit=order).transpose("unit", "relation", "checkpoint"), fraction=0.2, draws=20)
    # The random sets are drawn by unit index, so their intervals do differ.
    by_index = [name for name in first if "_chance_" in str(name) and "stability" not in str(name)]
    xr.testing.assert_allclose(first.drop_vars(by_index), second.drop_vars(by_index))


def test_one_checkpoint_has_no_pairs(tiny: xr.Dataset) -> None:
    summary = summarise(tiny.isel(checkpoint=[1]), fraction=0.5, draws=5)
    assert summary.sizes["pair"] == 0
    assert summary["gain_top_set_chance_low"].shape == (2, 0)
    assert values(summary, "importance_share", "ffn") == [0.9]
    assert np.isnan(summary["consolidation_stability"]).all()
    assert np.isnan(summary["sigma_rel"]).all()


def test_what_a_run_did_not_keep_is_left_out(tiny: xr.Dataset) -> None:
    bare = tiny.drop_vars(["lpi", "target_rank", "expert_utilisation", "tokens", "stage"])
    summary = summarise(bare, fraction=0.5, draws=5)
    full = summarise(tiny, fraction=0.5, draws=5)
    absent = {str(name) for name in full.variables} - {str(name) for name in summary.variables}
    shares = ("stability", "gain_top_set", "gain_top_by_gain", "importance_share")
    assert absent == {
        *(f"{name}_{end}" for name in shares for end in ("low", "high")),
        *("hit", "hit_low", "hit_high", "hit_k", "tokens", "stage"),
        *("utilisation_entropy", "load_imbalance", "routing_distance", "moe_layer"),
    }
    xr.testing.assert_equal(summary["stability"], full["stability"].drop_vars(["tokens", "stage"], errors="ignore"))


def test_one_kind_alone(tiny: xr.Dataset) -> None:
    summary = summarise(tiny.isel(unit=slice(0, 4)), fraction=0.5, draws=5)
    assert summary["kind"].to_numpy().tolist() == ["ffn"]


def test_shared_experts_alone_are_no_routing(tiny: xr.Dataset) -> None:
    assert "load_imbalance" not in summarise(tiny.isel(expert_unit=[0]), draws=5)


def test_json_has_no_nan_and_reads_back(tiny: xr.Dataset) -> None:
    summary = summarise(tiny, fraction=0.5, draws=5)
    data = json.loads(json.dumps(summary_to_json(summary), allow_nan=False))
    assert data["data_vars"]["consolidation_stability"]["data"] == [100.0, None]
    assert data["data_vars"]["stability"]["dims"] == ["kind", "pair"]
    assert data["coords"]["stage"]["data"] == ["pretrain", "pretrain", "anneal"]
    assert data["attrs"]["fraction"] == 0.5
    assert set(xr.Dataset.from_dict(data).data_vars) == set(summary.data_vars)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arm: arm.drop_vars("lpi_mean"), "the scores have no lpi_mean"),
        (lambda arm: arm.drop_vars(["layer", "step"]), "the scores have no step, layer"),
        (lambda arm: arm.drop_vars("n_prompts"), "the scores have no n_prompts"),
        (lambda arm: arm.expand_dims(arm=2), "`lpi_mean` has dimensions"),
        (lambda arm: arm.isel(checkpoint=[]), "none empty"),
        (lambda arm: arm.assign_coords(block=("unit", ["mlp"] * 6)), "`block` holds 'mlp'; expected 'ffn', "),
        (lambda arm: arm.assign(lpi_mean=arm["lpi_mean"] * NAN), "lpi_mean holds 12 values that are NaN"),
        (lambda arm: arm.assign(lpi=arm["lpi"] * NAN), "lpi holds 24 values that are NaN"),
        (lambda arm: arm.assign_coords(n_prompts=("relation", [3, 0])), "one positive weight"),
    ],
)
def test_an_arm_that_cannot_be_used_is_refused(tiny: xr.Dataset, change: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        summarise(change(tiny), draws=5)


def test_a_window_without_checkpoints_is_refused(tiny: xr.Dataset) -> None:
    with pytest.raises(OptionError, match=r"window 'tail' is \(300, 400\) and holds no checkpoint; steps are \[0, 100"):
        summarise(tiny, windows={"tail": (300, 400)}, draws=5)


def test_public_names_are_sorted_and_there() -> None:
    names = gated_lpi.metrics.__all__
    assert names == sorted(names)
    assert all(hasattr(gated_lpi.metrics, name) for name in names)
