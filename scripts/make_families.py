"""Which types of causal language models can be attributed: `python scripts/make_families.py` writes the census.

A tiny random model of every type that the installed transformers knows is saved, loaded as any checkpoint is, and
proven; what that says of each is written to `src/gated_lpi/models/census.json`.

python scripts/make_families.py           # write it, and the tables of the documentation: about two minutes
python scripts/make_families.py llama …   # show what is found for these types, and write nothing
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # tiny models

from gated_lpi.errors import GatedLPIError, ModelError, UnknownFamilyError
from gated_lpi.loading import load_model, wrap_model
from gated_lpi.models.census import FILE
from gated_lpi.models.families import has_row
from gated_lpi.models.proposing import refuse_type
from tiny_types import TYPES, save_tiny


def examined(model_type: str) -> dict[str, Any]:
    """What loading a tiny model of a type says, as an entry of the census."""
    try:
        if not has_row(model_type):
            refuse_type(model_type)
        with tempfile.TemporaryDirectory() as folder:
            return {**_loaded(model_type, Path(folder)), "model_type": model_type}
    except ModelError as error:
        return _refused(model_type, getattr(error, "reason", "") or str(error))


def _loaded(model_type: str, folder: Path) -> dict[str, Any]:
    try:
        module = save_tiny(model_type, folder)
    except Exception as error:  # whatever transformers makes of a type that it lists
        first = (str(error) or "no reason given").strip().splitlines()[-1].strip()
        return _refused(model_type, f"transformers makes no tiny model of it alone: {type(error).__name__}: {first}")
    try:
        model = load_model(str(folder))
    except UnknownFamilyError:
        raise
    except GatedLPIError as error:
        wrap_model(module)  # its structure, if that is in the way as well, says more
        return _refused(model_type, str(error).replace(repr(str(folder)), "it"))
    return {"model_type": model_type, "status": "attributed", "reason": "", "family": model.family.name}


def _refused(model_type: str, reason: str) -> dict[str, Any]:
    return {"model_type": model_type, "status": "refused", "reason": reason, "family": None}


def main() -> None:
    """Make the census of all types, or show that of some."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    chosen = sys.argv[1:] or TYPES
    entries = []
    for model_type in chosen:
        entries.append(examined(model_type))
        print(f"{entries[-1]['status']:<11} {model_type}: {entries[-1]['family'] or entries[-1]['reason']}", flush=True)
    if not sys.argv[1:]:
        made = {"transformers": transformers.__version__, "types": sorted(entries, key=lambda one: one["model_type"])}
        FILE.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
