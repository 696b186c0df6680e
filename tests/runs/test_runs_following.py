"""Units that are followed: what is said of them is what the model says, at every checkpoint, and stays."""

import numpy as np
import pytest
import torch

from gated_lpi import LPI, attribute, load_model
from gated_lpi.errors import ModelError
from gated_lpi.results import open_run
from gated_lpi.results.verify import verify_run
from gated_lpi.runs import following, run_experiment
from gated_lpi.trace import trace
from tiny_runs import Notes, tiny_experiment
from tiny_text import CAPITALS, COLOURS, save_checkpoint, save_facts

SPEC = {"units": 2, "tokens": 3, "prompts": 4, "neighbours": 2}
CASES = {"moe": "Qwen2-MoE", "dense": "GPT-2"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Facts of two relations with four and two prompts, and two series of two checkpoints."""
    folder = tmp_path_factory.mktemp("source")
    save_facts(folder / "facts", [CAPITALS, COLOURS])
    for arm, case in CASES.items():
        for seed, step in enumerate((0, 10)):
            save_checkpoint(folder / arm / f"step-{step}", case, seed)
    return folder


def experiment(source, *names, **changes):
    arms = ({"name": arm, "checkpoints": str(source / arm)} for arm in names or CASES)
    return tiny_experiment(source / "facts", *arms, follow=SPEC, attribution={"methods": ["lpi"]}, **changes)


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    return run_experiment(experiment(source), tmp_path_factory.mktemp("run") / "run")


@pytest.mark.parametrize("arm", CASES)
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_said_is_what_the_model_says(run, source, arm, place):
    followed = open_run(run.path).followed(arm)
    model = load_model(source / arm / ("step-0", "step-10")[place])
    said = followed.isel(checkpoint=place).load()
    facts = run.experiment.facts.load()
    alone = attribute(model, facts, templates="first", method=LPI(estimator="exact"))
    prompts = [(one.text, one.target) for one in facts.prompts("first")]
    for number, unit in enumerate(said["unit"].values.tolist()):
        effect = model.readout.directions(model.value(unit))
        assert said["promoted_logit"].values[number] == pytest.approx(effect.topk(3).values.numpy(), rel=1e-5)
        assert said["suppressed_logit"].values[number] == pytest.approx(-(-effect).topk(3).values.numpy(), rel=1e-5)
        first = int(effect.argmax())
        assert said["promoted"].values[number][0] == (model.tokenizer.decode([first]) or f"[token {first}]")
        scores = alone["lpi"].values[:, unit]
        reached = scores != 0
        assert said["used"].values[number] == pytest.approx(reached.mean())
        there = min(4, int(reached.sum()))
        expected = np.sort(scores[reached])[::-1][:there]
        np.testing.assert_allclose(said["prompt_score"].values[number][:there], expected, atol=2e-6)
        assert np.isnan(said["prompt_score"].values[number][there:]).all()
        told = list(zip(said["prompt"].values[number][:there], said["answer"].values[number][:there], strict=True))
        np.testing.assert_allclose(scores[[prompts.index(one) for one in told]], expected, atol=2e-6)
        activations, coefficients = did(model, unit, [text for text, _ in prompts])
        expected = [np.array([values[prompts.index(one)] for one in told]) for values in (activations, coefficients)]
        np.testing.assert_allclose(said["prompt_activation"].values[number][:there], expected[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(said["prompt_coefficient"].values[number][:there], expected[1], rtol=1e-4, atol=1e-6)
        mean = activations[reached].mean() if reached.any() else np.nan
        np.testing.assert_allclose(said["activation"].values[number], mean, rtol=1e-4, atol=1e-6)
        vectors = torch.nn.functional.normalize(torch.stack([model.value(one) for one in range(len(model.units))]))
        cosines = vectors @ vectors[unit]
        cosines[unit] = -1
        np.testing.assert_allclose(said["cosine"].values[number], cosines.topk(2).values, atol=1e-6)
        np.testing.assert_array_equal(said["neighbour"].values[number], cosines.topk(2).indices)
    assert len(prompts) == 6


def did(model, unit, texts):
    """A unit's activation and coefficient on each prompt, 0 where it is not reached, from what the writers did."""
    place = model.locate(unit)
    activations, coefficients = np.zeros(len(texts)), np.zeros(len(texts))
    for row, text in enumerate(texts):
        one = trace(model, [model.tokenizer(text)["input_ids"]]).blocks[place.block].writers[place.writer]
        if one.experts is None:
            gate = 1.0 if one.gates is None else float(one.gates[0])
            activations[row] = float(one.coefficients[0, place.column])
            coefficients[row] = gate * activations[row]
            continue
        for slot in (one.experts[0] == place.expert).nonzero().flatten().tolist():
            activations[row] = float(one.coefficients[0, slot, place.column])
            coefficients[row] = float(one.gates[0, slot]) * activations[row]
    return activations, coefficients


def test_they_are_the_top_units_of_each_kind_at_the_last_checkpoint(run):
    for arm in CASES:
        last = run.scores(arm).isel(checkpoint=-1)
        for kind in ("ffn", "attention"):
            inside = np.flatnonzero(last["block"].values == kind)
            expected = inside[np.argsort(-last["lpi_mean"].values[inside], kind="stable")[:2]]
            followed = run.followed(arm)["unit"].values
            assert set(expected) == {unit for unit in followed if unit in inside}


def test_a_run_goes_on_and_says_when_others_are_the_top_ones(source, tmp_path, monkeypatch):
    asked = experiment(source, "dense")
    described = []
    real = following.portraits

    def counting(model, *given):
        described.append(model)
        if len(described) == 2:
            raise KeyboardInterrupt
        return real(model, *given)

    monkeypatch.setattr(following, "portraits", counting)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(asked, tmp_path / "run")
    run = run_experiment(asked, tmp_path / "run")
    assert len(described) == 3
    assert run.followed("dense").sizes["checkpoint"] == 2
    notes = Notes()
    monkeypatch.setattr(following, "top_of_last", lambda _run, _arm: np.array([1, 5]))
    run = run_experiment(asked, tmp_path / "run", notes)
    assert any("other units are the top ones now" in said for said in notes.said)
    assert len(described) == 5
    assert run.followed("dense")["unit"].values.tolist() == [1, 5]
    assert not [finding for finding in verify_run(run) if finding.what == "damaged"]
    run_experiment(asked, tmp_path / "run")
    assert len(described) == 5


def test_nobody_is_followed_unless_that_is_asked(source, tmp_path):
    asked = tiny_experiment(source / "facts", {"name": "dense", "checkpoints": str(source / "dense")})
    run = run_experiment(asked, tmp_path / "run")
    assert run.followed("dense") is None
    assert not list((tmp_path / "run" / "results").glob("*follow*"))


def test_what_cannot_be_described_is_said_and_tried_again(source, tmp_path, monkeypatch):
    def failing(*_given):
        raise ModelError("too tired")

    notes, asked = Notes(), experiment(source, "dense")
    with monkeypatch.context() as patched:
        patched.setattr(following, "portraits", failing)
        run_experiment(asked, tmp_path / "run", notes)
    assert "dense: units are not followed at step-0: too tired" in notes.said
    assert run_experiment(asked, tmp_path / "run").followed("dense").sizes["checkpoint"] == 2
