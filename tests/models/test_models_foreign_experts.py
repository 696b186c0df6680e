"""DBRX and Llama 4, whose experts are held otherwise: what is read in their place computes what they do."""

import numpy as np
import pytest
import torch
from torch import nn

from flat import asked
from gated_lpi.errors import ModelError, OptionError, ReconstructionError
from gated_lpi.interventions import record_routing, replayed, silenced
from gated_lpi.loading import borrow_model, load_model, wrap_model
from gated_lpi.methods import attribute_encoded
from gated_lpi.models import with_fused_experts
from gated_lpi.options import GradientTimesActivation
from gated_lpi.pruning import ExpertRanking, prune_experts
from gated_lpi.trace import last_logits
from passes import questions, scores_of
from tiny_models import encoded, random_prompts
from tiny_types import save_tiny, tiny_config, tiny_of_type

TYPES = ("dbrx", "llama4_text")
PROMPTS = random_prompts(5)


def logits_of(module, prompts=PROMPTS):
    """Of the model as transformers has it, one prompt after the other."""
    with torch.no_grad():
        return torch.stack([module(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in prompts])


def value_vector(module, layer, expert, neuron):
    """The value vector of a unit of a routed expert where the model itself holds it, [d]."""
    if module.config.model_type == "dbrx":
        held = module.transformer.blocks[layer].ffn.experts.mlp
        return held.w2[expert * held.ffn_hidden_size + neuron]
    return module.model.layers[layer].feed_forward.experts.down_proj[expert, neuron]


def routed_units(model, n, seed=0):
    units = np.flatnonzero(model.units.expert >= 0)
    return np.random.default_rng(seed).choice(units, n, replace=False)


@pytest.mark.parametrize("model_type", TYPES)
def test_the_model_stays_as_it_was_and_shares_its_weights(model_type):
    module = tiny_of_type(model_type)
    names, theirs = list(module.state_dict()), logits_of(module)
    model = wrap_model(module)
    assert model.module is not module
    assert list(module.state_dict()) == names
    assert torch.equal(logits_of(module), theirs)
    torch.testing.assert_close(last_logits(model, PROMPTS), theirs, rtol=1e-5, atol=1e-5)
    assert model.n_parameters == sum(weight.numel() for weight in module.parameters())
    assert {w.untyped_storage().data_ptr() for w in model.module.parameters()} == {
        w.untyped_storage().data_ptr() for w in module.parameters()
    }
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.1)
    torch.testing.assert_close(logits_of(model.module), logits_of(module), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", TYPES)
def test_what_has_fused_experts_is_taken_as_it_is(model_type):
    plain = tiny_of_type("mixtral")
    assert with_fused_experts(plain) is plain
    fused = wrap_model(tiny_of_type(model_type)).module
    assert with_fused_experts(fused) is fused


@pytest.mark.parametrize("model_type", TYPES)
def test_a_silenced_unit_is_one_whose_value_vector_is_0_in_the_model_itself(model_type):
    module = tiny_of_type(model_type).double()
    model, changed = wrap_model(module), 0
    intact = logits_of(module)
    for unit in routed_units(model, 24):
        with silenced(model, np.array([unit])):
            found = last_logits(model, PROMPTS)
        held = value_vector(
            module, int(model.units.layer[unit]), int(model.units.expert[unit]), int(model.units.neuron[unit])
        )
        kept = held.detach().clone()
        with torch.no_grad():
            held.zero_()
            expected = logits_of(module)
            held.copy_(kept)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        changed += bool((expected - intact).abs().max() > 1e-6)
    assert changed > 8


@pytest.mark.parametrize("model_type", TYPES)
def test_gradient_times_activation_is_that_of_value_vectors_of_the_model_itself(model_type):
    module = tiny_of_type(model_type).double()
    model, prompts = wrap_model(module), questions(3)
    found = scores_of(model, GradientTimesActivation(), prompts)[0]["grad_x_act"]
    module.requires_grad_()
    for row, prompt in zip(found, prompts, strict=True):
        module.zero_grad()
        logits = module(torch.tensor([prompt.ids]), use_cache=False).logits[0, -1]
        logits.log_softmax(dim=-1)[prompt.target_id].backward()
        for unit in routed_units(model, 200):
            place = int(model.units.layer[unit]), int(model.units.expert[unit]), int(model.units.neuron[unit])
            with torch.no_grad():
                expected = float(value_vector(module, *place) @ gradient_of(module, *place))
            assert row[unit] == pytest.approx(expected, abs=1e-5), unit


def gradient_of(module, layer, expert, neuron):
    """The gradient of log p(target) with respect to a value vector, [d]."""
    if module.config.model_type == "dbrx":
        held = module.transformer.blocks[layer].ffn.experts.mlp
        return held.w2.grad[expert * held.ffn_hidden_size + neuron]
    return module.model.layers[layer].feed_forward.experts.down_proj.grad[expert, neuron]


@pytest.mark.parametrize("model_type", TYPES)
def test_scores_are_those_of_the_reference_under_every_gate(model_type):
    model = wrap_model(tiny_of_type(model_type).double())
    for gate in ("gated", "uniform", "ungated"):
        expected, found = (
            attribute_encoded(model, encoded(PROMPTS), *asked(estimator=estimator, gate=gate))[0].result("lpi")
            for estimator in ("reference", "exact")
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert np.abs(expected).max() > 1e-3


def test_gates_of_experts_that_were_not_chosen_are_had_where_they_multiply_outputs_alone():
    prompts = encoded(PROMPTS)
    assert attribute_encoded(wrap_model(tiny_of_type("dbrx")), prompts, *asked(gate="open"))
    with pytest.raises(OptionError, match="its gates multiply what goes into experts too"):
        attribute_encoded(wrap_model(tiny_of_type("llama4_text")), prompts, *asked(gate="open"))


@pytest.mark.parametrize("model_type", TYPES)
def test_routing_is_recorded_and_replayed(model_type):
    model = wrap_model(tiny_of_type(model_type))
    intact, recorded = last_logits(model, PROMPTS), record_routing(model, PROMPTS)
    router = next(iter(model.routed()))[1].router
    kept = router.weight.detach().clone()
    with torch.no_grad():
        router.weight.neg_()
        assert not torch.allclose(last_logits(model, PROMPTS), intact, atol=1e-3)
        with replayed(model, recorded):
            torch.testing.assert_close(last_logits(model, PROMPTS), intact)
        router.weight.copy_(kept)


def test_layers_of_llama_4_may_be_dense():
    config = tiny_config("llama4_text")
    config.moe_layers, config.num_hidden_layers = [1], 2
    module = type(tiny_of_type("llama4_text"))(config).eval()
    model = wrap_model(module)
    assert [writer.kind for block in model.blocks for writer in block.writers if block.kind == "ffn"] == [
        "dense",
        "routed",
        "shared",
    ]


@pytest.mark.parametrize("model_type", TYPES)
def test_a_saved_model_is_loaded_and_its_notes_say_what_was_read(model_type, tmp_path):
    module = save_tiny(model_type, tmp_path)
    model = load_model(str(tmp_path))
    assert "read is a form with a router and fused experts" in " ".join(model.notes)
    torch.testing.assert_close(last_logits(model, PROMPTS), logits_of(module), rtol=1e-5, atol=1e-5)


def test_a_model_in_training_goes_on_as_if_nothing_had_been_done():
    module = tiny_of_type("llama4_text").train()
    module.requires_grad_()
    names = [name for name, _ in module.named_modules()]
    with borrow_model(module) as model:
        assert not model.module.training
        assert all(part is not other for part in module.modules() for other in model.module.modules())
    assert all(part.training and not part._forward_hooks and not part._forward_pre_hooks for part in module.modules())
    assert all(weight.requires_grad for weight in module.parameters())
    assert [name for name, _ in module.named_modules()] == names


def test_another_way_to_compute_experts_is_refused(monkeypatch):
    module = tiny_of_type("dbrx")
    experts = type(module.transformer.blocks[0].ffn.experts)
    plain = experts.forward
    monkeypatch.setattr(experts, "forward", lambda self, *given: 0.9 * plain(self, *given))
    with pytest.raises(ReconstructionError, match="its logits are others: relative error"):
        wrap_model(module)


def test_a_class_of_that_name_that_is_not_transformers_own_is_left_alone():
    class DbrxFFN(nn.Module):
        pass

    module = tiny_of_type("mixtral")
    module.model.aside = DbrxFFN()
    assert with_fused_experts(module) is module


def test_experts_are_not_removed_from_checkpoints_that_hold_them_otherwise():
    model = wrap_model(tiny_of_type("dbrx"))
    layers = np.array([block.layer for block, _ in model.routed()])
    ranking = ExpertRanking("random", layers, np.random.default_rng(0).random((len(layers), 8)))
    with pytest.raises(ModelError, match="hold experts otherwise than transformers fuses them"):
        prune_experts(model, ranking, keep=4)
