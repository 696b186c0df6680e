"""Rows that are read off models: those of the table again, scales that stand nowhere in names, and what is refused."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from flat import asked
from gated_lpi.errors import ModelError, OptionError, ReconstructionError, UnknownFamilyError
from gated_lpi.loading import verify, wrap_model
from gated_lpi.methods import attribute_encoded
from gated_lpi.models import build_model, find_family, foreign_experts, propose, read_row, row_as_toml
from gated_lpi.models.proposing import refuse_type
from other_device import OtherDevice, spread_over_two
from tiny_models import CASES, encoded, random_prompts, tiny_module
from tiny_types import OVERRIDES, TYPES, tiny_config, tiny_of_type

# What a row says beside where parts are and what scales them.
SAID_OTHERWISE = {
    "name",
    "parallel",
    "parallel_attribute",  # read off the model as it runs, not off its config
    "norms_in_float32",
    "fewest_experts",
    "router_score",
}

# Types of the newest transformers; an older one lacks some.
SCALED = ("gemma4_text", "cohere2_moe", "minimax_m3_vl_text", "opt", "granitemoeshared")
REFUSED = (
    ("rwkv", r"RwkvFeedForward\) changes it, dimension by dimension or across positions"),
    ("zamba", r"what model\.layers\.1\.shared_transf puts out is not added to the residual stream"),
    ("minimax", r"post_attention_layernorm normalises the residual stream itself: what it returns is passed on"),
    ("inkling_text", r"InklingShortConvolution\) mixes positions and has no output projection"),
    ("qwen4_exp_text", "4 vectors for each token, side by side"),
    ("gpt_neox_japanese", "that and a vector beside it, a bias that stands elsewhere"),
    ("bert", "what stands later in a text changes what it computes earlier"),
    ("trocr", r"encoder_attn \(TrOCRAttention\): cross-attention"),
    ("openai-gpt", r"h\.0\.ln_2 normalises the residual stream itself"),
    ("hy_v4", r"tensor of shape \[2, 8, 4, 32\] for \[2, 8\] tokens"),
    ("hrm_text", "run more than once"),
    ("jetmoe", "experts of attention"),
    ("longcat_flash", "has 2 attention blocks"),
    ("modernbert-decoder", "between model.final_norm and decoder stands more than a number"),
    ("doge", r"what model\.layers\.0 adds .* each dimension of it and of the stream times a number of its own"),
    ("beam", "multiply the residual stream itself, by 0.5774"),
    ("fuyu", r"a text never reaches model\.vision_embed_tokens.*not given text alone"),
    ("prophetnet", r"ngram_embeddings \(Embedding\): embeddings that are read by their weights alone"),
    ("reformer", r"position_embeddings\.weights \(ParameterList\): embeddings that are read by their weights"),
    ("zaya", r"no module of model\.layers\.0\.mlp returns logits, gates and experts, these three"),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_of_the_table_are_read_off_their_models(case):
    module = tiny_module(case)
    known, found = find_family(module.config.model_type), propose(module)
    table, mine = build_model(module, family=known), build_model(module, family=found)
    fields = {field.name for field in dataclasses.fields(known)} - SAID_OTHERWISE
    used = {name for name in fields if getattr(known, name) != getattr(found, name)}
    # Parts that the row names for others of its family, and this model has none of; names that mean the same number.
    assert all(_idle(module, name, known) for name in used), used
    assert mine.parallel == table.parallel
    assert [(b.multiplier, b.n_units) for b in mine.blocks] == [(b.multiplier, b.n_units) for b in table.blocks]
    assert (mine.readout.divisor, mine.readout.softcap) == (table.readout.divisor, table.readout.softcap)


def _idle(module, name, known):
    value = getattr(known, name)
    if name.endswith("_attribute"):
        return value is None or getattr(module.config, value) in (None, 1.0) or name == "experts_attribute"
    return not any(path.endswith(f".{value}") for path, _ in module.named_modules())


def test_a_parallel_residual_is_seen_though_nothing_is_named_after_it():
    assert propose(tiny_of_type("phi")).parallel
    assert not propose(tiny_of_type("phi3")).parallel


def test_norms_are_told_apart_where_the_stream_has_almost_no_mean():
    module = tiny_of_type("bloom")
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() > 1 or not name.endswith("weight"):
                weight.mul_(0.02)
    assert propose(module).norm == "layer"
    assert wrap_model(module).reconstruction.worst < 1e-5


def test_what_writes_nothing_as_yet_is_taken_for_scaled_like_the_other():
    module = tiny_of_type("granite")
    for layer in module.model.layers:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.self_attn.o_proj.bias)
    row = propose(module)
    assert row.residual_multiplier_attribute == "residual_multiplier"
    assert row.ffn_multiplier == 1.0


@pytest.mark.parametrize("model_type", ["cohere2", "minimax_m2"])
def test_a_row_is_read_off_a_model_that_is_spread_over_devices(model_type):
    here = propose(tiny_of_type(model_type))
    with OtherDevice():
        assert propose(spread_over_two(tiny_of_type(model_type))) == here


def test_layers_may_have_different_numbers_of_heads():
    model = wrap_model(tiny_of_type("laguna"))
    assert [block.writers[0].n_heads for block in model.blocks[::2]] == [4, 8]
    assert len(model.heads) == 12


def test_a_hybrid_that_has_attention_alone_is_no_hybrid(monkeypatch):
    monkeypatch.setitem(OVERRIDES["granitemoehybrid"], "layer_types", ["attention", "attention"])
    model = wrap_model(tiny_of_type("granitemoehybrid"))
    assert model.family.experts == "block_sparse_moe.experts"
    assert model.family.shared == "shared_mlp"


@pytest.mark.parametrize("model_type", [one for one in SCALED if one in TYPES])
def test_scales_of_streams_and_of_experts_are_exact(model_type):
    model = wrap_model(tiny_of_type(model_type))
    assert verify(model, random_prompts(6)).worst < 6e-6
    prompts = encoded(random_prompts(3))
    exact, _ = attribute_encoded(model, prompts, *asked(estimator="exact"))
    reference, _ = attribute_encoded(model, prompts, *asked(estimator="reference"))
    assert abs(exact.result("lpi") - reference.result("lpi")).max() < 1e-5
    assert abs(exact.result("block_lpi") - reference.result("block_lpi")).max() < 1e-5


def test_a_stream_that_layers_scale_is_looked_at_as_it_reaches_the_final_norm():
    model = wrap_model(tiny_of_type("gemma4_text"))
    scales = [layer.layer_scalar.item() for layer in model.module.model.layers]
    assert model.family.stream_scale == "layer_scalar"
    assert [block.stream for block in model.blocks[::2]] == pytest.approx([scales[0] * scales[1], scales[1]])
    with torch.no_grad():
        model.module.model.layers[1].layer_scalar.mul_(1.5)  # of a model that was built with another number
    with pytest.raises(ReconstructionError, match="the output of layer 1"):
        verify(model)


def test_gates_of_a_router_that_is_neither_softmax_nor_sigmoid_are_not_made_up():
    module = tiny_module("PhiMoE")
    row = propose(module)
    assert row.router_score == "other"
    model = build_model(module, family=row)
    with pytest.raises(OptionError, match="gate='open'"):
        next(model.routed())[1].full_gates(torch.zeros(1, 8))


@pytest.mark.parametrize(("model_type", "reason"), [one for one in REFUSED if one[0] in TYPES])
def test_what_does_not_fit_is_refused_by_name(model_type, reason):
    with pytest.raises(UnknownFamilyError, match=f"has no row .*{reason}.*--family-row") as refused:
        wrap_model(tiny_of_type(model_type))
    assert refused.value.reason in str(refused.value)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("llama4_text", "holds experts otherwise than transformers fuses them"),
        ("dbrx", "no projection as wide as the residual stream; its weights are in DbrxExpertGLU"),
    ],
)
def test_experts_that_are_held_in_a_way_that_nobody_knows_are_refused(model_type, reason, monkeypatch):
    monkeypatch.setattr(foreign_experts, "_MAKERS", {})
    with pytest.raises(UnknownFamilyError, match=reason):
        wrap_model(tiny_of_type(model_type))


@pytest.mark.parametrize(
    ("model_type", "reason"), [("musicgen", "codes of sound"), ("gemma4_assistant", "drafts tokens for another model")]
)
def test_types_that_are_no_model_by_themselves_are_refused_by_name(model_type, reason):
    with pytest.raises(UnknownFamilyError, match=f"model type '{model_type}' cannot be attributed: .*{reason}"):
        refuse_type(model_type)


def test_per_layer_embeddings_are_named():
    config = tiny_config("gemma4_text")
    config.hidden_size_per_layer_input, config.vocab_size_per_layer_input = 8, config.vocab_size
    module = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UnknownFamilyError, match=r"per-layer embeddings are added besides \(per_layer_input_gate"):
        wrap_model(module)


def test_rows_are_written_and_read_again(tmp_path):
    file = tmp_path / "row.toml"
    for case in CASES:
        row = find_family(tiny_module(case).config.model_type)
        file.write_text(row_as_toml(row))
        assert read_row(file) == row
    file.write_text('final_norm = "model.norm"')
    assert read_row(file) == dataclasses.replace(find_family("llama"), name="row", model_types=())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("final-norm = 1", r"has the key 'final-norm', which no row has; expected some of name, model_types, layers"),
        ('norm = "other"', "has norm = 'other': "),
        ("norm =", "cannot be read as TOML"),
        ('parallel = "yes"', "has parallel = 'yes'; expected true or false, which are written without quotes"),
        ("norm_offset = true", "has norm_offset = True; expected no truth value"),
    ],
)
def test_a_row_that_is_none_is_an_error(tmp_path, text, message):
    file = tmp_path / "row.toml"
    file.write_text(text)
    with pytest.raises(OptionError, match=message):
        read_row(file)


def test_a_row_that_is_given_is_used_and_proven():
    module = tiny_of_type("cohere2")
    row = propose(module)
    assert wrap_model(module, family=dataclasses.replace(row, name="mine")).family.name == "mine"
    with pytest.raises(ReconstructionError, match="the logits of this Cohere2 model") as refused:
        wrap_model(module, family=dataclasses.replace(row, logit_multiplier_attribute=None))
    assert refused.value.__notes__ == [row_as_toml(dataclasses.replace(row, logit_multiplier_attribute=None))]
    with pytest.raises(ModelError, match="expects 'nowhere'"):
        wrap_model(module, family=dataclasses.replace(row, attention_out="nowhere"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            'final_norm = ""',
            "ends in KeyError: 'final', read by: {row}, which may be wrong: .*final_norm = \"\"",
        ),
        ('logit_multiplier_attribute = "nope"', "has no 'nope', by which its row.* names a number.* was read by {row}"),
        ('layers = "model"', "{row} expects a list of layers at 'model' .layers., and LlamaModel is none; mend it in"),
        (
            'layers = "model.nolayers"',
            "{row} expects 'model.nolayers' .layers. in LlamaForCausalLM,.*: mend it in .*row.toml",
        ),
        ('down = "gate_proj"', 'ends in RuntimeError: .*, read by: {row}, which may be wrong: .*down = "gate_proj"'),
        ('down = "nope"', "{row} expects 'nope' .down. in LlamaMLP"),
        ('experts = "act_fn"', "holds no 3-D parameter .* The model was read by {row}, which may be wrong: .*experts"),
        ("residual_multiplier = 2.0", "{row} and the model's code disagree"),
        ('stream_scale = "nope"', "{row} expects a tensor of one number at 'nope' .stream_scale."),
        ('ffn_scale = "nope"', "{row} expects a number at 'nope' of each layer"),
        ("parallel = true", "{row} says that it reads the layer's input"),
    ],
)
def test_a_wrong_row_is_blamed_and_not_the_model(tmp_path, row, words):
    file = tmp_path / "row.toml"
    file.write_text(row)
    blamed = rf"the row 'row' that was given \({file}\)"
    with pytest.raises(ModelError, match=words.replace("{row}", blamed)) as refused:
        wrap_model(tiny_module("Llama"), family=read_row(file))
    assert "families.py" not in str(refused.value)
    assert "Its config and its weights" not in str(refused.value)


def test_a_row_from_python_is_named_too():
    row = dataclasses.replace(find_family("llama"), name="mine", layers="nowhere")
    with pytest.raises(ModelError, match=r"the row 'mine' that was given \(family=\) expects 'nowhere'"):
        wrap_model(tiny_module("Llama"), family=row)
