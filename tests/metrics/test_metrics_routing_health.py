"""The health of routers, by hand and against chance."""

import numpy as np
import pytest

from gated_lpi.errors import OptionError
from gated_lpi.metrics import (
    co_activation,
    dead_experts,
    dead_experts_chance,
    gate_entropy,
    jaccard_chance,
    router_saturation,
    routing_jaccard,
    routing_jaccard_chance,
    routing_jaccard_exchanged,
)
from gated_lpi.metrics.routing_health import which_experts_are_dead

A, B, C = [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]


def test_dead_experts_by_hand():
    np.testing.assert_allclose(dead_experts([[1, 1, 0, 0], [0.5, 0.5, 0.5, 0.5], [1, 0.96, 0.02, 0.02]]), [0.5, 0, 0.5])
    assert np.isnan(dead_experts([0.0, 0.0]))
    assert dead_experts([1, 0.6, 0.4], below=0.7) == pytest.approx(1 / 3)
    assert which_experts_are_dead([1, 0.96, 0.02, 0.02]).tolist() == [False, False, True, True]
    assert not which_experts_are_dead([0.0, 0.0]).any()


def test_dead_experts_by_chance():
    # One token sent to 2 of 8 leaves 6 without any; n tokens leave (1 − k/E)^n.
    assert dead_experts_chance(1, 8, 2) == pytest.approx(0.75)
    assert dead_experts_chance(4, 8, 2, draws=4000) == pytest.approx(0.75**4, abs=0.02)
    assert dead_experts_chance(500, 8, 2) == 0


def test_saturation_and_overlap_by_hand():
    routed = np.array([[A, A], [A, B], [B, B]])  # [T, N, E]
    np.testing.assert_allclose(router_saturation(routed), [0.5, 0.75, 1.0])
    np.testing.assert_allclose(routing_jaccard(routed), [(1 + 1 / 3) / 2, (1 / 3 + 1) / 2])
    np.testing.assert_allclose(routing_jaccard(routed, [3, 1]), [(3 + 1 / 3) / 4, (1 + 1) / 4])
    np.testing.assert_allclose(routing_jaccard([[A], [C]]), [0.0])


def test_means_over_tokens_have_the_same_formulas():
    # (1, ½, ½, 0) then (½, ½, 1, 0): min sums to 1.5, max to 2.5.
    means = np.array([[[1, 0.5, 0.5, 0]], [[0.5, 0.5, 1, 0]]])
    np.testing.assert_allclose(routing_jaccard(means), [1.5 / 2.5])
    np.testing.assert_allclose(router_saturation(means), [0.75, 1.0])


def test_overlap_by_chance():
    assert routing_jaccard_chance(1, 8, 2, draws=4000) == pytest.approx(jaccard_chance(8, 2), abs=0.02)
    assert routing_jaccard_chance(1, 8, 2) < routing_jaccard_chance(10, 8, 2) < routing_jaccard_chance(200, 8, 2) < 1
    assert routing_jaccard_chance(3, 4, 4) == 1


def test_gate_entropy_by_hand():
    p = np.array([0.75, 0.25])
    expected = -(p * np.log(p)).sum() / np.log(2)
    np.testing.assert_allclose(gate_entropy([[0.3, 0.1, 0, 0], [0.2, 0, 0.2, 0]]), [expected, 1.0])
    assert np.isnan(gate_entropy([1.0, 0, 0]))


def test_co_activation_by_hand():
    # 2 of 4 experts: by chance each pair is chosen by 2·1/(4·3) = 1/6 of the tokens.
    found = co_activation([A, A, B, C])
    assert np.isnan(np.diag(found)).all()
    assert found[0, 1] == found[1, 0] == pytest.approx(0.5 * 6)
    assert found[0, 2] == found[2, 3] == pytest.approx(0.25 * 6)
    assert found[0, 3] == 0
    random = np.random.default_rng(0).random((4000, 6)).argsort(axis=1) < 3
    assert np.nanmax(np.abs(co_activation(random) - 1)) < 0.15
    assert np.isnan(co_activation([[1, 0], [0, 1]])).all()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: dead_experts([-1.0, 2.0]), "goes down to -1"),
        (lambda: routing_jaccard([A, B]), "expected 3 axes"),
        (lambda: router_saturation([[[np.nan, 1]]]), "NaN"),
        (lambda: routing_jaccard_chance(1, 4, 5), "expected 1 to 4"),
        (lambda: dead_experts_chance(0, 4, 2), "at least 1"),
        (lambda: co_activation([[0.5, 1.5]]), "not means over some"),
    ],
)
def test_what_is_no_routing_is_refused(call, told):
    with pytest.raises(OptionError, match=told):
        call()


def test_exchanged_experts_keep_what_their_loads_leave_to_chance():
    concentrated = np.array([[[1.0, 0, 0, 0]], [[0, 1.0, 0, 0]], [[0, 1.0, 0, 0]]])
    np.testing.assert_allclose(routing_jaccard_exchanged(concentrated, draws=4000), [0.25, 0.25], atol=0.02)
    np.testing.assert_allclose(routing_jaccard_exchanged(np.full((2, 3, 4), 0.5)), [1.0])
    mixed = np.stack([np.stack([pair[0], np.full(4, 0.25)]) for pair in concentrated])
    np.testing.assert_allclose(routing_jaccard_exchanged(mixed, [1, 3], draws=4000), [0.8125, 0.8125], atol=0.02)
    with pytest.raises(OptionError, match="draws"):
        routing_jaccard_exchanged(concentrated, draws=0)
