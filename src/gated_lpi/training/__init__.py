"""Controlled arms: MoE and dense models that share everything but the FFN, trained on one corpus."""

from gated_lpi.training.arms import arm_config, build_model, parameter_counts
from gated_lpi.training.corpus import Corpus, build_corpus
from gated_lpi.training.schedule import checkpoint_steps
from gated_lpi.training.spec import ARMS, ArmKind, ArmName, ArmSpec, ModelSize, TrainingSpec
from gated_lpi.training.tokenizer import train_tokenizer
from gated_lpi.training.trainer import planned_tokens, train_arm

__all__ = [
    "ARMS",
    "ArmKind",
    "ArmName",
    "ArmSpec",
    "Corpus",
    "ModelSize",
    "TrainingSpec",
    "arm_config",
    "build_corpus",
    "build_model",
    "checkpoint_steps",
    "parameter_counts",
    "planned_tokens",
    "train_arm",
    "train_tokenizer",
]
