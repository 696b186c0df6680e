"""Unit contributions and biases rebuild what the model computes, or loading refuses the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gated_lpi.errors import ModelError, ReconstructionError
from gated_lpi.loading import verify, wrap_model
from gated_lpi.models import find_family
from gated_lpi.trace import reads_what_was_written
from tiny_models import CASES, random_prompts, tiny_model, tiny_module

LIMITS = {torch.float32: 6e-6, torch.float64: 8e-7}


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_contributions_rebuild_blocks_residual_and_logits(case, dtype):
    model = tiny_model(case, dtype)
    check = verify(model, random_prompts(8))
    assert check.worst < LIMITS[dtype]
    if dtype == torch.float64 and model.blocks[0].post_norm is None:  # post-norms cast to float32 inside
        assert max(check.block, check.residual) < 1e-14


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_block_that_writes_something_else_is_named(case):
    module = tiny_module(case)
    block = wrap_model(module).blocks[3]
    block.module.register_forward_hook(
        lambda _m, _a, out: (out[0] * 1.01, *out[1:]) if isinstance(out, tuple) else out * 1.01
    )
    with pytest.raises(ReconstructionError, match="the output of layer 1 ffn"):
        wrap_model(module)


def test_a_layer_that_adds_more_than_its_blocks_is_named():
    module = tiny_module("Llama")
    module.model.layers[0].register_forward_hook(lambda _m, _a, out: out + 0.1)
    with pytest.raises(ReconstructionError, match="the output of layer 0"):
        wrap_model(module)


def test_logits_that_are_not_the_readouts_are_refused():
    module = tiny_module("Llama")
    module.lm_head.register_forward_hook(lambda _m, _a, out: out * 2)
    with pytest.raises(ReconstructionError, match="the logits"):
        wrap_model(module)


def test_not_finite_activations_are_refused():
    module = tiny_module("Llama")
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ReconstructionError, match="layer 1 ffn"):
        wrap_model(module)


def test_a_part_that_is_not_there_is_named():
    module = tiny_module("Llama")
    del module.model.layers[0].mlp.down_proj
    with pytest.raises(ModelError, match="down_proj"):
        wrap_model(module)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_that_say_the_contrary_of_what_ffns_read_are_refused(case):
    module = tiny_module(case)
    known = find_family(module.config.model_type)
    parallel = wrap_model(module).parallel
    wrong = replace(known, parallel=not parallel, parallel_attribute=None)
    does = "reads the layer's input, beside attention" if parallel else "reads what attention writes"
    expected = f"layer 0 ffn of this .* model {does}.* a row for this model has parallel = {str(parallel).lower()}"
    with pytest.raises(ReconstructionError, match=expected):
        wrap_model(module, family=wrong)
    right = wrap_model(module, family=replace(wrong, parallel=parallel))
    assert "has a row of its own in the table of families, which is not used; the row was given" in right.notes[-1]


def test_a_config_that_says_the_contrary_of_its_weights_code_is_named():
    module = tiny_module("GPT-NeoX (Pythia)")
    module.config.use_parallel_residual = False  # of the config alone: the layers have it from when they were made
    with pytest.raises(ReconstructionError, match=r"\(parallel = false, by use_parallel_residual of the config\)"):
        wrap_model(module)


def test_what_ffns_read_is_seen_whatever_attention_writes():
    model = tiny_model("GPT-NeoX (Pythia) sequential")
    for block in model.blocks:
        if block.kind == "attention":
            torch.nn.init.zeros_(block.writers[0].module.weight)
            torch.nn.init.zeros_(block.writers[0].module.bias)
    assert reads_what_was_written(model, [1, 2, 3]) == {b.name: b.kind == "ffn" for b in model.blocks}
    torch.nn.init.constant_(model.blocks[1].module.dense_h_to_4h.bias, -100.0)  # units that are all off tell nothing
    torch.nn.init.zeros_(model.blocks[1].module.dense_h_to_4h.weight)
    assert "layer 0 attention" in reads_what_was_written(model, [1, 2, 3])
    assert "layer 0 ffn" not in reads_what_was_written(model, [1, 2, 3])


def test_what_ffns_read_is_seen_of_ill_models_too():
    module = tiny_module("OLMo2")
    torch.nn.init.zeros_(module.model.layers[0].post_attention_layernorm.weight)  # what attention writes is 0, always
    found = reads_what_was_written(wrap_model(module), [1, 2, 3])
    assert set(found) == {"layer 1 attention", "layer 1 ffn"}
    module = tiny_module("Llama")
    module.model.layers[0].self_attn.o_proj.weight.data.mul_(1e7)  # far longer than the stream
    module.model.layers[1].mlp.up_proj.weight.data.mul_(1e30)  # squares beyond float32
    module.model.layers[1].mlp.down_proj.weight.data.mul_(1e-30)
    model = wrap_model(module)
    assert reads_what_was_written(model, [1, 2, 3]) == {b.name: b.kind == "ffn" for b in model.blocks}


def test_the_check_is_kept_with_the_model():
    model = tiny_model("OLMoE")
    assert model.reconstruction is not None
    assert 0 < model.reconstruction.worst < model.reconstruction.tolerance
    assert model.provenance["compute_dtype"] == "float32"


def test_coverage_counts_biases_that_belong_to_no_unit():
    assert tiny_model("OLMoE").coverage == 1.0
    module = tiny_module("Llama")
    # 2 layers × (output bias of attention 32 + of the FFN 32) of all parameters but embeddings and norms
    inside = sum(p.numel() for n, p in module.named_parameters() if "layers" in n and "norm" not in n)
    assert wrap_model(module).coverage == pytest.approx(1 - 2 * 64 / inside)


def test_unit_order_is_layer_block_expert_neuron():
    units = tiny_model("Qwen3-MoE").units
    # layer 0: 4 heads × 16, dense FFN 48; layer 1: 64 attention units, 8 experts × 16
    assert len(units) == 64 + 48 + 64 + 128
    assert (np.diff(units.layer) >= 0).all()
    assert units.block[[0, 64, 112, 176]].tolist() == ["attention", "ffn", "attention", "ffn"]
    assert units.expert[[0, 64, 176, 192, 303]].tolist() == [-1, -1, 0, 1, 7]
    assert units.head[[0, 16, 63, 64]].tolist() == [0, 1, 3, -1]
    assert units.neuron[[0, 16, 63, 64, 65, 192]].tolist() == [0, 0, 15, 0, 1, 0]
    assert not units.shared.any()
