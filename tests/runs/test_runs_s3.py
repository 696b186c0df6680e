"""A run in an S3 bucket: the real client (s3fs) against a server on loopback (moto), through the command line."""

import gc
import socket
import tomllib
import uuid

import pytest
import xarray as xr
from typer.testing import CliRunner

from gated_lpi import open_run
from gated_lpi.cli import app
from gated_lpi.errors import RunError
from tiny_text import CAPITALS, save_checkpoint, save_facts

s3fs = pytest.importorskip("s3fs", reason="the S3 test needs s3fs")
moto_server = pytest.importorskip("moto.server", reason="the S3 test needs moto[server]")

# Slow, and zarr's own client of the bucket leaves a session open that Python complains of when it is collected.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

EXPERIMENT = """
name = "bucket"

[facts]
source = "{facts}"

[[arms]]
name = "moe"
checkpoints = "{checkpoints}"

[metrics]
draws = 5
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    save_facts(folder / "facts", [CAPITALS])
    for seed, step in enumerate((0, 10)):
        save_checkpoint(folder / "moe" / f"step-{step}", "Qwen3-MoE", seed)
    path = folder / "experiment.toml"
    path.write_text(EXPERIMENT.format(facts=folder / "facts", checkpoints=folder / "moe"))
    assert tomllib.loads(path.read_text())["name"] == "bucket"
    return path


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """The address of a new bucket on a server of this test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
        "GATED_LPI_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"results-{uuid.uuid4().hex[:8]}"  # the server's buckets are those of the process
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    for system in list(s3fs.S3FileSystem._cache.values()):
        if system._s3 is not None:
            system.close_session(system.loop, system._s3)
    s3fs.S3FileSystem.clear_instance_cache()
    gc.collect()
    server.stop()


@pytest.mark.usefixtures("undrawn")
def test_the_command_line_runs_into_a_bucket(experiment, bucket, tmp_path):
    address = f"{bucket}/run"
    for out in (address, str(tmp_path / "run")):
        done = CliRunner().invoke(app, ["run", str(experiment), "--out", out])
        assert done.exit_code == 0, done.output
    remote, local = open_run(address), open_run(tmp_path / "run")
    xr.testing.assert_equal(remote.scores("moe").load(), local.scores("moe").load())
    before = s3fs.S3FileSystem().find(address)
    assert before
    assert CliRunner().invoke(app, ["run", str(experiment), "--out", address]).exit_code == 0
    assert remote.store("moe").records() == open_run(address).store("moe").records()  # nothing is computed again
    assert CliRunner().invoke(app, ["report", address, "--out", str(tmp_path / "report")]).exit_code == 0
    assert "<html" in (tmp_path / "report" / "report.html").read_text()


def test_a_bucket_that_is_not_there_is_an_error(experiment, bucket):
    missing = CliRunner().invoke(app, ["run", str(experiment), "--out", f"{bucket}-not-there/run"])
    assert isinstance(missing.exception, RunError)
    assert f"{bucket}-not-there" in str(missing.exception)
    assert "Is there such a bucket?" in str(missing.exception)
