"""A model whose class comes with its weights: run only where that is allowed, then read off and proven like any."""

import json

import pytest
import transformers.dynamic_module_utils as own_code

from gated_lpi import attribute, load_model
from gated_lpi.errors import ModelError
from tiny_text import save_checkpoint

CONFIG = """
from transformers import LlamaConfig


class OwnConfig(LlamaConfig):
    model_type = "own"
"""
MODEL = """
from pathlib import Path

from transformers import LlamaForCausalLM

from .configuration_own import OwnConfig

Path(__file__).with_name("ran").touch()


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(own_code, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    made = save_checkpoint(tmp_path / "own", "Llama")
    (made / "configuration_own.py").write_text(CONFIG)
    (made / "modeling_own.py").write_text(MODEL)
    content = json.loads((made / "config.json").read_text())
    content |= {
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    }
    (made / "config.json").write_text(json.dumps(content))
    return made


def test_it_is_read_off_and_proven_where_it_may_run(folder, tmp_path):
    model = load_model(str(folder), trust_remote_code=True)
    assert type(model.module).__name__ == "OwnForCausalLM"
    assert model.reconstruction.logits < model.reconstruction.tolerance
    plain = load_model(str(save_checkpoint(tmp_path / "plain", "Llama")))
    facts = [("The sky is", " blue")]
    assert (attribute(model, facts)["lpi"].values == attribute(plain, facts)["lpi"].values).all()


def test_it_does_not_run_where_it_may_not(folder, tmp_path):
    with pytest.raises(ModelError, match="model type 'own' has no row in the table of families"):
        load_model(str(folder))
    assert not list(tmp_path.rglob("ran"))
