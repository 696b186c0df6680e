"""Single layers of the size of large models: random weights, with a real model's scales (`calibration.json`).

1. Unembedding: isotropic rows whose lengths have the measured quantiles. Value vectors: isotropic, of length 1.
2. Coefficients: units are put into the groups of the calibration in its proportions; the strength of each pair is
   drawn from its group's quantile function, its sign by a coin.
3. Bases: a part that all prompts share and one of their own, so that two prompts' logits correlate as measured; their
   length is such that the median entropy of p is the measured one, and of a few draws of the shared part the one is
   taken whose log p by rank is nearest to what was measured.
4. A mixture of experts routes each prompt to `top` experts: evenly, or so that experts are used as unevenly as those of
   a trained mixture were (`benchmarks.loads`).
5. The base of what follows a block is what it starts from and what it writes.

These are not models: nothing here says which unit scores high. They cost what a layer of that size and these scales
costs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from benchmarks.calibrate import FILE, concentration
from gated_lpi.methods.problem import TracedProblem
from gated_lpi.models import Block, Readout, Writer
from gated_lpi.trace import BlockTrace, Slab

Floats = NDArray[np.float64]
DRAWS = 8  # of the part that all prompts share
SAMPLE = 48  # prompts that scales are fitted on


@dataclass(frozen=True)
class Layer:
    """The size of one layer.

    Attributes:
        name: how results call it.
        d: width of the residual stream.
        ffn: units of the FFN, or of one expert.
        attention: units of the attention.
        vocabulary: V.
        heads: how many heads the attention has.
        experts: how many experts the FFN has; 1 for a dense one.
        top: experts that a prompt is routed to.
        routing: "even", or "measured": how often experts are chosen.
    """

    name: str
    d: int
    ffn: int
    attention: int
    vocabulary: int
    heads: int = 1
    experts: int = 1
    top: int = 1
    routing: str = "even"

    def units(self, kind: str) -> int:
        """Units of the layer's attention or FFN."""
        return self.attention if kind == "attention" else self.ffn * self.experts


OLMO = Layer("OLMo-7B", d=4096, ffn=11008, attention=4096, vocabulary=50304, heads=32)
OLMOE = Layer("OLMoE-1B-7B", d=2048, ffn=1024, attention=2048, vocabulary=50304, heads=16, experts=64, top=8)
UNEVEN_OLMOE = replace(OLMOE, routing="measured")
GEMMA = Layer("Gemma-3-270M", d=640, ffn=2048, attention=1024, vocabulary=262144, heads=4)
SMALL_DENSE = Layer("a small dense model", d=512, ffn=1376, attention=512, vocabulary=6288, heads=8)
SMALL_MOE = Layer(
    "a small mixture", d=512, ffn=256, attention=512, vocabulary=12576, heads=8, experts=16, top=2, routing="measured"
)


def calibration() -> dict[str, Any]:
    """What was measured on a real model."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def problems(layer: Layer, depth: str, n_prompts: int, seed: int = 0, device: str = "cpu") -> dict[str, TracedProblem]:
    """The layer's attention and FFN on so many prompts; `depth` is a layer of the calibration.

    Both blocks read the same unembedding. Weights are float32. They are drawn on the CPU, whatever the device.
    """
    measured = calibration()
    rng = np.random.default_rng(seed)
    readout = _readout(layer, measured, rng)
    found = {kind: _block(layer, kind, depth, readout, measured, n_prompts, rng) for kind in ("attention", "ffn")}
    return found if device == "cpu" else moved(found, device)


def moved(blocks: dict[str, TracedProblem], device: str) -> dict[str, TracedProblem]:
    """The same on another device, where they read one readout."""
    readout = next(iter(blocks.values())).readout.to(torch.device(device))
    return {kind: _moved(problem, readout, device) for kind, problem in blocks.items()}


def _moved(problem: TracedProblem, readout: Readout, device: str) -> TracedProblem:
    def move(given: Any) -> Any:
        return tree_map_only(Tensor, lambda tensor: tensor.to(device), given)

    return replace(
        problem,
        readout=readout,
        base=move(problem.base),
        inverse_scale=move(problem.inverse_scale),
        targets=move(problem.targets),
        slabs=tuple(
            Slab(slab.start, move(slab.values), move(slab.coefficients), move(slab.prompts)) for slab in problem.slabs
        ),
        traced=replace(problem.traced, base=move(problem.base), written=move(problem.traced.written)),
        following=move(problem.following),
    )


def _readout(layer: Layer, measured: dict[str, Any], rng: np.random.Generator) -> Readout:
    lengths = np.interp(rng.random(layer.vocabulary), measured["quantiles"], measured["row_norms"])
    lengths /= np.sqrt(np.mean(lengths**2))
    weight = _normal(rng, layer.vocabulary, layer.d)
    weight *= torch.from_numpy(lengths / math.sqrt(layer.d)).float().unsqueeze(-1)
    return Readout(weight, None, torch.ones(layer.d), None, centred=False, eps=1e-5)


def _block(
    layer: Layer,
    kind: str,
    depth: str,
    readout: Readout,
    measured: dict[str, Any],
    n_prompts: int,
    rng: np.random.Generator,
) -> TracedProblem:
    scales = measured["blocks"][depth][kind]
    base = _bases(readout, scales, n_prompts, rng)
    experts, top = (layer.experts, layer.top) if kind == "ffn" else (1, 1)
    width = layer.units(kind) // experts
    routed = _routed(_loads(layer.routing, measured, experts, top), n_prompts, rng)
    slabs, written = [], torch.zeros_like(base)
    for expert in range(experts):
        prompts = np.flatnonzero(routed[:, expert])
        values = torch.nn.functional.normalize(_normal(rng, width, layer.d), dim=-1)
        coefficients = torch.from_numpy(_coefficients(layer, scales, measured, len(prompts), width, rng))
        slabs.append(Slab(expert * width, values, coefficients, None if experts == 1 else torch.from_numpy(prompts)))
        written[prompts] += coefficients.float() @ values
    likely = readout.logits(base, torch.ones(n_prompts)).topk(100, dim=-1).indices
    targets = likely[torch.arange(n_prompts), torch.from_numpy(rng.integers(100, size=n_prompts))]
    place = nn.Identity()
    role = "attention" if kind == "attention" else "dense" if experts == 1 else "routed"
    writer = Writer(role, place, experts, width, layer.heads if kind == "attention" else 0)
    return TracedProblem(
        readout=readout,
        base=base,
        inverse_scale=torch.ones(n_prompts),
        targets=targets,
        slabs=tuple(slabs),
        n_units=layer.units(kind),
        key=f"{layer.name} {kind}",
        block=Block(0, "attention" if kind == "attention" else "ffn", place, (writer,)),
        traced=BlockTrace(base, written, None, ()),
        following=base + written,
    )


def _loads(routing: str, measured: dict[str, Any], experts: int, top: int) -> Floats:
    """The share of prompts that each expert is to have, [experts]; they add up to `top`."""
    by_rank = np.ones(1) if routing == "even" else np.array(measured["expert_load"]["by_rank"])
    middles = [(np.arange(count) + 0.5) / count for count in (experts, len(by_rank))]
    loads = np.interp(middles[0], middles[1], by_rank)
    return loads * top / loads.sum()


def _routed(loads: Floats, n_prompts: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether each prompt is routed to each expert, [P, experts]: as many experts for all, each with its load.

    Systematic sampling: loads are laid end to end in random order, and whoever holds a mark is chosen; marks are one
    apart.
    """
    order = rng.permuted(np.tile(np.arange(len(loads)), (n_prompts, 1)), axis=1)
    ends = np.cumsum(loads[order], axis=1).round(9) + rng.random((n_prompts, 1))
    chosen = np.diff(np.floor(ends), axis=1, prepend=0) > 0
    routed = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(routed, order, chosen, axis=1)
    return routed


def _coefficients(
    layer: Layer,
    scales: dict[str, Any],
    measured: dict[str, Any],
    n_prompts: int,
    n_units: int,
    rng: np.random.Generator,
) -> Floats:
    """c of each pair, [P', n]: strength · √d, as rows of the unembedding are of length 1 and value vectors too."""
    ranks = (rng.permutation(n_units) + 0.5) / n_units
    groups = np.searchsorted(measured["groups"], ranks) - 1
    c = np.empty((n_prompts, n_units))
    for group, quantiles in enumerate(scales["strength"]):
        units = np.flatnonzero(groups == group)
        c[:, units] = np.interp(rng.random((n_prompts, len(units))), measured["quantiles"], quantiles)
    signs = rng.integers(2, size=c.shape, dtype=np.int8) * 2 - 1
    return c * signs * math.sqrt(layer.d)


def _bases(readout: Readout, scales: dict[str, Any], n_prompts: int, rng: np.random.Generator) -> Tensor:
    """Step 3, [P, d]. Which tokens the shared part favours is chance, so the best of a few draws is taken."""
    own = math.sqrt(1 - scales["likeness"]) * _normal(rng, n_prompts, readout.weight.shape[1])
    best, least = own, math.inf
    for shared in _normal(rng, DRAWS, readout.weight.shape[1]):
        direction = own + math.sqrt(scales["likeness"]) * shared
        length, log_p = _length(readout.directions(direction[:SAMPLE]), scales["entropy"])
        found = concentration(log_p)["log_p_of_rank"]
        wrong = sum(abs(a - b) for a, b in zip(found, scales["log_p_of_rank"], strict=False))
        if wrong < least:
            best, least = direction * length, wrong
    return best


def _length(logits: Tensor, entropy: float) -> tuple[float, Tensor]:
    """By what to multiply `logits` so that their median entropy is `entropy`, by bisection; and log p then."""
    low, high = 0.0, 50.0
    for _ in range(20):
        middle = (low + high) / 2
        log_p = torch.log_softmax(middle * logits, dim=-1)
        found = -(log_p.exp() * log_p).sum(dim=-1).median()
        low, high = (middle, high) if found > entropy else (low, middle)
    return high, log_p


def _normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
