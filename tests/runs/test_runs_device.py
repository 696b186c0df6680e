"""A whole run on another device, emulated: loading, scores, ablation, the units' tokens."""

import numpy as np
import pytest
import xarray as xr

from gated_lpi.experiments import Experiment
from gated_lpi.runs import run_experiment
from other_device import OTHER, OtherDevice
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
    by_map = run(device_map="auto")  # the CPU, if there is no other
    xr.testing.assert_equal(here.scores("a").load(), by_map.scores("a").load())
    one, other = here.scores("a").load(), there.scores("a").load()
    assert set(one.data_vars) == set(other.data_vars)
    for name in ("lpi", "lpi_mean", "head_lpi", "block_lpi", "target_logprob"):
        np.testing.assert_allclose(one[name], other[name], atol=2e-3, err_msg=name)
    np.testing.assert_array_equal(one["target_rank"], other["target_rank"])
