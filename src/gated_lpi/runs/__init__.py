"""Running experiments: checkpoints are trained or fetched, scored by an engine, kept in `gated_lpi.results`.

Read `execute` first, which is the whole of a run. An engine (`local_engine`, `ray_engine`) turns each `job` into an
outcome by `scoring`; `access` reaches its checkpoint, `failures` says what an error means.
"""

from gated_lpi.runs.execute import run_experiment
from gated_lpi.runs.job import Engine, Failure, Job, JobOutcome
from gated_lpi.runs.local_engine import LocalEngine
from gated_lpi.runs.progress import Progress, Silent
from gated_lpi.runs.scoring import attribute_checkpoint, score_checkpoint, score_model
from gated_lpi.runs.train import train_experiment
from gated_lpi.runs.watching import watch_facts

__all__ = [
    "Engine",
    "Failure",
    "Job",
    "JobOutcome",
    "LocalEngine",
    "Progress",
    "Silent",
    "attribute_checkpoint",
    "run_experiment",
    "score_checkpoint",
    "score_model",
    "train_experiment",
    "watch_facts",
]
