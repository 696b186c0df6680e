"""What is trained, as plain data: the arms, their size, and the training that they share.

The first three kinds of arm differ in the FFN alone. With E experts of width f, of which a token uses k:

| kind | FFN |
|---|---|
| moe | E experts of width f, top-k routing |
| dense_active | one FFN of width k·f: what the MoE uses for a token |
| dense_total | one FFN of width E·f: what the MoE holds |
| moe_shared | E − 1 experts, top-(k − 1) routing, and one that all tokens use, with a sigmoid gate of its own |

The router, E·d parameters a layer, is all that the MoE has beyond the dense ones. `moe_shared` has as many parameters
in all and for a token, and as many units: its shared gate has what its router lacks. It is Qwen2-MoE, whose attention
does not normalise queries and keys, as that of the others (Qwen3) does; that is all else that differs.

An arm of a run may train with some options of its own (`TrainingOverrides`): those that are given take the place of the
shared ones.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from gated_lpi.errors import OptionError
from gated_lpi.options.methods import different
from gated_lpi.options.spec import Overrides, Positive, Spec, Text, Whole, overrides_of
from gated_lpi.training.schedule import CheckpointSpacing, Decay, refuse_count

Loss = Literal["answers", "all"]
ArmKind = Literal["moe", "dense_active", "dense_total", "moe_shared"]


ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""A name that folders and files can have as it is, with an ending."""


LATER = ("spacing", "shift", "stabilise")  # fields of `TrainingSpec` that the first versions did not have
Several = Annotated[tuple[Text, ...], AfterValidator(different)]


class ArmSpec(Spec):
    """One arm of the comparison.

    Attributes:
        name: for its folder and reports.
        kind: what its FFN is: "moe", "dense_active", "dense_total" or "moe_shared".
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
        experts: experts of a layer of the MoE, a shared one among them.
        expert_width: neurons of an expert.
        experts_per_token: experts that a token uses: is routed to, but for a shared one.
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


class CorpusSpec(Spec):
    """What the trained arms are trained on, beside the facts that they are asked about.

    Attributes:
        facts: more facts, each as `load_facts` takes it, such as "people:n=2000". They may hold those that are asked
            about; wordings by which those are held out are not trained on.
        texts: plain text files, a text a line, which are learnt as a whole. They are part of what a run is: it refuses
            files that have changed.
        frequency: s of r^-s, how often the fact of rank r in its relation comes up (Zipf); 0: all as often. Ranks are
            the order of `facts`, then that of the asked facts.
        seed: of the places at which facts come up that do not come up in every epoch.
    """

    facts: Several = ()
    texts: Several = ()
    frequency: float = Field(default=0.0, ge=0, le=10)
    seed: Whole = 0


def refuse_kind(kind: ArmKind, size: ModelSize) -> None:
    """Refuse a size that a kind of arm cannot have.

    Raises:
        OptionError: a shared expert leaves no expert to route to, or one whose gate would always be 1.
    """
    if kind != "moe_shared":
        return
    routed = size.experts_per_token - 1
    if routed == 0 or size.experts == 2 or (routed == 1 and size.normalise_gates):
        left = (
            "no expert to route to" if routed == 0 else "one whose gate is always 1, so that nothing teaches the router"
        )
        raise OptionError(
            f"kind moe_shared was given with experts = {size.experts}, experts_per_token = {size.experts_per_token}, "
            f"normalise_gates = {str(size.normalise_gates).lower()}; one expert is shared, which leaves {left}. Give 3 "
            "experts or more, and 3 per token, or 2 with normalise_gates = false"
        )


class ShiftSpec(Spec):
    """A change of the data in the course of training: some facts have new objects from then on.

    Attributes:
        at: after which share of the steps.
        share: of each relation's facts that change; 0: none, which lets an arm do without a shift that others share.
        seed: of which facts change, and to what.
    """

    at: float = Field(default=0.5, gt=0, lt=1)
    share: float = Field(default=0.5, ge=0, le=1)
    seed: Whole = 0


class StabiliseSpec(Spec):
    """Explore, then stabilise: at some step of the training of an MoE arm its routers stop learning.

    Attributes:
        action: "freeze": the routers' weights stay as they are, without gradient, weight decay or momentum; "decay":
            their learning rate falls linearly to 0 over `decay_steps`.
        when: "threshold": once `measure` reaches `threshold`; at "step"; as a control, at a "random" step; or "never",
            which lets an arm do without what others share.
        step: for "step": after how many steps.
        between: for "random": first and last step that may be drawn.
        seed: for "random": with the training's seed, so that replicates draw steps of their own.
        measure: for "threshold": "j_stab", the overlap of the top sets of FFN units at consecutive observations, or
            "rho_avg", the Pearson correlation of their layer profiles.
        threshold: the value that stabilises.
        every: steps between observations.
        after: no observation before this step; in the warm-up little moves, and top sets overlap for that.
        facts: prompts that are watched, at most, taken evenly from those of the run.
        fraction: share of the FFN units in a top set.
        decay_steps: for "decay".
    """

    action: Literal["freeze", "decay"] = "freeze"
    when: Literal["threshold", "step", "random", "never"]
    step: Positive | None = None
    between: tuple[Positive, Positive] | None = None
    seed: Whole = 0
    measure: Literal["j_stab", "rho_avg"] = "j_stab"
    threshold: float = Field(default=0.8, ge=-1, le=1)
    every: Positive = 20
    after: Whole = 0
    facts: Positive = 64
    fraction: float = Field(default=0.01, gt=0, le=1)
    decay_steps: Positive = 50

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        for key, kind in (("step", "step"), ("between", "random")):
            given = getattr(self, key) is not None
            if given != (self.when == kind):
                need = "needs" if self.when == kind else "has no use for"
                raise ValueError(f"when = {self.when!r} {need} `{key}`, which says when a {kind!r} one stabilises")
        if self.between is not None and self.between[0] > self.between[1]:
            raise ValueError(f"between is {list(self.between)}; expected [first step, last step]")
        return self

    @property
    def latest(self) -> int:
        """The last step that is named; 0 where none is."""
        return max(self.step or 0, *(self.between or (0,)))


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
        spacing: how they are spread: "log", "linear", or "mixed", which is log to a tenth of the steps, then linear.
        shift: when and how many facts change in the course of training; None: none do.
        seed: sets the initial weights and the order of the data.
        stabilise: when routers stop learning; None: they never do. Arms without routers are trained as if it were None.
            An arm's own takes the place of the shared one as a whole.
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
    spacing: CheckpointSpacing = "log"
    shift: ShiftSpec | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    stabilise: StabiliseSpec | None = None

    @field_validator("stabilise")
    @classmethod
    def _stabilised_at_all(cls, given: StabiliseSpec | None) -> StabiliseSpec | None:
        return None if given is not None and given.when == "never" else given

    @model_validator(mode="after")
    def _enough_steps(self) -> Self:
        refuse_count(self.steps, self.checkpoints)
        if self.shift is not None and self.steps == 1:
            raise ValueError("shift was given with steps = 1; a shift needs a step before it and one after it")
        return self

    @model_validator(mode="after")
    def _stabilised_before_the_end(self) -> Self:
        if self.stabilise is not None and self.stabilise.latest >= self.steps:
            raise ValueError(
                f"stabilise names step {self.stabilise.latest} of {self.steps}, after which nothing is trained; "
                f"expected a step up to {self.steps - 1}"
            )
        return self

    @property
    def steps_before_shift(self) -> int:
        """After how many steps the facts change; all steps, if they do not."""
        if self.shift is None or not self.shift.share:
            return self.steps
        return min(max(round(self.shift.at * self.steps), 1), self.steps - 1)

    def identity(self) -> dict[str, Any]:
        """All fields as plain data, without those of later versions that change nothing, so that it stays as it was."""
        return {
            key: value
            for key, value in self.model_dump().items()
            if key not in LATER or value != type(self).model_fields[key].default
        }

    def with_overrides(self, given: Overrides) -> Self:
        """This training with the keys that are given in place of its own.

        Raises:
            ValidationError: they do not go with each other or with the rest.
        """
        return self.model_validate(merged(self.model_dump(), given.model_dump()))

    @property
    def sha256(self) -> str:
        """Digest of the canonical JSON of `identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


def merged(content: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options with those that are given in place of their own, table by table."""
    inner = {key: merged(content.get(key) or {}, value) for key, value in given.items() if isinstance(value, dict)}
    return content | given | inner


if TYPE_CHECKING:

    class TrainingOverrides(Overrides):
        """Some keys of a `TrainingSpec`, for one arm; not `size.vocab_size`, since all arms have one tokenizer."""

else:
    SizeOverrides = overrides_of(ModelSize, "SizeOverrides", __name__, without=("vocab_size",))
    ShiftOverrides = overrides_of(ShiftSpec, "ShiftOverrides", __name__)
    TrainingOverrides = overrides_of(
        TrainingSpec, "TrainingOverrides", __name__, size=SizeOverrides, shift=ShiftOverrides
    )
