"""Attacks side by side, each in a process of its own that tells through a pipe what became of its tries.

So an attack that dies, hangs or uses up its memory costs itself alone, what it told before counts, and that it ended so
is wrong. What it prints goes to a file in its folder.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torture.attack import Attack, Ground
from torture.table import Row

GRACE = 120.0  # seconds beyond its time after which an attack is ended
SPAWN = multiprocessing.get_context("spawn")


@dataclass
class Running:
    """An attack under way."""

    row: Row
    process: BaseProcess
    pipe: Connection
    started: float

    @property
    def late(self) -> bool:
        return time.monotonic() - self.started > 60 * self.row.attack.minutes + GRACE


def carry_out(
    planned: Sequence[tuple[Attack, int]], seed: int, folder: Path, say: Callable[[str], None], jobs: int = 1
) -> list[Row]:
    """Carry attacks out, `jobs` at a time.

    Args:
        planned: each attack with how many tries are wanted.
        seed: of the first try of each.
        folder: an empty one to work in.
        say: shown how far it is.

    Returns:
        What became of each, in the order given.
    """
    rows = [Row(attack, count) for attack, count in planned]
    waiting, running = list(rows), []
    shown = 0.0
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_started(waiting.pop(0), seed, folder))
        wait([one.pipe for one in running], timeout=1.0)
        for one in list(running):
            if _listen(one, say):
                running.remove(one)
                say(f"{one.row.attack.name}: ended; {_so_far(one.row)}")
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            for one in running:
                say(f"{one.row.attack.name}: {_so_far(one.row)}, {time.monotonic() - one.started:.0f} s")
    return rows


def _so_far(row: Row) -> str:
    return f"{row.tried:,} of {row.asked:,} tried, {len(row.wrong)} wrong"


def _started(row: Row, seed: int, folder: Path) -> Running:
    here, there = SPAWN.Pipe(duplex=False)
    place = Path(tempfile.mkdtemp(prefix=f"{row.attack.name}-", dir=folder))
    process = SPAWN.Process(target=_attack, args=(row.attack, row.asked, seed, place, there))
    process.start()
    there.close()
    return Running(row, process, here, time.monotonic())


def _listen(one: Running, say: Callable[[str], None]) -> bool:
    """Take what an attack tells; whether it has ended."""
    try:
        while one.pipe.poll():
            message = one.pipe.recv()
            one.row.take(message)
            if message[0] == "wrong":
                say(f"{one.row.attack.name}: WRONG, seed {message[2]}: {message[1]}")
    except EOFError:
        one.process.join(GRACE)
    if one.late:
        one.row.take(("wrong", f"the attack itself hung: ended after {one.row.attack.minutes:g} minutes and more", -1))
        with suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.join()
    if one.process.is_alive():
        return False
    if one.process.exitcode and not one.late:
        one.row.take(("wrong", f"the attack itself ended with {one.process.exitcode}", -1))
        say(f"{one.row.attack.name}: WRONG: it ended with {one.process.exitcode}")
    with suppress(ProcessLookupError, PermissionError):  # what it left behind
        os.killpg(one.process.pid, signal.SIGKILL)
    one.pipe.close()
    one.row.seconds = time.monotonic() - one.started
    return True


def _attack(attack: Attack, count: int, seed: int, folder: Path, pipe: Any) -> None:
    """An attack, in its own process and process group."""
    os.setpgid(0, 0)
    log = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch

    torch.set_num_threads(1)
    ground = Ground(folder, count, seed, time.monotonic() + 60 * attack.minutes, pipe.send)
    try:
        attack.run(ground)
    except Exception:
        ground.went_wrong(f"the attack itself failed: {traceback.format_exc()[-1500:]}", seed)
