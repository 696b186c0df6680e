"""A model on another device is attributed and ablated there: on a GPU if there is one, else on an emulated device."""

import numpy as np
import pytest
import torch

from flat import asked, attribute, certified
from gated_lpi.ablation import head_units, silenced, target_ranks
from gated_lpi.facts import encode
from gated_lpi.loading import wrap_model
from gated_lpi.methods import BlockProblem, attribute_encoded
from gated_lpi.models import Readout
from gated_lpi.trace import Slab
from other_device import OTHER, OtherDevice, spread_over_two
from tiny_models import CASES, encoded, random_prompts, tiny_module
from tiny_text import FACTS, speaking_model, tiny_tokenizer


def scores(module, **options):
    """Scores of five prompts, and the bounds."""
    with torch.no_grad():
        collector, results = attribute_encoded(wrap_model(module), encoded(random_prompts(5)), *asked(**options))
    return collector.result("lpi").astype(float), results.blocks["error_bound"]


@pytest.mark.parametrize("estimator", [pytest.param("exact", marks=pytest.mark.slow), "fast"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_family_scores_the_same_on_another_device(case, estimator):
    here, bound = scores(tiny_module(case), estimator=estimator)
    with OtherDevice():
        there, bound_there = scores(tiny_module(case).to(OTHER), estimator=estimator)
    widths = [block.n_units for block in wrap_model(tiny_module(case)).blocks]
    allowed = np.repeat(bound + bound_there, widths, axis=1) + 1e-5  # what exact sums may differ by in float32
    assert (np.abs(here - there) <= allowed).all()
    assert np.abs(there).max() > 0.01


CHOICES = {
    "by position": {"positions": "resolved"},
    "top-1 targets": {"target": "top1"},
    "recomputed norm": {"norm": "recomputed"},
    "little memory": {"memory": "64MB"},
    "reference": {"estimator": "reference"},
}


@pytest.mark.parametrize("options", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("case", ["GPT-2", "OLMoE"])
def test_options_hold_on_another_device(case, options):
    here, _ = scores(tiny_module(case), **options)
    with OtherDevice():
        there, _ = scores(tiny_module(case).to(OTHER), **options)
    assert np.abs(here - there).max() <= 2e-3


def test_a_result_with_groups_is_read_back_whole():
    here = attribute(speaking_model("OLMoE"), FACTS, templates="all")
    with OtherDevice():
        there = attribute(wrap_model(tiny_module("OLMoE").to(OTHER), tiny_tokenizer()), FACTS, templates="all")
    assert set(here.data_vars) == set(there.data_vars)
    for name in here.data_vars:
        if here[name].dtype.kind == "f":
            np.testing.assert_allclose(here[name], there[name], atol=2e-3, err_msg=name)


@pytest.mark.parametrize("case", ["Llama", "OLMoE"])
@pytest.mark.parametrize("placed", [lambda module: module.to(OTHER), lambda module: spread_over_two(module)])
def test_ablations_hold_on_other_devices(case, placed):
    def ranks(model):
        facts = encode(model.tokenizer, FACTS.prompts("all"))
        with silenced(model, np.concatenate([head_units(model, 1), np.arange(0, len(model.units), 7)])):
            return target_ranks(model, facts)

    here = ranks(speaking_model(case))
    with OtherDevice():
        there = ranks(wrap_model(placed(tiny_module(case)), tiny_tokenizer()))
    assert (here == there).all()


SPREAD = {
    "exact": {"estimator": "exact"},
    "fast": {"estimator": "fast"},
    "by position": {"positions": "resolved"},
    "reference": {"estimator": "reference"},
}


@pytest.mark.parametrize(
    "options",
    [pytest.param(SPREAD[name], id=name, marks=[pytest.mark.slow] if name == "reference" else []) for name in SPREAD],
)
@pytest.mark.parametrize("case", ["Llama", "GPT-2", "OLMo2", "Gemma3", "OLMoE", "Qwen2-MoE", "DeepSeek-V2", "GPT-OSS"])
def test_a_model_spread_over_two_devices_scores_the_same(case, options):
    here, _ = scores(tiny_module(case), **options)
    with OtherDevice():
        module = spread_over_two(tiny_module(case))
        assert len({parameter.device for parameter in module.parameters()}) == 2
        there, _ = scores(module, **options)
    assert np.abs(here - there).max() <= 2e-3


def block_of(vocabulary, device="cpu"):
    """A block whose units take every step of the fast estimator."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    weight, base, values = normal(vocabulary, 32), 2 * normal(12, 32), normal(600, 32) / 32**0.5
    coefficients = normal(12, 600) * torch.logspace(-4, 2, 600)
    gamma, targets = torch.ones(32), torch.arange(12)
    if device != "cpu":
        weight, base, values, coefficients, gamma, targets = (
            tensor.to(device) for tensor in (weight, base, values, coefficients, gamma, targets)
        )
    readout = Readout(weight, None, gamma, None, centred=False, eps=1e-6)
    slab = Slab(0, values, coefficients.double(), None)
    scale = readout.inverse_scale(base)
    return BlockProblem(readout, base, scale, targets, (slab,), len(values))


def test_every_step_of_the_fast_estimator_runs_there_and_waits_as_often_for_more_tokens():
    reads = []
    for vocabulary in (20_000, 30_000):
        here = certified(block_of(vocabulary), 1e-3)
        with OtherDevice() as device:
            problem = block_of(vocabulary, OTHER)
            there = certified(problem, 1e-3)
            reads.append(device.reads)
            assert there.scores.device.type == there.error_bound.device.type == OTHER
            scores, bound, tiers = there.scores.cpu(), there.error_bound.cpu(), there.tiers.cpu()
        assert ((scores - here.scores).abs() <= (bound + here.error_bound).unsqueeze(-1)).all()
        assert (tiers.sum(dim=0) > 0).all()
    assert reads[0] == reads[1] > 0


def test_tensors_of_two_devices_do_not_mix():
    """What the emulation is for."""
    with OtherDevice() as device:
        there = torch.ones(2, 3, device=OTHER)
        with pytest.raises(RuntimeError, match=r"(one|same) device"):
            there + torch.ones(3)
        assert device.reads == 0
        assert ((there @ there.T).sum() * torch.tensor(2.0)).item() == 24
        assert there.cpu().sum() == 6
        assert device.reads == 2
