"""Inputs that nobody wrote, for every loader: each is taken, or an error of the tree; no other error, ever.

The targets are those of the slow tests (`fuzz_facts`, `fuzz_checkpoints`, `fuzz_runs`), and configs of checkpoints. A
try is one input; the count is of each target. Targets share the time that there is.
"""

import json
import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias
from unittest.mock import patch

import fuzz_checkpoints
import fuzz_facts
import fuzz_runs
from fuzzing import mutated_bytes, mutated_value
from gated_lpi import load_model
from gated_lpi.errors import GatedLPIError
from tiny_text import save_checkpoint
from torture.attack import OUTCOMES, Ground, refused_clearly

Target: TypeAlias = Callable[[Path, int, int], Iterator[str]]
BATCH = 50  # inputs that are told at once


def facts(ground: Ground) -> None:
    """Every way to load facts."""
    _fuzz(ground, fuzz_facts.TARGETS)


def checkpoints(ground: Ground) -> None:
    """Names, listings, a hub's answers, indexes, headers and bytes of weights."""
    _fuzz(ground, fuzz_checkpoints.TARGETS)


def runs(ground: Ground) -> None:
    """Experiments, and the files of a run."""
    _fuzz(ground, fuzz_runs.TARGETS)


def configs(ground: Ground) -> None:
    """config.json, tokenizer_config.json and tokenizer.json of a checkpoint, loaded as a model."""
    _fuzz(ground, (model_configs,))


def model_configs(folder: Path, first: int, count: int) -> Iterator[str]:
    """The JSON files of a checkpoint; numbers stay small, as what is vast is the business of `hostile`."""
    save_checkpoint(folder / "model", "Qwen3", num_hidden_layers=1)
    names = ("config.json", "config.json", "tokenizer_config.json", "tokenizer.json")
    sound = {name: (folder / "model" / name).read_bytes() for name in names}
    for seed in range(first, first + count):
        chance = random.Random(seed)
        name = names[seed % len(names)]
        value = _small(mutated_value(chance, json.loads(sound[name])))
        text = json.dumps(value).encode()
        (folder / "model" / name).write_bytes(mutated_bytes(chance, text) if chance.random() < 0.2 else text)
        try:
            load_model(str(folder / "model"), device="cpu")
        except GatedLPIError as error:
            refused_clearly(error)
            yield "refused"
        else:
            yield "taken"
        (folder / "model" / name).write_bytes(sound[name])


def _small(value: object) -> object:
    """The value with vast numbers cut down."""
    if isinstance(value, dict):
        return {key: _small(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_small(item) for item in value]
    return value % 1000 if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1000 else value


def _fuzz(ground: Ground, targets: Sequence[Target]) -> None:
    """Each target with as many inputs as are wanted, or as its share of the time allows."""
    each, wanted = ground.count, ground.count * len(targets)
    ground.wants(wanted)
    least = each
    with patch.object(os, "fsync", lambda _: None):  # no power is cut here
        for number, target in enumerate(targets):
            until = time.monotonic() + (ground.deadline - time.monotonic()) / (len(targets) - number)
            least = min(least, _inputs(ground, target, each, until))
    ground.remark(f"{len(targets)} loaders, {least:,} inputs or more of each")


def _inputs(ground: Ground, target: Target, count: int, until: float) -> int:
    """So many inputs of one target, or fewer if the time is over; how many."""
    folder = ground.folder / target.__name__
    folder.mkdir()
    done, told = 0, Counter[str]()
    try:
        for outcome in target(folder, ground.seed, count):
            told["refused" if outcome == "refused" else "survived"] += 1
            done += 1
            if done % BATCH == 0:
                _tell(ground, told)
            if time.monotonic() > until:
                break
    except Exception:
        ground.went_wrong(f"{target.__name__}\n{traceback.format_exc(limit=-5)[-2500:]}", ground.seed + done)
        done += 1
    _tell(ground, told)
    return done


def _tell(ground: Ground, told: Counter[str]) -> None:
    for outcome in OUTCOMES:
        if told[outcome]:
            ground.came(outcome, told.pop(outcome))
