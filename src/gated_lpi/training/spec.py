"""What is trained, as plain data: the arms, their size, and the training that they share.

The three kinds of arm differ in the FFN alone. With E experts of width f, of which k are routed to:

| kind | FFN |
|---|---|
| moe | E experts of width f, top-k routing |
| dense_active | one FFN of width k·f: what the MoE uses for a token |
| dense_total | one FFN of width E·f: what the MoE holds |

The router, E·d parameters a layer, is all that the MoE has beyond them.
"""

import hashlib
import json
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gated_lpi.training.corpus import Loss
from gated_lpi.training.schedule import Decay

ArmKind = Literal["moe", "dense_active", "dense_total"]


class ArmSpec(BaseModel):
    """One arm of the comparison: a name for its folder and reports, and the kind of its FFN."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    kind: ArmKind


ARMS = (
    ArmSpec(name="moe", kind="moe"),
    ArmSpec(name="dense-active", kind="dense_active"),
    ArmSpec(name="dense-total", kind="dense_total"),
)


class ModelSize(BaseModel):
    """The arms' common shape.

    `vocab_size` is the most that the tokenizer may have; the models have as many embeddings as it really has.
    `normalise_gates` rescales the gates of the experts routed to so that they sum to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(default=128, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    kv_heads: int = Field(default=4, ge=1)
    experts: int = Field(default=16, ge=2)
    expert_width: int = Field(default=48, ge=8)
    experts_per_token: int = Field(default=2, ge=1)
    normalise_gates: bool = True
    tie_embeddings: bool = False
    vocab_size: int = Field(default=4096, ge=258)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden {self.hidden} must be a multiple of twice heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} exceeds experts {self.experts}")
        return self


class TrainingSpec(BaseModel):
    """What the arms share: size, optimisation, data order and checkpoints.

    One `seed` sets the initial weights and the order of the data. `loss` says which tokens are learnt: the answers
    and the user's own texts, or all. `load_balancing` is the coefficient of the router's auxiliary loss, `adam_beta2`
    the memory of Adam's second moment, `init_std` the standard deviation of the initial weights. `context` is the
    longest sequence, in tokens. `checkpoints` counts those kept, the initial weights among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: ModelSize = ModelSize()
    steps: int = Field(default=360, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2.5e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    decay: Decay = "linear"
    loss: Loss = "answers"
    adam_beta2: float = Field(default=0.95, gt=0, lt=1)
    weight_decay: float = Field(default=0.1, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    load_balancing: float = Field(default=0.01, ge=0)
    init_std: float = Field(default=0.05, gt=0)
    context: int = Field(default=64, ge=2)
    checkpoints: int = Field(default=14, ge=2)
    seed: int = Field(default=0, ge=0)

    @property
    def sha256(self) -> str:
        """Digest of all fields' canonical JSON."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()
