"""What may be asked, for Python, experiment files and the command line alike; nothing of it needs torch.

`allowed` has what single options may be; `spec` the base of options that are read from files, and `explain` what is
wrong with them, in words; `methods` the options of each method, which become keys of files and of the command line.
"""

from gated_lpi.options.allowed import (
    ALL_UNITS,
    MOST_MEMORY,
    Answer,
    At,
    DeviceMap,
    Foil,
    How,
    Keep,
    Norm,
    Positions,
    Target,
    UnitName,
    parse_memory,
    refuse_two_places,
)
from gated_lpi.options.methods import (
    LPI,
    Certified,
    DirectEffect,
    EstimatorOptions,
    Exact,
    Explained,
    GradientTimesActivation,
    IntegratedGradients,
    MethodOptions,
    Reference,
    Rollout,
    Scoring,
    TrueEffect,
)

__all__ = [
    "ALL_UNITS",
    "LPI",
    "MOST_MEMORY",
    "Answer",
    "At",
    "Certified",
    "DeviceMap",
    "DirectEffect",
    "EstimatorOptions",
    "Exact",
    "Explained",
    "Foil",
    "GradientTimesActivation",
    "How",
    "IntegratedGradients",
    "Keep",
    "MethodOptions",
    "Norm",
    "Positions",
    "Reference",
    "Rollout",
    "Scoring",
    "Target",
    "TrueEffect",
    "UnitName",
    "parse_memory",
    "refuse_two_places",
]
