"""The script for Slurm, with stand-ins for `srun` and `scontrol` that run here what they are given: one Ray node."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import gated_lpi
from tiny_runs import TRAINING, as_toml, tiny_experiment
from tiny_text import CAPITALS, save_facts

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm_ray.sh"

pytestmark = pytest.mark.slow


def test_a_run_goes_from_beginning_to_end(tmp_path):
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    experiment = tiny_experiment(facts, {"name": "moe", "train": "moe"}, training=TRAINING)
    (tmp_path / "experiment.toml").write_text(as_toml(experiment))
    stands_in = tmp_path / "bin"
    stands_in.mkdir()
    for name, what in (("srun", 'exec "$@"'), ("scontrol", 'echo "$3"')):
        (stands_in / name).write_text(f"#!/bin/bash\n{what}\n")
        (stands_in / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "PATH": f"{stands_in}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "127.0.0.1",
        "SLURM_NNODES": "1",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "0",
        "RAY_PORT": str(port),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = ["bash", str(SCRIPT), str(tmp_path / "experiment.toml"), str(tmp_path / "run")]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert gated_lpi.open_run(tmp_path / "run").scores("moe").sizes["checkpoint"] == TRAINING["checkpoints"]
    assert (tmp_path / "run" / "report.html").is_file()
