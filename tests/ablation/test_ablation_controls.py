"""Matched random sets: as many as were chosen where they were chosen, from all there are, each as likely."""

import numpy as np
import pytest

from gated_lpi.ablation import Chosen, draw
from gated_lpi.ablation.controls import shared, unit_groups
from tiny_models import CASES, tiny_model

NONE = np.empty(0, dtype=np.int64)


def groups(model, control):
    """The same groups as tuples of coordinates, by hand."""
    table = model.units
    columns = [table.block]
    if control != "random":
        columns.append(table.layer)
    if control == "expert":
        columns += [table.expert, table.shared]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def counts(of, units):
    return {group: sum(of[unit] == group for unit in units) for group in {of[unit] for unit in units}}


@pytest.mark.parametrize("control", ["random", "layer", "expert"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sets_are_matched(case, control):
    model = tiny_model(case)
    generator = np.random.default_rng(0)
    chosen = Chosen(np.sort(generator.choice(len(model.units), 60, replace=False)), np.array([0, 5, 6]))
    of = groups(model, control)
    found = [draw(model, chosen, control, generator) for _ in range(3)]
    for one in found:
        assert len(set(one.units.tolist())) == 60
        assert len(set(one.heads.tolist())) == 3
        assert counts(of, one.units) == counts(of, chosen.units)
        if control != "random":
            assert model.heads.layer[one.heads].tolist().count(1) == 2
    assert found[0].units.tolist() != found[1].units.tolist()
    assert len(set(unit_groups(model, control).tolist())) == len(set(of))


def test_every_unit_of_a_group_is_as_likely():
    model = tiny_model("OLMoE")
    chosen = Chosen(model.units.find("L1 E3")[:4], NONE)
    generator, times = np.random.default_rng(0), np.zeros(len(model.units))
    for _ in range(2000):
        times[draw(model, chosen, "expert", generator).units] += 1
    inside = model.units.find("L1 E3")
    assert times.sum() == times[inside].sum() == 8000
    np.testing.assert_allclose(times[inside] / 2000, 4 / 16, atol=0.05)


def test_units_of_heads_and_what_a_control_shares():
    model = tiny_model("OLMoE")
    chosen = Chosen(model.units.find("L0 E1"), np.array([4]))
    assert chosen.indices(model).tolist() == sorted([*model.units.find("L0 E1"), *model.units.find("L1 H0")])
    assert shared(np.array([1, 2]), [np.array([2, 3]), np.array([1, 2])]) == 0.75
    # All of an expert: its matched set is itself.
    assert draw(model, chosen, "expert", np.random.default_rng(0)).units.tolist() == chosen.units.tolist()
