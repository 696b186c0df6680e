"""The contract of an attack: what it is told, and how it tells what became of each try."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from gated_lpi.errors import GatedLPIError

Outcome: TypeAlias = Literal["survived", "healed", "refused"]
OUTCOMES: tuple[Outcome, ...] = ("survived", "healed", "refused")
Tell: TypeAlias = Callable[[tuple[Any, ...]], None]


@dataclass(frozen=True)
class Attack:
    """A line of the campaign.

    name: what it is picked by. what: one line for the table. full, quick: how many tries. minutes: the most it may
    take; it stops by itself then, and the table shows how many of its tries it came to. file: below tests/.
    """

    name: str
    what: str
    full: int
    quick: int
    minutes: float
    run: Callable[[Ground], None]
    file: str


@dataclass
class Ground:
    """What an attack is given.

    folder: an empty one, its own. count: how many tries are wanted. seed: of the first; the others follow it. A try
    has to depend on its seed alone, as far as what it is about can, so that it can be made again by it.
    """

    folder: Path
    count: int
    seed: int
    deadline: float
    tell: Tell
    tried: int = field(default=0, init=False)

    def seeds(self) -> Iterator[int]:
        """Seeds until as many tries were told as are wanted, or the time is over."""
        seed = self.seed
        while self.tried < self.count and time.monotonic() < self.deadline:
            yield seed
            seed += 1

    def wants(self, tries: int) -> None:
        """So many tries are wanted: there are no more different ones, or each of several is tried so often."""
        self.count = tries
        self.tell(("asked", tries))

    def came(self, outcome: Outcome, times: int = 1) -> None:
        """So many tries came out like this: survived, as if nothing had been; healed; refused, by a clear error."""
        self.tried += times
        self.tell(("came", outcome, times))

    def went_wrong(self, why: str, seed: int) -> None:
        """A try came out as none may. why: in a few lines."""
        self.tried += 1
        self.tell(("wrong", why, seed))

    def remark(self, text: str) -> None:
        """Something that the reader of the table has to know: what was left out and why, what was hit how often."""
        self.tell(("remark", text))

    @contextmanager
    def judging(self, seed: int, what: str = "") -> Iterator[None]:
        """Whatever the block raises is wrong. what: was tried."""
        try:
            yield
        except Exception:
            self.went_wrong(f"{what}\n{traceback.format_exc(limit=-5)[-2500:]}".lstrip(), seed)


def refused_clearly(error: GatedLPIError) -> str:
    """What an error of the tree says, which is something that can be shown.

    Raises:
        AssertionError: it does not.
    """
    text = str(error)
    text.encode()
    assert len(text.split()) > 3, text
    return text


def ended_clearly(code: int, said: str) -> None:
    """Assert that a command which failed said so in one clear line, the last one, and in no traceback.

    Raises:
        AssertionError: shows what it said.
    """
    lines = [line for line in said.splitlines() if line.strip()]
    assert code > 0, f"exit code {code}: {said[-1500:]}"
    assert "Traceback" not in said, said[-1500:]
    assert lines, f"exit code {code} and not a word"
    assert sum(line.startswith("error: ") for line in lines) == 1, f"exit code {code}: {said[-1500:]}"
