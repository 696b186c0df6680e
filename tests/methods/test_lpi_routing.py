"""What the router does to scores, seen from outside: by edits of experts, prompts and gates with known consequences.

1. An expert is routed to exactly where a change of its weights changes what its block writes.
2. A dense FFN cut into experts that are all routed to with gate 1 is the same function, and gets the same scores.
3. A smaller gate with a down projection larger by as much is the same contribution, and gets the same score.
"""

import itertools

import numpy as np
import pytest
import torch

from flat import asked
from gated_lpi.loading import wrap_model
from gated_lpi.methods import attribute_encoded
from gated_lpi.models import Model, Writer
from gated_lpi.trace import trace
from tiny_models import MOE_CASES, encoded, random_prompts, tiny_model, tiny_module

TOLERANCE = 1e-6  # norms and routers cast to float32 inside
WITH_SHARED = ("Qwen2-MoE", "DeepSeek-V2", "DeepSeek-V3")


def unit_scores(model: Model, prompts: list[list[int]]) -> np.ndarray:
    collector, _ = attribute_encoded(model, encoded(prompts), *asked(units=("ffn", "attention"), estimator="exact"))
    return collector.result("lpi")


def routed_blocks(model: Model) -> list[tuple[int, Writer]]:
    """Index of each block with routed experts, and the writer that holds them."""
    return [(index, writer) for index, b in enumerate(model.blocks) for writer in b.writers if writer.kind == "routed"]


def experts_in_use(model: Model, prompts: list[list[int]]) -> dict[int, np.ndarray]:
    """For each layer with experts, [P, E]: whether doubling an expert's down projection changes what is written."""
    before = trace(model, prompts)
    used = {}
    for index, writer in routed_blocks(model):
        changed = []
        for down in writer.module.down_proj:
            down.mul_(2)
            changed.append((trace(model, prompts).blocks[index].written != before.blocks[index].written).any(dim=1))
            down.div_(2)
        used[model.blocks[index].layer] = torch.stack(changed, dim=1).numpy()
    return used


@torch.no_grad()
@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_units_score_zero_exactly_where_their_expert_does_nothing(case):
    model, prompts = tiny_model(case, torch.float64), random_prompts(4)
    scores, units = unit_scores(model, prompts), model.units
    used = experts_in_use(model, prompts)
    expected = np.ones_like(scores, dtype=bool)
    for unit in np.flatnonzero(units.expert >= 0):
        expected[:, unit] = used[units.layer[unit]][:, units.expert[unit]]
    assert all((in_layer.sum(axis=1) == 2).all() for in_layer in used.values())
    np.testing.assert_array_equal(scores != 0, expected)


@torch.no_grad()
@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_prompts_of_disjoint_experts_do_not_meet(case):
    model, prompts = tiny_model(case, torch.float64), random_prompts(16)
    used = np.concatenate(list(experts_in_use(model, prompts).values()), axis=1)
    pair = next((i, j) for i, j in itertools.combinations(range(16), 2) if not (used[i] & used[j]).any())
    chosen = [prompts[i] for i in pair]
    together = unit_scores(model, chosen)
    alone = np.concatenate([unit_scores(model, [ids]) for ids in chosen])
    np.testing.assert_allclose(together, alone, rtol=0, atol=TOLERANCE)
    nonzero = (together != 0)[:, model.units.expert >= 0]
    assert nonzero.any(axis=1).all()
    assert not nonzero.all(axis=0).any()


@pytest.mark.parametrize("case", WITH_SHARED)
def test_shared_experts_always_score(case):
    model = tiny_model(case, torch.float64)
    shared = model.units.shared
    assert shared.sum() in (24, 32)
    assert (model.units.expert[shared] == -1).all()
    assert (unit_scores(model, random_prompts(6))[:, shared] != 0).all()


def qwen_with_shared_gate(prompt: list[int], logit: float) -> Model:
    """Qwen2-MoE whose shared expert's gate logit is `logit` at the prompt's last position."""
    model = tiny_model("Qwen2-MoE", torch.float64)
    gate = model.module.model.layers[1].mlp.shared_expert_gate
    seen = []
    with gate.register_forward_pre_hook(lambda _, args: seen.append(args[0].reshape(-1, 32)[-1])):
        model.module(torch.tensor([prompt]))
    gate.weight.copy_(logit * seen[0] / seen[0].square().sum())
    return model


@torch.no_grad()
def test_shared_units_scale_with_their_gate_down_to_nothing():
    prompt = random_prompts(1)[0]
    scores = {logit: unit_scores(qwen_with_shared_gate(prompt, logit), [prompt])[0] for logit in (0, -12, -15, -40)}
    shared = qwen_with_shared_gate(prompt, 0).units.shared
    assert np.abs(scores[0][shared]).max() > 1e-2
    # So small a contribution scores in proportion to its gate.
    ratio = np.exp(-3) * (1 + np.exp(-12)) / (1 + np.exp(-15))
    np.testing.assert_allclose(scores[-15][shared], ratio * scores[-12][shared], rtol=1e-3, atol=1e-13)
    assert np.abs(scores[-40][shared]).max() < 1e-14
    # The other units keep theirs once the shared expert is silent.
    np.testing.assert_allclose(scores[-40][~shared], scores[-15][~shared], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_half_a_shared_gate_and_twice_the_down_projection_change_no_score():
    prompt = random_prompts(1)[0]
    whole, half = qwen_with_shared_gate(prompt, 40), qwen_with_shared_gate(prompt, 0)
    half.module.model.layers[1].mlp.shared_expert.down_proj.weight.mul_(2)
    found, expected = unit_scores(half, [prompt]), unit_scores(whole, [prompt])
    assert np.abs(expected[:, whole.units.shared]).max() > 1e-2
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_smaller_gates_and_larger_down_projections_change_no_score(case):
    model, prompts = tiny_model(case, torch.float64), random_prompts(4)
    expected = unit_scores(model, prompts)
    factors = 2.0 ** (torch.arange(8) % 3)  # not one for all experts, which a post-norm would undo
    for _, writer in routed_blocks(model):
        writer.module.register_forward_pre_hook(lambda _, args: (*args[:2], args[2] / factors[args[1]]))
    assert np.abs(unit_scores(model, prompts) - expected).max() > 1e-2
    for _, writer in routed_blocks(model):
        writer.module.down_proj.mul_(factors.view(-1, 1, 1))
        if writer.bias_parameter is not None:
            writer.bias_parameter.mul_(factors.view(-1, 1))
    np.testing.assert_allclose(unit_scores(model, prompts), expected, rtol=0, atol=TOLERANCE)


def cut_ffn(n_experts: int, width: int, gate: float) -> tuple[Model, Model]:
    """A dense model, and the same with each FFN cut into experts that every token is routed to with this gate.

    Expert e holds the dense FFN's neurons from e · width on, its down projection divided by the gate. A router of
    zeros gives each expert 1/n_experts, which the family multiplies by `routed_scaling_factor`.
    """
    sizes = {"intermediate_size": n_experts * width, "moe_intermediate_size": width, "n_routed_experts": n_experts}
    dense = tiny_module("DeepSeek-V2", torch.float64, first_k_dense_replace=2, **sizes)
    routing = {"num_experts_per_tok": n_experts, "routed_scaling_factor": n_experts * gate}
    cut = tiny_module("DeepSeek-V2", torch.float64, first_k_dense_replace=0, **sizes, **routing)
    common = {name: value for name, value in dense.state_dict().items() if ".mlp." not in name}
    cut.load_state_dict(common, strict=False)
    for whole, parts in zip(dense.model.layers, cut.model.layers, strict=True):
        rows = [part.weight.view(n_experts, width, -1) for part in (whole.mlp.gate_proj, whole.mlp.up_proj)]
        parts.mlp.experts.gate_up_proj.copy_(torch.cat(rows, dim=1))
        columns = whole.mlp.down_proj.weight.view(-1, n_experts, width).transpose(0, 1)
        parts.mlp.experts.down_proj.copy_(columns / gate)
        parts.mlp.gate.weight.zero_()
        parts.mlp.shared_experts.down_proj.weight.zero_()
    return wrap_model(dense), wrap_model(cut)


def coordinates(layer: np.ndarray, head: np.ndarray, neuron: np.ndarray) -> list[tuple[int, int, int]]:
    return list(zip(layer.tolist(), head.tolist(), neuron.tolist(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("gate", [1.0, 0.5])
def test_a_dense_ffn_cut_into_experts_keeps_its_scores(gate):
    n_experts, width = 6, 8
    dense, cut = cut_ffn(n_experts, width, gate)
    prompts = random_prompts(4)
    whole, parts = unit_scores(dense, prompts), unit_scores(cut, prompts)
    units, shared = cut.units, cut.units.shared
    assert not parts[:, shared].any()
    place = {key: i for i, key in enumerate(coordinates(dense.units.layer, dense.units.head, dense.units.neuron))}
    neurons = np.where(units.expert >= 0, units.expert * width + units.neuron, units.neuron)
    matching = [place[key] for key in coordinates(units.layer[~shared], units.head[~shared], neurons[~shared])]
    assert sorted(matching) == list(range(len(dense.units)))
    np.testing.assert_allclose(parts[:, ~shared], whole[:, matching], rtol=0, atol=TOLERANCE)
