"""Blocks that are scored side by side are those that are scored one after the other."""

import threading

import numpy as np
import pytest
import torch

from flat import asked
from gated_lpi import ModelError, OptionError
from gated_lpi.loading import wrap_model
from gated_lpi.methods import attribute_encoded, memory
from gated_lpi.methods.side_by_side import Pairing, side_by_side
from tiny_models import encoded, random_prompts, tiny_model, tiny_module

EVERYTHING = ("ffn", "attention", "mixer", "heads", "experts", "blocks")


def numbers(model, prompts, **options):
    """Everything that is found: by name, arrays."""
    collector, results = attribute_encoded(model, prompts, *asked(units=EVERYTHING, **options))
    found = {name: collector.result(name) for name in collector.collected}
    return found | dict(results.blocks) | {"tiers": results.tier_pairs}, results


@pytest.fixture
def blocks_at_a_time(monkeypatch):
    def at_a_time(count):
        monkeypatch.setattr(memory, "at_a_time", lambda _: count)

    return at_a_time


@pytest.mark.parametrize("options", [{}, {"positions": "resolved"}, {"estimator": "exact"}], ids=str)
@pytest.mark.parametrize("family", ["OLMoE", "GPT-2"])
def test_scores_bounds_and_counts_are_those_of_one_after_the_other(family, options, blocks_at_a_time):
    model = tiny_model(family)
    prompts = encoded(random_prompts())
    found = {}
    for count in (1, 2, 3):
        blocks_at_a_time(count)
        found[count], _ = numbers(model, prompts, batch_size=3, **options)
    for count in (2, 3):
        assert found[count].keys() == found[1].keys()
        for name, values in found[1].items():
            np.testing.assert_array_equal(found[count][name], values, err_msg=name)


def test_calls_go_on_at_the_same_time_and_come_back_in_order():
    both = threading.Barrier(2, timeout=30)

    def call(number):
        both.wait()
        return number

    assert list(side_by_side(((lambda i=i: call(i)) for i in range(6)), 2)) == list(range(6))


def test_no_more_is_begun_than_may_go_on():
    going_on, most, lock, begun = 0, 0, threading.Lock(), []

    def call():
        nonlocal going_on, most
        with lock:
            going_on += 1
            most = max(most, going_on)
        threading.Event().wait(0.01)
        with lock:
            going_on -= 1

    def calls():
        for number in range(20):
            begun.append((number, going_on))
            yield call

    list(side_by_side(calls(), 3))
    assert most == 3
    assert all(n < 3 for _, n in begun)  # the next is made when there is room for it, not before


def test_an_error_comes_out_and_the_rest_is_left():
    made = []

    def calls():
        for number in range(50):
            made.append(number)
            yield lambda number=number: 1 / (3 - number)

    with pytest.raises(ZeroDivisionError):
        list(side_by_side(calls(), 2))
    assert len(made) < 8


def test_a_block_that_is_not_finite_is_named(blocks_at_a_time):
    blocks_at_a_time(2)
    module = tiny_module("OLMoE")
    model = wrap_model(module)
    with torch.no_grad():
        module.model.layers[1].self_attn.o_proj.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="finite"):
        numbers(model, encoded(random_prompts()))


@pytest.mark.parametrize("count", [1, 2])
def test_threads_and_gradients_are_left_as_they_were(count):
    before = torch.get_num_threads()
    with torch.no_grad():
        tracked = list(side_by_side(iter([torch.is_grad_enabled] * 4), count))
    assert tracked == [False] * 4
    assert torch.get_num_threads() == before


def test_each_call_has_its_share_of_the_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert set(side_by_side(iter([torch.get_num_threads] * 6), 2)) == {2}
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_a_cap_on_memory_and_other_devices_take_one_block_at_a_time():
    model = tiny_model("OLMoE")
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert memory.sizes_for(model, 8, None, 12).room.blocks == 4
        assert memory.sizes_for(model, 8, 10**9, 12).room.blocks == 1
        assert memory.sizes_for(model, 8, None, 12, passes=True).room.blocks == 1
        assert memory.at_a_time("cuda") == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(OptionError):
        memory.sizes_for(model, 8, 10, 12)


def test_pairs_are_given_out_once_whoever_comes_first():
    pairing = Pairing()
    assert pairing.meet(1, "left 1", "right 1") == []
    assert pairing.meet(2, "left 2", "right 2") == [(1, "left 1", "right 2")]
    assert pairing.meet(0, "left 0", "right 0") == [(0, "left 0", "right 1")]
    assert pairing.meet(3, "left 3", "right 3") == [(2, "left 2", "right 3")]
