"""What pruning does to replicates of a run at several times of training: one cell after the other, each kept.

A cell is an arm at a checkpoint, a ranking and a share of experts to remove, or none for the model as it was. It is
measured right after pruning, trained on for some steps, and measured again. What is found is a JSON file in the folder
`pruning` of the run, so that a study that was stopped goes on where it was.

Rankings by scores take those of the run. Frequency and REAP look at the tokens of the same prompts, or of training
texts. Recall is of the run's facts by its own templates; the loss is over the learnt tokens of training texts, of those
before its shift where an arm has one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xarray as xr

from gated_lpi import score_schema as schema
from gated_lpi._common.folders import make, read_text, write_atomically
from gated_lpi.ablation import target_scores
from gated_lpi.checkpoints import Checkpoint, list_local
from gated_lpi.errors import OptionError, RunError
from gated_lpi.facts import EncodedPrompt
from gated_lpi.loading import load_model, wrap_model
from gated_lpi.models import Model
from gated_lpi.options.spec import Positive, Spec, Whole
from gated_lpi.prompting import encode_facts
from gated_lpi.pruning import ExpertRanking, cost_of, prune_experts, rank_from_scores, watch_experts
from gated_lpi.pruning.layers import routed_layers
from gated_lpi.results import Run, open_run
from gated_lpi.results.experts import is_moe
from gated_lpi.runs.progress import Progress
from gated_lpi.runs.scoring import prompting
from gated_lpi.runs.train import corpus_of
from gated_lpi.trace import last_logits
from gated_lpi.training import TrainingSpec
from gated_lpi.training.continuing import Rate, continue_training
from gated_lpi.training.corpus import IGNORED, Corpus, encode_corpus
from gated_lpi.training.folder import CHECKPOINT

VERSION = 1  # of what a cell holds: raised when it changes
NONE = "none"


class Conditions(Spec):
    """What every cell has in common; another value makes other cells.

    Attributes:
        pairs: over how many pairs of consecutive checkpoints stability is.
        calibration: on the tokens of what frequency and REAP are: the "prompts", or training texts ("corpus").
        corpus_examples: how many training texts the loss is over, and that calibration.
        further_steps: training steps after pruning; 0: none.
        rate: what the learning rate does in them.
        k: the k of HIT@k.
        seed: of random rankings, beside that of the arm.
    """

    pairs: Positive = 3
    calibration: Literal["prompts", "corpus"] = "prompts"
    corpus_examples: Positive = 512
    further_steps: Whole = 60
    rate: Rate = "decayed"
    k: Positive = 10
    seed: Whole = 0


class Cell(NamedTuple):
    """One condition of one arm.

    Attributes:
        group, arm, seed: what is pruned, of what it is a replicate, and by which seed it was trained.
        time: the share of training that was asked for.
        step: of the checkpoint nearest to it.
        by: the ranking; "none" for the model as it was.
        share: of the experts that is removed.
    """

    group: str
    arm: str
    seed: int
    time: float
    step: int
    by: str
    share: float


@dataclass(frozen=True)
class Replicate:
    """An arm that the run trained, with its checkpoints and scores.

    Attributes:
        run: the run.
        arm: its name.
        conditions: of all cells.
    """

    run: Run
    arm: str
    conditions: Conditions

    @cached_property
    def scores(self) -> xr.Dataset:
        """Its scores over checkpoints."""
        return self.run.scores(self.arm)

    @cached_property
    def checkpoints(self) -> dict[int, Checkpoint]:
        """Its checkpoints by step."""
        return {checkpoint.step: checkpoint for checkpoint in list_local(self.run.training_folder(self.arm))}

    @property
    def seed(self) -> int:
        """What it was trained with."""
        return self.spec.seed

    @cached_property
    def spec(self) -> TrainingSpec:
        """How it was trained."""
        return self.run.experiment.training_of(next(a for a in self.run.experiment.arms if a.name == self.arm))

    @property
    def routed(self) -> bool:
        """Whether it has routed experts."""
        return is_moe(self.scores)

    def nearest_step(self, share: float) -> int:
        """The step nearest to a share of training, of checkpoints that are scored and have others before them.

        Raises:
            OptionError: there is none.
        """
        steps = [step for step in self.scores["step"].to_numpy().tolist()[1:] if step in self.checkpoints]
        if not steps:
            raise OptionError(
                f"arm {self.arm!r} of {self.run.path} has no two checkpoints with scores; pruning by stability needs "
                "an earlier one: finish the run"
            )
        last = max(self.checkpoints)
        return int(min(steps, key=lambda step: abs(step - share * last)))

    def row(self, step: int) -> int:
        """Which row of the scores is of a step."""
        return int(self.scores["step"].to_numpy().tolist().index(step))

    def weights(self, step: int) -> str:
        """The digest of a checkpoint's weights."""
        return str(self.scores["weights_sha256"].to_numpy()[self.row(step)])


def carry_out(path: str, cell: Cell, conditions: Conditions, progress: Progress) -> dict[str, float]:
    """Find what is in a cell and keep it. May be called in another process.

    Args:
        path: the run's folder.
        cell: one of an arm of it.
        conditions: of all cells.
        progress: told nothing, as cells are short.

    Returns:
        `hit_1`, `hit_k`, `logprob`, `corpus_loss` right after pruning, the same as `trained_…` after further steps;
            `parameters`, `parameters_active`, `memory`, `flops_per_token`; `train_seconds`.
    """
    del progress
    run = open_run(path)
    replicate, bench = Replicate(run, cell.arm, conditions), Bench(run)
    file, key = _place(cell, replicate, bench.corpus)
    found = _found(cell, replicate, bench)
    make(file.parent)
    write_atomically(file, json.dumps({"key": key, "found": found}, indent=2) + "\n")
    return found


def kept(cell: Cell, replicate: Replicate, corpus: Corpus) -> dict[str, float] | None:
    """What was found in a cell before; None if nothing was, or its file cannot be used."""
    file, key = _place(cell, replicate, corpus)
    try:
        content = json.loads(read_text(file) or "{}")
    except (OSError, ValueError):  # then it is found anew
        return None
    found = content.get("found") if isinstance(content, dict) and content.get("key") == key else None
    return found if isinstance(found, dict) else None


def _place(cell: Cell, replicate: Replicate, corpus: Corpus) -> tuple[Path, dict[str, Any]]:
    """The file of a cell, and all that what is found in it depends on."""
    key = {
        "version": VERSION,
        "arm": cell.arm,
        "weights": replicate.weights(cell.step),
        "by": cell.by,
        "share": cell.share,
        "corpus": corpus.sha256,
        "conditions": replicate.conditions.model_dump(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{cell.arm}-step-{cell.step}-{cell.by}-{cell.share:g}-{digest}.json"
    return replicate.run.local / "pruning" / name, key


class Bench:
    """What every cell of a run is asked and trained on.

    Attributes:
        corpus: what the run trained on.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        facts = run.experiment.facts.load()
        corpus = corpus_of(run.experiment, facts)
        assert corpus is not None  # the run has trained an arm
        self.corpus: Corpus = corpus
        self._facts = run.experiment.asked(facts)

    def asked(self, model: Model) -> list[EncodedPrompt]:
        """The run's prompts for a model."""
        answer = self._run.experiment.attribution.answer
        return list(encode_facts(model, self._facts, prompting(self._run.experiment), answer=answer).prompts)

    def texts(self, model: Model, replicate: Replicate) -> list[dict[str, list[int]]]:
        """Some training texts: `input_ids` and `labels`, spread evenly over the corpus."""
        spec = replicate.spec
        examples = encode_corpus(self.corpus, model.tokenizer, spec.context, spec.loss).inputs
        number = min(replicate.conditions.corpus_examples, len(examples))
        return [examples[i] for i in np.linspace(0, len(examples) - 1, number).astype(int)]

    def measure(self, model: Model, k: int, texts: Sequence[dict[str, list[int]]]) -> dict[str, float]:
        """Recall, with HIT@k, and loss over some training texts."""
        answer = self._run.experiment.attribution.answer
        means = target_scores(model, self.asked(model), answer).means(k)
        wanted = {name: means[name] for name in ("hit_1", "hit_k", "logprob")}
        return {**wanted, "corpus_loss": corpus_loss(model, texts)}


def corpus_loss(model: Model, examples: Sequence[dict[str, list[int]]]) -> float:
    """Mean of −log p over the learnt tokens of examples, nats per token."""
    pairs = [
        [(place - 1, label) for place, label in enumerate(example["labels"]) if place and label != IGNORED]
        for example in examples
    ]
    logits = last_logits(
        model, [example["input_ids"] for example in examples], [[place for place, _ in some] for some in pairs]
    )
    targets = torch.tensor([label for some in pairs for _, label in some], device=logits.device)
    return float(torch.nn.functional.cross_entropy(logits.double(), targets))


def _found(cell: Cell, replicate: Replicate, bench: Bench) -> dict[str, float]:
    conditions = replicate.conditions
    folder = replicate.checkpoints[cell.step].path
    assert folder is not None  # the run trained it
    _refuse_other_corpus(folder, bench.corpus)
    model = load_model(str(folder), device="cpu")
    texts = bench.texts(model, replicate)
    if cell.by != NONE:
        model = prune_experts(model, _ranking(cell, model, replicate, bench, texts), share=cell.share).model
    found: dict[str, float] = {**bench.measure(model, conditions.k, texts), **cost_of(model)._asdict()}
    if conditions.further_steps:
        started = time.monotonic()
        continue_training(
            model.module,
            replicate.spec,
            bench.corpus,
            model.tokenizer,
            done=cell.step,
            steps=conditions.further_steps,
            rate=conditions.rate,
        )
        found["train_seconds"] = time.monotonic() - started
        after = bench.measure(wrap_model(model.module, model.tokenizer), conditions.k, texts)
        found |= {f"trained_{name}": value for name, value in after.items()}
    return found


def _refuse_other_corpus(folder: Path, corpus: Corpus) -> None:
    record = json.loads((folder / CHECKPOINT).read_text(encoding="utf-8"))
    if record.get("corpus_sha256") != corpus.sha256:
        raise RunError(
            f"{folder} was trained on a corpus other than the one that its run's facts give now, so it cannot be "
            "trained on; restore the facts, or run again into a new folder"
        )


def _ranking(
    cell: Cell, model: Model, replicate: Replicate, bench: Bench, texts: Sequence[dict[str, list[int]]]
) -> ExpertRanking:
    by, conditions = cell.by, replicate.conditions
    if by in ("lpi", "lpi_stable", "grad_x_act"):
        row = replicate.row(cell.step)
        names = {schema.EXPERT_LPI, schema.mean_of(schema.LPI), schema.mean_of(schema.GRAD_X_ACT)}
        kept = replicate.scores[sorted(names & set(map(str, replicate.scores.data_vars)))]
        first = max(0, row - conditions.pairs)
        past = [kept.isel(checkpoint=earlier).load() for earlier in range(first, row)] if by == "lpi_stable" else []
        return rank_from_scores(by, kept.isel(checkpoint=row).load(), past, pairs=conditions.pairs)
    layers, experts = routed_layers(model)
    if by == "random":
        generator = np.random.default_rng([conditions.seed, cell.seed])
        return ExpertRanking(by, layers, generator.random((len(layers), experts)))
    if conditions.calibration == "corpus":
        read: list[Sequence[int]] = [example["input_ids"] for example in texts]
    else:
        read = [item.ids for item in bench.asked(model)]
    seen = watch_experts(model, read)
    return ExpertRanking(by, layers, seen.frequency if by == "frequency" else seen.reap)
