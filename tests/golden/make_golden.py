"""Freeze scores of every family: `python tests/golden/make_golden.py` writes `golden.json`.

1. Weights depend on a parameter's name and shape and on nothing else: the name's CRC-32 seeds a stream of integers
   (PCG64's raw output, which numpy guarantees for good) that become uniform numbers by one division. No initialiser,
   order of parameters or library's generator takes part, so the models stay the same for as long as the parameters
   keep their names and shapes.
2. Unit scores are those of the float64 reference. Of all scores that are not 0, a few evenly spaced ones are frozen,
   with the first logits of the transformers model itself.
3. A label says what a number is, so that a comparison can name what moved: "1 ffn expert 3 neuron 7" is that unit of
   layer 1, "1 expert 3" the expert, "1 ffn" the block.

Freezing anew is a deliberate act: it declares that every change of a score since the last time is meant.
"""

import json
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2]))  # what the tests share, when run by itself
sys.path.insert(0, str(Path(__file__).parents[1]))

from flat import asked
from gated_lpi.loading import wrap_model
from gated_lpi.methods import attribute_encoded
from gated_lpi.models import Model, UnitTable, find_family
from tiny_models import CASES, Case, encoded, tiny_module

FILE = Path(__file__).with_name("golden.json")
PROMPTS = ((7, 41, 3, 58, 12, 30, 22), (19, 5, 44))
TARGET = 9
FROZEN = {"lpi": 12, "head_lpi": 4, "expert_lpi": 3, "block_lpi": 4, "logits": 5}
Values = dict[str, dict[str, list[float]]]


def uniform(name: str, shape: torch.Size) -> torch.Tensor:
    """Numbers of mean 0 and variance 1 that `name` and `shape` alone decide, float64."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(shape.numel())
    unit = (raw >> np.uint64(11)).astype(np.float64) / 2.0**53
    return torch.from_numpy((2 * unit - 1) * 3**0.5).reshape(shape)


def golden_model(case: Case) -> Model:
    """The family's tiny model with weights by name."""
    module = tiny_module(case, torch.float64)
    family = find_family(module.config.model_type)
    for name, tensor in module.state_dict().items():
        values = uniform(name, tensor.shape)
        if tensor.dim() > 1:
            values /= tensor.shape[-1] ** 0.5
        else:
            values *= 0.3
        if name.endswith(".weight") and ("norm" in name or ".ln_" in name):
            values += 1 - family.norm_offset
        tensor.copy_(values)
    return wrap_model(module)


def golden_values(case: Case) -> Values:
    """Scores of the two prompts and their first logits: by kind of score, then by label."""
    model = golden_model(case)
    collector, _ = attribute_encoded(model, encoded(PROMPTS, TARGET), *asked(estimator="reference"))
    with torch.no_grad():
        logits = torch.stack([model.module(torch.tensor([ids])).logits[0, -1] for ids in PROMPTS])
    arrays = {name: collector.result(name) for name in collector.collected} | {"logits": logits.numpy()}
    names = labels(model)
    return {kind: dict(zip(names[kind], arrays[kind].T.tolist(), strict=True)) for kind in FROZEN if kind in arrays}


def labels(model: Model) -> dict[str, list[str]]:
    """What each number of each kind of score is."""
    heads = zip(model.heads.layer, model.heads.index, strict=True)
    experts = zip(model.experts.layer, model.experts.index, strict=True)
    return {
        "lpi": [unit_label(model.units, i) for i in range(len(model.units))],
        "head_lpi": [f"{layer} head {head}" for layer, head in heads],
        "expert_lpi": [f"{layer} expert {e}" if e >= 0 else f"{layer} shared" for layer, e in experts],
        "block_lpi": [f"{block.layer} {block.kind}" for block in model.blocks],
        "logits": [f"token {i}" for i in range(model.readout.vocabulary)],
    }


def unit_label(units: UnitTable, i: int) -> str:
    """Coordinates of unit i, those alone that it has."""
    words = [str(units.layer[i]), str(units.block[i])]
    words += ["shared"] if units.shared[i] else []
    words += [f"head {units.head[i]}"] if units.head[i] >= 0 else []
    words += [f"expert {units.expert[i]}"] if units.expert[i] >= 0 else []
    return " ".join([*words, f"neuron {units.neuron[i]}"])


def chosen(kind: str, values: dict[str, list[float]]) -> dict[str, list[float]]:
    """The values to freeze, rounded: the first logits, or evenly spaced ones of the scores that are not 0."""
    names = [name for name, numbers in values.items() if any(numbers)]
    places = np.arange(FROZEN[kind]) if kind == "logits" else np.linspace(0, len(names) - 1, FROZEN[kind]).round()
    return {names[int(i)]: [round(number, 9) for number in values[names[int(i)]]] for i in places}


def freeze() -> dict[str, Any]:
    """What `golden.json` holds: the versions it was made with, and the frozen values of every case."""
    cases = {str(case): {k: chosen(k, v) for k, v in golden_values(case).items()} for case in CASES}
    return {"made_with": {"torch": torch.__version__, "transformers": transformers.__version__}, "cases": cases}


def as_text(frozen: dict[str, Any]) -> str:
    """JSON with one label a line, so that a change of values reads well."""
    return re.sub(r"\[\s+(\S+)\s+(\S+)\s+\]", r"[\1 \2]", json.dumps(frozen, indent=1)) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_text(freeze()), encoding="utf-8")
