"""Running experiments: checkpoints are trained or fetched, scored by an engine, kept in `gated_lpi.results`."""

from gated_lpi.runs.execute import run_experiment
from gated_lpi.runs.job import Engine, Job, Outcome, Storage, attribute_checkpoint, score_checkpoint
from gated_lpi.runs.local_engine import LocalEngine
from gated_lpi.runs.progress import Progress, Silent

__all__ = [
    "Engine",
    "Job",
    "LocalEngine",
    "Outcome",
    "Progress",
    "Silent",
    "Storage",
    "attribute_checkpoint",
    "run_experiment",
    "score_checkpoint",
]
