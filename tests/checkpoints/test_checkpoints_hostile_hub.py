"""A hub that means harm, or something between it and us: waits, floods, drips, wrong places, tokens, other hosts."""

import contextlib
import dataclasses
import email.utils
import gzip
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gated_lpi import load_model
from gated_lpi.checkpoints import Hub, evict, fetch, list_series
from gated_lpi.errors import CheckpointError, FetchError, WeightsError
from hub_server import HubServer, files_in
from tiny_text import save_checkpoint

ONE = "model.safetensors"
ETAG = "GET .*resolve.*model.safetensors", "HEAD .*resolve.*model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return files_in(save_checkpoint(tmp_path_factory.mktemp("model"), "Llama"))


@pytest.fixture
def server(files):
    with HubServer({"a/b": {"main": files, "step1": files, "step2": {**files, "README.md": b"2"}}}) as running:
        yield running


def step(server, hub_of, i=1, **options):
    hub = hub_of(server, **options)
    return list_series("a/b", hub=hub).checkpoints[i - 1], hub


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "1000000000"},
        {"Retry-After": email.utils.formatdate(2**34)},
        {"RateLimit": '"api";r=0;t=1000000000'},
    ],
)
@pytest.mark.parametrize("code", [429, 408])
def test_a_download_does_not_wait_for_years(server, hub_of, monkeypatch, method, headers, code):
    if code == 408 and "RateLimit" in headers:
        headers = {"Retry-After": "2000000000"}
    checkpoint, hub = step(server, hub_of)
    slept = []
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds))
    server.fault("status", f"{method} .*resolve.*{ONE}", times=99, code=code, headers=headers)
    with pytest.raises(FetchError):
        fetch(checkpoint, hub=hub)
    assert not [seconds for seconds in slept if seconds > 1]
    assert len(server.asked(f"{method} .*resolve.*{ONE}")) <= 2  # the client itself asks twice for what it may not have


@pytest.mark.parametrize("after", ["-5", "soon", "1e9", "", "Mon, 01 Jan 0001 00:00:00 GMT", "\u00b2", "9" * 5000])
def test_a_wait_that_is_none_is_the_usual_one(server, hub_of, monkeypatch, after):
    checkpoint, hub = step(server, hub_of)
    slept = []
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds))
    headers = {"Retry-After": after}
    server.fault("status", f"GET .*resolve.*{ONE}", times=2, code=429, headers=headers)
    if after == "9" * 5000:
        with pytest.raises(FetchError):
            fetch(checkpoint, hub=hub)
    else:
        assert fetch(checkpoint, hub=hub).weights
    assert all(seconds < 1 for seconds in slept)


def test_what_is_waited_for_is_said(server, hub_of, monkeypatch, caplog):
    checkpoint, hub = step(server, hub_of)
    slept = []
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds))
    server.fault("status", f"GET .*resolve.*{ONE}", code=429, headers={"Retry-After": "77"})
    with caplog.at_level(logging.WARNING, "gated_lpi"):
        assert fetch(checkpoint, hub=hub).weights
    assert 77.0 in slept
    assert f"waiting 77 seconds before asking {server.url} again for {ONE} of a/b" in caplog.text


@pytest.mark.parametrize("name", [ONE, "tokenizer.json"])
def test_a_drip_is_not_waited_for(server, hub_of, name):
    checkpoint, hub = step(server, hub_of, slowest=1e6, slow_after=0.4)
    server.fault("trickle", f"GET .*resolve.*{name}", times=99, seconds=20.0)
    started = time.monotonic()
    with pytest.raises(FetchError, match=rf"sent [0-9,]+ bytes of {name} .* less than 1,000,000 a second"):
        fetch(checkpoint, hub=hub)
    assert time.monotonic() - started < 10
    assert Hub().slowest == 10_000
    assert Hub().slow_after == 60


def test_nor_is_one_over_many_connections(server, hub_of, monkeypatch):
    """Each of them gives a few bytes, after which the client resumes without end."""
    checkpoint, hub = step(server, hub_of, slowest=1e9, slow_after=0.2)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _, sleep=time.sleep: sleep(0.02))
    server.fault("cut", f"GET .*resolve.*{ONE}", times=10**6, after=3)
    with pytest.raises(FetchError, match=r"less than 1,000,000,000 a second"):
        fetch(checkpoint, hub=hub)


@pytest.mark.parametrize(
    "pattern", ["GET /api/models/a/b$", "GET .*refs", "GET .*resolve.*config.json", f"GET .*{ONE}"]
)
def test_a_gzip_bomb_is_not_unpacked(server, hub_of, pattern):
    bomb = gzip.compress(bytes(1 << 28), 1)
    server.fault("body", pattern, times=99, body=bomb, headers={"Content-Encoding": "gzip"})
    server.fault("body", pattern.replace("/b$", "/b/revision"), 99, body=bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="in a compressed form"):
        fetch(*step(server, hub_of)[:1], hub=hub_of(server))


def test_a_listing_without_end_is_not_read(server, hub_of, monkeypatch):
    monkeypatch.setattr("gated_lpi.checkpoints.hub.LARGEST_ANSWER", 1 << 10)
    hub = dataclasses.replace(hub_of(server))
    server.fault("body", "GET .*refs", body=b" " * (1 << 12))
    from gated_lpi.checkpoints.limits import AnswerLimits

    with pytest.raises(FetchError, match="more than the 1,024 bytes"):
        hub.patiently("all of it", lambda: ask(hub), largest=1 << 10)
    assert AnswerLimits("x", "y").largest == 1 << 26


def ask(hub):
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.address, token=False).list_repo_refs("a/b")


@pytest.mark.parametrize("body", [b"<html>Log in to the network</html>", b"{}", b""])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", ONE])
def test_a_captive_portal_leaves_nothing_behind(server, hub_of, files, name, body):
    """It answers everything with 200; what it said is not kept as a file of the checkpoint."""
    checkpoint, hub = step(server, hub_of)
    hub.inventory("a/b", checkpoint.commit)
    server.fault("body", f".*resolve.*{name}", times=99, body=body)
    with pytest.raises(CheckpointError):
        fetch(checkpoint, hub=hub)
    server.faults.clear()
    fetched = fetch(checkpoint, hub=hub)
    assert (fetched.path / name).read_bytes() == files[name]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_small_files_are_those_of_the_listing_too(server, hub_of, files, name):
    checkpoint, hub = step(server, hub_of)
    server.fault("wrong", f"GET .*resolve.*{name}")
    with pytest.raises(WeightsError, match=rf"{name} is not the file that a/b lists"):
        fetch(checkpoint, hub=hub)
    assert (fetch(checkpoint, hub=hub).path / name).read_bytes() == files[name]


@pytest.mark.parametrize(
    "etag", ["../../../../outside", "/tmp/outside", "..", "a/../../../../outside", "\\..\\outside", ""]
)
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag"])
def test_no_etag_leads_out_of_the_cache(server, hub_of, tmp_path, header, etag):
    checkpoint, hub = step(server, hub_of)
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    server.fault("headers", "HEAD .*resolve.*config.json", times=99, headers={header: f'"{etag}"'})
    with pytest.raises(CheckpointError):
        fetch(checkpoint, hub=hub)
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before


@pytest.mark.parametrize("commit", ["0" * 40, "../../outside", "main", ""])
def test_a_file_of_another_commit_is_not_taken(server, hub_of, commit):
    checkpoint, hub = step(server, hub_of)
    server.fault("headers", "HEAD .*resolve.*config.json", times=99, headers={"X-Repo-Commit": commit})
    with pytest.raises(CheckpointError):
        fetch(checkpoint, hub=hub)
    assert not list(hub.cache.rglob("outside"))


def test_a_branch_that_moves_between_listing_and_fetch(server, hub_of, files):
    checkpoint, hub = step(server, hub_of)
    server.move("a/b", "step1", {**files, "config.json": b"{}"})
    assert (fetch(checkpoint, hub=hub).path / "config.json").read_bytes() == files["config.json"]
    del server.past[checkpoint.commit]
    other = dataclasses.replace(hub, cache_dir=hub.cache / "other")
    with pytest.raises(CheckpointError, match="refused"):
        fetch(checkpoint, hub=other)


SECRET = "hf_" + "secret" * 6


@pytest.mark.parametrize(
    "pattern", ["GET .*refs", "GET /api/models/a/b/revision", f"HEAD .*{ONE}", f"GET .*{ONE}", "HEAD .*config"]
)
def test_a_token_goes_to_no_other_host(server, hub_of, pattern):
    with HubServer({"a/b": server.repos["a/b"]}) as other:
        commit = server.commit("a/b", "step1")
        path = f"/a/b/resolve/{commit}/{'config.json' if 'config' in pattern else ONE}"
        path = {"refs": "/api/models/a/b/refs", "revision": f"/api/models/a/b/revision/{commit}"}.get(
            pattern.rsplit("/", 1)[-1].removeprefix("GET .*"), path
        )
        server.fault("redirect", pattern, times=99, location=other.url.replace("127.0.0.1", "localhost") + path)
        hub = dataclasses.replace(hub_of(server), token=SECRET)
        with contextlib.suppress(CheckpointError):
            fetch(list_series("a/b", hub=hub).checkpoints[0], hub=hub)
        assert any(SECRET in token for token in server.tokens)
        assert other.requests
        assert not any(other.tokens)


def test_a_hub_does_not_send_a_token_on_by_itself(server, hub_of):
    """Whatever in the client would take the token along, such as the address that a header gives for another store."""
    from huggingface_hub import get_session

    hub = hub_of(server)
    headers = {"Authorization": f"Bearer {SECRET}"}
    with HubServer({}) as other:
        with pytest.raises(FetchError, match="another host"):
            hub.patiently("a thing", lambda: get_session().get(f"{other.url}/token", headers=headers))
        assert not other.requests


WORKER = """
import sys
from gated_lpi.checkpoints import Hub, fetch, list_series
hub = Hub(endpoint=sys.argv[1], cache_dir=sys.argv[2], token=False)
fetch(list_series("a/b", hub=hub).checkpoints[0], hub=hub)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker(server, hub_of):
    """Another process that works with the first checkpoint."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WORKER, server.url, str(hub_of(server).cache)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
    yield process
    process.kill()
    process.wait(30)
    process.stdout.close()
    process.stdin.close()


@pytest.mark.parametrize("ends", ["well", "killed"])
def test_no_process_deletes_what_another_works_with(server, hub_of, worker, ends):
    checkpoint, hub = step(server, hub_of)
    fetched = fetch(checkpoint, hub=hub)
    assert worker.stdout.readline() == "held\n"
    assert evict(fetched, hub=hub) == 0
    assert all(path.exists() for path in fetched.downloaded_files)
    if ends == "well":
        worker.stdin.close()
    else:
        worker.send_signal(signal.SIGKILL)
    worker.wait(30)
    assert evict(fetched, hub=hub) > 0
    assert not any(path.exists() for path in fetched.downloaded_files)
    assert not list(hub.cache.rglob(f".gated-lpi-held/{checkpoint.commit}.*"))


def test_bytes_that_another_checkpoint_shares_stay_for_it(server, hub_of):
    """The second checkpoint has the same weights, and finds them there; deleting the first leaves them."""
    first, hub = step(server, hub_of, 1)
    second, _ = step(server, hub_of, 2)
    one = fetch(first, hub=hub)
    two = fetch(second, hub=hub)
    evict(one, hub=hub)
    assert not (one.path / ONE).exists()
    assert (two.path / ONE).read_bytes() == server.repos["a/b"]["step2"][ONE]


def test_a_file_that_went_meanwhile_is_fetched_again(server, hub_of, monkeypatch):
    checkpoint, hub = step(server, hub_of)
    download = Hub.download
    lost = []

    def losing(self, repo, commit, name, size=0):
        path = download(self, repo, commit, name, size)
        if name == ONE and not lost:
            lost.append(path)
            Path(os.path.realpath(path)).unlink()
            path.unlink()
        return path

    monkeypatch.setattr(Hub, "download", losing)
    assert (fetch(checkpoint, hub=hub).path / ONE).exists()
    assert lost


def test_a_repository_is_loaded_at_one_commit(server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    model = load_model("a/b", revision="step1")
    assert model.provenance["commit"] == server.commit("a/b", "step1")
    assert model.provenance["source"] == "a/b"
    asked = len(server.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_model("a/b", revision="step1").provenance["commit"] == model.provenance["commit"]
    assert load_model("a/b", revision=model.provenance["commit"]).n_layers == 2
    assert len(server.requests) == asked
    with pytest.raises(CheckpointError, match="offline"):
        load_model("a/b", revision="step2")


def test_no_etag_of_a_redirect_leads_out_of_the_cache(server, hub_of, tmp_path):
    """Large files are answered for with a redirect, whose ETag names the file in the cache."""
    checkpoint, hub = step(server, hub_of)
    location = f"{server.url}/a/b/resolve/{checkpoint.commit}/{ONE}?again"
    server.fault("redirect", f"HEAD .*resolve.*{ONE}", times=99, location=location)
    assert fetch(checkpoint, hub=hub).weights
    server.faults.clear()
    other = dataclasses.replace(hub, cache_dir=tmp_path / "deeper" / "cache")
    server.fault("redirect", f"HEAD .*resolve.*{ONE}", 99, location=location, headers={"X-Linked-Etag": '"../../../x"'})
    with pytest.raises(FetchError, match="cannot name a file"):
        fetch(checkpoint, hub=other)
    assert not list(tmp_path.rglob("x"))
