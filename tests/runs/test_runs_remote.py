"""Runs at an fsspec address: the same numbers as in a folder, interruption, reports, errors."""

import json
import uuid

import fsspec
import numpy as np
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from gated_lpi import open_run
from gated_lpi.cli import app
from gated_lpi.errors import OptionError, RunError, RunExistsError
from gated_lpi.experiments import Experiment
from gated_lpi.report import build_report
from gated_lpi.results.store import ResultStore
from gated_lpi.runs import run_experiment
from tiny_runs import QUICK
from tiny_text import save_checkpoint, save_facts


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    save_facts(folder / "facts")
    for seed, step in enumerate((0, 10)):
        save_checkpoint(folder / "moe" / f"step-{step}", "Qwen3-MoE", seed)
    return Experiment.model_validate(
        {
            "name": "test",
            "facts": {"source": str(folder / "facts"), "templates": "first"},
            "arms": [{"name": "moe", "checkpoints": str(folder / "moe")}],
            **QUICK,
        }
    )


@pytest.fixture(scope="module")
def local(experiment, tmp_path_factory):
    return run_experiment(experiment, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GATED_LPI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def address():
    return f"memory://{uuid.uuid4().hex}/run"


def row(value, units=3):
    return xr.Dataset({"lpi": ("unit", np.full(units, value))}, coords={"layer": ("unit", np.arange(units))})


def record(step):
    return {"key": f"step-{step}", "step": step}


def fail_at(monkeypatch, count):
    """Let the file system fail at its count-th write from now on."""
    written, pipe_file = [], MemoryFileSystem.pipe_file

    def failing(self, path, value, **options):
        written.append(path)
        if len(written) == count:
            raise OSError("no more room")
        return pipe_file(self, path, value, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", failing)
    return written


def test_a_remote_run_has_the_scores_of_a_local_one(experiment, local, address):
    run = run_experiment(experiment, address)
    again = open_run(address)
    xr.testing.assert_equal(again.scores("moe").load(), local.scores("moe").load())
    assert again.record("moe") == local.record("moe")
    assert str(run.path) == address
    before = fsspec.filesystem("memory").find(address)
    done = again.store("moe").records()
    assert run_experiment(experiment, address).store("moe").records() == done  # nothing is computed again
    assert fsspec.filesystem("memory").find(address) == before
    with pytest.raises(RunExistsError, match="another run"):
        run_experiment(experiment.model_copy(update={"name": "b", "arms": ()}), address)


@pytest.mark.slow
def test_reports_and_the_command_line_take_an_address(experiment, local, address):
    run_experiment(experiment, address)
    files = build_report(open_run(address))
    assert "<html" in files.html.read_text()
    assert all(figure.exists() for figure in files.figures)
    measured = CliRunner().invoke(app, ["metrics", address, "--json"])
    expected = CliRunner().invoke(app, ["metrics", str(local.path), "--json"])
    assert measured.exit_code == 0
    assert json.loads(measured.stdout) == json.loads(expected.stdout)
    assert CliRunner().invoke(app, ["report", address, "--out", f"{address}-report"]).exit_code == 0
    assert fsspec.filesystem("memory").exists(f"{address}-report/report.html")


@pytest.mark.parametrize("complete", [0, 1, 2])
def test_an_interrupted_append_costs_one_checkpoint_at_most(address, monkeypatch, complete):
    whole = ResultStore(f"{address}/whole.zarr")
    for step in range(complete + 1):
        with monkeypatch.context() as counting:
            written = fail_at(counting, -1)
            whole.append(row(float(step)), record(step))
            writes = len(written)
    for failing in range(1, writes + 1):
        store = ResultStore(f"{address}/{failing}.zarr")
        for step in range(complete):
            store.append(row(float(step)), record(step))
        with monkeypatch.context() as broken:
            fail_at(broken, failing)
            with pytest.raises(RunError, match="no more room"):
                store.append(row(9.0), record(complete))
        assert store.keys() == [f"step-{step}" for step in range(complete)]
        if complete:
            assert store.open()["lpi"].values[:, 0].tolist() == list(range(complete))
        store.append(row(float(complete)), record(complete))
        xr.testing.assert_identical(store.open().load(), whole.open().load())


def test_other_files_at_the_address_are_left_alone(experiment, address):
    fsspec.filesystem("memory").pipe_file(f"{address}/mine.txt", b"x")
    with pytest.raises(RunExistsError, match="new or empty folder"):
        run_experiment(experiment, address)


def test_an_address_without_a_run_or_of_no_known_protocol_is_an_error(address):
    with pytest.raises(RunError, match=r"holds no run\.json"):
        open_run(address)
    with pytest.raises(OptionError, match="Protocol not known"):
        open_run("nowhere://bucket/run")


def test_what_must_be_local_is_kept_apart_for_each_run(experiment, address, tmp_path):
    run = run_experiment(experiment, address)
    assert run.training_folder("moe").is_relative_to(tmp_path / "cache")
    assert open_run(address).local == run.local
    assert run_experiment(experiment, f"{address}-2").local != run.local


@pytest.mark.slow
def test_a_remote_run_trains_on_this_machine(address, tmp_path):
    size = {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "experts": 4, "expert_width": 8, "vocab_size": 400}
    settings = {
        "name": "trained",
        "training": {"size": size, "steps": 4, "batch_size": 8, "warmup_steps": 1, "checkpoints": 2},
        "arms": [{"name": "moe", "train": "moe"}],
        **QUICK,
    }
    trained = Experiment.model_validate(settings)
    run = run_experiment(trained, address)
    xr.testing.assert_equal(run.scores("moe").load(), run_experiment(trained, tmp_path / "run").scores("moe").load())
    assert run.training_folder("moe").is_relative_to(tmp_path / "cache")
    assert not fsspec.filesystem("memory").glob(f"{address}/**/*.safetensors")
    done = run.store("moe").records()
    assert run_experiment(trained, address).store("moe").records() == done
