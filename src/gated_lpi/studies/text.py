"""Loss on text that was kept out of training, over checkpoints: do arms that are trained on real text learn it?

1. Lines of a file are read one by one, as they are in training: −log p of every token but the first, mean over tokens.
2. Beside it what the tokens' frequencies alone would give (the entropy of the held-out tokens themselves, which no
   model that sees no context can be below), and a guess among all tokens of the vocabulary.
3. Groups with and without experts are compared at the end, replicates paired by seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gated_lpi.ablation import read_text, text_loss
from gated_lpi.checkpoints import Checkpoint
from gated_lpi.errors import ModelError, OptionError
from gated_lpi.experiments import Experiment
from gated_lpi.models import Model
from gated_lpi.options.spec import FileName, Positive, Spec
from gated_lpi.results import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.studies._charts import Curve, Lines, lines
from gated_lpi.studies._intervals import CELLS, NAN, cells, difference, over_replicates
from gated_lpi.studies._models import loaded, scored_checkpoints, spread
from gated_lpi.studies._replicates import Members, members_of
from gated_lpi.studies._runs import each
from gated_lpi.studies.finding import Analysis, Table, Verdict

QUESTION = "Do the models learn the text that they are trained on?"


class Options(Spec):
    """What is asked.

    Attributes:
        text: a plain text file, a text a line, that no arm is trained on, such as `make text` keeps out.
        lines: of it that are read, at most, evenly over it.
        checkpoints: of an arm, at most.
        replicates: of a group, at most.
    """

    text: FileName
    lines: Positive = 400
    checkpoints: Positive = 8
    replicates: Positive = 5


class Read(NamedTuple):
    """What a model makes of a text.

    Attributes:
        loss: −log p of its tokens, nats per token.
        frequencies: entropy of its tokens, nats.
        guess: log of the tokens that there are, nats.
        tokens: that are predicted.
    """

    loss: float
    frequencies: float
    guess: float
    tokens: int


def analyse(run: Run, options: Options, progress: Progress) -> Analysis:
    """Loss on held-out lines over checkpoints by group, and whether experts help."""
    texts = held_out(options.text, options.lines)
    members = members_of(run)
    checkpoints = scored_checkpoints(run)
    wanted = [
        (member.arm, one)
        for several in members.groups.values()
        for member in several[: options.replicates]
        for one in spread(checkpoints[member.arm], options.checkpoints)
    ]
    found = each(run, read_lines, [(run.experiment, one, texts) for _, one in wanted], "loss on text", progress)
    by_arm: dict[str, dict[int, Read]] = {}
    for (arm, one), read in zip(wanted, found, strict=True):
        by_arm.setdefault(arm, {})[one.step] = read
    return Analysis(
        verdicts=[*_learnt(members, by_arm), *_compared(members, by_arm)],
        tables=[_table(members, by_arm)],
        figures={"text-loss": _figure(members, by_arm)},
        notes=list(members.notes),
    )


def held_out(file: str | Path, most: int) -> list[str]:
    """Some lines of a text file, evenly over it; those without a character are none.

    Raises:
        OptionError: the file cannot be read, or is blank.
    """
    return spread([line.strip() for line in read_text(file).splitlines() if line.strip()], most)


def read_lines(experiment: Experiment, checkpoint: Checkpoint, texts: Sequence[str], progress: Progress) -> Read:
    """What the model of one checkpoint makes of lines; may be called in another process."""
    del progress
    with loaded(experiment, checkpoint) as model:
        return read_by(model, texts)


def read_by(model: Model, texts: Sequence[str]) -> Read:
    """What a model makes of lines, each by itself and cut at the model's context.

    Raises:
        ModelError: it has no tokenizer.
        OptionError: none of them has two tokens.
    """
    if model.tokenizer is None:
        raise ModelError("the model has no tokenizer, so it cannot read text; give a checkpoint that comes with one")
    ids = [tuple(one)[: model.context or None] for one in model.tokenizer(list(texts))["input_ids"]]
    ids = [one for one in ids if len(one) > 1]
    if not ids:
        raise OptionError(f"none of {len(texts)} lines has two tokens; give a text with whole sentences")
    counts = np.unique([token for one in ids for token in one[1:]], return_counts=True)[1]
    shares = counts / counts.sum()
    vocabulary = min(model.n_embeddings, model.readout.vocabulary)
    return Read(text_loss(model, ids), float(-(shares @ np.log(shares))), math.log(vocabulary), int(counts.sum()))


Found = dict[str, dict[int, Read]]


def _final(found: Found) -> dict[str, Read]:
    return {arm: by_step[max(by_step)] for arm, by_step in found.items()}


def _learnt(members: Members, found: Found) -> list[Verdict]:
    final = _final(found)
    verdicts = []
    for group, arms in members.groups.items():
        own = [final[member.arm] for member in arms if member.arm in final]
        gained = over_replicates(one.frequencies - one.loss for one in own)
        if not own:
            continue
        verdicts.append(
            gained.verdict(
                question=QUESTION,
                claim=f"{group} predicts held-out text better than its tokens' frequencies do.",
                claimed="above",
                unit="nats per token",
                detail=f"Entropy of {own[0].tokens:,} held-out tokens less the loss on them; {gained.basis}.",
                would_decide="More replicates, until the interval leaves 0 out; longer training, where it is below 0.",
            )
        )
    return verdicts


def _compared(members: Members, found: Found) -> list[Verdict]:
    values = {arm: read.loss for arm, read in _final(found).items()}
    verdicts = []
    for moe, dense in members.contrasts:
        estimate = difference(members.by_seed(moe, values), members.by_seed(dense, values))
        verdicts.append(
            estimate.verdict(
                question=QUESTION,
                claim=f"{moe} has a lower loss on held-out text than {dense}.",
                claimed="below",
                unit="nats per token",
                detail=f"Loss of {moe} less that of {dense} at the end, paired by seed; {estimate.basis}.",
                would_decide="More replicates, until the interval leaves 0 out.",
            )
        )
    return verdicts


def _curve(members: Members, found: Found, group: str) -> Curve:
    own = [found[member.arm] for member in members.of(group) if member.arm in found]
    steps = sorted(set().union(*own)) if own else []
    return Curve(steps, [over_replicates(by[step].loss if step in by else NAN for by in own) for step in steps])


def _table(members: Members, found: Found) -> Table:
    rows: list[list[Any]] = []
    for group in members.groups:
        curve = _curve(members, found, group)
        rows += [[group, step, *cells(one)] for step, one in zip(curve.x, curve.y, strict=True)]
    for name in ("frequencies", "guess"):
        rows.append([name, None, *cells(over_replicates([getattr(read, name) for read in _final(found).values()]))])
    caption = (
        "Loss on held-out text by step, nats per token. Frequencies: the entropy of the held-out tokens; guess: all "
        "tokens alike."
    )
    return Table(name="text-loss", caption=caption, columns=["group", "step", *CELLS], rows=rows)


def _figure(members: Members, found: Found) -> Any:
    curves = {group: _curve(members, found, group) for group in members.groups}
    return lines("text-loss", "Loss on held-out text", "step", [Lines("held-out text", "nats per token", curves)])
