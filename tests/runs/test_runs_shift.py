"""Arms with and without a shift of the data in one experiment: what they are asked, and what is refused."""

import json

import pytest
from pydantic import ValidationError

from gated_lpi.experiments import Experiment, load_experiment
from gated_lpi.results import open_run
from gated_lpi.runs import run_experiment
from gated_lpi.runs.plan import plan
from gated_lpi.training import ShiftSpec
from tiny_runs import QUICK, TRAINING, Notes

ASKED = "people:n=8,relations=1,objects=4"
SHIFTING = {"name": "shifting", "train": "moe", "training": {"shift": {"share": 0.5}}}
PLAIN = {"name": "plain", "train": "moe"}


def experiment(*arms, **training):
    content = {
        "name": "shift",
        "facts": {"source": ASKED},
        "arms": arms,
        "training": TRAINING | {"context": 64} | training,
        "attribution": {"methods": ["lpi"], "units": ["ffn", "attention", "heads"]},
        **QUICK,
    }
    return Experiment.model_validate(content)


def test_arms_with_and_without_a_shift_are_asked_the_same(tmp_path):
    spec = experiment(SHIFTING, PLAIN)
    notes = Notes()
    run = run_experiment(spec, tmp_path / "run", notes)
    assert any("4 of 8 facts change in the shift" in note for note in notes.said)
    names = [f"people birthplace ({part})" for part in ("kept", "before", "after")]
    for arm in ("shifting", "plain"):
        assert open_run(run.path).scores(arm)["relation"].values.tolist() == names
        assert run.record(arm).ablation.n_prompts == 12
    kept = {arm: json.loads((run.training_folder(arm) / "arm.json").read_text()) for arm in run.arms}
    assert "shift" not in kept["plain"]["spec"]
    assert kept["shifting"]["spec"]["shift"] == {"at": 0.5, "share": 0.5, "seed": 0}
    weights = [(run.training_folder(arm) / "step-6" / "model.safetensors").read_bytes() for arm in run.arms]
    assert weights[0] != weights[1]
    assert plan(spec).prompts == 12
    before = (run.path / "run.json").read_bytes()
    run_experiment(spec, run.path)
    assert (run.path / "run.json").read_bytes() == before


def test_a_file_can_say_so(tmp_path):
    lines = ["[[arms]]", 'name = "a"', 'train = "moe"', "training = { shift = { share = 0.25 } }"]
    (tmp_path / "file.toml").write_text("\n".join(['name = "x"', "[training]", 'spacing = "mixed"', *lines]))
    spec = load_experiment(tmp_path / "file.toml")
    assert spec.training_of(spec.arms[0]).shift == ShiftSpec(share=0.25)
    assert spec.training.spacing == "mixed"


def test_an_arm_may_do_without_the_shift_of_the_others_or_have_it_at_another_time():
    late = {"name": "late", "train": "moe", "training": {"shift": {"at": 0.8}}}
    without = {"name": "without", "train": "moe", "training": {"shift": {"share": 0}}}
    spec = experiment(PLAIN, late, without, shift={"at": 0.3, "share": 0.4, "seed": 2})
    plain, late, without = (spec.training_of(arm).shift for arm in spec.arms)
    assert (late.at, late.share, late.seed) == (0.8, 0.4, 2)
    assert (without.at, without.share) == (0.3, 0)
    assert spec.shift == plain
    facts = spec.facts.load()
    assert experiment(PLAIN).asked(facts) is facts
    assert len(spec.asked(facts)) == 8 + 3


def test_shifts_of_different_facts_are_refused():
    other = {"name": "other", "train": "moe", "training": {"shift": {"share": 0.25}}}
    with pytest.raises(
        ValidationError, match=r"shifts of different facts, with \(share, seed\) \(0\.25, 0\), \(0\.5, 0\)"
    ):
        experiment(SHIFTING, other)
    with pytest.raises(ValidationError, match=r"arms\.0\.training\.shift|shift\.at"):
        experiment(SHIFTING | {"training": {"shift": {"at": 2}}})
