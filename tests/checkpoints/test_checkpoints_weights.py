import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from gated_lpi.checkpoints import check_weights
from gated_lpi.errors import WeightsError


def tensors():
    return {
        "a.weight": torch.ones(3, 4),
        "b.weight": torch.zeros(5, dtype=torch.bfloat16),
        "count": torch.arange(2),
    }


def sharded(folder):
    placed = {}
    for name, tensor in tensors().items():
        shard = f"model-{name}.safetensors"
        save_file({name: tensor}, folder / shard)
        placed[name] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def test_report_of_one_file(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    report = check_weights(tmp_path)
    (file,) = report.files
    content = (tmp_path / "model.safetensors").read_bytes()
    assert (file.name, file.size) == ("model.safetensors", len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert report.parameters == 19
    assert report.dtypes == {"float32": 12, "bfloat16": 5, "int64": 2}


def test_combined_digest_tells_weights_apart(tmp_path):
    digests = []
    for name, value in (("one", 1.0), ("copy", 1.0), ("other", 2.0)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((4,), value)}, tmp_path / name / "model.safetensors")
        digests.append(check_weights(tmp_path / name).sha256)
    assert digests[0] == digests[1] != digests[2]


def test_shards_of_an_index(tmp_path):
    sharded(tmp_path)
    save_file({"stray": torch.full((2,), torch.nan)}, tmp_path / "adapter.safetensors")
    report = check_weights(tmp_path)
    assert [file.name for file in report.files] == sorted(f"model-{name}.safetensors" for name in tensors())
    assert report.parameters == 19


def test_missing_shard_is_named(tmp_path):
    sharded(tmp_path)
    (tmp_path / "model-b.weight.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"1 are missing: model-b\.weight\.safetensors"):
        check_weights(tmp_path)


def test_tensor_missing_from_its_shard_is_named(tmp_path):
    sharded(tmp_path)
    save_file({"another": torch.ones(1)}, tmp_path / "model-count.safetensors")
    with pytest.raises(WeightsError, match=r"count in model-count\.safetensors"):
        check_weights(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_unusable_index(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=r"index\.json"):
        check_weights(tmp_path)


def test_no_weights(tmp_path):
    (tmp_path / "optimizer.pt").write_bytes(b"state")
    with pytest.raises(WeightsError, match="holds no weights"):
        check_weights(tmp_path)
    with pytest.raises(WeightsError, match="is not a folder"):
        check_weights(tmp_path / "absent")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused_unopened(tmp_path, name):
    (tmp_path / name).write_bytes(b"not even a pickle")
    with pytest.raises(WeightsError, match=r"pickled weights only.*save_pretrained"):
        check_weights(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_cut_short(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="cut short or corrupt"):
        check_weights(tmp_path)


def test_file_without_tensors(tmp_path):
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="holds no tensors"):
        check_weights(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2])
def test_values_that_are_not_finite_are_named_and_counted(tmp_path, dtype):
    values = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf]).to(dtype)
    save_file({"good": torch.ones(2), "layers.3.bad": values}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"in 1 tensors: layers\.3\.bad \(1 NaN, 2 infinite of 4\)"):
        check_weights(tmp_path)
