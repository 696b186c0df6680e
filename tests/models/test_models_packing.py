"""GPT-OSS as it is published: experts in MXFP4, unpacked on loading into the very numbers that the bytes stand for."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gated_lpi import attribute, load_model
from gated_lpi.errors import ModelError
from tiny_text import save_checkpoint

VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
RUN = 32  # numbers that share a scale


def packed(generator, rows, width):
    """Bytes and scales of a random matrix [..., rows, width], and the numbers: sign, two bits of exponent, one more."""
    codes = torch.randint(0, 16, (*rows, width // RUN, RUN), generator=generator)
    exponents = torch.randint(-6, -2, (*rows, width // RUN), generator=generator)
    numbers = VALUES[codes] * 2.0 ** exponents.unsqueeze(-1)
    blocks = codes[..., 0::2] + 16 * codes[..., 1::2]  # the first of two in the lower half of a byte
    return blocks.to(torch.uint8), (exponents + 127).to(torch.uint8), numbers.flatten(-2)


@pytest.fixture
def published(tmp_path):
    """A folder with packed experts, and the same model with the numbers that these stand for."""
    generator = torch.Generator().manual_seed(0)
    plain, folder = (
        save_checkpoint(tmp_path / name, "GPT-OSS", hidden_size=64, intermediate_size=32)
        for name in ("plain", "packed")
    )
    tensors = load_file(plain / "model.safetensors")
    stored = dict(tensors)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, width, rows = tensors[name].shape
        blocks, scales, numbers = packed(generator, (experts, rows), width)
        tensors[name] = numbers.transpose(1, 2).contiguous()
        del stored[name]
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, plain / "model.safetensors", {"format": "pt"})
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, plain


def test_experts_are_the_numbers_that_are_packed(published):
    folder, plain = published
    model, expected = load_model(str(folder)), load_model(str(plain))
    assert model.provenance["stored_dtype"] == "mxfp4"
    theirs = dict(expected.module.named_parameters())
    for name, weight in model.module.named_parameters():
        assert torch.equal(weight, theirs[name]), name
    facts = [("The sky is", " blue")]
    assert torch.equal(*(torch.tensor(attribute(one, facts)["lpi"].values) for one in (model, expected)))


def test_a_config_that_forgets_to_say_so_is_refused(published):
    folder, _ = published
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"8 of \d+ tensors of .* are stored packed or quantised .*_blocks \(U8\)"):
        load_model(str(folder))
