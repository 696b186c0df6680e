"""The example of docs/live.md, run as it stands."""

import runpy
from pathlib import Path

import pytest

import gated_lpi
from gated_lpi.live import ARM

EXAMPLE = Path(__file__).parents[2] / "examples" / "watch_training.py"


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")  # on a machine without an accelerator
def test_the_example_trains_and_can_be_read(tmp_path, capsys):
    runpy.run_path(str(EXAMPLE))["main"](tmp_path, steps=2)
    run = gated_lpi.open_run(tmp_path / "live")
    assert run.store(ARM).keys() == ["step-0", "step-1", "step-2"]
    assert run.scores(ARM)["tokens"].to_numpy()[-1] > 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("step ")] == ["step 0", "step 1", "step 2"]
    assert list((tmp_path / "training").glob("runs/*/events*"))
