"""Heads, experts and blocks under the certified estimator: bounds against the definition, and what they cost."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flat import asked
from gated_lpi.loading import wrap_model
from gated_lpi.methods import attribute_encoded, block_problems, unit_lpi
from gated_lpi.methods.lpi.certified import contributions, eight_bit, two_digits
from gated_lpi.methods.lpi.certified.contributions import Vectors
from gated_lpi.methods.lpi.certified.vector_products import Products
from gated_lpi.methods.lpi.reference import _contributions
from gated_lpi.models import Readout
from gated_lpi.options import ALL_UNITS
from passes import questions
from tiny_models import CASES, MOE_CASES, encoded, random_prompts, tiny_model, tiny_module

GROUPS = ("heads", "experts", "blocks")
SCORES = {"heads": "head_lpi", "experts": "expert_lpi", "blocks": "block_lpi"}
LARGE = {"vocab_size": 9000}


def scored(model, prompts, units=GROUPS, **options):
    """Scores by name, [P, n], and the bounds, [P, B]."""
    collector, results = attribute_encoded(model, prompts, *asked(units=units, **options))
    found = {name: collector.result(name).astype(float) for name in collector.collected}
    return found, results.blocks["error_bound"]


def groups_of(model, block, kind):
    """Which columns of a variable a block has."""
    if kind == "blocks":
        return [model.blocks.index(block)]
    table, of = (model.heads, "attention") if kind == "heads" else (model.experts, "ffn")
    return np.flatnonzero(table.layer == block.layer) if block.kind == of else []


def definition(model, prompts, **options):
    """Every group's score from the equation in float64: name → [P, n]; of groups that contribute nothing, 0."""
    sizes = {"heads": len(model.heads), "experts": len(model.experts), "blocks": len(model.blocks)}
    found = {SCORES[kind]: np.zeros((len(prompts), size)) for kind, size in sizes.items()}
    index = -1
    for rows, problem in block_problems(model, prompts, **options):
        index = (index + 1) % len(model.blocks)
        block, start = problem.block, model.block_units(index).start
        readout = problem.readout.to(dtype=torch.float64)
        for row, prompt in enumerate(rows):
            held = None if problem.inverse_scale is None else problem.inverse_scale[row].double()
            written = dict(_contributions(problem, row))
            for kind in GROUPS:
                for column in groups_of(model, block, kind):
                    inside = members(model, kind, column, start, written)
                    if inside:
                        total = torch.stack([written[unit] for unit in inside]).sum(dim=0)
                        target = int(problem.targets[row])
                        score = unit_lpi(problem.base[row].double(), total, target, readout, held)
                        found[SCORES[kind]][prompt, column] += score
    return {name: scores for name, scores in found.items() if scores.size}


def members(model, kind, column, start, written):
    if kind == "blocks":
        return list(written)
    of = model.units.head if kind == "heads" else model.units.expert
    table = model.heads if kind == "heads" else model.experts
    return [unit for unit in written if of[start + unit] == table.index[column]]


def bound_of(model, name, bounds):
    """The bound of every column of a variable: that of its block."""
    kind = next(kind for kind, variable in SCORES.items() if variable == name)
    width = {"heads": len(model.heads), "experts": len(model.experts), "blocks": len(model.blocks)}[kind]
    found = np.zeros((len(bounds), width))
    for index, block in enumerate(model.blocks):
        for column in groups_of(model, block, kind):
            found[:, column] = bounds[:, index]
    return found


def assert_within(model, prompts, tolerance, **options):
    found, bounds = scored(model, prompts, tolerance=tolerance, **options)
    options.pop("memory", None)
    true = definition(model, prompts, **options)
    assert {name for name in found if name.endswith("_lpi")} == set(true)
    for name, scores in true.items():
        allowed = bound_of(model, name, bounds)
        assert (np.abs(found[name] - scores) <= allowed + 1e-13).all(), name
        assert np.abs(scores).max() > 1e-2
        assert (allowed > 0).all()
    assert bounds.max() <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if str(case) != "Gemma2"], ids=str)
def test_no_group_of_any_family_is_off_by_more_than_its_bound(case, dtype):
    assert_within(tiny_model(case, dtype), encoded(random_prompts(5)), 1e-3 if dtype == torch.float32 else 1e-7)


@pytest.mark.parametrize("gate", ["uniform", "ungated", "open"])
@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_nor_with_any_gate(case, gate):
    assert_within(tiny_model(case), encoded(random_prompts(4)), 1e-3, gate=gate)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 6.0])
@pytest.mark.parametrize("case", ["Llama", "GPT-2", "GPT-NeoX (Pythia)", "OLMoE", "Qwen2-MoE", "Gemma3"])
def test_nor_where_the_vocabulary_is_large_enough_for_every_step(case, sharpness):
    module = tiny_module(case, **LARGE)
    with torch.no_grad():
        module.get_output_embeddings().weight.mul_(sharpness)
    assert_within(wrap_model(module), encoded(random_prompts(6)), 1e-3)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_other_tolerances_and_whole_answers(tolerance):
    for case in ("Llama", "OLMoE"):
        assert_within(tiny_model(case), questions(3, answer=3), tolerance, answer="all")


def test_a_cap_on_memory_changes_scores_within_their_bounds():
    model, prompts = tiny_model("OLMoE", **LARGE), encoded(random_prompts(9))
    assert_within(model, prompts, 1e-3, memory="60MB")


def test_a_softcap_and_a_recomputed_norm_have_no_bounds_and_are_scored_by_the_readout():
    for case, options in (("Gemma2", {}), ("Llama", {"norm": "recomputed"})):
        model, prompts = tiny_model(case, torch.float64), encoded(random_prompts(3))
        found, bounds = scored(model, prompts, **options)
        assert (bounds == 0).all()
        for name, true in definition(model, prompts, **options).items():
            assert np.abs(found[name] - true).max() < 1e-9


def test_bounds_cover_units_and_groups_together():
    model, prompts = tiny_model("Qwen2-MoE"), encoded(random_prompts(4))
    bounds = {units: scored(model, prompts, units)[1] for units in (("ffn", "attention"), GROUPS, ALL_UNITS)}
    parts = np.maximum(bounds["ffn", "attention"], bounds[GROUPS])
    np.testing.assert_allclose(bounds[ALL_UNITS], parts, rtol=1e-3)


@pytest.mark.parametrize("units", [("heads",), ("experts",), ("blocks",), ("blocks", "ffn")])
def test_groups_that_are_asked_for_alone_score_the_same(units):
    model, prompts = tiny_model("OLMoE"), encoded(random_prompts(5))
    whole, bounds = scored(model, prompts, ALL_UNITS)
    some, _ = scored(model, prompts, units)
    asked_for = {SCORES[unit] for unit in units if unit in SCORES}
    assert asked_for == {name for name in some if name in SCORES.values()}
    for name in asked_for:
        assert (np.abs(some[name] - whole[name]) <= 2 * bound_of(model, name, bounds) + 1e-7).all()


class Projections:
    """Counts what goes through the whole readout: calls, and rows of them."""

    def __init__(self, monkeypatch: Any) -> None:
        self.rows = 0
        plain = Readout.directions

        def counted(readout: Readout, vectors: torch.Tensor) -> torch.Tensor:
            self.rows += vectors.numel() // vectors.shape[-1]
            return plain(readout, vectors)

        monkeypatch.setattr(Readout, "directions", counted)


@pytest.mark.parametrize("case", [case for case in CASES if str(case) != "Gemma2"], ids=str)
def test_no_group_goes_through_the_readout_by_itself(case, monkeypatch):
    model, prompts = tiny_model(case), encoded(random_prompts(5))
    seen = Projections(monkeypatch)
    scored(model, prompts)
    assert seen.rows == len(prompts)  # the model's own logits of each prompt
    scored(model, prompts, estimator="exact")
    assert seen.rows > (2 + len(model.blocks)) * len(prompts)


def test_with_a_foil_groups_need_no_projection_at_all(monkeypatch):
    model, prompts = tiny_model("Llama"), questions(4)[::2]
    seen = Projections(monkeypatch)
    scored(model, prompts, foil="relation")
    assert seen.rows == len(prompts)


def steps_of(model, prompts, monkeypatch):
    """How many vectors each step took."""
    taken: dict[str, int] = {}
    plain, exactly, of_heads = Vectors._certify, Vectors._sum_exactly, Products._of_heads

    def certify(steps, left, moments_of, level):
        taken[moments_of.__name__] = taken.get(moments_of.__name__, 0) + len(left)
        return plain(steps, left, moments_of, level)

    def from_units(steps, left):
        taken["_of_heads"] = taken.get("_of_heads", 0) + len(left)
        return of_heads(steps, left)

    def sum_exactly(steps, left):
        taken["exactly"] = taken.get("exactly", 0) + len(left)
        return exactly(steps, left)

    monkeypatch.setattr(Vectors, "_certify", certify)
    monkeypatch.setattr(Products, "_of_heads", from_units)
    monkeypatch.setattr(Vectors, "_sum_exactly", sum_exactly)
    scored(model, prompts)
    return taken


def test_a_sequential_block_without_biases_looks_at_no_token(monkeypatch):
    """All steps but that of the last block, which nothing follows, are bounded by the envelope."""
    taken = steps_of(tiny_model("OLMoE", **LARGE), encoded(random_prompts(6)), monkeypatch)
    groups = 6 * 2 * (4 + 2)  # heads, and experts that each prompt is routed to
    assert taken["_nothing"] == groups + 6 * 4
    assert taken["_likeliest"] <= 2 * (groups + 6)  # at either of two levels


def go(way, monkeypatch):
    """Have vectors go this way, whatever it costs; only heads can be summed from units."""
    if way.endswith("of the units"):
        monkeypatch.setattr(Products, "_cost_direct", lambda products, *_: 0.0 if products._units is None else math.inf)
    else:
        monkeypatch.setattr(Products, "_cost_by_units", lambda *_: math.inf)
    if way == "8 bits":
        monkeypatch.setattr(contributions, "SAMPLE", 10**9)  # all of them
    else:
        monkeypatch.setattr(Vectors, "_score_roughly", lambda _, left, _level: left)
    if way.startswith("two digits"):
        monkeypatch.setattr(two_digits, "LEAST_WIDTH", 0)


@pytest.mark.parametrize(
    "way", ["8 bits", "u of the units", "a product for each", "two digits", "two digits of the units"]
)
@pytest.mark.parametrize("case", ["Llama", "OLMoE", "GPT-2"])
def test_bounds_hold_whichever_way_is_thought_cheapest(case, way, monkeypatch):
    go(way, monkeypatch)
    model, prompts = tiny_model(case, **LARGE), encoded(random_prompts(6))
    assert_within(model, prompts, 1e-3)
    taken = steps_of(model, prompts, monkeypatch)
    digits = way.startswith("two digits") and two_digits.supported("cpu", 0, torch.float32)
    assert (taken.get("_outside_by_two_digits", 0) > 0) == digits
    assert (taken.get("_of_heads", 0) > 0) == way.endswith("of the units")
    assert (taken.get("_outside_roughly", 0) > 0) == (way == "8 bits" and eight_bit.supported("cpu"))


@pytest.mark.skipif(not eight_bit.supported("cpu"), reason="no fast products of 8 bits here")
def test_a_sample_shows_once_for_a_block_whether_8_bits_pay(monkeypatch):
    monkeypatch.setattr(Products, "_cost_by_units", lambda *_: math.inf)
    monkeypatch.setattr(contributions, "SAMPLE", 2)
    calls, plain = [], Vectors._outside_roughly

    def roughly(vectors, left, level):
        calls.append((vectors._problem.key, len(left)))
        return plain(vectors, left, level)

    monkeypatch.setattr(Vectors, "_outside_roughly", roughly)
    prompts = encoded(random_prompts(1) * 24)
    scored(tiny_model("Llama", **LARGE), prompts, ("heads",), batch_size=8)
    assert len(calls) > 1
    for block in {key for key, _ in calls}:
        sizes = [size for key, size in calls if key == block]  # of three batches
        assert sizes.count(min(sizes)) == 1, sizes


def flops(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_heads_of_many_prompts_cost_far_less_than_a_projection_each():
    sizes = {"hidden_size": 128, "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 64}
    model = tiny_model("Llama", **LARGE, **sizes)
    prompts = encoded(random_prompts(128))
    work = flops(lambda: scored(model, prompts, ("heads",)))
    lens = 2 * len(prompts) * 128 * 9000
    assert work < 0.6 * 2 * 16 * lens
