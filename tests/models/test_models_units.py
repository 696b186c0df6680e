"""The axis of units: where a unit is, and which units a writer has, agree with coordinates and value vectors."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gated_lpi.errors import OptionError
from gated_lpi.models import Model
from tiny_models import CASES, tiny_model, tiny_module
from tiny_text import speaking_model

NAMES = [str(case) for case in CASES]
KINDS = {"attention": ("attention",), "ffn": ("dense", "routed", "shared")}


@cache
def model_of(case: str) -> Model:
    return tiny_model(case)


def stacked_values(model: Model) -> torch.Tensor:
    """All value vectors after each other, as the weights hold them, without the axis: [N, d]."""
    return torch.cat(
        [
            block.values(writer, expert)
            for block in model.blocks
            for writer in block.writers
            for expert in range(writer.n_experts)
        ]
    )


@pytest.mark.parametrize("case", NAMES)
def test_every_unit_is_where_its_coordinates_and_its_value_vector_say(case):
    model, units = model_of(case), model_of(case).units
    places = model.locate(np.arange(len(units)))
    values = stacked_values(model)
    assert len(values) == len(units)
    for unit, (b, w, expert, column) in enumerate(zip(*places, strict=True)):
        block = model.blocks[b]
        writer = block.writers[w]
        assert (block.layer, block.kind) == (units.layer[unit], units.block[unit])
        assert writer.kind in KINDS[block.kind]
        assert (writer.kind == "shared") == units.shared[unit]
        assert (expert if writer.kind == "routed" else -1) == units.expert[unit]
        head_width = writer.width // max(1, writer.n_heads)
        assert column == units.neuron[unit] + head_width * max(0, units.head[unit])
        assert torch.equal(block.values(writer, expert)[column], values[unit])
        assert model.block_units(b).start <= unit < model.block_units(b).stop
    for unit in (0, len(units) // 2, len(units) - 1):
        assert torch.equal(model.value(unit), values[unit])


@pytest.mark.parametrize("case", NAMES)
@settings(max_examples=30, deadline=None, database=None)
@given(data=st.data())
def test_sorting_by_writer_agrees_with_locating(case, data):
    model = model_of(case)
    index = st.integers(0, len(model.units) - 1)
    units = np.array(data.draw(st.lists(index, max_size=40)), dtype=np.int64)
    parts = list(model.by_writer(units))
    assert np.array_equal(np.concatenate([np.empty(0), *(part.units for part in parts)]), np.unique(units))
    for part in parts:
        assert part.inside.size  # a writer without any of the units is left out
        places = model.locate(part.units)
        (b,), (w,) = np.unique(places.block), np.unique(places.writer)
        assert model.blocks[b] is part.block
        assert part.block.writers[w] is part.writer
        assert np.array_equal(places.expert * part.writer.width + places.column, part.inside)
    assert sorted(map(id, [part.writer for part in parts])) == sorted(
        {id(model.blocks[b].writers[w]) for b, w in zip(*model.locate(units)[:2], strict=True)}
    )


def test_places_keep_the_order_the_repeats_and_the_shape_of_what_was_asked_for():
    model = model_of("Qwen2-MoE")
    order = np.array([[7, 200, 7], [0, len(model.units) - 1, 200]])
    places = model.locate(order)
    for array, flat in zip(places, model.locate(order.ravel()), strict=True):
        assert array.shape == order.shape
        assert np.array_equal(array.ravel(), flat)
    assert [int(number) for number in model.locate(200)] == [int(array[0, 1]) for array in places]
    assert [array.size for array in model.locate([])] == [0, 0, 0, 0]


def test_all_writers_come_with_all_of_their_units():
    model = model_of("Qwen2-MoE")
    parts = list(model.by_writer())
    assert [part.writer for part in parts] == [writer for block in model.blocks for writer in block.writers]
    assert [part.inside.size for part in parts] == [part.writer.n_units for part in parts]
    assert np.array_equal(np.concatenate([part.units for part in parts]), np.arange(len(model.units)))


@pytest.mark.parametrize("units", [-1, 320, [3, -1], [320], np.array([[0, 2**40]]), [2**64]])
def test_what_is_not_on_the_axis_is_refused_with_what_is(units):
    model = model_of("OLMoE")
    with pytest.raises(OptionError, match="0 to 319"):
        model.locate(units)
    with pytest.raises(OptionError, match="0 to 319"):
        next(model.by_writer(units))


@pytest.mark.parametrize(("units", "kind"), [(1.5, "float64"), ([1.0], "float64"), ([True, False], "bool")])
def test_what_is_no_index_is_refused_by_its_type(units, kind):
    with pytest.raises(OptionError, match=f"units of type {kind}"):
        model_of("OLMoE").locate(units)


def test_blocks_have_their_units_from_either_end():
    model = model_of("OLMoE")
    assert [model.block_units(index) for index in range(4)] == [
        slice(0, 32),
        slice(32, 160),
        slice(160, 192),
        slice(192, 320),
    ]
    assert model.block_units(-1) == model.block_units(3)


def test_labels_name_what_a_unit_has():
    model = model_of("Qwen2-MoE")
    units = model.units
    routed, shared = np.flatnonzero(units.expert == 5)[3], np.flatnonzero(units.shared)[2]
    assert model.label(9) == "layer 0 head 1 neuron 1"
    assert model.label(32) == "layer 0 neuron 0"
    assert model.label(int(routed)) == "layer 1 expert 5 neuron 3"
    assert model.label(int(shared)) == "layer 1 shared expert neuron 2"
    assert len({model.label(unit) for unit in range(len(units))}) == len(units)
    for unit in (-1, len(units)):
        with pytest.raises(OptionError, match=f"0 to {len(units) - 1}"):
            model.label(unit)


def test_a_head_has_its_own_units():
    model = model_of("Qwen3")
    units = np.concatenate([model.head_units(head) for head in range(len(model.heads))])
    assert np.array_equal(units, np.flatnonzero(model.units.block == "attention"))
    assert set(model.units.head[model.head_units(5)]) == {1}


def test_active_parameters_leave_out_idle_experts():
    model = model_of("OLMoE")
    experts = 2 * 8 * (2 * 16 * 32 + 32 * 16)
    assert model.n_parameters == sum(p.numel() for p in tiny_module("OLMoE").parameters())
    assert model.n_active_parameters == model.n_parameters - experts * 6 // 8
    assert model_of("Llama").n_active_parameters == model_of("Llama").n_parameters


@pytest.mark.parametrize("case", NAMES)
def test_short_names_mean_the_unit_that_they_name(case):
    units = model_of(case).units
    for unit in {0, len(units) // 3, len(units) // 2, len(units) - 1}:
        assert units.find(units.short(unit)).tolist() == [unit]


def test_a_model_shows_itself_in_a_few_lines():
    model = speaking_model("Qwen3-MoE")
    shown = repr(model)
    assert len(shown) < 400
    assert len(shown.splitlines()) == 3
    assert f"<Model Qwen3MoeForCausalLM (Qwen3-MoE)\n  {model.n_layers} layers, {len(model.units):,} units" in shown
    assert "float32 on cpu, 100.0% of its parameters covered, reconstruction error" in shown
    origin = {"source": "a/\x1bb", "commit": "c" * 40}
    told = repr(replace(model, provenance=origin, notes=("one",), reconstruction=None))
    assert " from a/\\x1bb at cccccccc\n" in told
    assert told.endswith("not checked\n  1 in .notes>")
