"""A whole run on another device, a GPU or an emulated one: loading, scores, ablation, the units' tokens."""

import numpy as np
import pytest
import xarray as xr

from gated_lpi.experiments import Experiment
from gated_lpi.runs import run_experiment
from other_device import EMULATED, OTHER, OtherDevice
from tiny_runs import QUICK
from tiny_text import save_checkpoint, save_facts


@pytest.mark.parametrize("case", [pytest.param("OLMoE", marks=pytest.mark.slow), "GPT-2"])
def test_a_run_on_another_device_gives_what_the_cpu_gives(tmp_path, case):
    facts = str(save_facts(tmp_path / "facts"))
    for seed, step in enumerate((0, 10, 20)):
        save_checkpoint(tmp_path / "series" / f"step-{step}", case, seed)

    def run(**where):
        content = {
            "name": "devices",
            "facts": {"source": facts, "templates": "first"},
            "arms": [{"name": "a", "series": str(tmp_path / "series")}],
            "storage": where,
            **QUICK,
        }
        return run_experiment(Experiment.model_validate(content), tmp_path / "-".join(where.values()))

    here = run(device="cpu")
    with OtherDevice() as device:
        there = run(device=OTHER)
        assert device.reads > 0
    hits = [[(row.name, row.hit) for row in run.record("a").ablation.rows] for run in (here, there)]
    assert hits[0] == hits[1]
    assert len(hits[0]) > 1
    one, other, by_map = (run.scores("a").load() for run in (here, there, run(device_map="auto")))
    if OTHER == EMULATED:
        xr.testing.assert_equal(one, by_map)  # which is the CPU, if there is no GPU
    for scores in (other, by_map):
        assert set(one.data_vars) == set(scores.data_vars)
        for name in ("lpi", "lpi_mean", "head_lpi", "block_lpi", "target_logprob"):
            np.testing.assert_allclose(one[name], scores[name], atol=2e-3, err_msg=name)
        np.testing.assert_array_equal(one["target_rank"], scores["target_rank"])
