"""What a power cut may leave of a sequence of writes: the first files whole, and the next in one of a few states."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

STATES: Mapping[str, Callable[[bytes], bytes | None]] = {
    "absent": lambda _: None,
    "empty": lambda _: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name from there on."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(folder: Path, files: Mapping[str, bytes | None]) -> None:
    """Make a folder hold these files and no others; None: not there."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


@dataclass(frozen=True)
class Writes:
    """What an action wrote.

    before: the folder's files before it. placed: name and content of each file, in the order in which it came to its
    place; a folder that was moved is (its name, its name before).
    """

    before: dict[str, bytes]
    placed: tuple[tuple[str, bytes | str], ...]

    @property
    def order(self) -> list[str]:
        """The names alone."""
        return [name for name, _ in self.placed]

    def after(self, done: int) -> dict[str, bytes]:
        """The files once the first so many writes are on the disk."""
        files = dict(self.before)
        for name, content in self.placed[:done]:
            if isinstance(content, str):
                moved = {place: files.pop(place) for place in list(files) if place.startswith(f"{content}/")}
                files |= {name + place.removeprefix(content): kept for place, kept in moved.items()}
            else:
                files[name] = content
        return files

    def cuts(self) -> Iterator[tuple[str, dict[str, bytes | None]]]:
        """Every prefix: alone, and with the next file in each of the states. Says which, and gives the files."""
        for done, (name, content) in enumerate(self.placed):
            first = self.after(done)
            yield f"{done} writes", dict(first)
            if isinstance(content, bytes):
                for state, spoil in STATES.items():
                    yield f"{done} writes, then {name} {state}", {**first, name: spoil(content)}
        yield "all writes", dict(self.after(len(self.placed)))


def writes_of(folder: Path, action: Callable[[], object]) -> Writes:
    """Do something that writes below a folder by moving files, and folders, to their places."""
    before: dict[str, bytes] = contents(folder) if folder.exists() else {}
    placed: list[tuple[str, bytes | str]] = []

    def noting(move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def noted(self: Path, target: Path) -> Path:
            if Path(target).is_relative_to(folder):
                kept = str(self.relative_to(folder)) if self.is_dir() else self.read_bytes()
                placed.append((str(Path(target).relative_to(folder)), kept))
            return move(self, target)

        return noted

    with patch.object(Path, "replace", noting(Path.replace)), patch.object(Path, "rename", noting(Path.rename)):
        action()
    return Writes(before, tuple(placed))
