"""A real model with post-norms and 262,144 tokens, Gemma-3-270M: is it proven, and do its scores follow the definition?

The model is found in the folder that the environment variable GATED_LPI_GEMMA3 names, by default where `make gemma3`
puts it.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flat import certified
from gated_lpi import attribute, load_model
from gated_lpi.facts import Prompt, encode
from gated_lpi.methods import problem_of, unit_lpi
from gated_lpi.trace import trace

pytestmark = pytest.mark.slow

KNOWN = [
    ("The capital of Japan is", " Tokyo"),
    ("The opposite of hot is", " cold"),
    ("The chemical formula of water is", " H"),
]
TOLERANCE = 1e-3
LAYERS, UNITS_PER_BLOCK = (0, 9, 17), 3


@pytest.fixture(scope="module")
def model():
    path = Path(os.environ.get("GATED_LPI_GEMMA3") or Path(__file__).parents[2] / ".cache" / "gemma3")
    if not (path / "model" / "config.json").is_file():
        pytest.fail(f"Gemma-3-270M is not in {path}: run make gemma3", pytrace=False)
    return load_model(str(path / "model"), device="cpu")


def test_it_is_read_by_its_row_and_proven(model):
    assert model.family.name == "Gemma3"
    assert model.readout.vocabulary == 262_144
    assert all(block.post_norm is not None for block in model.blocks)
    assert model.reconstruction.worst < 1e-4
    assert model.coverage == 1.0
    assert len(model.units) == 18 * (4 * 256 + 2048)


def test_it_knows_some_facts(model):
    scores = attribute(model, KNOWN, units=["blocks"])
    assert (scores["target_rank"] < 10).all()
    assert scores["target_rank"][0] == 0


def watched(model, layer, ids):
    """By hooks of its own, at the last position: what enters the layer, its projections and its post-norms."""
    seen, parts = {}, model.module.model.layers[layer]
    norms = {"attention": parts.post_attention_layernorm, "ffn": parts.post_feedforward_layernorm}
    projections = {"attention": parts.self_attn.o_proj, "ffn": parts.mlp.down_proj}

    def keep(name, what=0):
        return lambda _module, given, *_: seen.__setitem__(name, given[what][0, -1].double())

    hooks = [parts.register_forward_pre_hook(keep("input"))]
    for kind in norms:
        hooks.append(projections[kind].register_forward_pre_hook(keep(kind)))
        hooks.append(norms[kind].register_forward_pre_hook(keep(f"{kind} output")))
        hooks.append(norms[kind].register_forward_hook(lambda _m, _g, out, k=kind: seen.update({f"{k} written": out})))
    hooks.append(model.module.model.norm.register_forward_pre_hook(keep("final")))
    with torch.no_grad():
        model.module(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return seen, {kind: (projections[kind].weight.double(), norms[kind]) for kind in norms}


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_scores_follow_the_definition(model, layer):
    """What the certified estimator gives of two blocks, and its bound, against float64 from what modules were given."""
    items = encode(model.tokenizer, [Prompt(*pair) for pair in KNOWN[:2]])
    traced = trace(model, [item.ids for item in items])
    targets = torch.tensor([item.target_id for item in items])
    inverse_scale = model.readout.inverse_scale(traced.final_residual)
    readout, random = model.readout.to(dtype=torch.float64), np.random.default_rng(layer)
    found = {}
    for kind, index in (("attention", 2 * layer), ("ffn", 2 * layer + 1)):
        problem = problem_of(model.readout, model.blocks[index], traced.blocks[index], targets, inverse_scale)
        found[kind] = certified(problem, TOLERANCE)
        assert float(found[kind].error_bound.max()) <= TOLERANCE
    for p, item in enumerate(items):
        seen, parts = watched(model, layer, item.ids)
        assert torch.allclose(seen["final"].float(), traced.final_residual[p], rtol=1e-4, atol=1e-3)
        for kind, (weight, norm) in parts.items():
            base = seen["input"] if kind == "attention" else seen["input"] + seen["attention written"][0, -1].double()
            scale = torch.rsqrt(seen[f"{kind} output"].square().mean() + norm.eps) * (1.0 + norm.weight.double())
            scores, bound = found[kind].scores[p], float(found[kind].error_bound[p])
            strongest = scores.abs().topk(2).indices.tolist()
            for unit in [*strongest, *random.choice(len(scores), UNITS_PER_BLOCK, replace=False).tolist()]:
                contribution = seen[kind][unit] * weight[:, unit] * scale
                expected = unit_lpi(base, contribution, item.target_id, readout, inverse_scale[p].double())
                assert abs(float(scores[unit]) - expected) <= bound + 1e-5
