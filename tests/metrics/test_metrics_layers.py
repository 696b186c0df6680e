"""Layer profiles, their correlation and their spread over checkpoints."""

from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gated_lpi.errors import OptionError
from gated_lpi.metrics import layer_profile, mean_pairwise, profile_correlation, relative_spread

NAN = float("nan")
profiles_of_four = arrays(np.float64, (4, 5), elements=st.floats(-100, 100, width=32))


def test_a_profile_sums_over_the_units_of_a_layer() -> None:
    scores = [[1.0, 2.0, 3.0, 4.0], [0.0, -1.0, 5.0, 0.5]]
    # Layer 0: units 1 and 3; layer 1: none; layer 2: units 0 and 2.
    np.testing.assert_allclose(layer_profile(scores, [2, 0, 2, 0], 3), [[6.0, 0.0, 4.0], [-0.5, 0.0, 5.0]])
    np.testing.assert_allclose(layer_profile(scores[0], [0, 0, 0, 0], 1), [10.0])


def test_profiles_sum_in_double_precision() -> None:
    # In float32, 1e8 + 1 is 1e8.
    assert layer_profile(np.array([1e8, 1.0], dtype=np.float32), [0, 0], 1).tolist() == [100_000_001.0]


def test_a_layer_outside_the_model_is_refused() -> None:
    with pytest.raises(OptionError, match="layer runs from 0 to 2; expected 0 to 1"):
        layer_profile([1.0, 2.0], [0, 2], 2)
    with pytest.raises(OptionError, match="layer runs from -1"):
        layer_profile([1.0, 2.0], [-1, 0], 2)
    with pytest.raises(OptionError, match=r"layer has shape \(3,\) and scores \(2,\)"):
        layer_profile([1.0, 2.0], [0, 1, 1], 2)
    with pytest.raises(OptionError, match="n_layers is 0"):
        layer_profile([1.0], [0], 0)


def test_pearson_by_hand() -> None:
    # Centred: (−1, 0, 1), (1, 0, −1) and (−2, 1, 1).
    # r(1, 2) = −1. r(1, 3) = (2 + 0 + 1) / sqrt(2 · 6) = 3 / sqrt(12) = 0.866025.
    matrix = profile_correlation([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [0.0, 3.0, 3.0]])
    r = 3 / np.sqrt(12)
    np.testing.assert_allclose(matrix, [[1, -1, r], [-1, 1, -r], [r, -r, 1]], atol=1e-12)


def test_spearman_by_hand() -> None:
    # Ranks (1, 2, 3) and (1, 3, 2): centred (−1, 0, 1) and (−1, 1, 0), r = 1/2. Ties: 3, 3 share rank 2.5,
    # so (0, 3, 3) has centred ranks (−1, 1/2, 1/2) and r with the first is 3/2 / sqrt(2 · 3/2) = sqrt(3)/2.
    matrix = profile_correlation([[1.0, 10.0, 100.0], [0.0, 9.0, 8.0], [0.0, 3.0, 3.0]], "spearman")
    assert matrix[0, 1] == pytest.approx(0.5)
    assert matrix[0, 2] == pytest.approx(np.sqrt(3) / 2)


def test_a_constant_profile_correlates_with_nothing() -> None:
    # 0.1 three times has a mean that is not quite 0.1 in floats; it is constant all the same.
    for kind in ("pearson", "spearman"):
        matrix = profile_correlation([[1.0, 2.0, 4.0], [0.1, 0.1, 0.1], [2.0, 4.0, 8.0]], kind)
        np.testing.assert_allclose(matrix, [[1, NAN, 1], [NAN, NAN, NAN], [1, NAN, 1]])
    assert np.isnan(profile_correlation([[1.0], [2.0]])).all()  # one layer
    np.testing.assert_allclose(profile_correlation([[1.0, 2.0]]), [[1.0]])  # one checkpoint


def test_tiny_profiles_keep_their_correlation() -> None:
    matrix = profile_correlation(np.array([[1.0, 2.0, 3.0], [0.0, 3.0, 3.0]]) * 1e-200)
    assert matrix[0, 1] == pytest.approx(3 / np.sqrt(12))


def test_another_kind_is_refused() -> None:
    with pytest.raises(OptionError, match="kind is 'kendall'; expected one of 'pearson', 'spearman'"):
        profile_correlation([[1.0, 2.0]], "kendall")


def test_mean_over_pairs() -> None:
    # Above the diagonal: 0.5, 0.1 and 0.3.
    assert mean_pairwise([[1, 0.5, 0.1], [9, 1, 0.3], [9, 9, 1]]) == pytest.approx((0.3, 3))
    # One of them NaN: the mean of 0.5 and 0.3 over two pairs.
    assert mean_pairwise([[1, 0.5, NAN], [9, 1, 0.3], [9, 9, 1]]) == pytest.approx((0.4, 2))


def test_mean_over_no_pairs_is_nan() -> None:
    for matrix in ([[1.0]], [[NAN, NAN], [NAN, NAN]]):
        result = mean_pairwise(matrix)
        assert np.isnan(result.mean)
        assert result.pairs == 0
    with pytest.raises(OptionError, match="expected a square one"):
        mean_pairwise([[1.0, 2.0]])


def test_relative_spread_by_hand() -> None:
    # Layer 0: 1, 3: mean 2, population std 1, ratio 1/2. Layer 1: −4, −4: 0. Layer 2: −1, −3: 1 / |−2| = 1/2.
    result = relative_spread([[1.0, -4.0, -1.0], [3.0, -4.0, -3.0]])
    np.testing.assert_allclose(result.per_layer, [0.5, 0.0, 0.5])
    assert result.mean == pytest.approx(1 / 3)
    assert result.median == pytest.approx(0.5)


def test_a_layer_whose_mean_is_zero() -> None:
    infinite = relative_spread([[1.0, -1.0, 2.0], [3.0, 1.0, 2.0]])  # ratios 1/2, 1/0 and 0
    assert infinite.per_layer.tolist() == [0.5, np.inf, 0.0]
    assert infinite.mean == np.inf
    assert infinite.median == 0.5
    silent = relative_spread([[1.0, 0.0], [3.0, 0.0]])  # ratios 1/2 and 0/0
    assert silent.per_layer[0] == 0.5
    assert np.isnan([silent.per_layer[1], silent.mean, silent.median]).all()


def test_one_checkpoint_has_no_spread() -> None:
    result = relative_spread([[1.0, 2.0]])
    assert np.isnan([result.mean, result.median, *result.per_layer]).all()
    assert result.per_layer.shape == (2,)


@given(profiles_of_four, st.randoms(use_true_random=False))
def test_correlation_is_symmetric_bounded_and_free_of_scale(profiles: np.ndarray, random: Random) -> None:
    assume((np.ptp(profiles, axis=1) > 1e-3).all())
    for kind in ("pearson", "spearman"):
        matrix = profile_correlation(profiles, kind)
        assert (np.abs(matrix) <= 1).all()
        np.testing.assert_allclose(matrix, matrix.T)
        np.testing.assert_allclose(np.diag(matrix), 1.0)
        order = np.array(random.sample(range(5), 5))
        np.testing.assert_allclose(profile_correlation(profiles[:, order], kind), matrix, atol=1e-9)
        np.testing.assert_allclose(profile_correlation(profiles * 16.0, kind), matrix, atol=1e-9)


@given(profiles_of_four)
def test_pearson_agrees_with_numpy(profiles: np.ndarray) -> None:
    assume((np.ptp(profiles, axis=1) > 1e-3).all())
    np.testing.assert_allclose(profile_correlation(profiles), np.corrcoef(profiles), atol=1e-9)


@given(arrays(np.float64, (3, 4), elements=st.floats(1.0, 100.0)))
def test_spread_is_free_of_scale_and_sign(profiles: np.ndarray) -> None:
    spread = relative_spread(profiles)
    np.testing.assert_allclose(relative_spread(-8.0 * profiles).per_layer, spread.per_layer, atol=1e-12)
    np.testing.assert_allclose(relative_spread(profiles[::-1]).per_layer, spread.per_layer, atol=1e-12)
