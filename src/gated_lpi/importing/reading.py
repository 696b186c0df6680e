"""The tensors of a training checkpoint, one at a time: of a torch distributed checkpoint, or of safetensors."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gated_lpi._common.entries import writable
from gated_lpi._common.weight_files import is_safetensors, refuse_long_headers
from gated_lpi.errors import WeightsError
from gated_lpi.importing.metadata import METADATA, Chunk, Shape, read_metadata
from gated_lpi.models.tokenizer import first_line


class Source(Protocol):
    """Where tensors are read from.

    Attributes:
        shapes: of every tensor, by name.
        objects: names of what is no tensor, and never opened.
    """

    shapes: Mapping[str, Shape]
    objects: tuple[str, ...]

    def read(self, name: str) -> Tensor:
        """One tensor, whole.

        Raises:
            WeightsError: its bytes are not those of such a tensor.
        """
        ...


def open_source(folder: Path) -> Source:
    """The tensors of a folder: a distributed checkpoint where there is `.metadata`, else all its safetensors files.

    Raises:
        WeightsError: it is no folder, holds neither, or they cannot be read.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise WeightsError(f"{folder} {what}; give the folder of one checkpoint, such as iter_0005473")
    if (folder / METADATA).is_file():
        return DistributedSource(folder)
    files = sorted(path for path in folder.iterdir() if is_safetensors(path.name))
    if not files:
        raise WeightsError(
            f"{folder} holds neither {METADATA} with .distcp files nor safetensors. Give the folder of one checkpoint, "
            "such as iter_0005473 or step1000/model_and_optim; pickled .pt files are not opened"
        )
    return SafetensorsSource(files)


class DistributedSource:
    """A torch distributed checkpoint; every part is loaded as weights only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        contents = read_metadata(folder)
        self._tensors = contents.tensors
        self.shapes: Mapping[str, Shape] = {name: tensor.shape for name, tensor in contents.tensors.items()}
        self.objects = contents.objects

    def read(self, name: str) -> Tensor:
        """One tensor, put together from its parts, which must cover it once."""
        stored = self._tensors[name]
        whole = torch.empty(stored.shape, dtype=stored.dtype)
        covered = torch.zeros(stored.shape, dtype=torch.bool)
        for chunk in stored.chunks:
            place = tuple(slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True))
            part = self._part(name, chunk)
            if tuple(part.shape) != chunk.sizes or part.dtype != stored.dtype or bool(covered[place].any()):
                raise WeightsError(
                    f"{self._folder / chunk.file} holds a part of {writable(name)} of shape {tuple(part.shape)} and "
                    f"{part.dtype}; expected {chunk.sizes} and {stored.dtype}, each value once. Download it again"
                )
            whole[place] = part
            covered[place] = True
        if not bool(covered.all()):
            raise WeightsError(f"{self._folder} lacks parts of {writable(name)}. Download the whole folder")
        return whole

    def _part(self, name: str, chunk: Chunk) -> Tensor:
        path = self._folder / chunk.file
        with path.open("rb") as file:
            file.seek(chunk.start)
            content = file.read(chunk.length)
        try:
            part = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # whatever damaged or hostile bytes make torch raise
            raise WeightsError(
                f"{path} does not hold {writable(name)} as a plain tensor ({type(error).__name__}: "
                f"{first_line(error)}). It is damaged, or would run code, which is not done. Download it again"
            ) from error
        if type(part) is not Tensor:
            raise WeightsError(f"{path} holds {type(part).__name__} in place of {writable(name)}; expected a tensor")
        return part.detach()


class SafetensorsSource:
    """All safetensors files of a folder."""

    def __init__(self, files: list[Path]) -> None:
        refuse_long_headers(files)
        self._files: dict[str, Path] = {}
        shapes: dict[str, Shape] = {}
        self.objects: tuple[str, ...] = ()
        for path in files:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118  # a safetensors file is no mapping
                    if name in shapes:
                        raise WeightsError(f"{path} and {self._files[name]} both hold {writable(name)}; keep one")
                    shapes[name] = tuple(file.get_slice(name).get_shape())
                    self._files[name] = path
        self.shapes: Mapping[str, Shape] = shapes

    def read(self, name: str) -> Tensor:
        """One tensor."""
        with _opened(self._files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors ({error}); download it again") from error
