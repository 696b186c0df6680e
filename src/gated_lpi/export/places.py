"""Which arms are exported, and where their files go: a folder of this machine, in which no file is overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gated_lpi._common.folders import DRAFT, unwritten
from gated_lpi.errors import OptionError

if TYPE_CHECKING:
    from gated_lpi.results import Run


def arms_asked(run: Run, arms: Sequence[str] | None) -> tuple[str, ...]:
    """The arms that are exported, each once: those that are named, or that have results; all where that is none."""
    chosen = [arm for arm in run.arms if run.store(arm).keys()] if arms is None else arms
    return tuple(dict.fromkeys(chosen)) or run.arms


def target(folder: str | Path, name: str) -> Path:
    """The place of a file that is not there yet; its folder is made.

    Raises:
        OptionError: the file is there already.
        WriteError: the folder cannot be made.
    """
    place = Path(folder) / name
    if os.path.lexists(place):
        raise OptionError(f"{place} exists already and is not overwritten; give another folder, or delete it")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(place.parent, error) from error
    return place


@contextmanager
def written(place: Path) -> Iterator[Path]:
    """A draft to write to, which is moved to its place when the `with` block ends well, and deleted if not.

    Raises:
        WriteError: the disk is full, fails or is read-only.
    """
    draft = place.with_name(f"{place.name}.{os.getpid()}{DRAFT}")
    try:
        yield draft
        draft.replace(place)
    except OSError as error:
        raise unwritten(place, error) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
