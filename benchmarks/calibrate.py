"""How far units of a real model move the logits, and how concentrated its predictions are, per layer.

    python -m benchmarks.calibrate .cache/smollm2/model     # writes benchmarks/calibration.json; once

What is measured on an early, a middle and the last layer of SmolLM2-135M, for attention and FFN:

1. *Strength* of a pair of prompt and unit, |c|·√(Σ_j u_j² / V): by how much it moves a logit (c = coefficient/σ,
   u_j = (w_j − w̄)·v). Units are ranked by their root mean square over prompts and grouped; each group's quantile
   function over pairs is kept, so that both heavy tails are: a few units are strong on all prompts, and a few pairs.
2. p = softmax(base logits): median log p by rank, entropy, mass of the likeliest tokens.
3. How alike prompts are: mean correlation of the logits of two prompts.

And of the unembedding, quantiles of ‖w_j − w̄‖ over tokens, relative to their root mean square.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import smollm
from gated_lpi import load_model
from gated_lpi.methods import BlockProblem
from gated_lpi.methods.lpi.certified.envelope import squares
from gated_lpi.methods.lpi.certified.unembedding import Unembedding

FILE = Path(__file__).with_name("calibration.json")
PROMPTS = 128
KINDS = ("attention", "ffn")
LAYERS = {"early": 2, "middle": 15, "last": 29}
GROUPS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.997, 1.0)  # edges of the ranks of units, weakest first
TAIL = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
QUANTILES = (0.0, 0.003, 0.01, 0.03, *(i / 20 for i in range(2, 18)), *(1 - t for t in TAIL), 1.0)
TOP = (1, 10, 100, 1000, 10000)


def main(folder: str) -> None:
    """Measure and write the file."""
    model = load_model(folder)
    table = Unembedding(model.readout)
    norms = table.norms / table.norms.square().mean().sqrt()
    names = {f"layer {layer} {kind}": (name, kind) for name, layer in LAYERS.items() for kind in KINDS}
    blocks: dict[str, dict[str, Any]] = {name: {} for name in LAYERS}
    for problem in smollm.problems(model, smollm.encoded(model, PROMPTS), KINDS):
        if problem.key in names:
            name, kind = names[problem.key]
            blocks[name][kind] = measure(problem, table)
    of_routers = json.loads(FILE.read_text(encoding="utf-8"))["expert_load"]  # by benchmarks.loads
    found = {
        "source": f"SmolLM2-135M-Instruct, {PROMPTS} built-in prompts, layers {LAYERS}",
        "groups": GROUPS,
        "quantiles": QUANTILES,
        "row_norms": rounded(norms.quantile(torch.tensor(QUANTILES, dtype=norms.dtype))),
        "blocks": blocks,
        "expert_load": of_routers,
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(problem: BlockProblem, table: Unembedding) -> dict[str, Any]:
    """The statistics of one block with a single slab."""
    (slab,) = problem.slabs
    assert problem.inverse_scale is not None
    spread = (squares(problem.readout.fold(slab.values), table.spread, table.slack) / problem.readout.vocabulary).sqrt()
    strength = slab.coefficients.abs() * problem.inverse_scale.double().unsqueeze(-1) * spread
    return {"strength": grouped_quantiles(strength), **concentration(problem.base_logits.log_p)}


def grouped_quantiles(strength: Tensor) -> list[list[float]]:
    """Quantiles of `strength` [P, n] over the pairs of each group of units."""
    order = strength.square().mean(dim=0).argsort()
    edges = [round(edge * len(order)) for edge in GROUPS]
    probabilities = torch.tensor(QUANTILES, dtype=strength.dtype)
    groups = [order[first:last] for first, last in itertools.pairwise(edges)]
    return [rounded(strength[:, units].flatten().quantile(probabilities)) for units in groups]


def concentration(log_p: Tensor) -> dict[str, Any]:
    """How concentrated `log_p` [P, V] is, and how alike its rows are; also used on synthetic layers."""
    ordered = log_p.double().sort(dim=-1, descending=True).values
    p = ordered.exp()
    mass = p.cumsum(dim=-1)
    ranks = [n - 1 for n in TOP if n <= log_p.shape[1]]
    centred = log_p.double() - log_p.double().mean(dim=-1, keepdim=True)
    unit = centred / torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    n_prompts = len(unit)
    alike = float((unit @ unit.T).sum() - n_prompts) / max(1, n_prompts * (n_prompts - 1))
    return {
        "entropy": round(float(-(p * ordered).sum(dim=-1).median()), 3),
        "log_p_of_rank": rounded(ordered[:, ranks].median(dim=0).values),
        "mass_of_top": rounded(mass[:, ranks].median(dim=0).values),
        "spread_of_logits": round(float(centred.std(dim=-1).median()), 3),
        "likeness": round(alike, 3),
    }


def rounded(values: Tensor | Sequence[float]) -> list[float]:
    """Four significant digits are enough."""
    return [float(f"{float(v):.4g}") for v in values]


if __name__ == "__main__":
    main(sys.argv[1])
