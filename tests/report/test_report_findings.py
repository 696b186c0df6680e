"""Sentences follow the data: they flip when it flips, and warn when it cannot bear them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gated_lpi.experiments.experiment import AttributionSpec
from gated_lpi.report import load_results
from gated_lpi.report.arms import Results
from gated_lpi.report.claims import claims
from gated_lpi.report.claims import table as claim_table
from gated_lpi.report.estimates import Drop, Estimate, ablation_drop, compare, read
from gated_lpi.report.findings import explained_sentence, recall_sentence, recall_warning, settling, small_sets_note
from gated_lpi.report.tables import show
from synthetic_run import DENSE, MOE, ArmPlan, SyntheticRun, scores

NAN = float("nan")


def results(moe: ArmPlan = MOE, dense: ArmPlan = DENSE) -> Results:
    return load_results(SyntheticRun(Path("unused"), {"moe": moe, "dense": dense}))


def test_what_is_explained_is_said() -> None:
    asked = {
        ("answer", "first"): "the first token of each answer.",
        ("answer", "all"): "HIT@1 is exact match by greedy decoding",
        ("target", "top1"): "the models' own predictions",
        ("foil", "best"): "against the likeliest other token",
        ("contrast", "relation"): "“against the foil” are of the target against the mean over its relation's other",
        ("gate", "open"): "with the gate “open”",
    }
    for (key, value), words in asked.items():
        assert words in explained_sentence(AttributionSpec.model_validate({key: value}))


def test_concentration_flips_with_the_data() -> None:
    even, steep = ArmPlan(spread=0.3), ArmPlan(spread=1.6)
    moe_even, moe_steep = replace(MOE, spread=0.3), replace(MOE, spread=1.6)
    higher = claims(results(moe_steep, even))[0]
    lower = claims(results(moe_even, steep))[0]
    assert higher.answer == "Supported in these runs"
    assert lower.answer == "Contradicted in these runs"
    assert higher.sentences[0].startswith("R_t (FFN neurons) is higher in moe than in dense from step 1 to step 200")
    assert lower.sentences[0].startswith("R_t (FFN neurons) is lower in moe than in dense from step 1 to step 200")


@dataclass
class Twins(SyntheticRun):
    """Two arms of the same importances but for what relations do to each; the MoE's are steeper between two steps."""

    bump: tuple[int, int] | None = None

    def scores(self, arm: str) -> xr.Dataset:
        found = scores(self.plans[arm] or MOE, 0)
        random = np.random.default_rng(self.arms.index(arm))
        lpi = found["lpi"] * (1 + 0.6 * random.standard_normal((1, *found["lpi"].shape[1:])))
        if self.bump is not None and arm == "moe":
            first, last = self.bump
            lpi = np.sign(lpi) * np.abs(lpi) ** (1.0 + ((found["step"] >= first) & (found["step"] <= last)))
        lpi = lpi.transpose(*found["lpi"].dims).astype(np.float32)
        return found.assign(lpi=lpi, lpi_mean=lpi.mean("relation"))


CALM = {"moe": replace(MOE, noise=0.0), "dense": replace(DENSE, noise=0.0)}


def test_arms_that_differ_by_chance_are_not_told_apart() -> None:
    finding = claims(load_results(Twins(Path("unused"), CALM)))[0]
    assert finding.answer == "Undecided"
    assert "R_t (FFN neurons) is at no time told apart between moe and dense" in finding.sentences[0]
    assert "3 replicates or more of each, instead of 1" in finding.decides
    assert "this design sees differences of " in finding.decides


def test_a_bump_in_mid_training_is_found_though_the_ends_are_equal() -> None:
    finding = claims(load_results(Twins(Path("unused"), CALM, bump=(5, 20))))[0]
    assert (
        finding.answer == "Mixed in these runs"
    )  # what was gained in the bump is gained back after it, by other units
    assert "from step 10 to step 20, by at most " in finding.sentences[0]
    assert ", and lower at step 50, by " in finding.sentences[0]
    share = next(line for line in finding.sentences if line.startswith("The top set's share of importance (FFN"))
    assert "is higher in moe than in dense from step 5 to step 20, by at most " in share
    assert share.endswith("not told apart elsewhere.")


def test_stability_flips_with_the_data() -> None:
    settled = claims(results(replace(MOE, noise=0.01), ArmPlan(noise=0.9)))[1]
    restless = claims(results(replace(MOE, noise=0.9), ArmPlan(noise=0.01)))[1]
    assert settled.sentences[0].startswith("J_stab (FFN neurons) is higher in moe than in dense ")
    assert restless.sentences[0].startswith("J_stab (FFN neurons) is lower in moe than in dense ")
    assert any("J_stab stays at or above 0.5 from step 0 in moe" in line for line in settled.sentences)


def test_robustness_flips_with_the_data() -> None:
    robust = claims(results(replace(MOE, drop=0.02), ArmPlan(drop=0.6)))[2]
    brittle = claims(results(replace(MOE, drop=0.6), ArmPlan(drop=0.02)))[2]
    assert robust.answer == "Supported in these runs"
    assert brittle.answer == "Contradicted in these runs"
    heads = "The drop of recall without the top-10 heads is"
    assert any(line.startswith(f"{heads} lower in moe than in dense, by ") for line in robust.sentences)
    assert any(line.startswith(f"{heads} higher in moe than in dense, by ") for line in brittle.sentences)
    assert robust.sentences[-1] == "Bands are over prompts, not over seeds: one training run of each."


def test_numbers_in_sentences_are_the_summary_s() -> None:
    found = results()
    moe, dense = (arm.summary["importance_share"].sel(kind="ffn").to_numpy() for arm in found.arms)
    (row,) = (
        row
        for row in claim_table(found).rows
        if row[:2] == ("The top set's share of importance", "FFN neurons") and row[11] == "yes"
    )
    step = int(str(row[8]).removeprefix("step "))
    at = found.arms[0].summary["step"].to_numpy().tolist().index(step)
    assert str(row[7]).startswith(show(float(moe[at] - dense[at]), "share"))


def test_low_recall_is_warned_of_by_name() -> None:
    warning = recall_warning(results(replace(MOE, recall=0.85)))
    assert warning is not None
    assert "moe (85.0%)" in warning
    assert "dense" not in warning.split(". An ablation")[0]
    assert recall_warning(results()) is None


def test_recall_is_stated_for_every_arm() -> None:
    sentence = recall_sentence(results(replace(MOE, recall=0.85)))
    assert "moe 85.0% [75.6, 91.2]" in sentence
    assert "dense 97.5% [" in sentence


def test_small_top_sets_are_named() -> None:
    note = small_sets_note(results())
    assert note is not None
    assert "moe, attention neurons: 3" in note


@pytest.mark.parametrize(
    ("plans", "have"),
    [({"moe": MOE}, "no dense arm"), ({"one": DENSE, "two": DENSE}, "no mixture-of-experts arm")],
)
def test_nothing_is_compared_without_both_kinds_of_arm(plans: dict[str, ArmPlan], have: str) -> None:
    found = load_results(SyntheticRun(Path("unused"), plans))
    assert found.lacks == have
    assert claims(found) == ()
    assert results().lacks is None


def test_each_dense_group_is_answered_for_by_itself() -> None:
    plans = {"moe": replace(MOE, spread=1.6), "even": ArmPlan(spread=0.3), "bare": ArmPlan(spread=1.6, record=False)}
    concentration, _, robustness = claims(load_results(SyntheticRun(Path("unused"), plans)))
    assert "Supported against even: " in concentration.lead
    assert " against bare: " in concentration.lead
    assert "bare" not in robustness.lead
    assert "bare: ablations not run." in robustness.sentences


def test_when_arms_settled_is_the_summary_s() -> None:
    found = results(replace(MOE, noise=0.01), ArmPlan(noise=0.9))
    said = settling(found, "ffn")
    for arm in found.arms:
        step = float(arm.summary["consolidation_stability"].sel(kind="ffn"))
        words = f"from step {int(step):,} in {arm.name}" if step == step else f"never in {arm.name}"
        assert words in said.split("; the layer")[0]
    assert said in claims(found)[1].sentences


def test_arms_with_other_checkpoints_are_compared_at_common_tokens() -> None:
    found = results(replace(MOE, spread=1.6), ArmPlan(steps=(0, 3, 30, 150), spread=0.3))
    sentence = claims(found)[0].sentences[0]
    assert sentence.startswith("R_t (FFN neurons) is higher in moe than in dense from 24.6k tokens to 1.23M tokens")


def test_known_facts_are_judged_beside_all_where_they_were_kept() -> None:
    class Known(SyntheticRun):
        def scores(self, arm: str) -> xr.Dataset:
            found = super().scores(arm)
            counts = np.tile(found["n_prompts"].to_numpy(), (found.sizes["checkpoint"], 1))
            return found.assign(lpi_known=found["lpi"]).assign_coords(n_known=(("checkpoint", "relation"), counts))

    found = load_results(Known(Path("unused"), {"moe": replace(MOE, spread=1.6), "dense": ArmPlan(spread=0.3)}))
    over = "By Gated-LPI, FFN neurons, over facts known at the checkpoint: "
    line = next(line for line in claims(found)[0].sentences if line.startswith(over))
    assert " is higher in moe than in dense " in line or " is lower in moe than in dense " in line
    neurons = {row[1] for row in claim_table(found).rows}
    assert {"FFN neurons", "FFN neurons, over facts known at the checkpoint"} <= neurons


def test_single_checkpoints_are_compared_in_what_they_have() -> None:
    found = claims(results(replace(MOE, steps=(5,), spread=1.6), ArmPlan(steps=(5,), spread=0.3)))
    assert (
        found[0]
        .sentences[0]
        .startswith("The top set's share of importance (FFN neurons) is higher in moe than in dense")
    )
    assert not any("R_t" in line for line in found[0].sentences)
    assert found[1].answer == "Not judged"


def test_a_missing_record_is_said_to_be_missing() -> None:
    finding = claims(results(dense=ArmPlan(record=False)))[2]
    assert finding.sentences == ("dense: ablations not run.",)
    assert finding.answer == "Not judged"
    assert finding.lead == "Nothing to compare: ablations were not run for dense."


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (Estimate(3, 2.5, 3.5), Estimate(1, 0.5, 1.5), "higher"),
        (Estimate(1, 0.5, 1.5), Estimate(3, 2.5, 3.5), "lower"),
        (Estimate(1, 0.5, 2.5), Estimate(3, 2.5, 3.5), "not distinguishable"),
        (Estimate(3, 2.5, 2.8), Estimate(2.2, 2.3, 2.4), "higher"),
        (Estimate(3, 2.5, 2.8), Estimate(4, 3.2, 3.6), "lower"),
        (Estimate(3, 2.5, 2.8), Estimate(2.9, 1, 2), "not distinguishable"),
        (Estimate(3), Estimate(1, 0, 2), "undefined"),
        (Estimate(NAN, 1, 2), Estimate(1, 0, 2), "undefined"),
    ],
)
def test_compare(one: Estimate, other: Estimate, verdict: str) -> None:
    assert compare(one, other) == verdict


def test_read_gives_nan_for_what_is_not_there() -> None:
    summary = results().arms[0].summary
    assert read(summary, "no_such", pair=0) == pytest.approx(Estimate(NAN), nan_ok=True)
    assert read(summary, "stability", kind="other", pair=0) == pytest.approx(Estimate(NAN), nan_ok=True)


def test_ablation_drop_by_hand() -> None:
    record = results().arms[0].record
    assert record is not None
    row = record.ablation.rows[0].model_copy(update={"hit": 0.5, "random_hits": (0.9, 0.8)})
    table = record.ablation.model_copy(update={"hit": 1.0, "n_prompts": 80})
    drop = ablation_drop(table, row)
    assert isinstance(drop, Drop)
    assert drop.drop.value == pytest.approx(50.0)
    assert drop.drop.low == pytest.approx(100 - drop.drop.high)
    assert drop.random_drops == pytest.approx((10.0, 20.0))
    assert drop.random.p_value == pytest.approx(1 / 3)
