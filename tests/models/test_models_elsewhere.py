"""Checkpoint folders that somebody hostile wrote: nothing in them is run, followed elsewhere, or read without bound."""

import json
import resource
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gated_lpi import load_model
from gated_lpi.checkpoints import check_weights
from gated_lpi.errors import GatedLPIError, ModelError, WeightsError
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.models import weights
from gated_lpi.runs import run_experiment
from hostile_checkpoints import (
    BOMBS,
    CONFIG,
    FILES,
    INDEX,
    ONE,
    REFUSED,
    TRAPS,
    VAST,
    change,
    header,
    odd_file,
    pickled,
)
from tiny_models import tiny_module
from tiny_runs import QUICK
from tiny_text import save_checkpoint, save_facts


@pytest.fixture
def folder(tmp_path):
    return save_checkpoint(tmp_path / "series" / "step-1", "Llama")


def test_the_canary_sings(tmp_path):
    pickled(tmp_path / "w.bin", tmp_path / "ran")
    torch.load(tmp_path / "w.bin", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("trap", TRAPS)
def test_nothing_of_a_folder_is_run(folder, tmp_path, trap):
    """A whole run over the folder, then a load of it: no trap is sprung, and only what is sound is scored."""
    ran = tmp_path / "ran"
    trap(folder, ran)
    experiment = Experiment.model_validate(
        {
            "name": "trap",
            "arms": [{"name": "arm", "checkpoints": str(folder.parent)}],
            "facts": {"source": str(save_facts(tmp_path / "facts"))},
            **QUICK,
        }
    )
    run = run_experiment(experiment, tmp_path / "run")
    assert len(run.quarantined("arm")) == (trap in REFUSED), run.quarantined("arm")
    if trap in REFUSED:
        with pytest.raises(GatedLPIError):
            load_model(str(folder))
    else:
        expected = tiny_module("Llama").state_dict()
        state = load_model(str(folder)).module.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in state.items())
    assert not ran.exists()


def test_what_is_staged_is_what_was_checked(folder):
    """transformers would prefer the files of a distributed run, with another model in them, to the file checked."""
    other = tiny_module("Llama", seed=9)
    other.config.save_pretrained(folder)
    save_file(other.state_dict(), folder / "shard-00000-model-00001-of-00001.safetensors")
    checked = check_weights(folder)
    assert [file.name for file in checked.files] == [ONE]
    loaded = load_model(str(folder)).module.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in load_file(folder / ONE).items())


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("named", [ONE, "second.safetensors", "second.safetensors.index.json"])
def test_names_and_links_lead_to_the_same_weights(folder, link, named):
    expected = load_file(folder / ONE)
    shard = "x.safetensors" if named.endswith(".json") else named
    (folder / ONE).rename(folder / shard)
    if named.endswith(".json"):
        (folder / named).write_text(json.dumps({"weight_map": dict.fromkeys(expected, shard)}))
    if named != ONE:
        save_file({"w": torch.ones(2)}, folder / ONE)
        change(folder / CONFIG, transformers_weights=named)
    save_file({"w": torch.ones(2)}, folder / "model.fp16.safetensors")
    if link:
        blobs = folder.parent.parent / "blobs"
        blobs.mkdir()
        for i, path in enumerate(sorted(folder.iterdir())):
            path.rename(blobs / str(i))
            path.symlink_to(f"../../blobs/{i}")
    loaded = load_model(str(folder)).module.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in expected.items())
    assert [file.name for file in check_weights(folder).files] == [shard]


@pytest.mark.parametrize("way", ["replaced", "written to"])
def test_weights_that_change_while_they_are_loaded_are_refused(folder, monkeypatch, way):
    load = weights.AutoModelForCausalLM.from_pretrained

    def meddle(*arguments, **options):
        result = load(*arguments, **options)
        content = (folder / ONE).read_bytes()
        if way == "replaced":
            (folder / "new").write_bytes(content)
            (folder / "new").replace(folder / ONE)
        else:
            (folder / ONE).write_bytes(content[:-4] + b"\0\0\0\0")
        return result

    monkeypatch.setattr(weights.AutoModelForCausalLM, "from_pretrained", meddle)
    with pytest.raises(WeightsError, match=rf"{ONE} of .* changed between being checked and being loaded"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "entries",
    [
        {"_attn_implementation": "someone/repo"},
        {"attn_implementation": "someone/repo@main:kernel"},
        {"_attn_implementation": {"": "kernels-community/flash-attn2"}},
        {"_attn_implementation": "flash_attention_2"},
        {"_attn_implementation_internal": "someone/repo"},
        {"_experts_implementation": "someone/repo"},
        {"experts_implementation": "sonicmoe"},
        {"fusion_config": {"patch_embeddings": True}},
        {"distributed_config": {"tp_size": 2}},
        {"base_model_tp_plan": {"layers.*": "colwise"}},
        {"attribute_map": {"hidden_size": "vocab_size"}},
        {"extra_files": ["../other.safetensors"]},
        {"to_dict": 1, "get_text_config": 1},
        {"_name_or_path": "google/gemma-2b"},
        {"use_kernels": True, "kernel_config": {"RMSNorm": "someone/repo:RMSNorm"}},
        {"quantization_config": {"quant_method": "mxfp4", "dequantize": True}},
    ],
    ids=lambda entries: "-".join(entries),
)
def test_a_config_chooses_no_code(folder, monkeypatch, entries):
    """Every look for a kernel, quantiser or file of a hub is counted; there is none, and the model is as ever."""
    from transformers.integrations import hub_kernels
    from transformers.quantizers import auto as quantizers

    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise OSError("no kernels here")

    monkeypatch.setattr(hub_kernels, "get_kernel", refuse)
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", refuse)
    monkeypatch.setattr(quantizers.AutoHfQuantizer, "from_config", refuse)
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", refuse)
    change(folder / CONFIG, **entries)
    model = load_model(str(folder))
    assert not asked
    assert model.provenance["attention_implementation"] == "sdpa"


def test_nor_does_a_config_within_a_config(folder, monkeypatch):
    asked = []
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", lambda *_, **__: asked.append(1))
    change(folder / CONFIG, text_config={"_attn_implementation": "someone/repo", "model_type": "llama"})
    with pytest.raises(ModelError, match="contradicts itself"):
        load_model(str(folder))
    assert not asked


def test_what_a_config_asks_for_and_does_not_get_is_said(folder):
    change(folder / CONFIG, _attn_implementation="someone/repo", num_labels=3)
    (note,) = load_model(str(folder)).notes
    assert note.startswith("its config.json asks for _attn_implementation, which would choose code")


def test_a_config_that_names_another_config_is_refused(folder):
    change(folder / CONFIG, configuration_files=["config.4.0.0.json"])
    (folder / "config.4.0.0.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ModelError, match=r"names other configs .*configuration_files"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in FILES for kind in ("pipe", "link to a device", "terabyte") if (name, kind) != VAST],
)
def test_what_is_no_file_or_endless_is_not_read(folder, name, kind):
    """Each of these would block for ever, or fill the memory, if it was opened."""
    if name == INDEX:
        (folder / ONE).unlink()
    odd_file(folder / name, kind)
    with pytest.raises(GatedLPIError):
        within_bounds(lambda: load_model(str(folder)))


def test_a_device_in_an_index_is_not_read(folder):
    (folder / ONE).unlink()
    for name in ("../zero.safetensors", "/dev/zero", "zero.safetensors"):
        (folder / INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
        odd_file(folder / "zero.safetensors", "link to a device")
        with pytest.raises(WeightsError):
            within_bounds(lambda: load_model(str(folder)))


@pytest.mark.parametrize("entries", BOMBS, ids=lambda entries: "-".join(entries))
def test_a_config_of_a_vast_model_is_refused_from_the_headers(folder, entries):
    change(folder / CONFIG, **entries)
    if "num_labels" in entries:
        assert within_bounds(lambda: load_model(str(folder))).n_layers == 2
        return
    with pytest.raises((ModelError, WeightsError)):
        within_bounds(lambda: load_model(str(folder)))


@pytest.mark.parametrize(("family", "entries"), [("GPT-2", {"n_layer": 10**9}), ("GPT-2", {"n_positions": 10**9})])
def test_so_is_one_by_a_familys_own_names(tmp_path, family, entries):
    change(save_checkpoint(tmp_path, family) / CONFIG, **entries)
    with pytest.raises((ModelError, WeightsError)):
        within_bounds(lambda: load_model(str(tmp_path)))


@pytest.mark.parametrize("family", ["OLMoE", "Mixtral", "Qwen2-MoE", "DeepSeek-V3", "GPT-OSS"])
def test_so_is_one_of_endless_experts(tmp_path, family):
    names = {"Mixtral": "num_local_experts", "GPT-OSS": "num_local_experts", "DeepSeek-V3": "n_routed_experts"}
    change(save_checkpoint(tmp_path, family) / CONFIG, **{names.get(family, "num_experts"): 10**9})
    with pytest.raises((ModelError, WeightsError)):
        within_bounds(lambda: load_model(str(tmp_path)))


@pytest.mark.parametrize("kind", ["length", "tensors", "nested"])
def test_a_header_that_is_a_bomb_is_refused(folder, kind):
    if kind == "length":
        header(folder / ONE, "{}", 1 << 40)
    elif kind == "nested":
        header(folder / ONE, '{"a":' * 10**6)
    else:
        entry = '"layers.{}.weight":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}'
        header(folder / ONE, "{" + ",".join(entry.format(i, 4 * i, 4 * i + 4) for i in range(500_000)) + "}")
        with (folder / ONE).open("ab") as file:
            file.truncate(file.tell() + 4 * 500_000)
    with pytest.raises(WeightsError):
        within_bounds(lambda: load_model(str(folder)))
    with pytest.raises(WeightsError):
        within_bounds(lambda: check_weights(folder))


MEGABYTES = 700  # of address space beyond what the process had before


def within_bounds(action, seconds=5.0):
    """What an action gives or raises, in this process with an upper limit to its memory; it fails if it takes long."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEGABYTES * 10**6, before[1]))
    started = time.monotonic()
    try:
        return action()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        assert time.monotonic() - started < seconds
