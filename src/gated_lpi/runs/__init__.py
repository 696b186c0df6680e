"""Experiments and their results: experiment files, the result store, the engine that fills it."""

from gated_lpi.runs.engine import attribute_checkpoint, run_experiment
from gated_lpi.runs.experiment import Experiment, load_experiment, preset
from gated_lpi.runs.progress import Progress, Silent
from gated_lpi.runs.records import AblationRow, AblationTable, ArmRecord, TopUnit
from gated_lpi.runs.run import Run, create_run, open_run
from gated_lpi.runs.store import ResultStore

__all__ = [
    "AblationRow",
    "AblationTable",
    "ArmRecord",
    "Experiment",
    "Progress",
    "ResultStore",
    "Run",
    "Silent",
    "TopUnit",
    "attribute_checkpoint",
    "create_run",
    "load_experiment",
    "open_run",
    "preset",
    "run_experiment",
]
