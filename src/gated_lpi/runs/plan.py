"""What an experiment would take, from listings alone: downloads, disk, memory, time and money. Nothing is run.

Sizes come from the hub's listing. The rest is an estimate within a factor of a few, made of these parts:
1. Parameters: bytes of the weights by the size of the dtype that config.json names (2 bytes if it names none).
2. Operations of one checkpoint: 2 · parameters · tokens for every forward pass over the prompts, of which there is one
   for attribution and, at the last checkpoint, one for each ablation and random draw; and, in every block, as much as
   `LENSES` projections of the residual stream through the vocabulary, 2 · width · vocabulary each, for every prompt.
3. Time: operations by operations per second, plus reading the weights `READS` times; or that of the download, if it
   is longer, since the next checkpoint is downloaded while one computes.
4. Training: 6 · parameters · tokens, of those parameters that a token uses; the data's order tells tokens beforehand.
   In memory are weights, gradients and two moments, 16 bytes a parameter; on disk every checkpoint, in float32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from gated_lpi._common.foreign import parse_json
from gated_lpi._common.weight_files import weight_files
from gated_lpi.checkpoints import Checkpoint, Hub
from gated_lpi.errors import CheckpointError, WeightsError
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.methods.memory import FULL_TILES, TOKENS_SEEN, usual_batch
from gated_lpi.options import parse_memory
from gated_lpi.runs.access import hub_of
from gated_lpi.runs.choose import choose_checkpoints
from gated_lpi.runs.downloads import listed_bytes
from gated_lpi.runs.train import corpus_of
from gated_lpi.training import ArmSpec
from gated_lpi.training.arms import count_parameters
from gated_lpi.training.tokenizer import train_tokenizer
from gated_lpi.training.trainer import planned_tokens

FLOPS = 200e9  # float32 matrix products on a few CPU cores
BANDWIDTH = 100e6  # bytes a second from the hub
DISK = 1e9  # bytes a second from the disk
LENSES = 20  # docs/benchmarks.md: 6 to 15 for units, measured; and about 6 for heads, experts and blocks
READS = 3  # hash, check, load
_ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8": 1}


@dataclass(frozen=True)
class Shape:
    """What of a model's shape the estimate needs.

    Attributes:
        hidden: width of the residual stream.
        layers: number of layers.
        vocabulary: number of tokens.
        itemsize: bytes of a stored parameter.
        known: whether its config.json was to be had.
    """

    hidden: int = 4096
    layers: int = 32
    vocabulary: int = 50_000
    itemsize: int = 2
    known: bool = False


@dataclass(frozen=True)
class ArmPlan:
    """What one arm takes.

    Attributes:
        arm: its name.
        checkpoints: keys, in order.
        download: bytes from the hub.
        disk: most bytes of downloads at a time; of an arm that is trained, those of its checkpoints, which stay.
        memory: bytes of weights in float32 and the working set.
        seconds: of the whole arm, its training included.
        cost: money, in the currency of the price; None where none was given.
        notes: what was chosen otherwise than asked for, what is wrong with it, and what could not be estimated.
        training: seconds of its training; 0 where it is not trained.
    """

    arm: str
    checkpoints: tuple[str, ...]
    download: int
    disk: int
    memory: int
    seconds: float
    cost: float | None
    notes: tuple[str, ...]
    training: float = 0.0


class Trained(NamedTuple):
    """An arm that the run will train, before it does.

    Attributes:
        checkpoints: those that will be kept, with steps and tokens.
        shape: of its model.
        parameters: of its model.
        active: those that a token uses.
    """

    checkpoints: list[Checkpoint]
    shape: Shape
    parameters: int
    active: float


@dataclass(frozen=True)
class Plan:
    """What an experiment takes.

    Attributes:
        name: the experiment's.
        prompts: how many are put to each checkpoint.
        arms: what each arm takes.
        assumptions: what the estimate rests on, in words.
    """

    name: str
    prompts: int
    arms: tuple[ArmPlan, ...]
    assumptions: tuple[str, ...]

    @property
    def total(self) -> ArmPlan:
        """All arms together, one after the other: sums, the most of memory, and of disk with what is trained."""
        costs = [arm.cost for arm in self.arms if arm.cost is not None]
        return ArmPlan(
            arm="total",
            checkpoints=tuple(f"{arm.arm}:{key}" for arm in self.arms for key in arm.checkpoints),
            download=sum(arm.download for arm in self.arms),
            disk=sum(arm.disk for arm in self.arms if arm.training)
            + max((arm.disk for arm in self.arms if not arm.training), default=0),
            memory=max(arm.memory for arm in self.arms),
            seconds=sum(arm.seconds for arm in self.arms),
            cost=sum(costs) if costs else None,
            notes=(),
            training=sum(arm.training for arm in self.arms),
        )

    def as_json(self) -> dict[str, Any]:
        """All of it as what JSON can hold."""
        return asdict(self) | {"total": asdict(self.total)}


def plan(
    experiment: Experiment, *, price_per_hour: float | None = None, flops: float = FLOPS, bandwidth: float = BANDWIDTH
) -> Plan:
    """Estimate what running an experiment takes. Lists series and reads config.json files; makes no run.

    Args:
        experiment: what would be run.
        price_per_hour: of the machine, in any currency.
        flops: operations per second that it does on float32 matrices.
        bandwidth: bytes per second from the hub.

    Raises:
        FactsError: facts that the run could not use either.
        CheckpointError: series that it could not use either.
        OptionError: a choice from a series that it could not make either.
    """
    hub = hub_of(experiment.storage)
    facts = experiment.facts.load()
    prompts = len(experiment.asked(facts).prompts(experiment.facts.templates))
    notes: dict[str, list[str]] = {arm.name: [] for arm in experiment.arms}
    trained = _to_be_trained(experiment, facts)
    before = {name: arm.checkpoints for name, arm in trained.items()}
    chosen = choose_checkpoints(experiment, before, hub, lambda arm, note: notes[arm].append(note))
    arms = []
    for arm in experiment.arms:
        rates = (flops, bandwidth, price_per_hour)
        arms.append(
            _arm(
                experiment,
                chosen[arm.name],
                ArmPlan(arm.name, (), 0, 0, 0, 0.0, None, tuple(notes[arm.name])),
                hub,
                prompts,
                rates,
                trained.get(arm.name),
            )
        )
    assumptions = (
        f"{prompts:,} prompts of {TOKENS_SEEN} tokens; {flops:.3g} operations and {bandwidth:.3g} bytes from the hub "
        f"per second; every block scored at the price of {LENSES} projections through the vocabulary per prompt",
        "mixtures of experts are counted with all parameters, an upper bound; times are right within a factor of a few",
        "nothing is taken to be downloaded already; checkpoints follow each other on one machine",
    )
    return Plan(experiment.name, prompts, tuple(arms), assumptions)


def _to_be_trained(experiment: Experiment, facts: FactSet) -> dict[str, Trained]:
    """The arms that the run will train. The order of the data tells steps and tokens before any training."""
    corpus = corpus_of(experiment, facts)
    if corpus is None:
        return {}
    tokenizer = train_tokenizer(corpus, experiment.training.size.vocab_size)
    found: dict[str, Trained] = {}
    planned: dict[tuple[object, ...], dict[int, int]] = {}  # arms of a sweep see the same data
    for arm in experiment.arms:
        if arm.train is None:
            continue
        spec = experiment.training_of(arm)
        key = (
            spec.steps,
            spec.batch_size,
            spec.seed,
            spec.context,
            spec.loss,
            spec.checkpoints,
            spec.spacing,
            spec.shift,
        )
        if key not in planned:
            planned[key] = planned_tokens(spec, corpus, tokenizer)
        checkpoints = [Checkpoint(None, f"step-{step}", step, seen, "train") for step, seen in planned[key].items()]
        parameters, active = count_parameters(ArmSpec(name=arm.name, kind=arm.train), spec, tokenizer)
        shape = Shape(spec.size.hidden, spec.size.layers, len(tokenizer), _ITEMSIZES["float32"], known=True)
        found[arm.name] = Trained(checkpoints, shape, parameters, active)
    return found


def _arm(
    experiment: Experiment,
    checkpoints: list[Checkpoint],
    empty: ArmPlan,
    hub: Hub,
    prompts: int,
    rates: tuple[float, float, float | None],
    trained: Trained | None,
) -> ArmPlan:
    """The plan of an arm, of which `empty` has the name and the notes."""
    flops, bandwidth, price = rates
    notes, training = empty.notes, 0.0
    if trained is None:
        shape = _shape(checkpoints[-1], hub)
        downloads = [listed_bytes(checkpoint, hub) for checkpoint in checkpoints]
        weights = [_weights(checkpoint, size) for checkpoint, size in zip(checkpoints, downloads, strict=True)]
        disk = _disk(experiment, downloads)
    else:
        shape = trained.shape
        downloads = [0] * len(checkpoints)
        weights = [trained.parameters * shape.itemsize] * len(checkpoints)
        disk = sum(weights)
        tokens = checkpoints[-1].tokens or 0
        training = 6 * trained.active * tokens / flops
        notes = (*notes, f"trained by the run: {trained.parameters:,} parameters on {tokens:,} tokens")
    seconds = training
    for index, (size, held) in enumerate(zip(downloads, weights, strict=True)):
        passes = 1 + (_ablation_passes(experiment) if index + 1 == len(checkpoints) else 0)
        work = prompts * (2 * held / shape.itemsize * TOKENS_SEEN * passes + _scoring(shape))
        seconds += max(work / flops + READS * held / DISK, size / bandwidth)
    if not shape.known:
        notes = (*notes, "no config.json to be had: counted as a model of 32 layers, width 4,096, in bfloat16")
    if not all(weights):
        notes = (*notes, "the hub lists no size for some checkpoints; they count as nothing")
    memory = round(4 * max(weights) / shape.itemsize) + _working_set(experiment, shape)
    if trained is not None:
        memory = max(memory, 4 * _ITEMSIZES["float32"] * trained.parameters)
    return replace(
        empty,
        checkpoints=tuple(checkpoint.key for checkpoint in checkpoints),
        download=sum(downloads),
        disk=disk,
        memory=memory,
        seconds=seconds,
        cost=None if price is None else price * seconds / 3600,
        notes=notes,
        training=training,
    )


def _weights(checkpoint: Checkpoint, download: int) -> int:
    """Bytes of the weights; 0 where the folder holds none that can be used, which the run will say."""
    if checkpoint.path is None:
        return download
    try:
        return weight_files(checkpoint.path).size
    except (WeightsError, OSError):
        return 0


def _disk(experiment: Experiment, downloads: list[int]) -> int:
    storage, ahead = experiment.storage, 1 + experiment.engine.prefetch
    most = max(sum(downloads[i : i + ahead]) for i in range(len(downloads)))
    if storage.keep_downloads:
        return sum(downloads)
    return most if storage.disk_budget is None else min(most, storage.disk_budget)


def _ablation_passes(experiment: Experiment) -> int:
    spec = experiment.ablation
    return 1 + (len(spec.heads) + len(spec.units)) * (1 + spec.random_draws)


def _scoring(shape: Shape) -> float:
    return 2.0 * LENSES * shape.hidden * shape.vocabulary * 2 * shape.layers


def _working_set(experiment: Experiment, shape: Shape) -> int:
    spec = experiment.attribution.scoring
    if spec.memory is not None:
        return parse_memory(spec.memory)
    numbers = 3 * shape.vocabulary + 12 * shape.hidden * shape.layers
    return FULL_TILES + 4 * (spec.batch_size or usual_batch(shape.vocabulary, shape.hidden)) * numbers


def _shape(checkpoint: Checkpoint, hub: Hub) -> Shape:
    """The shape that config.json tells: that of the folder, or a few kilobytes of the hub."""
    try:
        folder = checkpoint.path
        file = (
            hub.download(checkpoint.repo, checkpoint.commit, str(PurePosixPath(checkpoint.folder, "config.json")))
            if folder is None
            else folder / "config.json"
        )
        config = parse_json(file.read_text(encoding="utf-8"))
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
        return Shape(
            hidden=int(config.get("hidden_size") or config["n_embd"]),
            layers=int(config.get("num_hidden_layers") or config["n_layer"]),
            vocabulary=int(config["vocab_size"]),
            itemsize=_ITEMSIZES.get(dtype, 2),
            known=True,
        )
    except (CheckpointError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return Shape()
