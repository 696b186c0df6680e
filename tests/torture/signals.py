"""SIGINT and SIGTERM at random moments of a small run: it ends in seconds, says what is kept, and goes on afterwards.

    PYTHONPATH=src:tests python -m torture.signals 60

The run downloads one arm's checkpoints, trains another, attributes, ablates and reports; moments are spread over all
of it, the start of Python included. Each run takes up the one before it, as a user would.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hub_server import HubServer, files_in
from tiny_text import CAPITALS, save_checkpoint, save_facts

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


@dataclass
class Tally:
    """What became of the signals: how many were sent, how many ended the run as they should, and the others."""

    tried: int = 0
    ended: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"tried {self.tried}, ended {self.ended} (slowest {self.slowest:.1f} s), wrong {len(self.wrong)}"]
        return "\n".join([*lines, *self.wrong])


def campaign(signals: int, seed: int = 0, scratch: Path | None = None) -> Tally:
    """Send so many signals to runs of one small experiment."""
    moments, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory(dir=scratch) as folder, _experiment(Path(folder)) as (file, environment):
        started = time.monotonic()
        code, _, _ = attempt(file, Path(folder) / "whole", environment)
        whole = time.monotonic() - started
        if code != 0:
            raise AssertionError(f"the run ends with {code} when it is left alone")
        rounds = 0
        while tally.tried < signals:
            number, moment = moments.choice((signal.SIGINT, signal.SIGTERM)), moments.uniform(0.1, whole)
            code, said, seconds = attempt(file, Path(folder) / f"run-{rounds}", environment, number, moment)
            if seconds is None:  # it was done before the moment came
                rounds += 1
                continue
            tally.tried += 1
            tally.slowest = max(tally.slowest, seconds)
            fault = verdict(number, moment, code, said, seconds)
            tally.ended += fault is None
            if fault is not None:
                tally.wrong.append(f"{number.name} after {moment:.2f} of {whole:.1f} s: {fault}")
                print(tally.wrong[-1], flush=True)
            shown = "" if fault else said.strip().splitlines()[-1:]
            print(f"{tally.tried} {number.name} {moment:.2f} s: {code} in {seconds:.2f} s {shown}", flush=True)
    return tally


def attempt(
    file: Path,
    out: Path,
    environment: Mapping[str, str],
    number: signal.Signals | None = None,
    moment: float = 0.0,
) -> tuple[int, str, float | None]:
    """Run the experiment and signal it at a moment: exit code, what it said, and how long it lived after the signal."""
    command = [sys.executable, "-m", "gated_lpi", "run", str(file), "--out", str(out)]
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        sent = None
        try:
            child.wait(None if number is None else moment)
        except subprocess.TimeoutExpired:
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
def _experiment(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The experiment's file and the environment to run it in, for as long as the `with` block runs."""
    for seed, step in enumerate(STEPS):
        save_checkpoint(folder / "series" / f"step{step}", "OLMoE", seed)
    facts = save_facts(folder / "facts", [CAPITALS])
    branches = {"main": {}, **{f"step{step}": files_in(folder / "series" / f"step{step}") for step in STEPS}}
    with HubServer({"org/tiny": branches}) as server:
        server.fault("trickle", "GET .*safetensors$", times=10**6, seconds=0.5)
        file = folder / "experiment.toml"
        file.write_text(EXPERIMENT.format(facts=facts, endpoint=server.url, cache=folder / "cache"))
        environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "NO_COLOR": "1"}
        yield file, environment


if __name__ == "__main__":
    found = campaign(int(sys.argv[1]) if len(sys.argv) > 1 else 40, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(found)
    sys.exit(bool(found.wrong))
