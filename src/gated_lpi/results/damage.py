"""What of a store of results is not what was written, and leaving it out so that it can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gated_lpi._common.folders import Folder, make, read_bytes, sizes, write_atomically
from gated_lpi.errors import DamagedError, RunError
from gated_lpi.results.chunks import MEND, difference
from gated_lpi.results.commit import META, Commit, copy_of, read_commit, read_one, write_commit
from gated_lpi.results.files import NewerFormatError

SHOWN = 4


@dataclass(frozen=True)
class Damage:
    """What of a store is not what was written.

    Attributes:
        rows: of checkpoints, by name, why.
        axes: why, of what all checkpoints share.
        commit: why, of the two files that say what is complete.
        unsealed: how many checkpoints have no digests, as they were written before there were any.
    """

    rows: dict[str, str]
    axes: list[str]
    commit: list[str]
    unsealed: int = 0

    def lines(self) -> Iterator[str]:
        """Each of it in words."""
        yield from self.commit
        yield from self.axes
        yield from (f"{key}: {reason}" for key, reason in self.rows.items())


def find_damage(path: Folder, *, whole: bool = True) -> Damage:
    """Compare what is at a store's place with what was written.

    Args:
        path: the zarr group.
        whole: read every byte; else compare sizes only.

    Raises:
        RunError: nothing can be said, as neither file that says what is complete can be used.
    """
    commit = read_commit(path)
    if commit is None:
        return Damage({}, [], [])
    if commit.rows is None:
        return Damage({}, [], [], unsealed=len(commit.records))
    rows: dict[str, str] = {}
    axes = []
    for name, number, reason in _differences(path, commit, whole):
        if number is None:
            axes.append(f"{path / name} {reason}")
        else:
            rows.setdefault(str(commit.records[number]["key"]), f"{path / name} {reason}")
    return Damage(rows, axes, [*_damaged_commits(path)])


def leave_out(path: Folder, damage: Damage) -> list[str]:
    """Leave out the checkpoints that do not verify; the last ones take their places.

    Where what all checkpoints share is damaged, one checkpoint is left out at least: it is written anew with the next
    that is appended. A file that says what is complete is written again from the other.

    Args:
        path: the zarr group.
        damage: what `find_damage` found.

    Returns:
        The names of the checkpoints that were left out.

    Raises:
        WriteError: it could not be written; what verifies is kept.
        RunError: neither file that says what is complete can be used.
    """
    commit = read_commit(path)
    if commit is None or not any(damage.lines()):
        return []
    records, rows = list(commit.records), list(commit.rows or ())
    lost = set(damage.rows)
    if damage.axes and not lost and records:
        lost = {str(records[-1]["key"])}
    for number in reversed(range(len(records))):
        if records[number]["key"] not in lost:
            continue
        last = len(records) - 1
        if number != last:
            for name in rows[last]:
                place = path / name.replace("*", str(number))
                make(place.parent)
                write_atomically(place, read_bytes(path / name.replace("*", str(last))) or b"")
            records[number], rows[number] = records[last], rows[last]
        del records[last], rows[last]
    write_commit(path, commit.with_rows(records, rows))
    return sorted(lost)


def refuse_visible_damage(path: Folder, commit: Commit) -> None:
    """Refuse a store in which chunks are missing or have another length, which takes no reading.

    Raises:
        DamagedError: names the first of them.
        RunError: the address cannot be reached.
    """
    found = [f"{name} {reason}" for name, _, reason in _differences(path, commit, whole=False)]
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise DamagedError(f"{path} is damaged: {'; '.join(found[:SHOWN])}{more}. {MEND}")


def _differences(path: Folder, commit: Commit, whole: bool) -> Iterator[tuple[str, int | None, str]]:
    """Chunks that are not what was written: name, row, and how they differ."""
    there = {} if whole else sizes(path)
    for name, number, known in commit.expected():
        if whole:
            try:
                reason = difference(read_bytes(path / name), known)
            except OSError as error:
                reason = f"cannot be read ({error.strerror or error})"
        elif name not in there:
            reason = "is missing"
        else:
            reason = "" if there[name] == known[0] else f"has {there[name]:,} bytes, not {known[0]:,}"
        if reason:
            yield name, number, reason


def _damaged_commits(path: Folder) -> Iterator[str]:
    for file in (path / META, copy_of(path)):
        try:
            if read_one(file, path) is None:
                yield f"{file} is missing; its other copy is used"
        except NewerFormatError:
            raise
        except RunError as error:
            yield f"{error} (its other copy is used)"
