"""What a run downloads: how much that will be, and which files are its own even after it was killed."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

from huggingface_hub import constants
from pydantic import BaseModel, ConfigDict

from gated_lpi.checkpoints import Checkpoint, Fetched, Hub
from gated_lpi.errors import CheckpointError
from gated_lpi.results.files import validated, write_file
from gated_lpi.runs.access import hub_of
from gated_lpi.runs.job import Job


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    snapshots: list[str]


_TEXTS = (".json", ".txt", ".model", ".jinja")


def download_bytes(job: Job) -> int:
    """Bytes that fetching a job's checkpoint brings at most; 0 where nothing can be downloaded (offline)."""
    hub = hub_of(job.storage)
    return 0 if hub.is_offline else listed_bytes(job.checkpoint, hub)


def listed_bytes(checkpoint: Checkpoint, hub: Hub) -> int:
    """Bytes of a checkpoint's weights, config and tokenizer on its hub; 0 for a local one, or if it does not tell."""
    if checkpoint.path is not None:
        return 0
    try:
        inventory = hub.inventory(checkpoint.repo, checkpoint.commit, checkpoint.folder)
    except CheckpointError:
        return 0  # the download will say why
    beside = sum(file.size for file in inventory.files if file.name.endswith(_TEXTS) and "/" not in file.name)
    return beside + sum(file.size for file in inventory.weights)


class Ledger:
    """The commits whose files a run brought to a cache that had none of them.

    A commit is written down before its first file is asked for. So when the run is killed and taken up again, it knows
    that these files are its own and may be deleted. Without a path it knows of this process's downloads only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()

    def announced(self, checkpoint: Checkpoint, hub: Hub) -> bool:
        """Whether a checkpoint was about to be fetched before, and was not deleted since."""
        return _snapshot(checkpoint, hub) in self._entries()

    def announce(self, checkpoint: Checkpoint, hub: Hub) -> bool:
        """Say that a checkpoint is about to be fetched.

        Returns:
            Whether all of its files are, or will be, the run's own.

        Raises:
            WriteError: that could not be written down.
        """
        if self.path is None:
            return False
        snapshot = _snapshot(checkpoint, hub)
        with self._lock:
            entries = self._entries()
            if snapshot in entries:
                return True
            if Path(snapshot).exists():
                return False
            self._write([*entries, snapshot])
            return True

    def claim(self, fetched: Fetched) -> Fetched:
        """Count all files of a checkpoint that was announced among those that were downloaded for it."""
        files = tuple(sorted(path for path in fetched.path.iterdir() if path.is_file()))
        return dataclasses.replace(fetched, downloaded_files=files)

    def forget(self, checkpoint: Checkpoint) -> None:
        """Say that a checkpoint's files were deleted.

        Raises:
            WriteError: that could not be written down.
        """
        with self._lock:
            entries = self._entries()
            end = Path("snapshots", checkpoint.commit, checkpoint.folder).parts
            kept = [entry for entry in entries if Path(entry).parts[-len(end) :] != end]
            if len(kept) < len(entries):
                self._write(kept)

    def _entries(self) -> list[str]:
        if self.path is None or not self.path.is_file():
            return []
        try:
            return validated(self.path.read_text(encoding="utf-8"), _Content).snapshots
        except (OSError, ValueError):
            return []  # then nothing is known to be the run's own, and nothing is deleted

    def _write(self, entries: list[str]) -> None:
        assert self.path is not None
        write_file(self.path, {"snapshots": entries})


def _snapshot(checkpoint: Checkpoint, hub: Hub) -> str:
    storage = f"models--{checkpoint.repo.replace('/', constants.REPO_ID_SEPARATOR)}"
    return str(hub.cache / storage / "snapshots" / checkpoint.commit / checkpoint.folder)
