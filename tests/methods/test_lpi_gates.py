"""With what weight routed experts count: every variant of the gate, on every family, against the equation."""

import itertools

import numpy as np
import pytest
import torch

from flat import asked, attribute
from gated_lpi.errors import OptionError
from gated_lpi.methods import attribute_encoded, block_problems, problem_of, unit_lpi
from gated_lpi.models import Model
from gated_lpi.trace import trace
from tiny_models import MOE_CASES, encoded, random_prompts, tiny_model
from tiny_text import FACTS, speaking_model

GATES = ("gated", "uniform", "ungated", "open")
UNITS = ("ffn", "attention")
TARGET = 5
SOME = ("OLMoE", "DeepSeek-V3", "GPT-OSS")  # softmax, sigmoid, with biases
NORMS = [
    *((case, "frozen") for case in MOE_CASES),
    *(pytest.param(c, "recomputed", marks=[] if str(c) in SOME else pytest.mark.slow) for c in MOE_CASES),
]


def scores(model, prompts, name="lpi", **options):
    found, _ = attribute_encoded(model, encoded(prompts, TARGET), *asked(**{"estimator": "exact"} | options))
    return found.result(name)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("case", "norm"), NORMS, ids=str)
def test_every_estimator_agrees_with_the_reference(case, gate, norm):
    model, prompts = tiny_model(case, torch.float64), random_prompts(3)
    true = scores(model, prompts, units=UNITS, estimator="reference", gate=gate, norm=norm)
    assert np.abs(scores(model, prompts, units=UNITS, gate=gate, norm=norm) - true).max() < 1e-8
    certified = scores(model, prompts, units=UNITS, estimator="certified", tolerance=1e-4, gate=gate, norm=norm)
    assert np.abs(certified - true).max() <= 1e-4
    routed = model.units.expert >= 0
    idle = (true[:, routed] == 0).all(axis=0).mean()
    assert (idle == 0) == (gate == "open")


def weights(model: Model, prompts: list[list[int]], gate: str) -> dict[int, torch.Tensor]:
    """For each layer with experts, the weight [P, E] that each expert's output counts with, from what routers say."""
    seen: dict[int, list[torch.Tensor]] = {}
    for ids in prompts:
        for block, writer in model.routed():
            with (
                torch.no_grad(),
                writer.router.register_forward_hook(
                    lambda _, __, output, layer=block.layer: seen.setdefault(layer, []).append(output)
                ),
            ):
                model.module(torch.tensor([ids]))
    found = {}
    for layer, outputs in seen.items():
        rows = []
        for logits, gates, experts in outputs:
            row, chosen, g = torch.zeros(8, dtype=torch.float64), experts[-1], gates[-1].double()
            if gate == "open":
                score = logits[-1].sigmoid() if model.family.name == "DeepSeek-V3" else logits[-1].softmax(-1)
                scale = {"DeepSeek-V2": 1.5, "DeepSeek-V3": 2.5}.get(model.family.name, 1.0)
                row[:] = scale * score / score.sum()
            else:
                row[chosen] = {"gated": g, "uniform": g.mean().expand(2), "ungated": torch.ones(2).double()}[gate]
            rows.append(row)
        found[layer] = torch.stack(rows)
    return found


@torch.no_grad()
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("case", "norm"), NORMS, ids=str)
def test_experts_score_what_the_fused_experts_would_write_with_that_weight(case, gate, norm):
    model, prompts = tiny_model(case, torch.float64), random_prompts(3)
    found = scores(model, prompts, "expert_lpi", gate=gate, norm=norm)
    traced, given = trace(model, prompts), weights(model, prompts, gate)
    sigma = model.readout.inverse_scale(traced.final_residual) if norm == "frozen" else None
    for index, writer in ((2 * block.layer + 1, writer) for block, writer in model.routed()):
        block, seen, inputs = model.blocks[index], traced.blocks[index], []
        with writer.module.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0][-1:])):
            for ids in prompts:
                model.module(torch.tensor([ids]))
        first = int(np.flatnonzero(model.experts.layer == block.layer)[0])
        for prompt, expert in itertools.product(range(3), range(8)):
            alone = torch.tensor([[expert, expert]]), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
            output = writer.module(inputs[prompt], *alone)[0]
            bias = writer.bias_parameter
            output = output if bias is None else output - bias[expert]
            contribution = given[block.layer][prompt, expert] * output * block.multiplier
            if block.post_norm is not None:
                contribution = contribution * block.post_norm.weight * seen.scale[prompt]
            held = None if sigma is None else sigma[prompt]
            expected = unit_lpi(seen.base[prompt], contribution, TARGET, model.readout, held)
            assert found[prompt, first + expert] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("case", ["OLMoE", "Qwen2-MoE", "DeepSeek-V2"])
def test_where_every_expert_is_chosen_all_gates_but_the_even_ones_are_the_routers(case):
    model, prompts = tiny_model(case, torch.float64, num_experts_per_tok=8), random_prompts(3)
    gated = scores(model, prompts, units=UNITS)
    assert np.abs(scores(model, prompts, units=UNITS, gate="open") - gated).max() < 1e-6
    assert np.abs(scores(model, prompts, units=UNITS, gate="uniform") - gated).max() > 1e-3


@pytest.mark.parametrize("gate", GATES[1:])
def test_attention_dense_layers_and_shared_experts_keep_their_scores(gate):
    model, prompts = tiny_model("Qwen2-MoE"), random_prompts(4)
    gated, found = (scores(model, prompts, units=UNITS, gate=one) for one in ("gated", gate))
    routed = model.units.expert >= 0
    assert np.array_equal(found[:, ~routed], gated[:, ~routed])
    assert np.abs(found[:, routed] - gated[:, routed]).max() > 1e-3


@pytest.mark.parametrize("gate", GATES[1:])
def test_what_the_router_did_is_told_whatever_the_gate(gate):
    model = speaking_model("OLMoE")
    plain, found = (attribute(model, FACTS, gate=one) for one in ("gated", gate))
    for name in ("expert_utilisation", "expert_gate", "target_logprob", "base_logprob"):
        assert np.array_equal(found[name], plain[name])
    assert found.attrs["gate"] == gate
    blocks = found["block_kind"].values == "ffn"
    assert (found["block_lpi"].values != plain["block_lpi"].values)[:, blocks].all()


def test_batches_and_caps_change_no_score():
    model, prompts = tiny_model("OLMoE"), random_prompts(6)
    together = scores(model, prompts, units=UNITS, gate="open")
    for options in ({"batch_size": 1}, {"memory": "19MB"}):
        assert np.abs(scores(model, prompts, units=UNITS, gate="open", **options) - together).max() < 2e-5


@pytest.mark.parametrize("gate", GATES[1:])
def test_a_dense_model_refuses_all_but_its_own(gate):
    model = tiny_model("Llama")
    with pytest.raises(
        OptionError, match=f"gate='{gate}' was given, which is for routed experts.*Llama model has none"
    ):
        scores(model, random_prompts(2), gate=gate)
    with pytest.raises(OptionError, match="gate='gated'"):
        next(block_problems(model, encoded(random_prompts(2)), gate=gate))


def test_problems_of_ones_own_have_the_gate_that_was_asked_for():
    model, prompts = tiny_model("OLMoE"), encoded(random_prompts(3))
    problems = {gate: [one for _, one in block_problems(model, prompts, gate=gate)][1] for gate in GATES}
    assert {problem.gate for problem in problems.values()} == set(GATES)
    held = {gate: sum(len(slab.values) for slab in problem.slabs) for gate, problem in problems.items()}
    assert held["open"] == 8 * 16 >= held["gated"] == held["uniform"] == held["ungated"]


def test_a_trace_without_all_experts_cannot_be_open():
    model = tiny_model("OLMoE")
    seen = trace(model, random_prompts(2)).blocks[1]
    with pytest.raises(OptionError, match="all_experts=True"):
        problem_of(model.readout, model.blocks[1], seen, torch.tensor([1, 2]), None, "open")


def test_a_gate_that_is_none_is_refused():
    with pytest.raises(OptionError, match=r"gate: .*'gated', 'uniform', 'ungated' or 'open'"):
        asked(gate="closed")
