"""What a torch distributed checkpoint holds and where, from its `.metadata`, without running what is in it.

`.metadata` is a pickle, and unpickling calls whatever the file names. Here
1. only the names of `_ALLOWED` and torch's dtypes are found; for all others the file is refused, with the name;
2. none of these does anything but hold values, and paths become plain text;
3. what comes out is not believed: names, shapes, offsets and lengths are checked, files are plain ones right beside it,
   and tensors may not be larger in all than the files that hold them.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint import metadata as described
from torch.distributed.checkpoint.filesystem import _StorageInfo, _StoragePrefix

from gated_lpi._common.entries import is_count, is_file_name, quoted
from gated_lpi.errors import WeightsError
from gated_lpi.models.tokenizer import first_line

METADATA = ".metadata"
LONGEST_METADATA = 1 << 28  # bytes; those of a model of thousands of tensors on thousands of ranks have a tenth of it
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    """A part of a tensor, and where its bytes are.

    Attributes:
        offsets, sizes: its place in the tensor and its shape.
        file: the name of the file.
        start, length: its bytes in the file.
    """

    offsets: Shape
    sizes: Shape
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint.

    Attributes:
        dtype: of its values.
        shape: of the whole tensor.
        chunks: its parts.
    """

    dtype: torch.dtype
    shape: Shape
    chunks: tuple[Chunk, ...]

    @property
    def bytes(self) -> int:
        """The bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Contents:
    """All that a checkpoint says it holds.

    Attributes:
        tensors: by name.
        objects: names of what is no tensor (settings, random states), which is never opened.
    """

    tensors: Mapping[str, StoredTensor]
    objects: tuple[str, ...]


def _text(*parts: object) -> str:
    return "/".join(str(part) for part in parts)


_ALLOWED: dict[tuple[str, str], Any] = {
    **{
        ("torch.distributed.checkpoint.metadata", name): getattr(described, name)
        for name in (
            "Metadata",
            "MetadataIndex",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "StorageMeta",
            "_MEM_FORMAT_ENCODING",
        )
    },
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _StorageInfo,
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"): _StoragePrefix,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): lambda name: torch.strided,  # noqa: ARG005  # the only one that is read
    ("collections", "OrderedDict"): dict,
    **{("pathlib", name): _text for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path")},
    **{("pathlib._local", name): _text for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")},
}


class _Restricted(pickle.Unpickler):
    """An unpickler that finds nothing but the classes of a checkpoint's metadata."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise WeightsError(
            f"{self._path} asks for {quoted(f'{module}.{name}')}, which no metadata of a checkpoint needs and which "
            "may run code. Nothing of it was run. If you trust its source, load it with the framework that wrote it, "
            "and save it as safetensors"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise WeightsError(
            f"{self._path} refers to an object outside of it ({quoted(pid)}), which no metadata does: fetch it again "
            "from where it was written"
        )


def read_metadata(folder: Path) -> Contents:
    """Read the metadata of a torch distributed checkpoint.

    Raises:
        WeightsError: it is not there, too long, no such metadata, or would run code.
    """
    path = folder / METADATA
    try:
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise WeightsError(f"{folder} holds no file {METADATA}. Expected the folder of one distributed checkpoint")
        if size > LONGEST_METADATA:
            raise WeightsError(
                f"{path} has {size:,} bytes, expected at most {LONGEST_METADATA:,} of the metadata of a checkpoint"
            )
        with path.open("rb") as file:
            found = _Restricted(file, path).load()
    except (WeightsError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged or hostile pickle makes its reader raise
        raise WeightsError(
            f"{path} cannot be read as the metadata of a distributed checkpoint ({type(error).__name__}: "
            f"{first_line(error)}): it is cut short, damaged, or another file; fetch it again"
        ) from error
    try:
        return _checked(folder, found)
    except WeightsError:
        raise
    except Exception as error:  # fields of other types than a checkpoint's
        raise _odd(path, f"{type(error).__name__}: {first_line(error)}") from error


def _odd(path: Path, what: str) -> WeightsError:
    return WeightsError(f"{path} is no metadata that can be used ({what}). Download the checkpoint again")


def _checked(folder: Path, found: Any) -> Contents:
    path = folder / METADATA
    if type(found) is not described.Metadata or not isinstance(found.state_dict_metadata, dict):
        raise _odd(path, f"it holds {quoted(type(found).__name__)}")
    places = {}
    for index, info in (found.storage_data or {}).items():
        if type(index) is not described.MetadataIndex or type(info) is not _StorageInfo:
            raise _odd(path, "what it says of files is not that of files")
        places[index.fqn, None if index.offset is None else _shape(path, index.offset)] = info
    sizes: dict[str, int] = {}
    tensors: dict[str, StoredTensor] = {}
    objects: list[str] = []
    for name, item in found.state_dict_metadata.items():
        if not isinstance(name, str):
            raise _odd(path, f"a name is {quoted(name)}")
        if type(item) is described.BytesStorageMetadata:
            objects.append(name)
            continue
        if type(item) is not described.TensorStorageMetadata or not isinstance(item.properties.dtype, torch.dtype):
            raise _odd(path, f"{quoted(name)} is neither a tensor nor an object")
        shape = _shape(path, item.size)
        parts = tuple(_chunk(folder, name, shape, chunk, places, sizes) for chunk in item.chunks)
        tensors[name] = StoredTensor(item.properties.dtype, shape, parts)
    total, there = sum(tensor.bytes for tensor in tensors.values()), sum(sizes.values())
    if total > there:
        raise _odd(path, f"its tensors have {total:,} bytes, and the files that hold them {there:,}")
    return Contents(tensors, tuple(objects))


def _chunk(
    folder: Path,
    name: str,
    shape: Shape,
    chunk: Any,
    places: Mapping[tuple[str, Shape | None], Any],
    sizes: dict[str, int],
) -> Chunk:
    path = folder / METADATA
    offsets, extent = _shape(path, chunk.offsets), _shape(path, chunk.sizes)
    inside = len(offsets) == len(extent) == len(shape) and all(
        start + size <= end for start, size, end in zip(offsets, extent, shape, strict=True)
    )
    info = places.get((name, offsets)) or (places.get((name, None)) if not any(offsets) else None)
    if not inside or info is None:
        raise _odd(path, f"a part of {quoted(name)} lies outside of it or in no file")
    file = info.relative_path
    if not isinstance(file, str) or not is_file_name(file):
        raise _odd(path, f"{quoted(name)} is in {quoted(file)}, which is no file right beside it")
    if file not in sizes:
        here = folder / file
        if not here.is_file():
            raise WeightsError(f"{here} is missing, which {path} names. Download the whole folder")
        sizes[file] = here.stat().st_size
    start, length = info.offset, info.length
    if not is_count(start) or not is_count(length) or start + length > sizes[file]:
        raise WeightsError(
            f"{folder / file} has {sizes[file]:,} bytes, and {quoted(name)} should be at {quoted(start)} with "
            f"{quoted(length)}: it is cut short. Download it again"
        )
    if getattr(info, "transform_descriptors", None):
        raise _odd(path, f"{quoted(name)} is stored compressed or encrypted, which is not read")
    return Chunk(offsets, extent, file, start, length)


def _shape(path: Path, given: Any) -> Shape:
    shape = tuple(given)
    if not all(is_count(size) for size in shape) or len(shape) > 8:
        raise _odd(path, f"a shape is {quoted(shape)}")
    return shape
