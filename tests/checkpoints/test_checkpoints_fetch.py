"""Fetching over a loopback hub with the true client: broken connections, wrong bytes, an offline cache, eviction."""

import hashlib
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gated_lpi.checkpoints import Checkpoint, check_weights, evict, fetch, inspect_series, list_series
from gated_lpi.errors import CheckpointError, WeightsError
from hub_server import HubServer
from tiny_models import tiny_module
from tiny_text import tiny_tokenizer

ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def server(models):
    extra = {
        "pytorch_model.bin": b"a pickle",
        "training_args.bin": b"another",
        "README.md": b"# tiny",
        "code.py": b"1/0",
    }
    with HubServer({"a/b": {"main": {}, "step1": {**models["one"], **extra}, "step2": models["two"]}}) as running:
        yield running


def step(server, hub_of, i, **options):
    hub = hub_of(server, **options)
    return list_series("a/b", hub=hub).checkpoints[i - 1], hub


def shards(files):
    return sorted(name for name in files if name.endswith(".safetensors"))


def test_what_is_fetched_is_the_model(server, models, hub_of):
    assert len(shards(models["two"])) > 2
    for i, name in ((1, "one"), (2, "two")):
        checkpoint, hub = step(server, hub_of, i)
        fetched = fetch(checkpoint, hub=hub)
        assert fetched.path.name == checkpoint.commit
        loaded = AutoModelForCausalLM.from_pretrained(fetched.path).state_dict()
        expected = tiny_module("Qwen3-MoE", seed=i).state_dict()
        assert all(torch.equal(value, loaded[key]) for key, value in expected.items())
        assert (
            AutoTokenizer.from_pretrained(fetched.path)("Paris")["input_ids"] == tiny_tokenizer()("Paris")["input_ids"]
        )
        assert [f.name for f in fetched.weights] == shards(models[name])
        assert all(f.sha256 == hashlib.sha256(models[name][f.name]).hexdigest() for f in fetched.weights)
        assert check_weights(fetched.path).files == fetched.weights


def test_neither_pickles_nor_code_are_fetched(server, hub_of):
    checkpoint, hub = step(server, hub_of, 1)
    fetched = fetch(checkpoint, hub=hub)
    names = {path.name for path in fetched.downloaded_files}
    assert names == {path.name for path in fetched.path.iterdir()}
    assert {ONE, "config.json", "tokenizer.json"} <= names
    assert not names & {"pytorch_model.bin", "training_args.bin", "README.md", "code.py"}
    assert not server.asked("pytorch_model.bin")
    assert [path.name for path in fetch(checkpoint, hub=hub, remote_code=True).downloaded_files] == ["code.py"]


def test_the_second_time_nothing_is_asked(server, hub_of):
    checkpoint, hub = step(server, hub_of, 2)
    first = fetch(checkpoint, hub=hub)
    assert first.bytes == sum(path.stat().st_size for path in first.downloaded_files)
    count = len(server.requests)
    again = fetch(checkpoint, hub=hub)
    assert (again.path, again.downloaded_files, again.bytes) == (first.path, (), 0)
    assert again.weights == first.weights
    assert fetch(checkpoint, hub=hub, offline=True).weights == first.weights
    assert len(server.requests) == count


def test_a_branch_that_moves_is_fetched_at_the_pinned_commit(server, models, hub_of):
    checkpoint, hub = step(server, hub_of, 2)
    server.move("a/b", "step2", models["one"])
    fetched = fetch(checkpoint, hub=hub)
    assert [f.name for f in fetched.weights] == shards(models["two"])
    assert list_series("a/b", hub=hub).checkpoints[1].commit != checkpoint.commit


@pytest.mark.parametrize(
    ("kind", "pattern", "options"),
    [
        ("cut", "GET .*{weights}", {"after": 5000}),
        ("status", "GET .*{weights}", {"code": 500}),
        ("status", "GET .*{weights}", {"code": 429, "headers": {"Retry-After": "0"}}),
        ("status", "HEAD .*{weights}", {"code": 503}),
        ("slow", "HEAD .*{weights}", {"seconds": 0.6}),
    ],
)
def test_a_bad_connection(server, models, hub_of, kind, pattern, options):
    checkpoint, hub = step(server, hub_of, 1, timeout=0.3)
    server.fault(kind, pattern.format(weights=ONE), **options)
    fetched = fetch(checkpoint, hub=hub)
    assert (fetched.path / ONE).read_bytes() == models["one"][ONE]
    assert server.faults[0].times == 0


def test_a_cut_file_is_resumed_where_it_broke(server, hub_of, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept of a broken connection
    checkpoint, hub = step(server, hub_of, 1)
    server.fault("cut", f"GET .*{ONE}", after=5000)
    fetch(checkpoint, hub=hub)
    assert [request[2] for request in server.asked(f"GET .*{ONE}")] == ["", "bytes=5000-"]


def test_a_hub_that_stays_broken_leaves_what_was_complete(server, hub_of):
    checkpoint, hub = step(server, hub_of, 2, attempts=2)
    last = shards(server.repos["a/b"]["step2"])[-1]
    server.fault("status", f"GET .*{last}", times=99, code=500)
    with pytest.raises(CheckpointError, match=rf"did not answer for {last} of a/b at .*asked 2 times"):
        fetch(checkpoint, hub=hub)
    server.faults.clear()
    again = fetch(checkpoint, hub=hub)
    assert [path.name for path in again.downloaded_files] == [last]


def test_wrong_bytes_are_removed_and_named(server, models, hub_of):
    checkpoint, hub = step(server, hub_of, 1)
    server.fault("wrong", f"GET .*{ONE}")
    with pytest.raises(WeightsError, match=rf"{ONE} is not the file that a/b lists at .*SHA-256 is .* It was removed"):
        fetch(checkpoint, hub=hub)
    assert not [path for path in hub.cache.rglob("*") if path.name == ONE]
    fetched = fetch(checkpoint, hub=hub)
    assert (fetched.path / ONE).read_bytes() == models["one"][ONE]
    assert [path.name for path in fetched.downloaded_files] == [ONE]


def test_no_wrong_file_stays_in_the_cache(server, models, hub_of):
    checkpoint, hub = step(server, hub_of, 1)
    server.fault("wrong", "GET .*/resolve/.*", times=10**6)
    with pytest.raises(WeightsError, match="It was removed"):
        fetch(checkpoint, hub=hub)
    for path in (path for folder in hub.cache.glob("models--*/snapshots/*") for path in folder.iterdir()):
        assert path.read_bytes() == models["one"][path.name]
    server.faults.clear()
    assert (fetch(checkpoint, hub=hub).path / ONE).read_bytes() == models["one"][ONE]


def test_a_hub_that_gives_two_files_one_name_leaves_no_link_to_nothing_and_no_weights(server, hub_of):
    checkpoint, hub = step(server, hub_of, 1)
    server.fault("headers", ".*json", times=10**6, headers={"ETag": f'"{"0" * 40}"'})
    with pytest.raises(WeightsError, match="It was removed"):
        fetch(checkpoint, hub=hub)
    assert not [path for path in hub.cache.rglob("*") if path.is_symlink() and not path.exists()]
    server.faults.clear()
    fetched = fetch(checkpoint, hub=hub)
    dead = fetched.path.with_name("f" * 40) / "config.json"  # as other programs may leave one behind
    dead.parent.mkdir()
    dead.symlink_to("../../blobs/gone")
    evict(fetched, hub=hub)
    assert not list(hub.cache.rglob("*.safetensors"))


@pytest.mark.parametrize("listed", [True, False])
def test_a_cache_that_rotted(server, hub_of, tmp_path, listed):
    checkpoint, hub = step(server, hub_of, 1)
    fetched = fetch(checkpoint, hub=hub)
    weights = fetched.path / ONE
    if not listed:  # then the cache's own names tell the hashes
        for record in (tmp_path / "cache" / ".gated-lpi").rglob(f"{checkpoint.commit}.json"):
            record.unlink()
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WeightsError, match=r"SHA-256 is .*Delete it, and fetch the checkpoint again while online"):
        fetch(checkpoint, hub=hub, offline=True)
    assert weights.exists()
    with pytest.raises(WeightsError, match="It was removed"):
        fetch(checkpoint, hub=hub)
    assert fetch(checkpoint, hub=hub).bytes == len(content)


def test_small_weights_outside_large_file_storage_are_verified_too(hub_of, models, monkeypatch):
    monkeypatch.setattr("hub_server.LARGE", (".none",))
    with HubServer({"a/b": {"step1": models["one"]}}) as server:
        checkpoint, hub = step(server, hub_of, 1)
        server.fault("wrong", f"GET .*{ONE}")
        with pytest.raises(WeightsError, match="git id is"):
            fetch(checkpoint, hub=hub)
        assert fetch(checkpoint, hub=hub).weights[0].name == ONE
        assert inspect_series(list_series("a/b", hub=hub), hub=hub).clean


@pytest.mark.parametrize("seen", ["nothing", "listing", "half"])
def test_offline_without_the_files(server, hub_of, seen):
    checkpoint, hub = step(server, hub_of, 2, attempts=1)
    if seen == "listing":
        hub.inventory("a/b", checkpoint.commit)
    if seen == "half":
        server.fault("status", f"GET .*{shards(server.repos['a/b']['step2'])[-1]}", times=99, code=500)
        with pytest.raises(CheckpointError, match="did not answer"):
            fetch(checkpoint, hub=hub)
    with pytest.raises(CheckpointError, match=r"offline\).*once while online"):
        fetch(checkpoint, hub=hub, offline=True)


def test_offline_from_a_cache_that_another_program_filled(server, models, hub_of, tmp_path):
    from huggingface_hub import snapshot_download

    cache = tmp_path / "theirs"
    commit = server.commit("a/b", "step2")
    snapshot_download("a/b", revision="step2", cache_dir=cache, endpoint=server.url, token=False)
    (found,) = list_series("a/b", hub=hub_of(server, cache), offline=True).checkpoints
    assert (found.key, found.commit) == ("step2", commit)
    fetched = fetch(found, hub=hub_of(server, cache), offline=True)
    assert [f.name for f in fetched.weights] == shards(models["two"])
    assert fetched.downloaded_files == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda files: files.pop(shards(files)[0]),
            r"lacks 1 shards that its index or the other shards name: model-00001-of",
        ),
        (lambda files: [files.pop(name) for name in (*shards(files), INDEX)], "holds no weights"),
        (
            lambda files: [files.pop(name) for name in (*shards(files), INDEX)] + [files.update({"a.bin": b"pickle"})],
            "pickled weights only",
        ),
        (lambda files: files.update({INDEX: b"{}"}), "cannot be used"),
        (lambda files: files.update({INDEX: json.dumps({"weight_map": {"x": "../../x"}}).encode()}), "cannot be used"),
    ],
)
def test_what_is_not_whole_is_not_fetched(server, hub_of, change, words):
    change(server.repos["a/b"]["step2"])
    checkpoint, hub = step(server, hub_of, 2)
    with pytest.raises(WeightsError, match=words):
        fetch(checkpoint, hub=hub)
    assert not server.asked(r"resolve.*safetensors$")


def test_eviction_deletes_what_the_call_brought_and_nothing_else(server, hub_of):
    first, hub = step(server, hub_of, 1)
    second, _ = step(server, hub_of, 2)
    kept = fetch(first, hub=hub)
    before = {path: path.read_bytes() for path in kept.path.iterdir()}
    fetched = fetch(second, hub=hub)
    assert fetched.bytes < sum(path.stat().st_size for path in fetched.downloaded_files), "the tokenizer is shared"
    assert evict(fetched, hub=hub) == fetched.bytes
    assert not list(fetched.path.iterdir())
    assert {path: path.read_bytes() for path in kept.path.iterdir()} == before
    assert evict(fetched, hub=hub) == 0
    again = fetch(second, hub=hub)
    assert len(again.downloaded_files) == len(fetched.downloaded_files)
    assert evict(fetch(second, hub=hub), hub=hub) == 0, "that call brought nothing"
    assert list(again.path.iterdir())


def test_a_duplicate_stays_when_its_twin_is_evicted(models, hub_of):
    with HubServer({"a/b": {"step1": models["one"], "step2": models["one"]}}) as server:
        (one, hub), (two, _) = step(server, hub_of, 1), step(server, hub_of, 2)
        first, second = fetch(one, hub=hub), fetch(two, hub=hub)
        assert second.bytes == 0
        assert evict(first, hub=hub) == 0
        assert check_weights(second.path).files == second.weights
        assert evict(second, hub=hub) == first.bytes


def test_a_local_checkpoint_is_where_it_is(tmp_path):
    fetched = fetch(Checkpoint(tmp_path, "step-1", 1, None, ""))
    assert (fetched.path, fetched.downloaded_files, fetched.bytes) == (tmp_path, (), 0)
    assert evict(fetched) == 0
    with pytest.raises(WeightsError, match="Fetch it first"):
        check_weights(Checkpoint(None, "step1", 1, None, "", "c" * 40, "a/b", "step1").path)
