"""What must be the same at every checkpoint of an arm, as plain values of its record: model and token ids.

1. A model's family and shape, so that a unit's place on the axis means the same unit of the architecture.
2. A digest of the prompts' token ids, one of the targets', and one of the tokenizer's vocabulary. If a tokenizer maps
   the same words to other ids, scores over training compare different tokens with each other.
3. The arm's first record that has a value sets it. Records of earlier versions have none of these, and set nothing.

A vocabulary that differs where no prompt and no target is concerned changes no score. It is recorded, not refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SAME = {
    "family": "the model's family",
    "shape": "the model's shape",
    "prompts_sha256": "the token ids of the prompts",
    "targets_sha256": "the token ids of the targets",
}


def misfits(before: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> list[str]:
    """In what a checkpoint differs from those before it in its arm, in words; none: it belongs to them."""
    found = []
    for key, words in SAME.items():
        first = next((earlier for earlier in before if key in earlier), None)
        if first is None or key not in record or first[key] == record[key]:
            continue
        if key.endswith("sha256"):
            found.append(f"{words} differ from those of {first['key']}")
        else:
            found.append(f"{words} differs ({_values(record[key])}; {_values(first[key])} in {first['key']})")
    return found


def _values(value: Any) -> str:
    return ", ".join(f"{key} {size}" for key, size in value.items()) if isinstance(value, Mapping) else str(value)
