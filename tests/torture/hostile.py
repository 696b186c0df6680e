"""Checkpoints that are broken, odd or mean (`hostile_checkpoints`): refused by an error of the tree, or loaded right.

A try is one folder, loaded in a forked child whose memory is bounded, and looked at with `gated-lpi check` every few.
Loaded right is with the weights that were saved. Nothing in the folder may have been run: a canary would show it.
"""

import os
import random
import resource
from pathlib import Path

import torch

from children import Child, command
from gated_lpi import load_model
from gated_lpi.errors import GatedLPIError
from hostile_checkpoints import Hostile, all_hostile
from tiny_models import tiny_module
from torture.attack import Ground, Outcome, ended_clearly, refused_clearly

MEMORY = 900 * 10**6  # bytes of address space beyond what the child had
PATIENCE = 60.0
REFUSED = 40
CHECKED = 5  # every so many, the command looks too


def load(ground: Ground) -> None:
    """Each hostile checkpoint once, in an order that mixes them."""
    hostile = list(all_hostile())
    random.Random(0).shuffle(hostile)
    ground.wants(min(ground.count, len(hostile)))
    for seed in ground.seeds():
        one = hostile[seed % len(hostile)]
        with ground.judging(seed, str(one)):
            ground.came(_loaded(ground.folder / str(seed), one, check=seed % CHECKED == 0))


def _loaded(place: Path, one: Hostile, check: bool) -> Outcome:
    canary = place / "ran"
    place.mkdir()
    folder = one.build(place / "step-1", canary)
    child = Child(lambda: _try(folder, one.family), place / "log")
    code = child.wait(PATIENCE)
    assert code in (0, REFUSED), f"exit code {code}: {child.said()[-2000:]}"
    if check:
        looked = Child(command(["check", str(folder)]), place / "log")
        if (rc := looked.wait(PATIENCE)) != 0:
            assert code == REFUSED, f"it loads, but check says {looked.said()[-800:]}"
            ended_clearly(rc, looked.said())
    assert not canary.exists(), "something in the folder was run"
    return "refused" if code == REFUSED else "survived"


def _try(folder: Path, family: str) -> None:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    try:
        model = load_model(str(folder), device="cpu")
    except GatedLPIError as error:
        refused_clearly(error)
        os._exit(REFUSED)
    saved = tiny_module(family).state_dict()
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, saved[name]), f"{name} is not what was saved"
