"""Units, heads and experts by name: what `label` says is found again, short forms too, the rest is refused."""

import numpy as np
import pytest

from gated_lpi.errors import OptionError
from tiny_models import CASES, tiny_model


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_label_is_found_again(case):
    model = tiny_model(case)
    table = model.units
    for unit in range(len(table)):
        name = table.label(unit)
        assert table.find(name).tolist() == [unit]
    for short, long in (
        ("shared", "shared expert"),
        ("L", "layer "),
        (" E", " expert "),
        (" H", " head "),
        (" n", " neuron "),
    ):
        name = name.replace(long, short)
    assert table.find(name).tolist() == [len(table) - 1]
    for head in range(len(model.heads)):
        layer, index = model.heads.layer[head], model.heads.index[head]
        for name in (f"layer {layer} head {index}", f"l{layer}h{index}"):
            assert model.heads.find(name) == head
            np.testing.assert_array_equal(table.find(name), model.head_units(head))
    for expert in range(len(model.experts)):
        layer, index = model.experts.layer[expert], model.experts.index[expert]
        name = f"L{layer} shared" if index < 0 else f"L{layer} E{index}"
        assert model.experts.find(name) == expert
        units = table.find(name)
        assert set(table.layer[units]) == {layer}
        assert set(table.expert[units]) == {index}
        assert set(table.shared[units]) == {index < 0}


def test_blocks_are_all_of_their_units():
    table = tiny_model("Qwen2-MoE").units
    assert table.find("L1 ffn").tolist() == np.flatnonzero((table.layer == 1) & (table.block == "ffn")).tolist()
    assert table.find("L1 attn").tolist() == np.flatnonzero((table.layer == 1) & (table.head >= 0)).tolist()
    assert table.label(int(table.find("L0, n5")[0])) == "layer 0 neuron 5"


@pytest.mark.parametrize(
    "name", ["", "L1", "layer 1", "E3", "L1 E3 E4", "L1 E", "L1 X3", "L1 shared 3", "3", "L1 E3 foo"]
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(OptionError, match=r"is no name of units.*give one such as \"layer 2 expert 5 neuron 17\""):
        tiny_model("OLMoE").units.find(name)


@pytest.mark.parametrize(
    ("case", "name", "message"),
    [
        ("OLMoE", "L9 E1", "its layers are 0 to 1"),
        (
            "OLMoE",
            "L1 E8 n1",
            "layer 1 has heads 0 to 3, experts 0 to 7, neurons of a head 0 to 7, neurons of an expert",
        ),
        ("OLMoE", "L1 n3", "experts 0 to 7"),
        ("Llama", "L1 E0 n3", "neurons of the FFN 0 to 47"),
        ("Llama", "L1 shared n3", "no such unit"),
        ("Qwen2-MoE", "L1 shared n99", "neurons of the shared expert 0 to 23"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(case, name, message):
    with pytest.raises(OptionError, match=message):
        tiny_model(case).units.find(name)


def test_heads_and_experts_that_are_not_there_are_refused():
    model = tiny_model("OLMoE")
    with pytest.raises(OptionError, match="layer 1 has 0, 1, 2, 3, and layers are 0 to 1"):
        model.heads.find("L1 H4")
    with pytest.raises(OptionError, match="is no name"):
        model.heads.find("L1 H3 n4")
    with pytest.raises(OptionError, match="layer 0 has none, and layers are 0 to -1"):
        tiny_model("Llama").experts.find("L0 E1")
