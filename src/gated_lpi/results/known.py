"""Which facts an arm's last checkpoint knows: one small JSON file, that every checkpoint of the arm is scored with.

It is made once, before the arm's checkpoints are scored, and read again when a run is taken up, so that all of them are
scored over the same facts. A last checkpoint that cannot be used is said in it, and not tried again.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from gated_lpi._common.folders import Folder
from gated_lpi.results.files import read_file, write_file


class KnownAtEnd(BaseModel):
    """The facts that an arm's last checkpoint knows.

    Attributes:
        checkpoint: its name.
        known: whether the fact of each prompt is known to it; None where it cannot be used.
        left_out: why it cannot be used; "" where it can.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    checkpoint: str
    known: list[bool] | None = None
    left_out: str = ""

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.known is None) == (self.left_out == ""):
            raise ValueError("it says neither which facts are known nor why that is not known, or both")
        return self


def read_known(file: Folder) -> KnownAtEnd | None:
    """What was kept; None if nothing was.

    Raises:
        RunError: the file is there but cannot be read.
    """
    advice = "delete it, and the arm's last checkpoint is asked again"
    return read_file(file, KnownAtEnd, "the facts that an arm's last checkpoint knows", advice)


def write_known(file: Folder, known: KnownAtEnd) -> None:
    """Keep it.

    Raises:
        WriteError: the file could not be written.
    """
    write_file(file, known.model_dump(mode="json"))
