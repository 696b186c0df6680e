"""True effect: against models whose value columns are zeroed by hand, and the passes that are taken up again."""

import numpy as np
import pytest
import torch

from gated_lpi.errors import FactsError, ModelError, OptionError
from gated_lpi.interventions import record_coefficients, record_routing, replayed, silenced
from gated_lpi.options import TrueEffect
from gated_lpi.trace import ResumablePass, pad, record_final, run
from passes import hooks_of, logits_of, margins_of, questions, scaled, scores_of, values_of
from tiny_models import CASES, MOE_CASES, tiny_model

TOLERANCE = 5e-6  # families compute norms and rotary embeddings in float32, whatever the model


def sampled(model, found, index):
    """Units of a block that were measured; all prompts have the same."""
    units = model.block_units(index)
    there = ~np.isnan(found[:, units])
    assert (there == there[0]).all()
    return np.flatnonzero(there[0]) + units.start


def effects_of(value, model, units, prompts, *how):
    """What silencing each unit takes from `value`, [n, P], each prompt and unit in a pass of its own."""
    intact = value(model, prompts)
    lost = []
    for unit in units:
        with silenced(model, np.array([unit]), *how):
            lost.append((intact - value(model, prompts)).numpy())
    return np.stack(lost)


@pytest.mark.parametrize("answer", ["first", "all"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_what_a_value_column_of_zeros_costs(case, answer):
    model, prompts = tiny_model(case, torch.float64), questions()
    found, results = scores_of(model, TrueEffect(sample=3, answer=answer), prompts)
    intact = values_of(model, prompts, answer=answer)
    margin = margins_of(model, prompts, answer)
    assert np.abs(results.target_logprob - intact.numpy()).max() < TOLERANCE
    for index in range(len(model.blocks)):
        units = sampled(model, found["true_effect"], index)
        assert len(units) == 3
        assert (units == sampled(model, found["true_effect_margin"], index)).all()
        for unit in units:
            with scaled(model, unit, 0.0):
                lost = (intact - values_of(model, prompts, answer=answer)).numpy()
                less = (margin - margins_of(model, prompts, answer)).numpy()
            assert np.abs(found["true_effect"][:, unit] - lost).max() < TOLERANCE, unit
            assert np.abs(found["true_effect_margin"][:, unit] - less).max() < TOLERANCE, unit


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
@pytest.mark.parametrize("at", ["all", "last"])
@pytest.mark.parametrize("case", ["GPT-2", "Gemma3", "OLMoE", "Qwen2-MoE", "GPT-OSS"])
def test_it_is_what_silencing_costs_however_and_wherever(case, at, how):
    model, prompts = tiny_model(case, torch.float64), questions()
    found = scores_of(model, TrueEffect(sample=4, at=at, how=how, sample_seed=5), prompts)[0]
    units = np.flatnonzero(~np.isnan(found["true_effect"][0]))
    reference = None
    if how != "zero":
        reference = record_coefficients(model, [item.ids for item in prompts], units, seed=5)
    intact = values_of(model, prompts)
    for unit in units:
        with silenced(model, np.array([unit]), how, reference, at, seed=5):
            lost = (intact - values_of(model, prompts)).numpy()
        assert np.abs(found["true_effect"][:, unit] - lost).max() < TOLERANCE, unit
    assert np.nanmax(np.abs(found["true_effect"])) > 1e-3


@pytest.mark.parametrize("case", CASES, ids=str)
def test_at_the_last_position_alone_by_hand(case):
    model, prompts = tiny_model(case, torch.float64), questions()
    found = scores_of(model, TrueEffect(sample=3, at="last"), prompts)[0]["true_effect"]
    intact = values_of(model, prompts)
    compared = 0
    for part in model.by_writer(np.flatnonzero(~np.isnan(found[0]))):
        if part.writer.kind == "routed":
            continue  # no module's input: the test above has them
        for unit, column in zip(part.units, part.inside, strict=True):

            def silence(_, args, column=column):
                states = args[0].clone()
                states[..., -1, column] = 0.0  # of one prompt alone: [1, S, n], or its rows
                return (states, *args[1:])

            handle = part.writer.module.register_forward_pre_hook(silence)
            lost = (intact - values_of(model, prompts)).numpy()
            handle.remove()
            assert np.abs(found[:, unit] - lost).max() < TOLERANCE, unit
            compared += 1
    assert compared >= 6


def test_an_answer_of_several_tokens_is_silenced_at_all_positions_that_predict_it():
    model, prompts = tiny_model("OLMoE", torch.float64), questions()
    found = scores_of(model, TrueEffect(sample=4, at="last", answer="all"), prompts)[0]["true_effect"]
    units = np.flatnonzero(~np.isnan(found[0]))
    lost = effects_of(lambda *given: values_of(*given, answer="all"), model, units, prompts, "zero", None, "last")
    assert np.abs(found[:, units].T - lost).max() < TOLERANCE


@pytest.mark.parametrize("foil", ["fact", "best", "relation"])
def test_with_a_foil_it_is_the_loss_of_what_stands_above_it(foil):
    model, prompts = tiny_model("Qwen2-MoE", torch.float64), questions(4)
    found = scores_of(model, TrueEffect(sample=3, foil=foil), prompts)[0]["true_effect"]
    units = np.flatnonzero(~np.isnan(found[0]))
    best = []
    for item in prompts:
        (target,), logits = logits_of(model, item)
        best.append(max((token for token in range(64) if token != target), key=lambda t: logits[0, t]))
    targets = {name: [i.target_id for i in prompts if i.prompt.relation == name] for name in "ab"}

    def value(model, prompts):
        values = []
        for item, other in zip(prompts, best, strict=True):
            logits = logits_of(model, item)[1][0]
            others = [token for token in targets[item.prompt.relation] if token != item.target_id]
            against = {"fact": [item.foil_id], "best": [other], "relation": others}[foil]
            values.append(logits[item.target_id] - logits[against].mean())
        return torch.stack(values)

    assert np.abs(found[:, units].T - effects_of(value, model, units, prompts)).max() < TOLERANCE


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_a_sample_has_as_many_units_of_every_expert_as_it_goes(case):
    model, prompts = tiny_model(case), questions(1)
    for count in (5, 8, 20):
        found = scores_of(model, TrueEffect(sample=count), prompts)[0]["true_effect"]
        for index, block in enumerate(model.blocks):
            units = sampled(model, found, index)
            assert len(units) == count
            if any(writer.kind == "routed" for writer in block.writers):
                experts = [(model.units.expert[unit], model.units.shared[unit]) for unit in units]
                each = [experts.count(expert) for expert in set(experts)]
                kinds = sum(writer.n_experts for writer in block.writers)
                assert len(each) == min(count, kinds)
                assert max(each) - min(each) <= 1


def test_no_sample_is_every_unit_of_the_kinds_that_are_asked_for_and_a_seed_is_a_draw():
    model, prompts = tiny_model("Qwen3-MoE"), questions(2)
    every = scores_of(model, TrueEffect(sample=None), prompts)[0]["true_effect"]
    assert np.isfinite(every).all()
    draws = [scores_of(model, TrueEffect(sample=6, sample_seed=seed), prompts)[0]["true_effect"] for seed in (0, 0, 1)]
    measured = [~np.isnan(draw) for draw in draws]
    assert (measured[0] == measured[1]).all()
    assert (measured[0] != measured[2]).any()
    assert np.abs(every - draws[0])[measured[0]].max() < 1e-5
    one = scores_of(model, TrueEffect(sample=None), prompts, units=("attention",))[0]["true_effect"]
    attention = model.units.block == "attention"
    assert one.shape == (2, attention.sum())
    assert np.abs(one - every[:, attention]).max() < 1e-5


@pytest.mark.parametrize("keep", ["relations", "mean"])
def test_means_are_over_the_measured_and_the_rest_stays_missing(keep):
    model, prompts = tiny_model("OLMoE"), questions(4)
    whole = scores_of(model, TrueEffect(sample=3), prompts)[0]["true_effect"]
    found = scores_of(model, TrueEffect(sample=3), prompts, keep=keep)[0]["true_effect"]
    expected = whole.mean(axis=0) if keep == "mean" else np.stack([whole[::2].mean(axis=0), whole[1::2].mean(axis=0)])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_is_not_finite_is_no_missing_unit():
    model, prompts = tiny_model("Llama"), questions(2)
    values = model.blocks[2].writers[0].raw_values(0)
    with torch.no_grad():
        values[:] = torch.inf
    with pytest.raises(ModelError, match="true_effect are not finite"):
        scores_of(model, TrueEffect(sample=2), prompts)


def test_an_option_that_is_none_and_a_foil_that_is_not_there_are_refused():
    model, prompts = tiny_model("Llama"), questions(2)
    with pytest.raises(OptionError, match="sample"):
        TrueEffect(sample=0)
    with pytest.raises(FactsError, match=r"'a'.*have one target"):
        scores_of(model, TrueEffect(foil="relation"), prompts)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_pass_taken_up_at_any_layer_is_the_whole_one(case):
    model, prompts = tiny_model(case), questions(4)
    before = hooks_of(model)
    batch = pad([item.ids for item in prompts], [[0, -1]] * 4)
    with torch.no_grad():
        whole = ResumablePass(model, batch)
        with record_final(model, batch) as recording:
            run(model, batch)
        assert torch.equal(whole.final, recording.inputs["final"])
        for layer in range(model.n_layers):
            assert torch.equal(whole.from_layer(layer), whole.final)
        # Taken up with another state, and with it again: nothing is left of the first.
        changed = whole.from_layer(0, 2 * whole.entering(0))
        assert (changed - whole.final).abs().max() > 1e-3
        assert torch.equal(whole.from_layer(0), whole.final)
    assert hooks_of(model) == before


@pytest.mark.parametrize("case", ["GPT-2", "OLMoE"])
def test_hooks_of_a_pass_are_gone_after_an_error(case, monkeypatch):
    model, prompts = tiny_model(case), questions(2)
    before = hooks_of(model)
    batch = pad([item.ids for item in prompts])
    with monkeypatch.context() as patch:
        patch.setattr(model.blocks[-1].module, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ResumablePass(model, batch)
    assert hooks_of(model) == before
    whole = ResumablePass(model, batch)
    with monkeypatch.context() as patch:
        patch.setattr(model.blocks[-1].module, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            whole.from_layer(0)
    with monkeypatch.context() as patch:
        patch.setattr(type(whole), "from_layer", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scores_of(model, TrueEffect(sample=1), prompts)
    assert hooks_of(model) == before


@pytest.mark.parametrize("case", ["OLMoE", "GPT-OSS"])
def test_with_the_routing_held_later_routers_do_not_answer(case):
    model, prompts = tiny_model(case, torch.float64), questions()
    units = None
    recorded = record_routing(model, [item.ids for item in prompts])
    free = scores_of(model, TrueEffect(sample=4), prompts)[0]["true_effect"]
    with replayed(model, recorded):
        held = scores_of(model, TrueEffect(sample=4), prompts)[0]["true_effect"]
        units = np.flatnonzero(~np.isnan(held[0]))
        lost = effects_of(values_of, model, units, prompts)
    assert np.abs(held[:, units].T - lost).max() < TOLERANCE
    assert np.abs(held - free)[:, units].max() > 1e-3
