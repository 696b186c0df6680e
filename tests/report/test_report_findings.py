"""Sentences follow the data: they flip when it flips, and warn when it cannot bear them."""

from dataclasses import replace
from pathlib import Path

import pytest

from gated_lpi.report import load_results
from gated_lpi.report.arms import Results
from gated_lpi.report.claims import claims
from gated_lpi.report.estimates import Drop, Estimate, ablation_drop, compare, read
from gated_lpi.report.findings import recall_sentence, recall_warning, settling, small_sets_note
from synthetic_run import DENSE, MOE, ArmPlan, SyntheticRun

NAN = float("nan")


def results(moe: ArmPlan = MOE, dense: ArmPlan = DENSE) -> Results:
    return load_results(SyntheticRun(Path("unused"), {"moe": moe, "dense": dense}))


def test_concentration_flips_with_the_data() -> None:
    even, steep = ArmPlan(spread=0.3), ArmPlan(spread=1.6)
    moe_even, moe_steep = replace(MOE, spread=0.3), replace(MOE, spread=1.6)
    higher = claims(results(moe_steep, even))[0]
    lower = claims(results(moe_even, steep))[0]
    assert "moe is higher than dense." in higher.sentences[0]
    assert "moe is lower than dense." in lower.sentences[0]
    assert "moe higher than a dense arm in 0 of 4 comparisons" in lower.outcome


def test_equal_arms_are_not_told_apart() -> None:
    run = SyntheticRun(Path("unused"), {"moe": MOE, "dense": DENSE})
    found = load_results(run)
    routing = ["utilisation_entropy", "load_imbalance", "routing_distance"]
    twin = replace(found.arms[1], summary=found.arms[0].summary.drop_vars(routing))
    finding = claims(replace(found, arms=(found.arms[0], twin)))[0]
    assert all("moe is not distinguishable from dense." in sentence for sentence in finding.sentences)
    assert finding.outcome.endswith("not distinguishable in 4.")


def test_stability_flips_with_the_data() -> None:
    settled = claims(results(replace(MOE, noise=0.01), ArmPlan(noise=0.9)))[1]
    restless = claims(results(replace(MOE, noise=0.9), ArmPlan(noise=0.01)))[1]
    assert "moe is higher than dense." in settled.sentences[0]
    assert "moe is lower than dense." in restless.sentences[0]
    assert "J_stab stays at or above 0.5 from step 0 in moe" in settled.sentences[2]


def test_robustness_flips_with_the_data() -> None:
    robust = claims(results(replace(MOE, drop=0.02), ArmPlan(drop=0.6)))[2]
    brittle = claims(results(replace(MOE, drop=0.6), ArmPlan(drop=0.02)))[2]
    assert robust.sentences[1].startswith("Without its top-10 heads, HIT@10 falls by 2.6% [")
    assert "moe is lower than dense." in robust.sentences[1]
    assert "moe is higher than dense." in brittle.sentences[1]
    assert "p cannot come out below 0.0909" in brittle.sentences[-1]


def test_numbers_in_sentences_are_the_summary_s() -> None:
    found = results()
    share = 100 * float(found.arms[0].summary["importance_share"].sel(kind="ffn")[-1])
    assert f"moe {share:.1f}% [" in claims(found)[0].sentences[0]


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


def test_each_claim_has_its_verdicts_and_counts_them() -> None:
    plans = {"moe": MOE, "dense": DENSE, "bare": ArmPlan(record=False)}
    concentration, stability, robustness = claims(load_results(SyntheticRun(Path("unused"), plans)))
    for claim in (concentration, stability, robustness):
        told = [comparison.verdict for comparison in claim.comparisons if comparison.verdict != "undefined"]
        assert f"higher than a dense arm in {told.count('higher')} of {len(told)} comparisons, " in claim.outcome
        assert f"lower in {told.count('lower')}, not distinguishable in {told.count('not distinguishable')}." in (
            claim.outcome
        )
        assert {comparison.moe for comparison in claim.comparisons} == {"moe"}
    assert {comparison.dense for comparison in concentration.comparisons} == {"dense", "bare"}
    assert {comparison.dense for comparison in robustness.comparisons} == {"dense"}
    assert [len(observation.comparisons) for observation in concentration.observations] == [2] * 4
    for observation in concentration.observations:
        for comparison in observation.comparisons:
            words = {"higher": "higher than", "lower": "lower than"}.get(comparison.verdict, "distinguishable from")
            clause = observation.sentence.split(". moe is ")[1]
            assert comparison.dense in clause.split(words)[1]


def test_when_arms_settled_is_the_summary_s() -> None:
    found = results(replace(MOE, noise=0.01), ArmPlan(noise=0.9))
    said = settling(found, "ffn")
    for arm in found.arms:
        step = float(arm.summary["consolidation_stability"].sel(kind="ffn"))
        words = f"from step {int(step):,} in {arm.name}" if step == step else f"never in {arm.name}"
        assert words in said.split("; the layer")[0]
    assert said in claims(found)[1].sentences


def test_arms_with_other_steps_compare_their_last_pairs_only() -> None:
    finding = claims(results(MOE, ArmPlan(steps=(0, 3, 30, 300))))[1]
    assert not any("earlier pairs" in sentence for sentence in finding.sentences)
    assert "of 2 comparisons" in finding.outcome


def test_a_missing_record_is_said_to_be_missing() -> None:
    finding = claims(results(dense=ArmPlan(record=False)))[2]
    assert finding.sentences[0] == "dense: ablations not run."
    assert finding.outcome.startswith("Nothing to compare")


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
