"""Controlled arms: MoE and dense models that share everything but the FFN, trained on one corpus.

`spec` says what is trained, free of torch; `corpus` and `tokenizer` make the data, `arms` the models, `trainer` trains,
`stabilise` ends the routers' learning.
"""

from gated_lpi.training.spec import (
    ARMS,
    ArmKind,
    ArmName,
    ArmSpec,
    CorpusSpec,
    ModelSize,
    ShiftSpec,
    StabiliseSpec,
    TrainingOverrides,
    TrainingSpec,
)

__all__ = [
    "ARMS",
    "ArmKind",
    "ArmName",
    "ArmSpec",
    "CorpusSpec",
    "ModelSize",
    "ShiftSpec",
    "StabiliseSpec",
    "TrainingOverrides",
    "TrainingSpec",
]
