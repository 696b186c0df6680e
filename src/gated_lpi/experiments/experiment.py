"""What is run, as plain data that can be written to a file: facts, arms, options, metrics, ablations."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from gated_lpi._common.flatten import flatten
from gated_lpi.checkpoints import parse_count
from gated_lpi.checkpoints.names import SEED
from gated_lpi.checkpoints.selection import Spacing
from gated_lpi.checkpoints.suites import SEED_MARK
from gated_lpi.errors import OptionError
from gated_lpi.experiments.design import MOST_CELLS, Cells, Grid, cells_of, shared_keys
from gated_lpi.experiments.settings import EngineSpec, StorageSpec
from gated_lpi.facts import FactSet, OnError, load_facts
from gated_lpi.facts.messages import listed
from gated_lpi.facts.shifting import new_objects, parted
from gated_lpi.facts.sources import joined
from gated_lpi.facts.teaching import taught_facts
from gated_lpi.facts.types import Templates
from gated_lpi.options import (
    METHODS_BY_NAME,
    Answer,
    Explained,
    Foil,
    Gate,
    MethodName,
    MethodOptions,
    Scoring,
    Target,
)
from gated_lpi.options.explain import A_LIST, A_TEXT, describe
from gated_lpi.options.methods import Listed, different, flat_fields, from_flat
from gated_lpi.options.spec import GREATEST, Positive, Spec, Text, Whole
from gated_lpi.score_schema import KNOWN, KNOWN_LAST, OF_UNITS, contrast_of
from gated_lpi.training.spec import (
    ArmKind,
    ArmName,
    CorpusSpec,
    ShiftSpec,
    TrainingOverrides,
    TrainingSpec,
    merged,
    refuse_kind,
)

SETTINGS = ("engine", "storage")
MOST_REPLICATES = 1000
SUMMARISED = (*OF_UNITS, *map(contrast_of, OF_UNITS))
BLOCK_BY_BLOCK = ("lpi", "direct_effect")  # the methods that see source positions, and what routers did
ENDINGS = (
    ".zarr",
    ".json",
    ".quarantine.json",
    ".commit.json",
    ".split.zarr",
    ".split.commit.json",
    ".follow.zarr",
    ".follow.commit.json",
    ".summary.json",
    *(f".{name}.summary.json" for name in SUMMARISED),
    ".known.json",
    *(f".{part}.summary.json" for part in (KNOWN, KNOWN_LAST)),
    *(f".{name}.{part}.summary.json" for name in SUMMARISED for part in (KNOWN, KNOWN_LAST)),
)
SELECTION = ("steps", "tokens", "words", "bytes", "count", "spacing", "every", "stages", "tokens_aligned_with")


def _count(given: object) -> object:
    return parse_count(given) if isinstance(given, str) else given


def _several(given: object) -> object:
    return given if given is None or isinstance(given, list | tuple) else (given,)


Source = Annotated[
    Annotated[Text, Tag(A_TEXT)] | Annotated[Listed[Text], Tag(A_LIST)],
    Discriminator(lambda given: A_LIST if isinstance(given, list | tuple) else A_TEXT),
]
Count = Annotated[int, BeforeValidator(_count), Field(ge=0, le=GREATEST)]
Counts = Annotated[Listed[Count] | None, BeforeValidator(_several)]
SeedName = Annotated[int, Field(strict=True, ge=0)] | Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Seeds = Listed[Annotated[int, Field(ge=0, lt=2**32)]]


class FactsSpec(Spec):
    """Which facts, and how they are put to the models: see `load_facts`, `FactSet.prompts` and docs/facts.md.

    Attributes:
        source: as `load_facts` takes it: "builtin", a task such as "arithmetic:steps=1/2" (docs/tasks.md), or a path;
            or a list of such sources, whose relations are put together.
        templates: through which of a fact's templates it is asked.
        separator: what stands between every prompt and its answer: "auto" (one space where there is no whitespace) or
            any text. None: as the facts say, "auto" where they say nothing.
        on_error: whether a fact that cannot be used ends the run ("raise"), or is left out and said ("skip").
        bos: put a BOS token before every prompt, or take it away. None: as the tokenizer does it.
    """

    source: Source = "builtin"
    templates: Templates = "held_out"
    separator: str | None = None
    on_error: OnError = "raise"
    bos: bool | None = None

    def load(self) -> FactSet:
        """The facts, joined as they are to be.

        Raises:
            FactsError: they cannot be read, or two relations of several sources have one name.
            OptionError: the separator is not a text that can be written.
        """
        sources = [self.source] if isinstance(self.source, str) else self.source
        parts = [load_facts(source, on_error=self.on_error) for source in sources]
        facts = parts[0] if len(parts) == 1 else joined(parts)
        return facts if self.separator is None else facts.with_separator(self.separator)


class _Attribution(Spec):
    """Options of `attribute`: by which methods, the options of these, and what is scored.

    What is kept are means over relations. An option that several methods have is one key for all of them.

    Attributes:
        methods: by which methods, a name each; the first is that of what is shown first.
        contrast: score by each method against this foil, too (see `gated_lpi.LPI`); None: only as `foil` says.
        known: keep scores of units over known facts, too: those whose target is among the ten likeliest tokens at the
            checkpoint, and at the arm's last one. A run then takes three times the room, and runs each arm's last
            checkpoint once before the others.
    """

    methods: Listed[MethodName] = ("lpi", "grad_x_act")
    contrast: Foil | None = None
    known: bool = False
    if TYPE_CHECKING:  # some of the options that are put in below
        target: Target = "object"
        answer: Answer = "first"
        foil: Foil | None = None
        gate: Gate = "gated"

    def asked(self) -> dict[str, MethodOptions]:
        """The options of every method by the name of its variable in results; `…_contrast` is against the foil."""
        values = dict(self)
        found: dict[str, MethodOptions] = {}
        for name in self.methods:
            found[name] = from_flat(METHODS_BY_NAME[name], values)
            if self.contrast is not None and issubclass(METHODS_BY_NAME[name], Explained):
                found[contrast_of(name)] = from_flat(METHODS_BY_NAME[name], values | {"foil": self.contrast})
        return found

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        options = dict(self)
        if self.contrast is not None and options["foil"] is not None:
            raise ValueError(
                f"contrast = {self.contrast!r} was given beside foil = {options['foil']!r}; contrast scores both with "
                "and without a foil: leave foil out"
            )
        if self.contrast is not None and self.answer == "all":
            raise ValueError("contrast was given with answer = 'all', whose tokens have no foil; leave one of them out")
        if self.known and self.target == "top1":
            raise ValueError(
                "known = true was given with target = 'top1', a model's own prediction, which it always knows; leave "
                "one of them out"
            )
        if {"rollout", "true_effect"}.issuperset(self.methods):
            raise ValueError(
                f"methods = {list(self.methods)} was given, none of which scores every unit; add one that does, such "
                "as 'lpi'"
            )
        try:
            self.asked()
        except OptionError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def scoring(self) -> Scoring:
        """What is scored and kept."""
        return from_flat(Scoring, {**dict(self), "keep": "relations"})

    @property
    def unheeded(self) -> tuple[str, ...]:
        """What is asked that no method of `methods` has a use for, a line each."""
        having: dict[str, list[str]] = {}
        for name, options in METHODS_BY_NAME.items():
            for key in flat_fields(options):
                having.setdefault(key, []).append(name)
        having |= {key: list(BLOCK_BY_BLOCK) for key in ("positions", "routing")}
        fields, given = type(self).model_fields, dict(self)
        return tuple(
            f"{key} = {given[key]!r} is for {' and '.join(names)}, and methods = {list(self.methods)}"
            for key, names in having.items()
            if given[key] != fields[key].default and not set(names).intersection(self.methods)
        )


if TYPE_CHECKING:
    AttributionSpec = _Attribution
else:  # its keys are those of the method and of scoring, which are declared there and nowhere else
    AttributionSpec = create_model(
        "AttributionSpec",
        __base__=_Attribution,
        __doc__=_Attribution.__doc__,
        **{key: field for options in METHODS_BY_NAME.values() for key, field in flat_fields(options).items()},
        **{key: field for key, field in flat_fields(Scoring).items() if key != "keep"},
    )


class MetricsSpec(Spec):
    """Options of `metrics.summarise`.

    Attributes:
        fraction: share of the units in a top set.
        windows: name → (first step, last step), for ρ_avg and σ_rel; None: those of `summarise`.
        draws: bootstrap draws, and random sets drawn for chance intervals.
        seed: of both kinds of draw.
    """

    fraction: float = Field(default=0.01, gt=0, le=1)
    windows: Annotated[dict[str, tuple[Whole, Whole]], Field(min_length=1)] | None = None
    draws: Positive = 200
    seed: Whole = 0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, (first, last) in (self.windows or {}).items():
            if first > last:
                raise ValueError(
                    f"window {name!r} is [{first}, {last}], which ends before it begins; expected [first step, last "
                    f"step]: [{last}, {first}]?"
                )
        return self


class AblationSpec(Spec):
    """What is ablated at the last checkpoint: the top heads, and the top share of FFN units, each beside random ones.

    They are chosen by every method that scores all units. In a model with fewer than twice as many heads as a row asks
    for, half of its heads are ablated instead.

    Attributes:
        heads: how many heads, a row each.
        units: which shares of the FFN units, a row each.
        random_draws: random sets of as many, for each row.
        k: the k of HIT@k.
        top_units: how many top units of each kind are described.
        seed: of the draws.
        text: a plain text file on which the damage to all else is measured; None: the one that comes with the package;
            "": it is not measured.
    """

    heads: Annotated[tuple[Positive, ...], AfterValidator(different)] = (1, 10)
    units: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], AfterValidator(different)] = (0.01,)
    random_draws: Positive = 20
    k: Positive = 10
    top_units: Whole = 10
    seed: Whole = 0
    text: str | None = None


class RoutingSpec(Spec):
    """What is asked of routing beside the scores.

    Attributes:
        split: whether every change between two checkpoints is split into a part of routing and one of neurons, which
            costs four scorings a pair (see `gated_lpi.split_change`).
        redundancy: whether the top experts of the last checkpoint are silenced with free and with frozen routing (see
            `gated_lpi.ablation.redundancy`).
    """

    split: bool = False
    redundancy: bool = False


class FollowSpec(Spec):
    """Units that are followed through an arm's checkpoints: what each writes, which prompts it serves, what is like it.

    They are those of greatest mean score by the first method at the arm's last checkpoint. It is done once all are
    scored, and each checkpoint is loaded, or downloaded, once more for it. The explorer shows it on pages of units.

    Attributes:
        units: how many of each kind; 0: none.
        tokens: how many whose logits a value vector raises most, and as many that it lowers most.
        prompts: how many on which a unit has its greatest scores.
        neighbours: how many units of the most similar value vectors.
    """

    units: Whole = 0
    tokens: Positive = 8
    prompts: Positive = 5
    neighbours: Positive = 5


def _row_content(given: Any) -> Any:
    """A row of the table of families: a table of keys as it is, or the content of the file that a text names."""
    if not isinstance(given, str):
        return given
    file = Path(given)
    try:
        return {"name": file.stem, **tomllib.loads(file.read_text(encoding="utf-8"))}
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{given!r} cannot be read as TOML ({error}); expected a file with a row of the table of families, as "
            "`gated-lpi check MODEL` shows one"
        ) from error


class Arm(Spec):
    """One series of checkpoints. Exactly one of `train`, `checkpoints` and `series` says where it is from.

    Attributes:
        name: what it is called in files and reports.
        train: trained by the run: a kind of model.
        checkpoints: a folder of checkpoints, all of which are taken.
        series: a suite, a repository, several repositories or a folder: see `list_series`.
        steps, tokens, words, bytes, count, spacing, every, stages: which checkpoints of the series: see `select`.
            Steps, tokens, words and bytes are numbers, or text such as "10K" and "2.5T".
        tokens_aligned_with: the name of another arm: take those nearest in training tokens to its checkpoints.
        tokenizer: folder or repository of the tokenizer of all its checkpoints. None: it is beside the weights or,
            where a hub's checkpoint has none there, on the branch main of its repository, which is said.
        trust_remote_code: run code that comes with its checkpoints, which may do anything.
        training: options of the experiment's `training` that this arm has otherwise, if it is trained.
        family_row: the row of the table of families that its models are read by, or the file (TOML) that it is in,
            which is read with the experiment; None: that of their type, or one read off them.
        group: what it is a replicate of, with the other arms of the group; None: it is a group of its own.
        replicates: in an experiment that is read, so many arms instead of this one: NAME-1, NAME-2, … of the group NAME
            (unless `group` says another), each with a seed one more than the one before it. NAME is the group or the
            kind if there is no `name`.
        seeds: in an experiment that is read, a replicate for each of these seeds of a published series instead of this
            arm: NAME-SEED of the group NAME (unless `group` says another). A seed takes the place of "{seed}" in
            `series`; in a repository that holds runs of several seeds it is the stage "seed-SEED".
        grid, cells: in an experiment that is read, an arm for every combination of options of `training` instead of
            this one, in place of what the experiment has of both (see `design`); each is a group of its own.
    """

    name: ArmName
    train: ArmKind | None = None
    checkpoints: Text | None = None
    series: Source | None = None
    steps: Counts = None
    tokens: Counts = None
    words: Counts = None
    bytes: Counts = None
    count: Positive | None = None
    spacing: Spacing | None = None
    every: Positive | None = None
    stages: Annotated[Listed[str] | None, BeforeValidator(_several)] = None
    tokens_aligned_with: str | None = None
    tokenizer: Text | None = None
    trust_remote_code: bool = False
    training: TrainingOverrides | None = None
    family_row: Annotated[dict[str, Any] | None, BeforeValidator(_row_content)] = None
    group: ArmName | None = None
    replicates: Annotated[int, Field(ge=1, le=MOST_REPLICATES)] | None = None
    seeds: Annotated[Listed[SeedName], AfterValidator(different)] | None = Field(default=None, exclude=True)
    grid: Grid | None = Field(default=None, exclude=True)
    cells: Cells | None = Field(default=None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _named_by_group(cls, given: Any) -> Any:
        if isinstance(given, dict) and "name" not in given:
            name = given.get("group") or given.get("train")
            return given if name is None else {"name": name} | given
        return given

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [key for key in ("train", "checkpoints", "series") if getattr(self, key) is not None]
        if len(sources) != 1:
            raise ValueError(
                f"arm {self.name!r} needs exactly one of `train` (a kind), `checkpoints` (a folder) and `series` (a "
                f"suite, repository or folder to choose from); it has {' and '.join(sources) or 'none'}"
            )
        trained = [key for key in ("training", "replicates", "grid", "cells") if getattr(self, key) is not None]
        if trained and self.train is None:
            raise ValueError(
                f"arm {self.name!r} has {' and '.join(trained)} but no `train`, which that is for; other arms are put "
                "together by `group`"
            )
        if self.train is not None and (self.tokenizer is not None or self.trust_remote_code):
            raise ValueError(
                f"arm {self.name!r} has `train` beside tokenizer or trust_remote_code, which are for checkpoints of "
                "others; leave them out"
            )
        if self.seeds is not None and self.series is None:
            raise ValueError(
                f"arm {self.name!r} has seeds but no `series`, which they are of; a trained arm has `replicates`"
            )
        if self.seeds is not None and self.stages is not None and not self._has_seed_mark():
            raise ValueError(
                f"arm {self.name!r} has seeds and stages, and no {SEED_MARK} in `series`, so that seeds are stages; "
                "leave one of them out"
            )
        if self.seeds is None and self._has_seed_mark():
            raise ValueError(f"arm {self.name!r} has {SEED_MARK} in `series`, and no seeds to put there; give `seeds`")
        if self.family_row is not None and self.train is not None:
            raise ValueError(
                f"arm {self.name!r} has family_row beside train; what a run trains has rows of its own: leave it out"
            )
        chosen = [key for key in SELECTION if getattr(self, key) is not None]
        if chosen and self.series is None:
            raise ValueError(
                f"arm {self.name!r} has {', '.join(chosen)}, which choose from a `series`, and no `series`; give the "
                "folder or repository as `series`"
            )
        several = ("steps", "tokens", "words", "bytes", "count", "every", "tokens_aligned_with")
        ways = [key for key in several if key in chosen]
        if len(ways) > 1:
            raise ValueError(f"arm {self.name!r} chooses by {' and '.join(ways)} at once; give one of them")
        if self.spacing is not None and self.count is None:
            raise ValueError(f"arm {self.name!r} has spacing = {self.spacing!r} but no `count`, which it belongs to")
        return self

    def each(self, seed: int, seeds: Sequence[int] | None = None) -> Iterator[Arm]:
        """The arms that an arm stands for: itself, or its replicates.

        Args:
            seed: that of the first of its own `replicates`, unless the arm has a seed.
            seeds: those of the replicates of an arm that is trained and has no `replicates`; None: it has none.

        Raises:
            ValueError: the arm has a seed of its own beside `seeds`.
        """
        if self.seeds is not None:
            yield from self._each_published(self.seeds)
            return
        if self.train is None or (self.replicates is None and seeds is None):
            yield self
            return
        content = self.model_dump() | {"group": self.group or self.name, "replicates": None}
        training = content["training"] or {}
        if self.replicates is not None:
            first = training.get("seed", seed)
            seeds = range(first, first + self.replicates)
        elif "seed" in training:
            raise ValueError(
                f"arm {self.name!r} has training.seed = {training['seed']} beside the experiment's seeds, which every "
                "trained arm is trained with; leave one out, or give the arm replicates = 1"
            )
        for i, own in enumerate(seeds or ()):
            name = f"{self.name}-{i + 1}"
            yield Arm.model_validate(content | {"name": name, "training": training | {"seed": own}})

    def _has_seed_mark(self) -> bool:
        return any(SEED_MARK in one for one in ([self.series] if isinstance(self.series, str) else self.series or ()))

    def _each_published(self, seeds: Sequence[int | str]) -> Iterator[Arm]:
        """A replicate for each seed of a published series."""
        content = self.model_dump() | {"group": self.group or self.name}
        for seed in seeds:
            own: dict[str, Any] = {"name": f"{self.name}-{seed}"}
            if self._has_seed_mark():
                series = content["series"]
                put = [one.replace(SEED_MARK, str(seed)) for one in ([series] if isinstance(series, str) else series)]
                own |= {"series": put[0] if isinstance(series, str) else put}
            else:
                own |= {"stages": [f"{SEED}{seed}".lower()]}
            yield Arm.model_validate(content | own)

    def spread(self, grid: Grid | None, cells: Cells | None) -> Iterator[Arm]:
        """The arms of every cell of its own grid and cells or, if it has none and is trained, of these; or itself.

        Raises:
            ValueError: a cell cannot be trained, or the arm has an option itself that a cell has.
        """
        if self.grid is not None or self.cells is not None:
            grid, cells = self.grid, self.cells
        if self.train is None or (grid is None and cells is None):
            yield self
            return
        if self.group is not None:
            raise ValueError(
                f"arm {self.name!r} has group = {self.group!r} beside a grid, each cell of which is a group of its "
                "own; leave group out"
            )
        content = self.model_dump()
        training = content["training"] or {}
        for cell in cells_of(grid, cells):
            for key in shared_keys(training, cell):
                raise ValueError(
                    f"arm {self.name!r} has training.{key} itself and {key} in a grid; leave it out of one of them"
                )
            name = f"{self.name}-{cell.name}"
            own = content | {"name": name, "training": merged(training, cell.training)}
            try:
                yield Arm.model_validate(own)
            except ValidationError as error:
                raise ValueError(f"cell {cell.name!r} of arm {self.name!r}: {describe(error, Arm)}") from None


class Experiment(Spec):
    """A whole experiment.

    Attributes:
        name: what it is called.
        facts: which facts, and how they are put to the models.
        attribution: options of `attribute`.
        metrics: options of `summarise`.
        ablation: what is ablated at the last checkpoints.
        routing: what is asked of routing beside the scores.
        follow: which units are described at every checkpoint.
        training: what the arms that are trained share.
        corpus: what they are trained on beside the facts that are asked about.
        engine, storage: how it is carried out; all else says what its results are.
        seeds: in a file that is read: every trained arm without `replicates` is a group of replicates with these seeds.
        grid, cells: in a file that is read: every trained arm is one for each combination of these options of
            `training` (see `design`).
        arms: its series of checkpoints; once read, those that seeds, grid and replicates made of them.
    """

    name: str
    facts: FactsSpec = FactsSpec()
    attribution: AttributionSpec = AttributionSpec()
    metrics: MetricsSpec = MetricsSpec()
    ablation: AblationSpec = AblationSpec()
    routing: RoutingSpec = RoutingSpec()
    follow: FollowSpec = FollowSpec()
    training: TrainingSpec = TrainingSpec()
    corpus: CorpusSpec = CorpusSpec()
    engine: EngineSpec = EngineSpec()
    storage: StorageSpec = StorageSpec()
    seeds: Seeds | None = Field(default=None, exclude=True)
    grid: Grid | None = Field(default=None, exclude=True)
    cells: Cells | None = Field(default=None, exclude=True)
    arms: tuple[Arm, ...] = Field(min_length=1)

    @field_validator("arms", mode="after")
    @classmethod
    def _expanded(cls, arms: tuple[Arm, ...], info: ValidationInfo) -> tuple[Arm, ...]:
        if not {"training", "seeds", "grid", "cells"} <= info.data.keys():  # one is wrong, and that is said
            return arms
        design = {key: info.data[key] for key in ("seeds", "grid", "cells") if info.data[key] is not None}
        if design and not any(arm.train for arm in arms):
            raise ValueError(f"{' and '.join(design)} was given, which arms with `train` are made by, and none has it")
        cells = [cell for arm in arms for cell in arm.spread(info.data["grid"], info.data["cells"])]
        count = sum(cell.replicates or len(cell.seeds or info.data["seeds"] or (0,)) for cell in cells)
        if count > MOST_CELLS and len(cells) > 1:
            raise ValueError(
                f"cells and replicates make {count:,} arms; expected at most {MOST_CELLS:,}: ask for fewer"
            )
        return tuple(own for cell in cells for own in cell.each(info.data["training"].seed, info.data["seeds"]))

    @model_validator(mode="after")
    def _without_design(self) -> Self:
        """Its arms say it all: an experiment that was expanded is that of its file, read or written again."""
        for key in ("seeds", "grid", "cells"):
            object.__setattr__(self, key, None)
            self.__pydantic_fields_set__.discard(key)
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"arms need different names; given were {', '.join(names)}")
        _refuse_shared_files(names)
        aligned = {arm.name: arm.tokens_aligned_with for arm in self.arms if arm.tokens_aligned_with is not None}
        for name, other in aligned.items():
            others = [known for known in names if known != name and known not in aligned]
            if other not in others:
                raise ValueError(
                    f"arm {name!r} has tokens_aligned_with = {other!r}; expected another arm that is not aligned "
                    f"itself: {', '.join(others) or 'there is none'}"
                )
        return self

    @model_validator(mode="after")
    def _can_be_trained(self) -> Self:
        for arm in self.arms:
            try:
                training = self.training_of(arm)
                if arm.train is not None:
                    refuse_kind(arm.train, training.size)
            except OptionError as error:
                raise ValueError(f"arm {arm.name!r}: {error}") from None
            except ValidationError as error:
                raise ValueError(
                    f"arm {arm.name!r} with its own training: "
                    + "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
                ) from None
        return self

    @model_validator(mode="after")
    def _one_shift(self) -> Self:
        kinds = {(shift.share, shift.seed) for shift in self._shifts()}
        if len(kinds) > 1:
            raise ValueError(
                "arms have shifts of different facts, with (share, seed) "
                + ", ".join(map(str, sorted(kinds)))
                + "; all arms are asked about one set of facts, so give one share and seed, or each an experiment "
                "(`at` may differ, and share = 0 is an arm without a shift)"
            )
        return self

    @model_validator(mode="after")
    def _corpus_is_for_someone(self) -> Self:
        if self.corpus != CorpusSpec() and all(arm.train is None for arm in self.arms):
            raise ValueError("corpus was given, but no arm has `train`, which it is for; leave it out or train an arm")
        return self

    @model_validator(mode="after")
    def _replicates_differ(self) -> Self:
        groups = {arm.group for arm in self.arms}
        alike: dict[tuple[str, str, TrainingSpec], str] = {}
        for arm in self.arms:
            if arm.name in groups and arm.group != arm.name:
                raise ValueError(f"group {arm.name!r} has the name of an arm that is not in it; rename one of them")
            if arm.group is None or arm.train is None:
                continue
            other = alike.setdefault((arm.group, arm.train, self.training_of(arm)), arm.name)
            if other != arm.name:
                raise ValueError(
                    f"arms {other!r} and {arm.name!r} of group {arm.group!r} are trained alike, seed and all, which "
                    "gives one model twice; give each a `training` with a seed of its own, or one arm `replicates`"
                )
        return self

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The names of the arms of each group, in their order: replicates of one thing, or an arm by itself."""
        found: dict[str, tuple[str, ...]] = {}
        for arm in self.arms:
            group = arm.name if arm.group is None else arm.group
            found[group] = (*found.get(group, ()), arm.name)
        return found

    @property
    def shift(self) -> ShiftSpec | None:
        """Which facts change in the training of some arms, that of the first such arm; None if there is none."""
        return next(iter(self._shifts()), None)

    def _shifts(self) -> list[ShiftSpec]:
        given = [self.training_of(arm).shift for arm in self.arms if arm.train is not None]
        return [shift for shift in given if shift is not None and shift.share]

    def asked(self, facts: FactSet) -> FactSet:
        """Facts as all arms are asked about them: where some arms have a shift, in relations kept, before and after it.

        Args:
            facts: of `facts.load()`.

        Raises:
            FactsError: further facts of the corpus cannot be read or contradict these, or nothing can change.
        """
        if self.shift is None:
            return facts
        return parted(facts, new_objects(taught_facts(facts, self.more_facts()), self.shift.share, self.shift.seed))

    def more_facts(self) -> tuple[FactSet, ...]:
        """The facts that the corpus has beside those that are asked about, joined as those are.

        Raises:
            FactsError: they cannot be read.
        """
        facts = self.facts
        return tuple(facts.model_copy(update={"source": source}).load() for source in self.corpus.facts)

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(one for one in self.arms if one.name == name)

    def training_of(self, arm: Arm) -> TrainingSpec:
        """The options that one of its arms is trained with: the shared ones, but for those that the arm has itself."""
        return self.training if arm.training is None else self.training.with_overrides(arm.training)

    def differences(self, other: Experiment) -> list[str]:
        """Keys in which the results of two experiments would differ, with both values; arms are told apart by name."""
        mine, theirs = (e.model_dump(mode="json", exclude={*SETTINGS, "arms"}) for e in (self, other))
        my_arms, their_arms = ({arm.name: arm.model_dump(mode="json") for arm in e.arms} for e in (self, other))
        shared = my_arms.keys() & their_arms.keys()
        found = _differing(
            *(
                flatten(kept | {"arms": {name: arms[name] for name in shared}})
                for kept, arms in ((mine, my_arms), (theirs, their_arms))
            )
        )
        only = [
            f"{listed(map(repr, missing))} {where} only"
            for missing, where in (
                ([name for name in my_arms if name not in shared], "there"),
                ([name for name in their_arms if name not in shared], "given"),
            )
            if missing
        ]
        if only:
            found.insert(0, f"arms ({'; '.join(only)})")
        elif list(my_arms) != list(their_arms):
            found.append("arms (in another order)")
        return found

    def with_settings(self, **sections: dict[str, Any]) -> Experiment:
        """This experiment with some keys of `engine` or `storage` set anew.

        Raises:
            OptionError: a value that means nothing.
        """
        content = self.model_dump(mode="json")
        return _validated(content | {name: content[name] | keys for name, keys in sections.items()}, "these settings")


def _differing(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Keys of flat settings whose values differ, with both."""
    return [
        f"{key} ({mine.get(key)!r} there, {theirs.get(key)!r} given)"
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key)
    ]


def _refuse_shared_files(names: Sequence[str]) -> None:
    """Refuse arms that would write the same file, on disks that do not tell upper from lower case too."""
    owners: dict[str, str] = {}
    for name in names:
        for ending in ENDINGS:
            file = f"{name}{ending}"
            other = owners.setdefault(file.casefold(), name)
            if other != name:
                raise ValueError(
                    f"arms {other!r} and {name!r} would both keep results in {file} (as disks see it that do not tell "
                    "upper from lower case); rename one of them"
                )


def load_experiment(path: str | Path) -> Experiment:
    """Read an experiment file (TOML).

    Raises:
        OptionError: the file is not there, is not TOML, or has a key or value that means nothing; names the key,
            the value and what is allowed.
    """
    content = read_toml(Path(path))
    if "study" in content:
        raise OptionError(f"{str(path)!r} is a study, not an experiment alone: run gated-lpi study {path} --out DIR")
    experiment = _validated(content, str(path))
    if experiment.attribution.unheeded:
        raise OptionError(
            f"{path} is not an experiment: attribution: {'; '.join(experiment.attribution.unheeded)}; leave it out, or "
            "add such a method"
        )
    return experiment


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file; a byte order mark at its beginning is skipped.

    Raises:
        OptionError: the file is not there, or is not TOML.
    """
    try:
        if not file.is_file() and file.exists():  # a pipe might never end, or give nothing the second time
            raise OptionError(f"{str(file)!r} is no file; expected an experiment file (TOML)")
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise OptionError(
            f"no experiment file could be read at {str(file)!r} ({error.strerror}); give the path of a TOML file"
        ) from error
    except RecursionError:
        raise OptionError(f"{file} is no experiment: tables or lists nested too deeply; write them flatter") from None
    except OptionError:
        raise
    except ValueError as error:  # not TOML, not UTF-8, an integer of over 4,300 digits, or a name with NUL
        raise OptionError(f"{str(file)!r} is not TOML: {error}") from error


def _validated(content: dict[str, Any], source: str) -> Experiment:
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise OptionError(f"{source} is not an experiment: {describe(error, Experiment)}") from error


def preset(name: str) -> Experiment:
    """An experiment that comes with the package, such as "demo".

    Raises:
        OptionError: there is none of this name.
    """
    known = presets()
    if name not in known:
        raise OptionError(f"preset {name!r} was asked for; there are {', '.join(known)}: give one of these")
    return load_experiment(_PRESETS / f"{name}.toml")


_PRESETS = Path(__file__).parent.parent / "presets"


def presets() -> tuple[str, ...]:
    """The names of the experiments that come with the package."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))
