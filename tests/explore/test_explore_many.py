"""A table of a million units is searched, sorted and paged on the server."""

import time

import numpy as np
import pytest
import xarray as xr
from starlette.testclient import TestClient

from gated_lpi.experiments import Experiment
from gated_lpi.explore import Workspace, create_app
from gated_lpi.results import create_run

LAYERS, EXPERTS, WIDTH = 16, 64, 1024


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A run of two checkpoints of a million FFN neurons, and their mean scores."""
    folder = tmp_path_factory.mktemp("many") / "run"
    arms = [{"name": "moe", "checkpoints": "made-up"}]
    run = create_run(folder, Experiment.model_validate({"name": "many", "arms": arms}), "0" * 64)
    n = LAYERS * EXPERTS * WIDTH
    place = np.arange(n)
    coords = {
        "layer": ("unit", place // (EXPERTS * WIDTH)),
        "expert": ("unit", place // WIDTH % EXPERTS),
        "neuron": ("unit", place % WIDTH),
        "block": ("unit", np.full(n, "ffn", dtype=object)),
    }
    means = np.random.default_rng(0).standard_normal((2, n)).astype(np.float32)
    for step, mean in enumerate(means):
        scores = xr.Dataset({"lpi_mean": ("unit", mean)}, coords)
        run.store("moe").append(scores, {"key": f"step-{step}", "step": step, "tokens": step})
    workspace = Workspace(run, findings=False)
    workspace.settle()
    yield TestClient(create_app(workspace), base_url="http://127.0.0.1"), means
    workspace.close()


def test_a_million_units_are_sorted_searched_and_paged_in_little_time(many):
    client, means = many
    order = np.argsort(-means[1], kind="stable")
    for address, unit in (
        ("/units", order[0]),
        ("/units?page=20972", order[50 * 20971]),  # the last one
        ("/units?order=ascending", order[-1]),
        ("/units?sort=gain&checkpoint=step-1", np.argmax(means[1] - means[0])),
        ("/units?q=L12+E37", 12 * 65536 + 37 * 1024 + np.argmax(means[1].reshape(-1, 1024)[12 * 64 + 37])),
    ):
        began = time.process_time()
        answer = client.get(address)
        assert time.process_time() - began < 2.0, address
        layer, expert, neuron = unit // 65536, unit // 1024 % 64, unit % 1024
        assert f">L{layer} E{expert} n{neuron}</a>" in answer.text, address
        assert len(answer.content) < 100_000
    answer = client.get("/units?q=L12+E37+n114")
    assert "L12 E37 n114" in answer.text
    assert f"{float(means[1][12 * 65536 + 37 * 1024 + 114]):.4g} nats" in answer.text
