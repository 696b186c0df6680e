"""The options of methods and of scoring, each declared once.

`attribute` takes them as objects: `method=LPI(norm="recomputed", estimator=Certified(tolerance=1e-4))`. An experiment
file and the command line have them as flat keys, which `flat_fields` makes of a class: an option that names one of
several classes, as `estimator` does, becomes a key for its name, and beside it the options of all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic.fields import FieldInfo

from gated_lpi.errors import OptionError
from gated_lpi.options.allowed import (
    ALL_UNITS,
    MOST_MEMORY,
    Answer,
    At,
    Foil,
    Gate,
    How,
    Keep,
    Norm,
    Positions,
    Routing,
    Target,
    UnitName,
    parse_memory,
)
from gated_lpi.options.explain import A_NUMBER, A_TEXT, describe
from gated_lpi.options.spec import Positive, Spec, Whole


def in_bytes(given: object) -> object:
    """Bytes from text such as "200GB"; a number, and anything else, is left for pydantic to judge.

    Raises:
        ValueError: the text says no amount of memory.
    """
    if not isinstance(given, str):
        return given
    try:
        return parse_memory(given)
    except OptionError as error:
        raise ValueError("expected bytes, or an amount such as '512MB' or '64GiB'") from error


def _amount(given: str) -> str:
    """An amount of memory as it was given, once it is known to be one."""
    in_bytes(given)
    return given


def different(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Values of a list, once they are known to be all different.

    Raises:
        ValueError: one is listed twice.
    """
    twice = [value for value, count in Counter(given).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is listed twice; leave one out")
    return given


T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Field(min_length=1), AfterValidator(different)]
"""One value or more, all different."""
Amount = Annotated[
    Annotated[int, Field(ge=1, le=MOST_MEMORY), Tag(A_NUMBER)] | Annotated[str, BeforeValidator(_amount), Tag(A_TEXT)],
    Discriminator(lambda given: A_TEXT if isinstance(given, str) else A_NUMBER),
]
"""Bytes as a number, or as text such as "8GB", kept as it was given."""


class MethodOptions(Spec):
    """Options of a method or of one of its estimators; made with keywords.

    Raises:
        OptionError: names the option, what was given and what is allowed.
    """

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise OptionError(describe(error, type(self), type(self).__name__)) from None


class Certified(MethodOptions):
    """The fast estimator: every unit's score with a proven bound on its error (docs/certificate.md).

    Attributes:
        tolerance: largest error of a unit's score, in nats.
    """

    tolerance: float = Field(default=1e-3, gt=0, le=1, description="Largest error of a unit's score, in nats.")


class Exact(MethodOptions):
    """The full vocabulary for every pair of prompt and unit, in batches; exact up to rounding."""


class Reference(MethodOptions):
    """The definition in float64, one unit at a time; for tiny models."""


EstimatorOptions = Certified | Exact | Reference
ESTIMATORS: dict[str, type[MethodOptions]] = {"certified": Certified, "exact": Exact, "reference": Reference}
FORMER = {"fast": "certified"}  # names that files of earlier versions have


class _Alternatives:
    """Marks an option that is one of several classes of options, by name."""

    def __init__(self, classes: Mapping[str, type[MethodOptions]], default: str) -> None:
        self.classes = classes
        self.default = default


def _estimator(given: object) -> object:
    name = FORMER.get(given, given) if isinstance(given, str) else given
    if isinstance(name, str) and name not in ESTIMATORS:
        raise ValueError(f"expected one of {', '.join(map(repr, ESTIMATORS))}")
    return ESTIMATORS[name]() if isinstance(name, str) else name


class Explained(MethodOptions):
    """What of the model's logits is explained; the same for every method.

    Attributes:
        target: "object", or "top1", the model's own prediction.
        foil: what log p(target) is measured against: None, nothing; the other objects of its "relation" (their mean);
            what each "fact" names; or the "best" other token of the unchanged model, which makes it the margin.
        answer: the "first" token of the answer, or "all": the sum over its tokens, each after those before it.
    """

    target: Target = Field(default="object", description="object, or top1: the model's own prediction.")
    foil: Foil | None = Field(
        default=None, description="Measure the target against: relation, fact or best. Default: against nothing."
    )
    answer: Answer = Field(default="first", description="first token of the answer, or all of them.")

    @model_validator(mode="after")
    def _of_one_token(self) -> Self:
        if self.foil == "fact" and self.target != "object":
            raise ValueError(
                f"foil='fact' was given with target={self.target!r}; a fact's foil is held against its object, and may "
                "be the prediction itself: take target='object', or another foil"
            )
        others = ["target='top1'"] * (self.target != "object") + [f"foil={self.foil!r}"] * (self.foil is not None)
        if self.answer == "all" and others:
            raise ValueError(
                f"answer='all' was given with {' and '.join(others)}; several tokens have no prediction and "
                "no foil: leave target and foil out, or take answer='first'"
            )
        return self


class LPI(Explained):
    """Gated-LPI: how much a unit's contribution raises log p of the target (arXiv 2601.08383; docs/method.md).

    Attributes:
        norm: "frozen" holds the final norm's scale at that of the model's real final residual; "recomputed" applies
            the norm afresh before and after.
        target, foil, answer: what is explained; see `Explained`.
        gate: what weight the units of routed experts count with: "gated", the router's; "uniform", the prompt's gates
            shared evenly among the experts routed to; "ungated", 1 for each of these; "open", every expert, routed to
            or not, with the gate that it has before any is chosen. Anything but "gated" needs routed experts.
        estimator: how scores are computed: `Certified(tolerance=…)`, `Exact()` or `Reference()`, or their names.
            Certified takes the exact path where the logits are not affine in a contribution (norm="recomputed", or a
            family with a softcap).
        readout_eps: epsilon of the readout's norm in place of the model's own, as in the publication's code, which
            fixes it.
    """

    norm: Norm = Field(default="frozen", description="frozen or recomputed.")
    gate: Gate = Field(default="gated", description="gated, uniform, ungated or open: the weight of routed experts.")
    estimator: Annotated[EstimatorOptions, BeforeValidator(_estimator), _Alternatives(ESTIMATORS, "certified")] = Field(
        default=Certified(), description="certified, exact or reference."
    )
    readout_eps: float | None = Field(
        default=None, ge=0, description="Epsilon of the readout's norm. Default: the model's own."
    )


class GradientTimesActivation(Explained):
    """Gradient × activation: a_u · ∂ log p / ∂a_u through all later layers (attribution patching against 0).

    Attributes:
        target, foil, answer: what is explained; see `Explained`.
        at: "all" positions, or the "last", from which the target is predicted.
    """

    at: At = Field(default="all", description="all positions, or the last.")


class IntegratedGradients(Explained):
    """Integrated gradients (arXiv 1703.01365): the units of a block scaled together from 0 to what they are.

    Attributes:
        target, foil, answer: what is explained; see `Explained`.
        at: "all" positions, or the "last", from which the target is predicted.
        points: of the Gauss-Legendre rule.
    """

    at: At = Field(default="all", description="all positions, or the last.")
    points: int = Field(default=8, ge=1, le=256, description="Points of integrated gradients.")


class DirectEffect(Explained):
    """The linear term of LPI: contribution · ∂ log p / ∂base, with no later layer in between.

    Attributes:
        norm, gate: see `LPI`.
        target, foil, answer: what is explained; see `Explained`.
        readout_eps: see `LPI`.
    """

    norm: Norm = Field(default="frozen", description="frozen or recomputed.")
    gate: Gate = Field(default="gated", description="gated, uniform, ungated or open: the weight of routed experts.")
    readout_eps: float | None = Field(
        default=None, ge=0, description="Epsilon of the readout's norm. Default: the model's own."
    )


class TrueEffect(Explained):
    """The change of log p when a unit is really silenced and all later layers are run again.

    A pass for each unit: so a sample of units, as many of every block, is measured, the rest is NaN.

    Attributes:
        target, foil, answer: what is explained; see `Explained`.
        at: "all" positions, or the "last", from which the target is predicted.
        how: what stands in for a unit's coefficient: "zero", its "mean" over all prompts, or one that it has elsewhere
            ("resample").
        sample: units of each block; None: all.
        sample_seed: of the draw.
    """

    at: At = Field(default="all", description="all positions, or the last.")
    how: How = Field(default="zero", description="Silence by zero, mean or resample.")
    sample: Positive | None = Field(default=8, description="Units of each block that true_effect measures.")
    sample_seed: Whole = Field(default=0, description="Seed of that sample.")


class Rollout(MethodOptions):
    """Attention rollout (arXiv 2005.00928): the share of the last position's mass on the subject that a head takes."""


METHODS_BY_NAME: dict[str, type[MethodOptions]] = {
    "lpi": LPI,
    "grad_x_act": GradientTimesActivation,
    "integrated_gradients": IntegratedGradients,
    "direct_effect": DirectEffect,
    "true_effect": TrueEffect,
    "rollout": Rollout,
}
"""The options of every method, by the name that its variable has in results."""


class Scoring(MethodOptions):
    """What is scored and kept, whatever the method.

    Attributes:
        units: which scores: any of "ffn", "attention", "mixer", "heads", "experts", "blocks"; what a model
            lacks has no scores.
        keep: "prompts", or means over "relations", or the "mean" over all prompts.
        positions: "summed", or "resolved": attention units at every source position.
        routing: of which positions what the routers did is kept: the "last" of each prompt; or "all", by prompt
            whatever `keep` says, with the routers' logits, which needs routed experts.
        batch_size: prompts that are run and scored together, at most; None: as many as suit the model.
        memory: cap on the working set beside model and result, in bytes or as "2GB".
    """

    units: Listed[UnitName] = Field(
        default=ALL_UNITS,
        description="ffn, attention, mixer, heads, experts, blocks: repeat, or join by commas. Default: all.",
    )
    keep: Keep = Field(default="prompts", description="prompts, relations or mean.")
    positions: Positions = Field(
        default="summed", description="Attention units summed over source positions, or resolved."
    )
    routing: Routing = Field(
        default="last", description="What routers did is kept of the last position, or of all, with their logits."
    )
    batch_size: Positive | None = Field(
        default=None,
        description="Prompts that are worked on together, at most. Default: 192, more for some models and on a GPU.",
    )
    memory: Amount | None = Field(
        default=None, description="Cap on the working set beside model and result, such as 2GB."
    )

    @property
    def by_position(self) -> bool:
        """Whether attention units are scored at every source position."""
        return self.positions == "resolved" and "attention" in self.units


def flat_fields(options: type[MethodOptions]) -> dict[str, Any]:
    """Options as keys of one level: name → (type, field), as `pydantic.create_model` takes them."""
    flat: dict[str, Any] = {}
    for name, field in options.model_fields.items():
        alternatives = _alternatives(field)
        if alternatives is None:
            flat[name] = (field.rebuild_annotation(), field)
            continue
        names: Any = Literal[tuple(alternatives.classes)]
        flat[name] = (
            Annotated[names, BeforeValidator(_renamed)],
            Field(default=alternatives.default, description=field.description),
        )
        for inner in alternatives.classes.values():
            flat |= flat_fields(inner)
    return flat


def flat_methods() -> dict[str, Any]:
    """The options of all methods as keys of one level; one that several have is one key."""
    return {name: field for kind in METHODS_BY_NAME.values() for name, field in flat_fields(kind).items()}


def method_from_flat(name: str, given: Mapping[str, Any]) -> MethodOptions:
    """The options of the method of this name that flat keys say.

    Raises:
        OptionError: there is no such method, it has not one of these keys, or a value means nothing.
    """
    kind = METHODS_BY_NAME.get(name)
    if kind is None:
        raise OptionError(f"method {name!r} was given; expected one of {', '.join(METHODS_BY_NAME)}")
    own = flat_fields(kind)
    odd = [key for key in given if key not in own]
    if odd:
        having = [other for other, options in METHODS_BY_NAME.items() if odd[0] in flat_fields(options)]
        raise OptionError(
            f"{odd[0]}={given[odd[0]]!r} was given, which {name} does not have (its options: "
            f"{', '.join(own) or 'none'}); leave it out, or choose a method that has it: {', '.join(having) or 'none'}"
        )
    return from_flat(kind, given)


M = TypeVar("M", bound=MethodOptions)


def from_flat(options: type[M], given: Mapping[str, Any]) -> M:
    """The options that flat keys say; keys of others are left aside.

    Raises:
        OptionError: a value that means nothing.
    """
    values: dict[str, Any] = {}
    for name, field in options.model_fields.items():
        alternatives = _alternatives(field)
        if alternatives is None:
            values |= {name: given[name]} if name in given else {}
            continue
        named = _renamed(given.get(name, alternatives.default))
        kind = alternatives.classes.get(named)
        if name in given or (kind is not None and kind.model_fields.keys() & given.keys()):
            values[name] = named if kind is None else from_flat(kind, given)
    return options(**values)


def to_flat(options: MethodOptions) -> dict[str, Any]:
    """The flat keys of options, without those of alternatives that were not chosen."""
    flat: dict[str, Any] = {}
    for name, field in type(options).model_fields.items():
        alternatives, value = _alternatives(field), getattr(options, name)
        if alternatives is None:
            flat[name] = value
            continue
        flat[name] = next(key for key, kind in alternatives.classes.items() if isinstance(value, kind))
        flat |= to_flat(value)
    return flat


def _renamed(given: Any) -> Any:
    return FORMER.get(given, given) if isinstance(given, str) else given


def _alternatives(field: FieldInfo) -> _Alternatives | None:
    return next((mark for mark in field.metadata if isinstance(mark, _Alternatives)), None)
