"""Folders that hold results: on this machine, or in an object store that fsspec can reach.

A folder of this machine is a `pathlib.Path`; an address ("s3://bucket/run") is a `upath.UPath`. Either way a file is
written whole or not at all: beside its place and moved there, or, in an object store, as one object. On this machine it
is also on the disk (fsync of the file and of its folder) once it is said to be written.
"""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import fsspec
from fsspec.utils import get_protocol

from gated_lpi._common.entries import quoted
from gated_lpi.errors import OptionError, RunError, WriteError

if TYPE_CHECKING:
    from typing_extensions import TypeIs
    from upath import UPath

Folder: TypeAlias = "Path | UPath"
T = TypeVar("T")

DRAFT = ".draft"  # how the names of files end that are being written
_HERE = ("file", "local")
_FORGOTTEN = 3600.0  # seconds after which a draft is what a killed process left behind


def as_folder(address: str | Path | UPath) -> Folder:
    """A folder by its name: a `Path` for one of this machine (file:// too), a `UPath` for any other fsspec address.

    Raises:
        OptionError: fsspec does not know the protocol, or the package that speaks it is not installed.
    """
    if isinstance(address, Path):
        return address
    text = str(address)
    if "://" not in text:
        return Path(text)
    protocol = get_protocol(text)
    try:
        filesystem = fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise OptionError(
            f"{text} cannot be used as a folder: {error}. Expected a folder of this machine or an address that fsspec "
            "can open, such as s3://bucket/run (needs the package s3fs) or gs://bucket/run (gcsfs)"
        ) from error
    if protocol in _HERE:
        return Path(filesystem._strip_protocol(text))
    from upath import UPath

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*default implementation", category=UserWarning)
        return UPath(text)


def is_remote(folder: Folder) -> TypeIs[UPath]:
    """Whether a folder is at an address rather than on this machine."""
    return not isinstance(folder, Path)


def read_text(file: Folder) -> str | None:
    """The text of a file, None if there is none. A remote one is asked for anew: no cached listing is believed.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
        RunError: the address cannot be reached.
    """
    if not is_remote(file):
        return file.read_text(encoding="utf-8") if file.is_file() else None
    try:
        content: bytes = _reach(file, lambda: file.fs.cat_file(file.path))
    except (FileNotFoundError, IsADirectoryError):
        return None
    return content.decode("utf-8")


def read_bytes(file: Folder) -> bytes | None:
    """The content of a file, None if there is none.

    Raises:
        OSError: it cannot be read.
        RunError: the address cannot be reached.
    """
    try:
        if not is_remote(file):
            return file.read_bytes()
        content: bytes = _reach(file, lambda: file.fs.cat_file(file.path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content


def write_atomically(file: Folder, content: str | bytes) -> None:
    """Write a file so that it is either the old one or the whole new one, and on the disk when this returns.

    Processes that write the same file at once do not disturb each other: the last one's content stays. A draft that a
    killed process left is deleted by the next that writes the file, once it is an hour old.

    Raises:
        WriteError: it could not be written.
        RunError: the address cannot be reached.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    if is_remote(file):
        try:
            _reach(file, lambda: file.fs.pipe_file(file.path, data))
        except FileNotFoundError as error:
            raise RunError(f"{file} cannot be written: {error}. Is there such a bucket? Make it first") from error
        except OSError as error:
            raise unwritten(file, error) from error
        return
    draft = draft_of(file)
    try:
        with suppress(FileNotFoundError):
            _forget_drafts(file)
        with draft.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
        _sync(file.parent)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise unwritten(file, error) from error


def unwritten(place: Folder, error: OSError) -> WriteError:
    """The error of a place that could not be written to."""
    return WriteError(
        f"{place} could not be written: {error.strerror or error}. Free space, or mend the disk or its permissions, "
        "and run the same command again; what was complete is kept"
    )


def draft_of(place: Path) -> Path:
    """A name beside a file or folder to write it under first: hidden, and no other process's."""
    return place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}{DRAFT}")


def is_draft(name: str, place: str = "") -> bool:
    """Whether a name is that of a draft, of a certain file or folder if one is given."""
    return name.startswith(f".{place}." if place else ".") and name.endswith(DRAFT)


def sync(root: Path, files: Iterable[str] | None = None) -> None:
    """Have files below a folder (by default all) written to the disk, and the folders that name them, itself included.

    Raises:
        OSError: the disk could not take them.
    """
    paths = [root / name for name in files] if files is not None else [p for p in root.rglob("*") if p.is_file()]
    folders = {root}
    for path in paths:
        _sync(path)
        folders.update(folder for folder in path.parents if folder.is_relative_to(root))
    for folder in sorted(folders, reverse=True):  # what is inside first
        _sync(folder)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _forget_drafts(file: Path) -> None:
    """Delete drafts of a file that nobody is writing any more."""
    for path in file.parent.iterdir():
        if is_draft(path.name, file.name):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _FORGOTTEN:
                    path.unlink()


def sizes(folder: Folder) -> dict[str, int]:
    """Bytes of every file below a folder, by its name from there on ("lpi/c/0/0"); empty if there is none.

    Files that go while it looks, as a writer's drafts do, count as gone.

    Raises:
        OSError: the folder cannot be read.
        RunError: the address cannot be reached.
    """
    if not is_remote(folder):
        found: dict[str, int] = {}
        for path in (Path(place, name) for place, _, inside in os.walk(folder) for name in inside):
            with suppress(FileNotFoundError):
                found[str(path.relative_to(folder))] = path.stat().st_size
        return found
    folder.fs.invalidate_cache()
    listed = _reach(folder, lambda: folder.fs.find(folder.path, detail=True))
    root = folder.path.strip("/") + "/"
    return {name.strip("/").removeprefix(root): int(info["size"]) for name, info in listed.items()}


def make(folder: Folder) -> None:
    """Make a folder and those above it, unless they are there. An object store has no folders to make.

    Raises:
        OSError: it cannot be made.
    """
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def refuse_links(folder: Folder, deep: bool = False) -> None:
    """Refuse a folder of a run that is a link, or holds one, and so leads out of the run.

    The run's own folder may be reached by a link. An object store has none.

    Args:
        folder: one within a run's; it need not be there.
        deep: look at all that is in it; otherwise at what is right in it.

    Raises:
        RunError: names the link.
    """
    if is_remote(folder):
        return
    if folder.is_symlink():
        raise RunError(
            f"{folder} is a link to {quoted(str(folder.readlink()))}, and what is written there would leave the run's "
            "folder. Replace it by a folder, or link the whole run's folder"
        )
    if folder.is_dir():
        for entry in folder.iterdir():
            if deep or entry.is_symlink():
                refuse_links(entry, deep)


def names(folder: Folder) -> list[str]:
    """Names of what is in a folder, none if it is not there.

    Raises:
        NotADirectoryError: it is a file.
        RunError: the address cannot be reached.
    """
    if not is_remote(folder):
        return [entry.name for entry in folder.iterdir()] if folder.exists() else []
    folder.fs.invalidate_cache()
    try:
        found: list[str] = _reach(folder, lambda: folder.fs.ls(folder.path, detail=False))
    except FileNotFoundError:
        return []
    place = folder.path.strip("/")
    inside = [entry.strip("/") for entry in found]
    if inside == [place] and folder.fs.isfile(folder.path):
        raise NotADirectoryError(str(folder))
    return [entry.rsplit("/", 1)[-1] for entry in inside if entry != place]  # a marker of the folder itself is no file


def _reach(place: UPath, action: Callable[[], T]) -> T:
    """Do something with a remote place; what its client raises beside OSError (no credentials…) is a RunError."""
    try:
        return action()
    except OSError:
        raise
    except Exception as error:
        raise RunError(
            f"{place} cannot be reached: {type(error).__name__}: {error}. Check the address, the network and the "
            "credentials that its fsspec package reads from the environment, and run the same command again"
        ) from error


def zarr_store(folder: Folder, *, read_only: bool) -> Any:
    """What zarr and xarray open for a group at a folder: the `Path`, or a store for the address."""
    if not is_remote(folder):
        return folder
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(str(folder), storage_options=dict(folder.storage_options), read_only=read_only)
