"""Freeze what is read off every type that has no row: `python tests/golden/make_types.py` writes `types.json`.

As `make_golden.py` does for families of the table, but less of each: the row itself, a few unit scores of the reference
estimator and two logits, in float32. Freezing anew is a deliberate act.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2]))  # what the tests share, when run by itself
sys.path.insert(0, str(Path(__file__).parents[1]))

from make_golden import uniform

from flat import asked
from gated_lpi.errors import ModelError
from gated_lpi.loading import wrap_model
from gated_lpi.methods import attribute_encoded
from gated_lpi.models import Model, has_row, list_types
from gated_lpi.models.rows import differences
from gated_lpi.trace import trace
from tiny_models import encoded
from tiny_types import tiny_of_type

FILE = Path(__file__).with_name("types.json")
TYPES = tuple(one.model_type for one in list_types() if one.status == "attributed" and not has_row(one.model_type))
PROMPT, TARGET = (7, 41, 3, 58, 12), 9


def golden_of_type(model_type: str) -> Model:
    """The type's tiny model with weights by name, read and proven as at load."""
    module = tiny_of_type(model_type)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = uniform(name, tensor.shape)
        values = values / tensor.shape[-1] ** 0.5 if tensor.dim() > 1 else 0.3 * values
        if tensor.numel() == 1 or (name.endswith(".weight") and tensor.dim() == 1):
            values = values + 1
        tensor.copy_(values)
    return wrap_model(module)


def values_of(model: Model, estimator: str) -> dict[str, dict[str, float]]:
    """Scores of all units and all logits of the prompt, by unit and by token."""
    collector, _ = attribute_encoded(model, encoded([PROMPT], TARGET), *asked(estimator=estimator))
    with torch.no_grad():
        logits = model.module(torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    scores = collector.result("lpi")[0]
    return {
        "lpi": {model.label(unit): float(score) for unit, score in enumerate(scores)},
        "logits": {f"token {token}": float(logit) for token, logit in enumerate(logits)},
    }


def resolves(model: Model) -> bool:
    """Whether source positions add up to the coefficients of attention; False if it is said that they cannot be had."""
    try:
        traced = trace(model, [PROMPT], by_position=True)
    except ModelError:
        return False
    writers = [seen.writers[0] for b, seen in zip(model.blocks, traced.blocks, strict=True) if b.kind == "attention"]
    return all(torch.allclose(one.by_position.sum(dim=1), one.coefficients, atol=1e-5) for one in writers)


def frozen(model_type: str) -> dict[str, Any]:
    """What `types.json` holds of a type."""
    model = golden_of_type(model_type)
    found = values_of(model, "reference")
    units = [name for name, score in found["lpi"].items() if score]
    chosen = [units[int(i)] for i in np.linspace(0, len(units) - 1, 4).round()]
    return {
        "row": dict(differences(model.family)),
        "by_position": resolves(model),
        "lpi": {name: round(found["lpi"][name], 8) for name in chosen},
        "logits": {name: round(found["logits"][name], 7) for name in ("token 0", "token 1")},
    }


def main() -> None:
    """Write the file."""
    made = {"torch": torch.__version__, "transformers": transformers.__version__}
    text = json.dumps({"made_with": made, "types": {one: frozen(one) for one in TYPES}}, indent=1)
    FILE.write_text(re.sub(r"\[\s+([^\]\[]*?)\s+\]", r"[\1]", text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
