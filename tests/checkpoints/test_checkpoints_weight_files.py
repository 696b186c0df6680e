"""Which files of a folder are its weights: what is hashed and checked is what transformers loads, and nothing else."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gated_lpi.checkpoints import check_weights, inspect_series, list_series, weight_files
from gated_lpi.errors import WeightsError
from tiny_text import save_checkpoint

ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"


def write(folder, name, **values):
    save_file({key: torch.full((4,), float(value)) for key, value in values.items()}, folder / name)


def write_index(folder, placed, name=INDEX):
    content = {"metadata": {"total_size": 16}, "weight_map": placed}
    (folder / name).write_text(json.dumps(content))


def names(chosen):
    return [path.name for path in chosen.paths]


def digest_alone(folder, *files):
    """The digest of a folder that holds these files and nothing else."""
    alone = folder / "alone"
    alone.mkdir()
    for name in files:
        (alone / name).write_bytes((folder / name).read_bytes())
    return check_weights(alone).sha256


@pytest.mark.parametrize("stray", ["adapter_model.safetensors", "consolidated.safetensors", "a.safetensors"])
def test_a_second_file_is_left_aside_and_named(tmp_path, stray):
    write(tmp_path, ONE, w=1)
    write(tmp_path, stray, w=torch.nan)
    report = check_weights(tmp_path)
    assert [file.name for file in report.files] == [ONE]
    assert report.aside == (stray,)
    assert report.parameters == 4
    assert report.sha256 == digest_alone(tmp_path, ONE)


def test_with_an_index_the_weights_are_its_shards(tmp_path):
    write(tmp_path, "x.safetensors", a=1)
    write(tmp_path, "y.safetensors", b=2)
    write(tmp_path, "old.safetensors", a=torch.nan)
    write_index(tmp_path, {"a": "x.safetensors", "b": "y.safetensors"})
    chosen = weight_files(tmp_path)
    assert names(chosen) == ["x.safetensors", "y.safetensors"]
    assert {path.name: set(tensors) for path, tensors in chosen.promised.items()} == {
        "x.safetensors": {"a"},
        "y.safetensors": {"b"},
    }
    assert chosen.size == sum((tmp_path / name).stat().st_size for name in ("x.safetensors", "y.safetensors"))
    assert check_weights(tmp_path).aside == chosen.aside == ("old.safetensors",)


@pytest.mark.parametrize(
    ("single", "index"), [(1.0, 2.0), (torch.nan, 2.0), (1.0, torch.nan)], ids=["both", "bad file", "bad shard"]
)
def test_with_both_it_is_the_single_file(tmp_path, single, index):
    write(tmp_path, ONE, w=single)
    write(tmp_path, "x.safetensors", w=index)
    write_index(tmp_path, {"w": "x.safetensors"})
    assert names(weight_files(tmp_path)) == [ONE]
    if not math.isnan(single):
        assert check_weights(tmp_path).aside == ("x.safetensors",)
    else:
        with pytest.raises(WeightsError, match="not finite in 1 tensors: w"):
            check_weights(tmp_path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny models, the second saved as one file and in shards."""
    folder = tmp_path_factory.mktemp("models")
    save_checkpoint(folder / "one", "Qwen3-MoE", seed=1)
    save_checkpoint(folder / "two", "Qwen3-MoE", seed=2)
    model = AutoModelForCausalLM.from_pretrained(folder / "two")
    model.save_pretrained(folder / "shards", max_shard_size="60KB")
    return folder


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).state_dict()


def holds(state, path):
    """Whether the tensors of a file are those of a loaded model, as far as they go by the same names."""
    stored = load_file(path)
    common = set(stored) & set(state)
    assert common
    return all(torch.equal(stored[name], state[name]) for name in common)


@pytest.mark.parametrize("case", ["stray", "index and file", "shards", "named file", "named index"])
def test_what_is_chosen_is_what_transformers_loads(models, tmp_path, case):
    """Two models lie in one folder; the one that is loaded is the one whose files are hashed."""
    one, shards = models / "one", models / "shards"
    config = json.loads((one / CONFIG).read_text())
    if case == "shards":
        for path in shards.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "another.safetensors").write_bytes((one / ONE).read_bytes())
    elif case == "index and file":
        for path in shards.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / ONE).write_bytes((one / ONE).read_bytes())
    elif case == "named index":
        for path in shards.glob("*.safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "second.safetensors.index.json").write_bytes((shards / INDEX).read_bytes())
        (tmp_path / ONE).write_bytes((one / ONE).read_bytes())
        config["transformers_weights"] = "second.safetensors.index.json"
    else:
        (tmp_path / ONE).write_bytes((one / ONE).read_bytes())
        (tmp_path / "second.safetensors").write_bytes((models / "two" / ONE).read_bytes())
        if case == "named file":
            config["transformers_weights"] = "second.safetensors"
    (tmp_path / CONFIG).write_text(json.dumps(config))
    chosen = weight_files(tmp_path)
    state = loaded(tmp_path)
    assert all(holds(state, path) for path in chosen.paths)
    others = [tmp_path / name for name in chosen.aside]
    assert others
    assert not any(holds(state, path) for path in others)
    assert [file.name for file in check_weights(tmp_path).files] == names(chosen)


def test_files_of_other_names_only_are_refused(tmp_path):
    write(tmp_path, "a.safetensors", w=1)
    write(tmp_path, "model-00001-of-00001.safetensors", w=1)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(WeightsError, match=r"holds a\.safetensors, model-00001-of-00001\.safetensors, but neither"):
        check_weights(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "..",
        "",
        "x.bin",
        "pytorch_model.bin",
        "x.safetensors/",
        "a\\x.safetensors",
        "x\0.safetensors",
        "\ud800.safetensors",
        "é" * 200 + ".safetensors",
        7,
        True,
        None,
        ["x.safetensors"],
        {"x.safetensors": 1},
    ],
)
def test_an_index_that_names_no_file_beside_it(tmp_path, name):
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub", tmp_path.parent):
        write(folder, "x.safetensors", w=1)
    for pickle in ("x.bin", "pytorch_model.bin"):
        (tmp_path / pickle).write_bytes(b"not even a pickle")
    write_index(tmp_path, {"w": name})
    with pytest.raises(WeightsError, match=r"index\.json cannot be used \(it places 'w' in .* no safetensors file"):
        check_weights(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"weight_map": {"w": "x.safetensors", "w": "y.safetensors"}}', "key 'w' is given twice"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"weight_map": ' + "9" * 5000 + "}", "not usable JSON"),
        ('{"weight_map": NaN}', "maps no tensor names"),
        ('{"weight_map": {}}', "maps no tensor names"),
        ('{"weight_map": []}', "maps no tensor names"),
        ("{}", "has no weight_map"),
        ('"weight_map"', "has no weight_map"),
        ("", "not JSON"),
    ],
)
def test_an_index_that_is_none(tmp_path, text, words):
    write(tmp_path, "x.safetensors", w=1)
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(WeightsError, match=rf"index\.json cannot be used.*{words}"):
        check_weights(tmp_path)


def test_an_index_that_is_not_utf_8(tmp_path):
    (tmp_path / INDEX).write_bytes(b'{"weight_map": {"w": "\xff.safetensors"}}')
    with pytest.raises(WeightsError, match=r"cannot be used.*Fetch the file again"):
        check_weights(tmp_path)


def test_a_tensor_name_that_cannot_be_written_is_spelt_out(tmp_path):
    write(tmp_path, "x.safetensors", w=1)
    write_index(tmp_path, {"\ud800": "x.safetensors"})
    with pytest.raises(WeightsError, match=r"\\ud800 in x\.safetensors"):
        check_weights(tmp_path)


@pytest.mark.parametrize("target", ["absent", "link"])
def test_links_that_lead_nowhere(tmp_path, target):
    (tmp_path / ONE).symlink_to(ONE if target == "link" else target)
    with pytest.raises(WeightsError, match=r"holds no weights \(model\.safetensors: a link to nothing, or no file\)"):
        check_weights(tmp_path)
    write_index(tmp_path, {"w": "x.safetensors"})
    (tmp_path / "x.safetensors").symlink_to("x.safetensors" if target == "link" else target)
    with pytest.raises(WeightsError, match=r"1 are missing: x\.safetensors \(x\.safetensors: a link to nothing"):
        check_weights(tmp_path)


def test_a_link_to_a_file_is_a_file(tmp_path):
    """The hub's cache is made of links to files elsewhere."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    write(tmp_path / "blobs", "0123", w=1)
    (tmp_path / "snapshot" / ONE).symlink_to("../blobs/0123")
    assert check_weights(tmp_path / "snapshot").parameters == 4


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("../model.safetensors", "Expected a safetensors file in that folder"),
        ("adapter_model.bin", "Expected a safetensors file in that folder"),
        ("", "Expected a safetensors file in that folder"),
        (5, "names 5 as transformers_weights"),
        ("absent.safetensors", "which is not in that folder"),
    ],
)
def test_a_config_that_names_no_weights(tmp_path, named, words):
    write(tmp_path, ONE, w=1)
    (tmp_path / "adapter_model.bin").write_bytes(b"not even a pickle")
    (tmp_path / CONFIG).write_text(json.dumps({"transformers_weights": named}))
    with pytest.raises(WeightsError, match=words):
        check_weights(tmp_path)


def test_a_config_that_names_them_twice(tmp_path):
    """Python's reader would take the last of two equal keys, and so would transformers; which is meant is not told."""
    write(tmp_path, ONE, w=1)
    write(tmp_path, "x.safetensors", w=2)
    (tmp_path / CONFIG).write_text('{"transformers_weights": null, "transformers_weights": "x.safetensors"}')
    with pytest.raises(WeightsError, match=r"config\.json cannot be used .*given twice"):
        check_weights(tmp_path)


def test_an_adapter_is_no_model(tmp_path):
    write(tmp_path, ONE, w=1)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere/model"}')
    with pytest.raises(WeightsError, match=r"holds adapter_config.json.*Merge the adapter"):
        check_weights(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.complex64])
def test_values_of_rare_dtypes_are_checked_too(tmp_path, dtype):
    values = torch.tensor([1.0, torch.nan]).to(dtype)
    save_file({"w": values}, tmp_path / ONE)
    with pytest.raises(WeightsError, match="not finite in 1 tensors: w"):
        check_weights(tmp_path)


def test_values_that_cannot_be_looked_at_are_no_sound_weights(tmp_path):
    packed = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    save_file({"w": packed}, tmp_path / ONE)
    with pytest.raises(WeightsError, match=r"w as torch\.float4_e2m1fn_x2, whose values cannot be checked"):
        check_weights(tmp_path)


def test_a_local_series_is_compared_by_the_same_files(tmp_path):
    for step, value in ((1, 1.0), (2, 1.0), (3, 2.0)):
        folder = tmp_path / f"step-{step}"
        folder.mkdir()
        write(folder, ONE, w=value)
        write(folder, "x.safetensors", w=step)
        write_index(folder, {"w": "x.safetensors"})
    (tmp_path / "step-4").mkdir()
    write(tmp_path / "step-4", "weights.safetensors", w=4)
    (tmp_path / "step-5").mkdir()
    write(tmp_path / "step-5", "second.safetensors", w=1)
    (tmp_path / "step-5" / CONFIG).write_text('{"transformers_weights": "second.safetensors"}')
    report = inspect_series(list_series(tmp_path))
    assert report.duplicates == (("step-1", "step-2", "step-5"),)
    assert report.aside == {f"step-{step}": ("x.safetensors",) for step in (1, 2, 3)}
    assert list(report.unusable) == ["step-4"]
    assert report.flags["step-4"][0].startswith("holds weights.safetensors, but neither model.safetensors nor")


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    """As root everything can be read, so that the refusal is put in here."""

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    write(tmp_path, ONE, w=1)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(WeightsError, match=r"cannot be read.*Permission denied"):
        weight_files(tmp_path)
