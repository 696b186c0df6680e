"""A checkpoint's identity, measured: the values that `gated_lpi.results.identity` compares within an arm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from gated_lpi.facts import EncodedPrompt
from gated_lpi.models import Model


def identify(model: Model, encoded: Sequence[EncodedPrompt], target: str) -> dict[str, Any]:
    """The values of `SAME`, and the tokenizer's digest; no digest of targets if these are the model's own (`top1`)."""
    targets = {"targets_sha256": _digest(item.target_id for item in encoded)} if target == "object" else {}
    return {
        "family": model.family.name,
        "shape": shape(model),
        "prompts_sha256": _digest(item.ids for item in encoded),
        **targets,
        "tokenizer_sha256": _vocabulary(model.tokenizer),
    }


def shape(model: Model) -> dict[str, int]:
    """Sizes that tell one architecture from another."""
    return {
        "layers": model.n_layers,
        "width": int(model.readout.weight.shape[1]),
        "vocabulary": model.readout.vocabulary,
        "units": len(model.units),
        "heads": len(model.heads),
        "experts": int((model.experts.index >= 0).sum()),
    }


def _digest(content: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(list(content)).encode()).hexdigest()


def _vocabulary(tokenizer: Any) -> str:
    return _digest(sorted(tokenizer.get_vocab().items()))
