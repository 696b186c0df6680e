"""How evenly experts are used, and how much that changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon

from gated_lpi.errors import OptionError
from gated_lpi.metrics import load_imbalance, routing_stability, utilisation_entropy

use = st.floats(0.01, 1.0)


def test_entropy_by_hand() -> None:
    # Two experts per token: rows sum to 2. Even use of 4 experts: 1. Two of four always: log 2 / log 4 = 1/2.
    # One expert per token and always the same: 0.
    rows = [[0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    np.testing.assert_allclose(utilisation_entropy(rows), [1.0, 0.5, 0.0])


def test_imbalance_by_hand() -> None:
    # Even: 1. Maximum 1, mean 1/2: 2. Maximum 1, mean 1/4: 4.
    rows = [[0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    np.testing.assert_allclose(load_imbalance(rows), [1.0, 2.0, 4.0])


def test_distance_by_hand() -> None:
    # (1/2, 1/2) to (1, 0), m = (3/4, 1/4), in bits:
    # KL(p‖m) = 1/2·log2(2/3) + 1/2·log2(2) = 0.207519; KL(q‖m) = log2(4/3) = 0.415037.
    # sqrt((0.207519 + 0.415037) / 2) = sqrt(0.311278) = 0.557923. Scale within a row does not count.
    utilisation = [[1.0, 1.0], [0.3, 0.0], [0.0, 1.0], [0.0, 2.0]]
    np.testing.assert_allclose(routing_stability(utilisation), [0.557923, 1.0, 0.0], atol=1e-6)


def test_a_layer_that_routed_nothing_is_undefined() -> None:
    silent = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert np.isnan(utilisation_entropy(silent)).tolist() == [True, False]
    assert np.isnan(load_imbalance(silent)).tolist() == [True, False]
    assert np.isnan(routing_stability(silent)).tolist() == [True]


def test_a_single_expert() -> None:
    assert np.isnan(utilisation_entropy([1.0]))
    assert load_imbalance([1.0]) == 1.0


def test_layers_are_leading_axes() -> None:
    utilisation = np.array([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [2.0, 2.0]]])  # [T, L, E]
    np.testing.assert_allclose(routing_stability(utilisation), [[1.0, 0.0]])
    assert utilisation_entropy(utilisation).shape == (2, 2)
    assert routing_stability(utilisation[:1]).shape == (0, 2)  # one checkpoint


def test_what_is_no_utilisation_is_refused() -> None:
    for measure in (utilisation_entropy, load_imbalance, routing_stability):
        with pytest.raises(OptionError, match=r"utilisation goes down to -0\.5"):
            measure([[0.5, -0.5]])
        with pytest.raises(OptionError, match="NaN"):
            measure([[0.5, float("nan")]])
    with pytest.raises(OptionError, match="checkpoints first"):
        routing_stability([0.5, 0.5])


def test_distance_agrees_with_scipy() -> None:
    utilisation = np.random.default_rng(0).dirichlet(np.ones(6), size=20)
    expected = jensenshannon(utilisation[:-1], utilisation[1:], base=2, axis=1)
    np.testing.assert_allclose(routing_stability(utilisation), expected)


def test_no_change_is_distance_zero_in_spite_of_rounding() -> None:
    # Rounding takes the divergence of these two rows a little below 0, whose root would be NaN.
    assert routing_stability([np.full(6, 1.0), np.full(6, 1.001)])[0] == pytest.approx(0.0, abs=1e-7)


@given(arrays(np.float64, (3, 5), elements=use), st.permutations(range(5)))
def test_order_of_experts_and_scale_do_not_matter(utilisation: np.ndarray, order: list[int]) -> None:
    other = utilisation[:, order] * 4.0
    entropy = utilisation_entropy(utilisation)
    assert ((entropy >= 0) & (entropy <= 1)).all()
    assert (load_imbalance(utilisation) >= 1 - 1e-12).all()
    assert ((routing_stability(utilisation) >= 0) & (routing_stability(utilisation) <= 1)).all()
    np.testing.assert_allclose(utilisation_entropy(other), entropy)
    np.testing.assert_allclose(load_imbalance(other), load_imbalance(utilisation))
    np.testing.assert_allclose(routing_stability(other), routing_stability(utilisation), atol=1e-7)
