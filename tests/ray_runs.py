"""What the tests of Ray share: two series of tiny checkpoints, jobs over them, and what makes outcomes the same."""

import xarray as xr

from gated_lpi import load_facts
from gated_lpi.checkpoints import list_local
from gated_lpi.experiments import Experiment
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.runs.job import Job
from tiny_runs import QUICK
from tiny_text import save_checkpoint, save_facts

STEPS = (0, 10, 100, 1000)


def save_series(folder):
    """Facts and two series; the second checkpoint of the dense one is damaged."""
    save_facts(folder / "facts")
    for arm, case in (("moe", "Qwen3-MoE"), ("dense", "Qwen3")):
        for seed, step in enumerate(STEPS):
            save_checkpoint(folder / arm / f"step-{step}", case, seed)
    weights = folder / "dense" / "step-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


def experiment(source, arms=("moe", "dense")):
    return Experiment.model_validate(
        {
            "name": "test",
            "facts": {"source": str(source / "facts"), "templates": "first"},
            **QUICK,
            "arms": [{"name": name, "checkpoints": str(source / name)} for name in arms],
        }
    )


def jobs_of(source, arm, storage=None, checkpoints=None):
    facts = load_facts(source / "facts")
    checkpoints = list_local(source / arm) if checkpoints is None else checkpoints
    return [Job(arm, c, experiment(source), facts, storage or StorageSpec()) for c in checkpoints]


def assert_same(found, expected):
    """Outcomes with the same scores, array for array; times, and the folder they were read from, may differ."""
    assert [(o.arm, o.key) for o in found] == [(o.arm, o.key) for o in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert lasting(mine.record) == lasting(theirs.record)
        assert lasting(mine.scores.attrs) == lasting(theirs.scores.attrs)
        xr.testing.assert_identical(mine.scores.assign_attrs(theirs.scores.attrs), theirs.scores)


def lasting(record):
    return {key: value for key, value in record.items() if key not in {"seconds", "created", "source"}}
