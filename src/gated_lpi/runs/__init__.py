"""Experiments and their results: experiment files, the result store, the engine that fills it."""

from gated_lpi.runs.engine import run_experiment
from gated_lpi.runs.experiment import Experiment, load_experiment, preset, presets
from gated_lpi.runs.local_engine import LocalEngine
from gated_lpi.runs.progress import Progress, Silent
from gated_lpi.runs.records import AblationRow, AblationTable, ArmRecord, TopUnit
from gated_lpi.runs.run import Run, create_run, open_run
from gated_lpi.runs.store import ResultStore
from gated_lpi.runs.verify import Finding, verify_run
from gated_lpi.runs.work import Engine, Job, Outcome, Storage, attribute_checkpoint, score_checkpoint
from gated_lpi.runs.writer import Owner, writer_of

__all__ = [
    "AblationRow",
    "AblationTable",
    "ArmRecord",
    "Engine",
    "Experiment",
    "Finding",
    "Job",
    "LocalEngine",
    "Outcome",
    "Owner",
    "Progress",
    "ResultStore",
    "Run",
    "Silent",
    "Storage",
    "TopUnit",
    "attribute_checkpoint",
    "create_run",
    "load_experiment",
    "open_run",
    "preset",
    "presets",
    "run_experiment",
    "score_checkpoint",
    "verify_run",
    "writer_of",
]
