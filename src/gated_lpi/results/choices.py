"""Which checkpoints of a hub were chosen for an arm, commits and all: one small JSON file for each arm.

So a run that is taken up again has the same checkpoints whatever was added to or moved in the repository since.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gated_lpi._common.folders import Folder, make
from gated_lpi.checkpoints.types import Checkpoint
from gated_lpi.results.files import Entry, read_file, write_file


class _Entry(Entry):
    """A checkpoint of a hub.

    Attributes:
        path: None: it is not on this machine.
        commit: names a folder of the cache.
        repo, revision: repository and branch on the hub.
        step_unit: what its steps count.
        folder: its folder within the branch, "" where the branch is the checkpoint.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    path: None = None
    commit: Annotated[str, Field(pattern="^[0-9a-fA-F]{7,64}$")]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    revision: str = ""
    step_unit: Literal["steps", "words", "bytes", "billion tokens", "index"] = "steps"
    folder: Annotated[str, Field(pattern=r"^([\w-][\w.-]*)?$")] = ""


class _Chosen(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    checkpoints: Annotated[list[_Entry], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        twice = [key for key, count in Counter(entry.key for entry in self.checkpoints).items() if count > 1]
        if twice:
            raise ValueError(f"checkpoint {twice[0]!r} is listed twice")
        return self


def kept_choice(folder: Folder, arm: str) -> list[Checkpoint] | None:
    """What was chosen for an arm before, from the folder of choices; None if nothing was.

    Raises:
        RunError: the file is there but cannot be read.
    """
    what, advice = "the chosen checkpoints of an arm", "delete it, and they are chosen anew"
    content = read_file(folder / f"{arm}.json", _Chosen, what, advice)
    return None if content is None else [Checkpoint(**entry.model_dump()) for entry in content.checkpoints]


def keep_choice(folder: Folder, arm: str, checkpoints: list[Checkpoint]) -> None:
    """Write down what was chosen for an arm.

    Raises:
        OSError: the folder cannot be made.
        RunError: the file could not be written.
    """
    make(folder)
    entries = [
        {key: value for key, value in dataclasses.asdict(c).items() if key in _Entry.model_fields} | {"path": None}
        for c in checkpoints
    ]
    write_file(folder / f"{arm}.json", {"checkpoints": entries})
