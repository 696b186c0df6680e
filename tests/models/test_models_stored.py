"""Every tensor of a checkpoint is used as it is stored, or the checkpoint is refused by the tensor's name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gated_lpi import load_model
from gated_lpi.errors import ModelError, WeightsError
from gated_lpi.models.stored import set_aside
from tiny_text import save_checkpoint

DOWN = "model.layers.0.mlp.down_proj.weight"


def changed(folder, family, change, **config):
    """A saved model with other tensors, and other settings in its config."""
    save_checkpoint(folder, family)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | config))
    return str(folder)


def another_layer(tensors):
    tensors.update({n.replace("layers.1", "layers.2"): t.clone() for n, t in tensors.items() if "layers.1" in n})


def nothing(_):
    pass


def packed(dtype, *, scale=False):
    def change(tensors):
        tensors[DOWN] = tensors[DOWN].to(dtype)
        if scale:
            tensors[DOWN + "_scale"] = torch.ones(1)

    return change


@pytest.mark.parametrize(
    ("family", "change", "config", "error", "named"),
    [
        ("Qwen3", another_layer, {}, WeightsError, r"11 tensors that the model does not use .*model\.layers\.2\."),
        ("Llama", nothing, {"mlp_bias": False}, WeightsError, r"6 tensors .*mlp\.down_proj\.bias"),
        ("Llama", nothing, {"attention_bias": False}, WeightsError, r"8 tensors .*self_attn\.k_proj\.bias"),
        ("Qwen3", nothing, {"num_hidden_layers": 1, "layer_types": None}, WeightsError, r"model\.layers\.1\."),
        ("Llama", packed(torch.float8_e4m3fn, scale=True), {}, ModelError, r"1 of 36 tensors .*down_proj.*F8_E4M3"),
        ("Llama", packed(torch.int8), {}, ModelError, r"down_proj\.weight \(I8\)"),
        ("OLMoE", lambda t: t.update(stray=torch.ones(2)), {}, WeightsError, "1 tensors .*stray"),
    ],
    ids=["extra layer", "mlp bias off", "attention bias off", "fewer layers", "float8 with scale", "int8", "stray"],
)
def test_tensors_that_would_be_dropped_or_cast_are_refused_by_name(tmp_path, family, change, config, error, named):
    folder = changed(tmp_path, family, change, **config)
    with pytest.raises(error, match=named):
        load_model(folder)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("Llama", ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
        ("GPT-2", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("GPT-NeoX (Pythia)", ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.masked_bias"]),
    ],
)
def test_buffers_that_models_compute_themselves_are_allowed(tmp_path, family, names):
    masks = {name: torch.ones(1, 1, 8, 8, dtype=torch.uint8) for name in names}
    folder = changed(tmp_path, family, lambda tensors: tensors.update(masks))
    model = load_model(folder)
    assert model.reconstruction.worst < 1e-4
    assert model.notes == ()


@pytest.mark.parametrize("family", ["Qwen3", "GPT-2", "Gemma3"])
@pytest.mark.parametrize("distinct", [True, False])
def test_an_unembedding_beside_tied_embeddings_is_used_and_said_so(tmp_path, family, distinct):
    def change(tensors):
        embeddings = next(tensor for name, tensor in tensors.items() if "embed_tokens" in name or "wte" in name)
        generator = torch.Generator().manual_seed(1)
        own = torch.randn(embeddings.shape, generator=generator) if distinct else embeddings.clone()
        tensors["lm_head.weight"] = own

    model = load_model(changed(tmp_path, family, change, tie_word_embeddings=True))
    stored = load_file(tmp_path / "model.safetensors")["lm_head.weight"]
    assert torch.equal(model.readout.weight, stored)
    assert ["the file's unembedding is used" in note for note in model.notes] == [True] * distinct


def test_parts_that_the_models_class_leaves_out_are_counted(tmp_path):
    extra = {f"model.layers.61.{part}.weight": torch.ones(4, 4) for part in ("eh_proj", "mlp.down_proj")}
    model = load_model(changed(tmp_path, "DeepSeek-V3", lambda tensors: tensors.update(extra)))
    (note,) = model.notes
    assert note.startswith("2 tensors (first: model.layers.61.eh_proj.weight)")
    assert set_aside(extra, [r"model\.layers\.61.*"], ["model.layers.61.eh_proj.weight"]) == [
        "model.layers.61.mlp.down_proj.weight"
    ]


@pytest.mark.parametrize(("dtype", "main"), [(torch.bfloat16, "bfloat16"), (torch.float32, "float32")], ids=str)
def test_the_stored_dtype_is_that_of_the_file_whatever_the_config_says(tmp_path, dtype, main):
    def change(tensors):
        tensors.update({name: t.to(dtype) for name, t in tensors.items() if "norm" not in name})

    model = load_model(changed(tmp_path, "Llama", change, dtype="float16"))
    assert model.provenance["stored_dtype"] == main


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_act": "nonesuch"},
        {"num_attention_heads": 3},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 3},
        {"hidden_size": -1},
        {"num_hidden_layers": "two"},
        {"rope_parameters": {"rope_type": "nonesuch", "rope_theta": 1e4}},
        {"rms_norm_eps": None},
        {"vocab_size": 1 << 62},
        {"max_position_embeddings": None},
        {"intermediate_size": 47},
        {"head_dim": 0},
    ],
    ids=lambda config: "-".join(f"{k}={v}"[:40] for k, v in config.items()),
)
def test_a_config_that_contradicts_itself_is_an_error_of_the_tree(tmp_path, config):
    folder = changed(tmp_path, "Llama", nothing, **config)
    with pytest.raises((ModelError, WeightsError)):
        load_model(folder)


@pytest.mark.parametrize("content", ["", "{", "null", "[1]", '{"model_type": 3}', '{"model_type": null}', "\x00"])
def test_a_damaged_config_is_an_error_of_the_tree(tmp_path, content):
    folder = save_checkpoint(tmp_path, "Llama")
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError):
        load_model(str(folder))


@pytest.mark.parametrize("pad", [64, 10**6, -7])
def test_a_padding_token_without_an_embedding_is_not_needed(tmp_path, pad):
    model = load_model(changed(tmp_path, "Llama", nothing, pad_token_id=pad))
    assert any(f"pad_token_id = {pad} " in note for note in model.notes)
    assert model.reconstruction.worst < 1e-4
