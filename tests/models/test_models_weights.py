"""What a checkpoint folder may be, and what each bad one is told."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gated_lpi import load_model
from gated_lpi.errors import GatedLPIError, ModelError, OptionError, WeightsError
from tiny_models import tiny_module
from tiny_text import save_checkpoint, tiny_tokenizer


@pytest.fixture
def folder(tmp_path):
    return save_checkpoint(tmp_path / "step-1", "OLMoE")


def edit(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_saved_model_loads_with_what_was_saved(folder):
    model = load_model(str(folder))
    assert model.family.name == "OLMoE"
    assert model.provenance["source"] == str(folder)
    assert model.tokenizer("Paris")["input_ids"] == tiny_tokenizer()("Paris")["input_ids"]
    original = tiny_module("OLMoE").state_dict()
    assert all(torch.equal(value, original[name]) for name, value in model.module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_on_disk_is_attributed_in_float32(tmp_path, dtype):
    module = tiny_module("Llama").to(dtype)
    module.config.dtype = dtype
    module.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert model.dtype == torch.float32
    assert model.provenance["stored_dtype"] == str(dtype).removeprefix("torch.")
    assert model.provenance["compute_dtype"] == "float32"


def test_float64_uses_experts_that_have_it(folder):
    model = load_model(str(folder), dtype="float64")
    assert model.dtype == torch.float64
    assert model.reconstruction.block < 1e-14


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def only_a_pickle(folder):
    torch.save({}, folder / "pytorch_model.bin")
    no_weights(folder)


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def not_a_number(folder):
    edit(folder, lambda t: t["model.norm.weight"].view(-1)[0].fill_(float("nan")))


def a_tensor_missing(folder):
    edit(folder, lambda t: t.pop("model.layers.1.mlp.gate.weight"))


def another_shape(folder):
    edit(folder, lambda t: t.update({"model.norm.weight": torch.ones(8)}))


def no_config(folder):
    (folder / "config.json").unlink()


def no_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()


def unknown_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))


@pytest.mark.parametrize(
    ("breaks", "error", "message"),
    [
        (no_weights, WeightsError, "no weights.*model.safetensors, or shards"),
        (only_a_pickle, WeightsError, r"pickled weights only \(pytorch_model.bin\), which can run code"),
        (cut_short, WeightsError, "cut short or damaged"),
        (not_a_number, WeightsError, "NaN or infinite weights in 1 tensors .*model.norm.weight"),
        (a_tensor_missing, WeightsError, "lacks 1 of the tensors.*layers.1.mlp.gate.weight"),
        (another_shape, WeightsError, "1 of another shape.*model.norm.weight"),
        (no_config, ModelError, "without config.json"),
        (no_tokenizer, ModelError, "tokenizer"),
        (unknown_type, ModelError, "nonesuch"),
    ],
)
def test_a_bad_folder_is_refused_with_its_reason(folder, breaks, error, message):
    breaks(folder)
    with pytest.raises(error, match=message):
        load_model(str(folder))


def test_a_family_without_a_row_is_read_off_the_model_and_said_so(tmp_path):
    from transformers import BloomConfig, BloomForCausalLM

    BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert model.family.name == "Bloom"
    assert model.reconstruction.worst < 1e-5
    assert any("'bloom' has no row" in note and 'down = "dense_4h_to_h"' in note for note in model.notes)


def test_remote_code_is_not_run_unless_asked(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    ran = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(GatedLPIError):
        load_model(str(folder))
    assert not ran.exists()


def test_an_unknown_dtype_is_an_error():
    with pytest.raises(OptionError, match=r"'bfloat16' was given; expected one of float32, float64"):
        load_model("anything", dtype="bfloat16")


def test_an_encoder_decoder_is_refused_before_its_weights_are_read(tmp_path):
    from transformers import T5Config

    T5Config(vocab_size=64, d_model=32).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="encoder-decoder"):
        load_model(str(tmp_path))


def test_a_device_map_places_the_model(folder):
    model = load_model(str(folder), device_map={"": "cpu"})
    assert model.reconstruction.worst < 1e-5


def test_weights_that_were_offloaded_are_refused(tmp_path):
    folder = save_checkpoint(tmp_path, "Llama")
    places = {"model.layers.1": "disk", "model.layers.0": "cpu", "model.embed_tokens": "cpu", "model.norm": "cpu"}
    places |= {"lm_head": "cpu", "model.rotary_emb": "cpu"}
    with pytest.raises(ModelError, match=r"offloaded \(first: model.layers.1"):
        load_model(str(folder), device_map=places)


def test_a_device_map_that_is_none_or_beside_a_device_is_an_error():
    with pytest.raises(OptionError, match="'cuda:0' was given; expected one of auto, balanced"):
        load_model("anything", device_map="cuda:0")
    with pytest.raises(OptionError, match=r"device 'cpu' and device_map 'auto'.*leave one"):
        load_model("anything", device="cpu", device_map="auto")


def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(OptionError, match="device 'warp' was given"):
        load_model("anything", device="warp")
