"""What is trained, as plain data: the arms, their size, and the training that they share.

The three kinds of arm differ in the FFN alone. With E experts of width f, of which k are routed to:

| kind | FFN |
|---|---|
| moe | E experts of width f, top-k routing |
| dense_active | one FFN of width k·f: what the MoE uses for a token |
| dense_total | one FFN of width E·f: what the MoE holds |

The router, E·d parameters a layer, is all that the MoE has beyond them. An arm of a run may train with some options of
its own (`TrainingOverrides`): those that are given take the place of the shared ones.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gated_lpi.options.spec import Overrides, Positive, Spec, Whole, overrides_of
from gated_lpi.training.schedule import Decay, refuse_count

Loss = Literal["answers", "all"]
ArmKind = Literal["moe", "dense_active", "dense_total"]


ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""A name that folders and files can have as it is, with an ending."""


class ArmSpec(Spec):
    """One arm of the comparison.

    Attributes:
        name: for its folder and reports.
        kind: what its FFN is: "moe", "dense_active" or "dense_total".
    """

    name: ArmName
    kind: ArmKind


ARMS = (
    ArmSpec(name="moe", kind="moe"),
    ArmSpec(name="dense-active", kind="dense_active"),
    ArmSpec(name="dense-total", kind="dense_total"),
)


class ModelSize(Spec):
    """The arms' common shape.

    Attributes:
        hidden: width of the residual stream.
        layers: number of layers.
        heads: attention heads of a layer.
        kv_heads: heads of keys and values.
        experts: experts of a layer of the MoE.
        expert_width: neurons of an expert.
        experts_per_token: experts that a token is routed to.
        normalise_gates: rescale the gates of the experts routed to so that they sum to 1. With one expert per token
            that leaves a gate of 1 whatever the router says, so that the loss cannot teach it: refused. With all
            experts per token nothing is selected, and the router weighs only; that can be trained.
        tie_embeddings: use the embedding as the unembedding, too.
        vocab_size: the most tokens that the tokenizer may have; the models have as many embeddings as it really has.
    """

    hidden: int = Field(default=128, ge=8)
    layers: Positive = 4
    heads: Positive = 4
    kv_heads: Positive = 4
    experts: int = Field(default=16, ge=2)
    expert_width: int = Field(default=48, ge=8)
    experts_per_token: Positive = 2
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
        if self.experts_per_token == 1 and self.normalise_gates:
            raise ValueError(
                "experts_per_token = 1 with normalise_gates = true: the gate of the one expert is then always 1, so "
                "that the loss gives the router no gradient and it stays as it was drawn. Give normalise_gates = "
                "false, or two experts per token or more"
            )
        return self


class TrainingSpec(Spec):
    """What the arms share: size, optimisation, data order and checkpoints.

    Attributes:
        size: the arms' common shape.
        steps: optimizer steps.
        batch_size: examples in a batch.
        learning_rate: the peak of the learning rate.
        warmup_steps: steps in which the learning rate rises to its peak.
        decay: how the learning rate falls after that.
        loss: which tokens are learnt: the answers and the user's own texts ("answers"), or "all".
        adam_beta2: the memory of Adam's second moment.
        weight_decay: coefficient of the optimizer's weight decay.
        max_grad_norm: the most that the gradient's norm may be; a longer gradient is scaled down to it.
        load_balancing: coefficient of the router's auxiliary loss.
        init_std: standard deviation of the initial weights.
        context: longest sequence, in tokens.
        checkpoints: how many are kept, the initial weights among them.
        seed: sets the initial weights and the order of the data.
    """

    size: ModelSize = ModelSize()
    steps: Positive = 360
    batch_size: Positive = 64
    learning_rate: float = Field(default=2.5e-3, gt=0)
    warmup_steps: Whole = 20
    decay: Decay = "linear"
    loss: Loss = "answers"
    adam_beta2: float = Field(default=0.95, gt=0, lt=1)
    weight_decay: float = Field(default=0.1, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    load_balancing: float = Field(default=0.01, ge=0)
    init_std: float = Field(default=0.05, gt=0)
    context: int = Field(default=64, ge=2)
    checkpoints: int = Field(default=14, ge=2)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _enough_steps(self) -> Self:
        refuse_count(self.steps, self.checkpoints)
        return self

    def with_overrides(self, given: Overrides) -> Self:
        """This training with the keys that are given in place of its own.

        Raises:
            ValidationError: they do not go with each other or with the rest.
        """
        return self.model_validate(merged(self.model_dump(), given.model_dump()))

    @property
    def sha256(self) -> str:
        """Digest of all fields' canonical JSON."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


def merged(content: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options with those that are given in place of their own, table by table."""
    inner = {key: merged(content.get(key) or {}, value) for key, value in given.items() if isinstance(value, dict)}
    return content | given | inner


if TYPE_CHECKING:

    class TrainingOverrides(Overrides):
        """Some keys of a `TrainingSpec`, for one arm; not `size.vocab_size`, since all arms have one tokenizer."""

else:
    SizeOverrides = overrides_of(ModelSize, "SizeOverrides", __name__, without=("vocab_size",))
    TrainingOverrides = overrides_of(TrainingSpec, "TrainingOverrides", __name__, size=SizeOverrides)
