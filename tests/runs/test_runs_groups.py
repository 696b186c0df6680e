"""Arms with training of their own, and replicates: what the run trains, keeps and refuses."""

import json
import re

import pytest

from gated_lpi import open_run
from gated_lpi.errors import RunExistsError
from gated_lpi.runs import run_experiment
from gated_lpi.runs.plan import plan
from tiny_runs import TRAINING, UNABLATED, tiny_experiment
from tiny_text import CAPITALS, save_facts


def test_replicates_and_arms_with_own_training_are_trained_as_they_say(tmp_path):
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    arms = [
        {"train": "moe", "replicates": 2},
        {"name": "wide", "train": "moe", "training": {"steps": 4, "size": {"expert_width": 16}}},
    ]
    spec = tiny_experiment(facts, *arms, training=TRAINING, ablation=UNABLATED)
    run = run_experiment(spec, tmp_path / "run")
    kept = {arm: json.loads((run.training_folder(arm) / "arm.json").read_text()) for arm in run.arms}
    assert {arm: record["arm"]["name"] for arm, record in kept.items()} == {arm: arm for arm in run.arms}
    assert [kept[arm]["spec"]["seed"] for arm in run.arms] == [0, 1, 0]
    assert [kept[arm]["spec"]["steps"] for arm in run.arms] == [6, 6, 4]
    assert [kept[arm]["spec"]["size"]["expert_width"] for arm in run.arms] == [8, 8, 16]
    first, second, wide = (run.scores(arm) for arm in run.arms)
    assert first["step"].values.tolist() == second["step"].values.tolist() != wide["step"].values.tolist()
    assert not (first["lpi_mean"] == second["lpi_mean"]).all()
    assert first.sizes["unit"] == second.sizes["unit"] < wide.sizes["unit"]
    assert open_run(run.path).experiment.groups == {"moe": ("moe-1", "moe-2"), "wide": ("wide",)}
    other = tiny_experiment(facts, *arms, training=TRAINING | {"seed": 9}, ablation=UNABLATED)
    with pytest.raises(RunExistsError, match=r"differs in arms"):
        run_experiment(other, run.path)


def test_an_arm_is_aligned_with_the_steps_of_the_others_own_training(tmp_path):
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    trained = {"name": "trained", "train": "moe", "training": {"batch_size": 4}}
    alone = plan(tiny_experiment(facts, trained, training=TRAINING))
    assert len(alone.arms[0].checkpoints) == 3
    assert re.fullmatch(r"trained by the run: [\d,]+ parameters on [\d,]+ tokens", *alone.arms[0].notes)
    run = run_experiment(tiny_experiment(facts, trained, training=TRAINING, ablation=UNABLATED), tmp_path / "run")
    series = str(run.training_folder("trained"))
    aligned = {"name": "aligned", "series": series, "tokens_aligned_with": "trained"}
    made = plan(tiny_experiment(facts, trained, aligned, training=TRAINING))
    assert made.arms[1].checkpoints == tuple(f"step-{step}" for step in run.scores("trained")["step"].values)
    assert not any("tokens" in note for note in made.arms[1].notes)  # not one token apart


@pytest.mark.slow
def test_arms_with_a_shared_expert_and_with_finer_experts_are_scored_beside_the_others(tmp_path):
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    size = TRAINING["size"] | {"experts": 4, "experts_per_token": 2, "normalise_gates": False, "expert_width": 16}
    finer = {"size": {"experts": 8, "expert_width": 8, "experts_per_token": 4}}
    arms = [
        {"name": "moe", "train": "moe"},
        {"name": "shared", "train": "moe_shared"},
        {"name": "fine", "train": "moe", "training": finer},
    ]
    run = run_experiment(tiny_experiment(facts, *arms, training=TRAINING | {"size": size}), tmp_path / "run")
    scores = {arm: run.scores(arm) for arm in run.arms}
    assert not any(run.quarantined(arm) for arm in run.arms)
    assert scores["moe"].sizes["unit"] == scores["shared"].sizes["unit"] == scores["fine"].sizes["unit"]
    assert {arm: scores[arm].sizes["checkpoint"] for arm in run.arms} == dict.fromkeys(run.arms, 3)
    config = json.loads((run.training_folder("shared") / "step-6" / "config.json").read_text())
    assert (config["model_type"], config["num_experts"], config["shared_expert_intermediate_size"]) == (
        "qwen2_moe",
        3,
        16,
    )
