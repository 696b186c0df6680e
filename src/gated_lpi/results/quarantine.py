"""The checkpoints of an arm that could not be used, and why: one small JSON file beside the arm's scores.

What is in it is not tried again until that is asked for. It is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from gated_lpi._common.folders import Folder
from gated_lpi.results.files import Entry, read_file, write_file


class _Entry(Entry):
    quarantined: str
    error: str


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    checkpoints: list[_Entry]


class Quarantine:
    """The quarantine of one arm, at a file that need not exist yet."""

    def __init__(self, path: Folder) -> None:
        self.path = path

    def records(self) -> list[dict[str, Any]]:
        """What is quarantined: `key`, `step`, `tokens`, `stage`, `commit`, `quarantined` (why), `error` (its class).

        Raises:
            RunError: the file is there but cannot be read.
        """
        what, advice = "a list of quarantined checkpoints", "delete it, and those checkpoints are tried again"
        content = read_file(self.path, _Content, what, advice)
        return [] if content is None else [entry.model_dump(exclude_unset=True) for entry in content.checkpoints]

    def keys(self) -> set[str]:
        """The names of the quarantined checkpoints.

        Raises:
            RunError: the file is there but cannot be read.
        """
        return {str(record["key"]) for record in self.records()}

    def add(self, record: Mapping[str, Any]) -> None:
        """Put a checkpoint in quarantine, in place of what was said of it before.

        Raises:
            RunError: the file is there but cannot be read, or could not be written.
        """
        self._write([*(r for r in self.records() if r["key"] != record["key"]), dict(record)])

    def remove(self, key: str) -> None:
        """Take a checkpoint out, if it is in.

        Raises:
            RunError: the file is there but cannot be read, or could not be written.
        """
        records = self.records()
        kept = [record for record in records if record["key"] != key]
        if len(kept) < len(records):
            self._write(kept)

    def _write(self, records: list[dict[str, Any]]) -> None:
        write_file(self.path, {"checkpoints": records})
