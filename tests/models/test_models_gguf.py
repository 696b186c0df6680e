"""GGUF files and quantised weights: what loads is unpacked, and what cannot be is refused with its reason."""

import json
import sys

import gguf
import numpy as np
import pytest
import torch
import xarray as xr

from gated_lpi import load_model
from gated_lpi.cli import main
from gated_lpi.errors import ModelError, OptionError, WeightsError
from gated_lpi.models import weights
from tiny_text import save_checkpoint

WIDTH, LAYERS, VOCABULARY = 32, 2, 64


def write_gguf(path, quantised=gguf.GGMLQuantizationType.Q4_1):
    """A tiny random Llama with a byte-level tokenizer, its matrices quantised."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*(chr(ord("0") + i) for i in range(VOCABULARY - 2)), "Ġ", "AB"])
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)

    def matrix(name, rows):
        data = random.normal(0, 0.3, (rows, WIDTH)).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(data, quantised), raw_dtype=quantised)

    matrix("token_embd.weight", VOCABULARY)
    writer.add_tensor("output_norm.weight", random.normal(1, 0.1, WIDTH).astype(np.float32))
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            matrix(f"blk.{layer}.{part}.weight", WIDTH)
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{part}.weight", random.normal(1, 0.1, WIDTH).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def folder(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gguf_is_unpacked_and_its_units_add_up(folder, dtype):
    model = load_model(str(folder), gguf="tiny.gguf", dtype=dtype)
    assert {parameter.dtype for parameter in model.module.parameters()} == {getattr(torch, dtype)}
    assert model.reconstruction.worst < 1e-5
    assert (model.provenance["stored_dtype"], model.provenance["gguf"]) == ("gguf", "tiny.gguf")
    assert model.tokenizer("CAB")["input_ids"] == [ord("C") - ord("0"), VOCABULARY - 1]


def test_another_tokenizer_beside_a_gguf_is_refused(folder):
    with pytest.raises(OptionError, match="brings a tokenizer of its own"):
        load_model(str(folder), gguf="tiny.gguf", tokenizer=str(folder))


def test_weights_are_those_of_the_file(folder):
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(folder / "tiny.gguf").tensors}
    down = stored["blk.1.ffn_down.weight"]
    expected = gguf.quants.dequantize(down.data, down.tensor_type)
    loaded = load_model(str(folder), gguf="tiny.gguf").module.model.layers[1].mlp.down_proj.weight
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(loaded.detach().numpy(), expected, rtol=1e-6)


def test_a_file_of_that_name_elsewhere_is_not_taken(folder, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "tiny.gguf").write_bytes(b"not this one")
    monkeypatch.chdir(elsewhere)
    assert load_model(str(folder), gguf="tiny.gguf").n_layers == LAYERS


def test_the_package_is_named_where_it_is_missing(folder, monkeypatch):
    monkeypatch.setattr(weights, "is_gguf_available", lambda: False)
    with pytest.raises(OptionError, match=r'pip install "gated-lpi\[gguf\]"'):
        load_model(str(folder), gguf="tiny.gguf")


def test_a_missing_file_names_those_that_are_there(folder, tmp_path_factory):
    with pytest.raises(WeightsError, match=r"no file 'large\.gguf' .* holds tiny\.gguf"):
        load_model(str(folder), gguf="large.gguf")
    with pytest.raises(WeightsError, match=r"holds no \*\.gguf file"):
        load_model(str(tmp_path_factory.mktemp("empty")), gguf="large.gguf")
    with pytest.raises(ModelError, match=r"tiny\.gguf.*gguf="):
        load_model(str(folder))


def test_the_command_line_reads_it_and_scores_chosen_units(folder, monkeypatch, capsys):
    facts, out = folder / "facts.jsonl", folder / "scores.zarr"
    facts.write_text(json.dumps({"prompt": "CAB", "target": "D"}))
    options = ["--gguf", "tiny.gguf", "--facts", facts, "--out", out, "--units", "heads,blocks", "--units", "ffn"]
    monkeypatch.setattr(sys, "argv", ["gated-lpi", "attribute", str(folder), *map(str, options)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code, capsys.readouterr().err
    scores = xr.open_zarr(out, consolidated=False, chunks=None)
    assert dict(scores.sizes) == {"relation": 1, "unit": 64, "head_unit": 8, "block_index": 4, "prompt": 1, "tier": 3}
    assert scores.attrs["gguf"] == "tiny.gguf"
    assert set(scores["block"].values) == {"ffn"}


@pytest.mark.parametrize("keep", [0, 3, 20, 200, 1500, -64, -5000])
def test_a_damaged_file_is_refused(folder, keep):
    path = folder / "tiny.gguf"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"cannot be read as GGUF .*cut short or damaged"):
        load_model(str(folder), gguf="tiny.gguf")


@pytest.mark.parametrize("name", ["block_count", "embedding_length"])
def test_a_file_that_promises_a_vast_model_is_refused_before_it_is_made(folder, name):
    path, key = folder / "tiny.gguf", f"llama.{name}".encode()
    content = path.read_bytes()
    place = content.index(key) + len(key) + 4
    path.write_bytes(content[:place] + (10**9).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises((ModelError, WeightsError), match="belongs to another model"):
        load_model(str(folder), gguf="tiny.gguf")


def test_code_beside_it_is_not_run(folder):
    code = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    (folder / "evil.py").write_text("1/0")
    assert load_model(str(folder), gguf="tiny.gguf").tokenizer("CAB")["input_ids"]


def test_text_under_that_name_is_refused(folder):
    (folder / "tiny.gguf").write_bytes(b"<html>not found</html>" * 50)
    with pytest.raises(WeightsError, match="cannot be read as GGUF"):
        load_model(str(folder), gguf="tiny.gguf")


@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
    ],
)
def test_quantised_weights_are_refused_unread(tmp_path, quantisation):
    folder = save_checkpoint(tmp_path / "step-1", "Llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantisation}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"stored quantised \({quantisation['quant_method']}\)"):
        load_model(str(folder))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e4m3fn])
def test_weights_that_stay_packed_are_refused(tmp_path, monkeypatch, dtype):
    folder = save_checkpoint(tmp_path / "step-1", "Llama")
    load = weights.AutoModelForCausalLM.from_pretrained

    def packing(*arguments, **options):
        module, report = load(*arguments, **options)
        linear = module.model.layers[1].mlp.down_proj
        linear.weight = torch.nn.Parameter(linear.weight.to(dtype), requires_grad=False)
        return module, report

    monkeypatch.setattr(weights.AutoModelForCausalLM, "from_pretrained", packing)
    with pytest.raises(ModelError, match=r"1 tensors .* stay packed .*layers\.1\.mlp\.down_proj\.weight"):
        load_model(str(folder))


def test_a_quantised_config_that_was_unpacked_is_no_obstacle(tmp_path):
    folder = save_checkpoint(tmp_path / "step-1", "Llama")
    config = json.loads((folder / "config.json").read_text())
    quantisation = {"quant_method": "fp8", "dequantize": True}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantisation}))
    assert load_model(str(folder)).provenance["stored_dtype"] == "float32"
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ModelError, match="stored quantised"):
        load_model(str(folder))
