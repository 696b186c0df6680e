"""Which neurons carry a language model's knowledge, and when in pre-training they came to carry it.

    import gated_lpi
    model = gated_lpi.load_model("path/or/hub-name")
    facts = gated_lpi.load_facts("builtin")
    scores = gated_lpi.attribute(model, facts)      # an xarray.Dataset
    run = gated_lpi.open_run("demo-run")            # what `gated-lpi demo` wrote

Names and packages, such as `gated_lpi.published`, are imported when they are first used, so that `import gated_lpi` is
quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gated_lpi.version import __version__

if TYPE_CHECKING:
    from gated_lpi.ablation import ablate
    from gated_lpi.comparison import compare
    from gated_lpi.datasets import index_units, open_scores
    from gated_lpi.errors import (
        CheckpointError,
        DamagedError,
        FactsError,
        FetchError,
        GatedLPIError,
        ModelError,
        NoRunError,
        OptionError,
        ReconstructionError,
        RunBusyError,
        RunError,
        RunExistsError,
        UnknownFamilyError,
        WeightsError,
        WriteError,
    )
    from gated_lpi.experiments import Experiment, load_experiment
    from gated_lpi.facts import FactSet, Prompt, load_facts
    from gated_lpi.live import GatedLPICallback, LiveMonitor
    from gated_lpi.loading import load_model, verify, wrap_model
    from gated_lpi.methods import attribute
    from gated_lpi.metrics import summarise
    from gated_lpi.models import Model
    from gated_lpi.options import (
        LPI,
        Certified,
        DirectEffect,
        Exact,
        GradientTimesActivation,
        IntegratedGradients,
        Reference,
        Rollout,
        TrueEffect,
    )
    from gated_lpi.report import build_report
    from gated_lpi.results import Run, open_run
    from gated_lpi.routing import split_change
    from gated_lpi.runs import run_experiment

_HOMES = {
    "Certified": "options",
    "CheckpointError": "errors",
    "DamagedError": "errors",
    "DirectEffect": "options",
    "Exact": "options",
    "Experiment": "experiments",
    "FactSet": "facts",
    "FactsError": "errors",
    "FetchError": "errors",
    "GatedLPICallback": "live",
    "GatedLPIError": "errors",
    "GradientTimesActivation": "options",
    "IntegratedGradients": "options",
    "LPI": "options",
    "LiveMonitor": "live",
    "Model": "models",
    "ModelError": "errors",
    "NoRunError": "errors",
    "OptionError": "errors",
    "Prompt": "facts",
    "ReconstructionError": "errors",
    "Reference": "options",
    "Rollout": "options",
    "Run": "results",
    "RunBusyError": "errors",
    "RunError": "errors",
    "RunExistsError": "errors",
    "TrueEffect": "options",
    "UnknownFamilyError": "errors",
    "WeightsError": "errors",
    "WriteError": "errors",
    "ablate": "ablation",
    "attribute": "methods",
    "build_report": "report",
    "compare": "comparison",
    "index_units": "datasets",
    "load_experiment": "experiments",
    "load_facts": "facts",
    "load_model": "loading",
    "open_run": "results",
    "open_scores": "datasets",
    "run_experiment": "runs",
    "split_change": "routing",
    "summarise": "metrics",
    "verify": "loading",
    "wrap_model": "loading",
}

_MODULES = (
    "ablation",
    "checkpoints",
    "checkup",
    "claims",
    "cli",
    "comparison",
    "datasets",
    "diagnosis",
    "errors",
    "experiments",
    "explore",
    "export",
    "facts",
    "importing",
    "interventions",
    "live",
    "loading",
    "methods",
    "metrics",
    "models",
    "options",
    "prompting",
    "pruning",
    "published",
    "report",
    "results",
    "routing",
    "runs",
    "score_schema",
    "studies",
    "trace",
    "training",
    "unit_names",
    "version",
)
"""What users may import besides the names of `__all__`."""

__all__ = [
    "LPI",
    "Certified",
    "CheckpointError",
    "DamagedError",
    "DirectEffect",
    "Exact",
    "Experiment",
    "FactSet",
    "FactsError",
    "FetchError",
    "GatedLPICallback",
    "GatedLPIError",
    "GradientTimesActivation",
    "IntegratedGradients",
    "LiveMonitor",
    "Model",
    "ModelError",
    "NoRunError",
    "OptionError",
    "Prompt",
    "ReconstructionError",
    "Reference",
    "Rollout",
    "Run",
    "RunBusyError",
    "RunError",
    "RunExistsError",
    "TrueEffect",
    "UnknownFamilyError",
    "WeightsError",
    "WriteError",
    "__version__",
    "ablate",
    "attribute",
    "build_report",
    "compare",
    "index_units",
    "load_experiment",
    "load_facts",
    "load_model",
    "open_run",
    "open_scores",
    "run_experiment",
    "split_change",
    "summarise",
    "verify",
    "wrap_model",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
