"""The router of every mixture-of-experts family: found by its row, and said to score experts as it does."""

import pytest
import torch

from gated_lpi.errors import ModelError
from gated_lpi.models import build_model
from tiny_models import CASES, MOE_CASES, random_prompts, tiny_model, tiny_module


def outputs(model, prompt):
    """What each router returns for a prompt: logits, gates, experts."""
    seen = []
    handles = [
        writer.router.register_forward_hook(lambda _, __, output: seen.append(output)) for _, writer in model.routed()
    ]
    with torch.no_grad():
        model.module(torch.tensor([prompt]))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_every_router_gives_logits_gates_and_experts(case):
    model, prompt = tiny_model(case), random_prompts(1)[0]
    seen = outputs(model, prompt)
    assert len(seen) == sum(writer.kind == "routed" for block in model.blocks for writer in block.writers) > 0
    assert model.experts_per_token == 2
    for logits, gates, experts in seen:
        assert logits.shape == (len(prompt), 8)
        assert gates.shape == experts.shape == (len(prompt), 2)


# Of these the gates are those of all experts, some left out: nothing is normalised after the choice.
UNTOUCHED = ("OLMoE", "FlexOlmo", "Qwen2-MoE", "Qwen3-MoE", "DeepSeek-V2")
RENORMALISED = ("Mixtral", "GPT-OSS", "Granite-MoE", "DeepSeek-V3")


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_full_gates_are_those_of_the_router_before_it_chooses(case):
    model = tiny_model(case, torch.float64)
    scale = {"DeepSeek-V2": 1.5, "DeepSeek-V3": 2.5}.get(case.name, 1.0)
    for (_, writer), (logits, gates, experts) in zip(model.routed(), outputs(model, random_prompts(1)[0]), strict=True):
        full = writer.full_gates(logits)
        assert full.shape == logits.shape
        assert torch.allclose(full.sum(dim=-1), full.new_tensor(scale))
        chosen = full.gather(-1, experts)
        if case.name in RENORMALISED:  # after the choice, over the experts chosen
            chosen = scale * chosen / chosen.sum(dim=-1, keepdim=True)
        if case.name in (*UNTOUCHED, *RENORMALISED):
            assert torch.allclose(chosen, gates.to(chosen.dtype), atol=1e-6)
        else:  # PhiMoE's sparsemixer leaves out, of each choice, what is far from the best
            assert (gates >= chosen - 1e-6).all()


@pytest.mark.parametrize("case", [case for case in CASES if case not in MOE_CASES], ids=str)
def test_a_dense_model_has_no_router(case):
    model = tiny_model(case)
    assert list(model.routed()) == []
    assert model.experts_per_token == 0
    assert all(writer.router is None for block in model.blocks for writer in block.writers)


def test_a_router_that_is_not_where_the_row_says_is_an_error():
    module = tiny_module("OLMoE")
    mlp = module.model.layers[1].mlp
    mlp.chooser = mlp.gate
    del mlp.gate
    with pytest.raises(ModelError, match="OLMoE row of the table of families expects 'gate'"):
        build_model(module)
