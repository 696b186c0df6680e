"""Which types of causal language models can be attributed, as `scripts/make_families.py` found by trying each.

`census.json` holds what loading a tiny random model of each type of one version of transformers says. It decides
nothing: whether a model can be attributed is decided by the proof at load.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import __version__ as transformers_version
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FILE = Path(__file__).with_name("census.json")


@dataclass(frozen=True)
class TypeStatus:
    """What is known of a type of causal language models.

    Attributes:
        model_type: `config.model_type`.
        status: "attributed" if a tiny model of the type was loaded and proven, else "refused".
        reason: why it is refused; "" if it is not.
        family: the row that it is read by; None if it is refused.
    """

    model_type: str
    status: Literal["attributed", "refused"]
    reason: str
    family: str | None


def list_types() -> tuple[TypeStatus, ...]:
    """Every type of causal language model of the installed transformers, in the order of names."""
    made = json.loads(FILE.read_text(encoding="utf-8"))
    known = {entry["model_type"]: TypeStatus(**entry) for entry in made["types"]}
    unknown = (
        f"never tried: the census was made with transformers {made['transformers']}, and {transformers_version} is "
        "installed. `gated-lpi check` tries a model of it"
    )
    return tuple(
        known.get(model_type) or TypeStatus(model_type, "refused", unknown, None)
        for model_type in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    )
