"""A real model, SmolLM2-135M: does it know what it should, and do its scores follow the definition?

The model is found in the folder that the environment variable GATED_LPI_SMOLLM2 names, by default where
`make smollm2` puts it.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import spearmanr

from flat import certified
from gated_lpi import GradientTimesActivation, TrueEffect, ablate, attribute, load_facts, load_model
from gated_lpi.ablation import recall
from gated_lpi.cli import main
from gated_lpi.facts import Prompt, encode
from gated_lpi.facts.tasks.words import rough_tokens
from gated_lpi.methods import problem_of, unit_lpi
from gated_lpi.methods.lpi import exact
from gated_lpi.prompting import encode_facts
from gated_lpi.trace import trace

pytestmark = pytest.mark.slow

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TOLERANCE = 1e-3
KNOWN = [
    ("The capital of France is", " Paris"),
    ("The capital of Japan is", " Tokyo"),
    ("The chemical symbol for gold is", " Au"),
]
LAYERS, UNITS_PER_BLOCK = (0, 15, 29), 10


@pytest.fixture(scope="module")
def folder():
    path = Path(os.environ.get("GATED_LPI_SMOLLM2") or Path(__file__).parents[2] / ".cache" / "smollm2")
    if not (path / "model" / "config.json").is_file() or not (path / GGUF).is_file():
        pytest.fail(f"SmolLM2-135M is not in {path}: run make smollm2", pytrace=False)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder / "model"), device="cpu")


@pytest.mark.parametrize(("prompt", "target"), KNOWN)
def test_the_model_knows(model, prompt, target):
    scores = attribute(model, [(prompt, target)], units=["blocks"])
    assert scores["target_rank"].item() == 0
    assert scores["target_logprob"].item() > np.log(0.5)


def test_its_units_account_for_what_it_computes(model):
    assert model.reconstruction.worst < 1e-4
    assert model.coverage == 1.0
    assert len(model.units) == 30 * (576 + 1536)


def watched(model, layer, ids):
    """By hooks of its own: the layer's input, and the inputs of its two projections, at the last position."""
    seen, block = {}, model.module.model.layers[layer]

    def keep(name):
        return lambda _module, arguments: seen.__setitem__(name, arguments[0][0, -1].double())

    hooks = [
        block.register_forward_pre_hook(keep("input")),
        block.self_attn.o_proj.register_forward_pre_hook(keep("attention")),
        block.mlp.down_proj.register_forward_pre_hook(keep("ffn")),
    ]
    model.module(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return seen, {"attention": block.self_attn.o_proj.weight.double(), "ffn": block.mlp.down_proj.weight.double()}


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_scores_follow_the_definition(model, layer):
    """`exact` and `fast` on whole blocks against float64, unit by unit, from what the modules were given."""
    items = encode(model.tokenizer, [Prompt(*pair) for pair in KNOWN[:2]])
    traced = trace(model, [item.ids for item in items])
    targets = torch.tensor([item.target_id for item in items])
    inverse_scale = model.readout.inverse_scale(traced.final_residual)
    readout = model.readout.to(dtype=torch.float64)
    random = np.random.default_rng(layer)
    for kind, index in (("attention", 2 * layer), ("ffn", 2 * layer + 1)):
        block, seen = model.blocks[index], traced.blocks[index]
        problem = problem_of(model.readout, block, seen, targets, inverse_scale)
        scores = exact.score_block(problem).scores
        bounded = certified(problem, TOLERANCE)
        assert float(bounded.error_bound.max()) <= TOLERANCE
        for p, item in enumerate(items):
            inputs, weights = watched(model, layer, item.ids)
            base = inputs["input"]
            if kind == "ffn":
                base = base + weights["attention"] @ inputs["attention"]
            strongest = scores[p].abs().topk(2).indices.tolist()
            for unit in [*strongest, *random.choice(block.n_units, UNITS_PER_BLOCK, replace=False).tolist()]:
                contribution = inputs[kind][unit] * weights[kind][:, unit]
                expected = unit_lpi(base, contribution, item.target_id, readout, inverse_scale[p].double())
                assert scores[p, unit].item() == pytest.approx(expected, abs=1e-4)
                assert abs(bounded.scores[p, unit].item() - expected) <= bounded.error_bound[p].item()


def test_the_gguf_is_the_same_model(model, folder):
    packed = load_model(str(folder), gguf=GGUF, device="cpu")
    assert packed.provenance["stored_dtype"] == "gguf"
    assert packed.provenance["gguf"] == GGUF
    saved = model.module.state_dict()
    assert saved.keys() == packed.module.state_dict().keys()
    assert all(torch.equal(value, saved[name]) for name, value in packed.module.state_dict().items())
    text = "Zoë paid 3.50 € in Tōkyō.\n\tThen she left"
    assert packed.tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]


def test_the_command_line_attributes_chosen_units(monkeypatch, capsys, tmp_path, folder):
    facts = tmp_path / "facts.jsonl"
    facts.write_text("\n".join(json.dumps({"prompt": prompt, "target": target.strip()}) for prompt, target in KNOWN))
    out = tmp_path / "scores.zarr"
    options = ["--facts", facts, "--keep", "mean", "--units", "heads,blocks", "--device", "cpu", "--out", out]
    monkeypatch.setattr("sys.argv", ["gated-lpi", "attribute", *map(str, [folder / "model", *options])])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert "270 head_unit" in capsys.readouterr().out
    scores = xr.open_zarr(out, consolidated=False, chunks=None)
    assert "lpi" not in scores
    assert scores["target_rank"].values.tolist() == [0, 0, 0]
    assert scores["head_lpi"].max() > 0


def test_whole_answers_are_recalled_as_greedy_decoding_has_them(model):
    encoded = encode_facts(model, load_facts("arithmetic:steps=1,n=12,control=all"), answer="all").prompts
    assert max(len(item.answer_ids) for item in encoded) > 1
    found = recall(model, encoded, "all")
    for item, same in zip(encoded, found.exact, strict=True):
        given = torch.tensor([item.ids])
        said = model.module.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=len(item.answer_ids)
        )
        assert same == (said[0].tolist() == list(item.full_ids))
    by_relation = {name: [] for name in ("arithmetic 1 step", "arithmetic 1 step (identity)")}
    for item, same in zip(encoded, found.exact, strict=True):
        by_relation.setdefault(item.prompt.relation, []).append(same)
    assert np.mean(by_relation["arithmetic 1 step (identity)"]) > np.mean(by_relation["arithmetic 1 step"]) > 0.2


def test_needles_are_found_and_contexts_are_as_long_as_asked(model):
    facts = load_facts("needle:length=64/256,n=10")
    encoded = encode_facts(model, facts, answer="all").prompts
    assert recall(model, encoded, "all").exact.mean() >= 0.8
    several = [load_facts(f"{task}:length=64/1024,n=3") for task in ("key-value", "needle", "variables")]
    for prompt in (prompt for facts in several for prompt in facts.prompts()):
        assert len(model.tokenizer(prompt.text)["input_ids"]) == pytest.approx(rough_tokens(prompt.text), rel=0.15)


@pytest.mark.parametrize(("foil", "effect"), [(None, "true_effect"), ("best", "true_effect_margin")])
def test_gradients_say_what_silencing_units_of_all_layers_costs(model, foil, effect):
    facts = [(prompt, target.strip()) for prompt, target in KNOWN]
    scores = attribute(model, facts, method=GradientTimesActivation(foil=foil), units=["ffn"])["grad_x_act"].mean(
        "prompt"
    )
    truth = attribute(model, facts, method=TrueEffect(sample=2), units=["ffn"])[effect].mean("prompt")
    measured = np.flatnonzero(np.isfinite(truth))
    assert measured.size == 60
    assert spearmanr(scores[measured], truth[measured]).statistic > 0.9


def test_silencing_what_gradients_rank_first_costs_the_facts_more_than_random_units(model):
    facts = load_facts([(prompt, target.strip()) for prompt, target in KNOWN])
    scores = attribute(model, facts, method=GradientTimesActivation(), units=["ffn"])
    found = ablate(model, facts, scores=scores, share=(0.001,), controls=("layer",), draws=2)
    assert float(found["logprob_intact"] - found["logprob"][0]) > 1.0
    assert float(found["logprob_intact"] - found["logprob_control"].min()) < 0.5
    assert float(found["text_loss"][0] - found["text_loss_intact"]) > 0.1
