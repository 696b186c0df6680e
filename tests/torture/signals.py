"""SIGINT and SIGTERM at random moments of a small run: it ends in seconds, says what is kept, and goes on afterwards.

A try is a signal. The run downloads one arm's checkpoints, trains another, attributes, ablates and reports; moments
are spread over all of it, the start of Python included. Each run takes up the one before it, as a user would.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hub_server import HubServer, files_in
from tiny_text import CAPITALS, save_checkpoint, save_facts
from torture.attack import Ground

LIMIT = 5.0  # seconds within which a run has to be gone
STARTING = 0.3  # seconds until Python has come to the first line of the program
STEPS = (0, 10, 20)
EXPERIMENT = """
name = "signals"
[facts]
source = "{facts}"
templates = "first"
[metrics]
draws = 3
[ablation]
random_draws = 1
top_units = 1
heads = [1]
units = [0.1]
[training]
steps = 60
checkpoints = 4
batch_size = 4
[training.size]
hidden = 16
layers = 2
heads = 2
kv_heads = 2
experts = 4
expert_width = 8
[storage]
endpoint = "{endpoint}"
cache_dir = "{cache}"
[[arms]]
name = "downloaded"
series = "org/tiny"
[[arms]]
name = "trained"
train = "moe"
"""


def interrupt(ground: Ground) -> None:
    """Send signals to runs of one small experiment; each run takes up the one before it."""
    with experiment(ground.folder) as (file, environment, hub):
        hub.fault("trickle", "GET .*safetensors$", times=10**6, seconds=0.5)
        started = time.monotonic()
        code, said, _ = attempt(file, ground.folder / "whole", environment)
        whole = time.monotonic() - started
        assert code == 0, f"the run ends with {code} when it is left alone: {said[-800:]}"
        rounds, slowest = 0, 0.0
        for seed in ground.seeds():
            chance = random.Random(seed)
            number, moment = chance.choice((signal.SIGINT, signal.SIGTERM)), chance.uniform(0.1, whole)
            wait = functools.partial(time.sleep, moment)
            code, said, seconds = attempt(file, ground.folder / f"run-{rounds}", environment, number, wait)
            if seconds is None or (code == 0 and "report: " in said):  # it was done when the signal came
                rounds += 1
                continue
            slowest = max(slowest, seconds)
            fault = verdict(number, moment, code, said, seconds)
            if fault is None:
                ground.came("survived")
            else:
                ground.went_wrong(f"{number.name} after {moment:.2f} of {whole:.1f} s: {fault}", seed)
        ground.remark(f"the slowest was gone {slowest:.1f} s after the signal")


def attempt(
    file: Path,
    out: Path,
    environment: Mapping[str, str],
    number: signal.Signals | None = None,
    wait: Callable[[], None] | None = None,
) -> tuple[int, str, float | None]:
    """Run the experiment and signal it when `wait` returns: exit code, what it said, how long it lived after that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a job in the background would ignore it
    command = [sys.executable, "-m", "gated_lpi", "run", str(file), "--out", str(out)]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=said, stderr=said, env=environment) as child,
    ):
        sent = None
        if number is not None:
            wait()
            if child.poll() is None:
                sent = time.monotonic()
                child.send_signal(number)
                try:
                    child.wait(4 * LIMIT)
                except subprocess.TimeoutExpired:
                    child.kill()
        code = child.wait()
        seconds = None if sent is None else time.monotonic() - sent
        said.seek(0)
        return code, said.read(), seconds


def verdict(number: signal.Signals, moment: float, code: int, said: str, seconds: float) -> str | None:
    """What is wrong with the end of a run that got a signal; None if nothing is."""
    if seconds > LIMIT:
        return f"went on for {seconds:.1f} s, exit code {code}: {said[-400:]}"
    if code in (-number, 1) and moment < STARTING:  # Python had not come to this program yet
        return None
    if code != 128 + number:
        return f"exit code {code}: {said[-1500:]}"
    if said.count("interrupted") != 1 or "Traceback" in said:
        return f"said {said[-1500:]!r}"
    return None


@contextmanager
def experiment(folder: Path) -> Iterator[tuple[Path, dict[str, str], HubServer]]:
    """The experiment's file, the environment to run it in and the hub, for as long as the `with` block runs."""
    for seed, step in enumerate(STEPS):
        save_checkpoint(folder / "series" / f"step{step}", "OLMoE", seed)
    facts = save_facts(folder / "facts", [CAPITALS])
    branches = {"main": {}, **{f"step{step}": files_in(folder / "series" / f"step{step}") for step in STEPS}}
    with HubServer({"org/tiny": branches}) as server:
        file = folder / "experiment.toml"
        file.write_text(EXPERIMENT.format(facts=facts, endpoint=server.url, cache=folder / "cache"))
        path = os.pathsep.join(entry or "." for entry in sys.path)
        settings = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "NO_COLOR": "1", "PYTHONPATH": path}
        yield file, {**os.environ, **settings}, server
