"""Two arms by their replicates: p-values, effect sizes, Holm, power."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import nct, ttest_ind, ttest_rel
from scipy.stats import t as student

from gated_lpi.errors import OptionError
from gated_lpi.metrics import (
    compare_groups,
    hierarchical_difference,
    holm,
    power,
    replicates_needed,
    smallest_detectable,
)

A, B = [1.0, 2.0, 6.0, 3.0], [0.0, 1.0, -1.0]


def test_a_difference_by_hand_and_against_scipy() -> None:
    found = compare_groups(A, B)
    assert found.difference == 3.0
    # Variances 14/3 and 1 over 4 and 3; pooled (14 + 2) / 5.
    error = np.sqrt(14 / 12 + 1 / 3)
    assert found.sd == pytest.approx(np.sqrt(16 / 5))
    df = 1.5**2 / ((14 / 12) ** 2 / 3 + (1 / 3) ** 2 / 2)
    assert found.df == pytest.approx(df)
    assert found.high == pytest.approx(3 + student.ppf(0.975, df) * error)
    assert found.p_value == pytest.approx(ttest_ind(A, B, equal_var=False).pvalue)
    assert found.replicates == (4, 3)


def test_the_permutation_test_against_every_way_to_deal() -> None:
    pooled = np.array(A + B)
    differences = np.array(
        [pooled[list(chosen)].mean() - np.delete(pooled, chosen).mean() for chosen in combinations(range(7), 4)]
    )
    found = compare_groups(A, B)
    assert found.p_permutation == pytest.approx(2 * np.mean(differences >= 3.0 - 1e-12))
    assert found.smallest_p == pytest.approx(2 / 35)
    three = compare_groups([10.0, 11.0, 12.0], [0.0, 1.0, 2.0])
    assert three.p_permutation == pytest.approx(three.smallest_p) == pytest.approx(0.1)
    assert three.p_value < 0.001


def test_many_permutations_are_drawn() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal(12) + 1.2, generator.standard_normal(12)
    found = compare_groups(a, b)
    assert found.p_permutation == pytest.approx(found.p_value, abs=0.01)
    assert found.smallest_p == pytest.approx(2 / 10_001)
    assert compare_groups(a, b, seed=1).p_permutation == compare_groups(a, b, seed=1).p_permutation


def test_pairs_are_compared_by_their_differences() -> None:
    a, b = [1.0, 5.0, 9.0, 4.0], [0.0, 3.0, 8.0, 2.0]
    found = compare_groups(a, b, paired=True)
    assert found.difference == 1.5
    assert found.sd == pytest.approx(np.std([1, 2, 1, 2], ddof=1))
    assert found.p_value == pytest.approx(ttest_rel(a, b).pvalue)
    assert found.p_permutation == found.smallest_p == 2 / 16
    assert found.replicates == (4,)
    assert found.p_value < compare_groups(a, b).p_value


def test_hedges_g_by_hand() -> None:
    # J(5) = Γ(2.5) / (√2.5 Γ(2)) = 0.8408; g = J · 3 / √3.2.
    found = compare_groups(A, B)
    assert found.effect == pytest.approx(0.84075 * 3 / np.sqrt(3.2), rel=1e-4)
    # Of the noncentrality at an end, t is the quantile.
    scale = np.sqrt(1 / 4 + 1 / 3)
    t = 3 / (np.sqrt(3.2) * scale)
    assert nct.sf(t, 5, found.effect_low / scale) == pytest.approx(0.025, rel=1e-4)
    assert nct.sf(t, 5, found.effect_high / scale) == pytest.approx(0.975, rel=1e-4)


def test_the_interval_of_the_effect_holds_it() -> None:
    generator = np.random.default_rng(1)
    effect, held, mean = 1.5, 0, 0.0
    for _ in range(200):
        found = compare_groups(generator.standard_normal(3) + effect, generator.standard_normal(4))
        held += found.effect_low <= effect <= found.effect_high
        mean += found.effect / 200
    assert 91 <= held / 2 <= 99  # 200 runs: 3 points of error
    assert mean == pytest.approx(effect, abs=0.2)  # its bias is taken off


def test_its_interval_is_the_one_whose_coverage_is_measured() -> None:
    # Of 1,000 runs at once, in test_metrics_hierarchical.py.
    for paired, other in [(False, B), (True, [0.0, 1.0, -1.0, 2.5])]:
        found = compare_groups(A, other, paired=paired)
        same = hierarchical_difference([[x] for x in A], [[x] for x in other], relations="own", paired=paired, draws=1)
        assert (found.low, found.high) == pytest.approx((float(same.low), float(same.high)))
        assert found.df == pytest.approx(float(same.df))


def test_the_exact_test_never_errs_more_than_it_says() -> None:
    generator = np.random.default_rng(2)
    found = [compare_groups(generator.standard_exponential(4), generator.standard_exponential(4)) for _ in range(200)]
    assert np.mean([one.p_permutation <= 0.05 for one in found]) <= 0.085
    assert np.mean([one.p_permutation <= 0.5 for one in found]) == pytest.approx(0.5, abs=0.1)


def test_what_cannot_be_told_is_undefined() -> None:
    single = compare_groups([1.0], [2.0, 3.0])
    assert single.difference == -1.5
    assert np.isnan([single.low, single.p_value, single.p_permutation, single.smallest_p, single.effect]).all()
    constant = compare_groups([1.0, 1.0], [2.0, 2.0, 2.0])
    assert (constant.difference, constant.sd, constant.smallest_p) == (-1.0, 0.0, 0.2)
    assert constant.p_permutation == pytest.approx(0.2)
    assert np.isnan([constant.low, constant.p_value, constant.effect]).all()
    left_out = compare_groups([1.0, np.nan, 2.0], [0.0, 4.0, np.nan])
    assert left_out.replicates == (2, 2)
    assert compare_groups([1.0, np.nan, 2.0], [0.0, 4.0, 1.5], paired=True).replicates == (2,)
    pair = compare_groups([1.0, 2.0], [0.0, 0.5], paired=True)
    assert np.isnan(pair.effect)
    assert pair.effect_low < pair.effect_high


@given(st.integers(0, 999), st.integers(2, 5), st.integers(2, 5))
def test_exchanging_arms_turns_signs_and_keeps_p_values(seed: int, n: int, m: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.standard_normal(n), generator.standard_normal(m)
    there, back = compare_groups(a, b), compare_groups(b, a)
    for x, y in [("difference", "difference"), ("low", "high"), ("effect", "effect"), ("effect_low", "effect_high")]:
        assert getattr(there, x) == pytest.approx(-getattr(back, y), rel=1e-5, abs=1e-9, nan_ok=True)
    assert there.p_value == pytest.approx(back.p_value)
    assert there.p_permutation == pytest.approx(back.p_permutation)
    assert there.smallest_p <= there.p_permutation + 1e-12 <= 1 + 1e-9
    again = compare_groups(generator.permutation(a), b)
    assert (again.p_permutation, again.low) == pytest.approx((there.p_permutation, there.low))
    scaled = compare_groups(1000 * a, 1000 * b)
    assert scaled.effect == pytest.approx(there.effect, nan_ok=True)


def test_huge_effects_have_an_interval() -> None:
    found = compare_groups(1000 + np.arange(5.0), np.arange(5.0))
    assert 100 < found.effect_low < found.effect < found.effect_high < 2000


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04, made monotone.
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm([0.04, np.nan, 0.5]), [0.08, np.nan, 0.5])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert holm([]).shape == (0,)
    assert np.isnan(holm([np.nan])).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_plain_value_and_bonferroni(p_values: list[float]) -> None:
    adjusted, plain = holm(p_values), np.array(p_values)
    assert (adjusted >= plain).all()
    assert (adjusted <= np.minimum(plain * plain.size, 1.0) + 1e-12).all()
    order = np.argsort(plain, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    np.testing.assert_allclose(holm(plain[::-1])[::-1], adjusted)


def test_holm_keeps_the_error_of_the_family() -> None:
    p_values = np.random.default_rng(3).random((2000, 6))
    wrong = np.mean([(holm(row) < 0.05).any() for row in p_values])
    assert wrong == pytest.approx(0.05, abs=0.015)


def test_power_against_published_values_and_simulation() -> None:
    # Cohen 1988: 64 in each of two groups find d = 0.5 with a power of 0.80; 34 pairs find 0.5.
    assert replicates_needed(0.5, 1.0) == 64
    assert replicates_needed(0.5, 1.0, paired=True) == 34
    assert power(0.5, 1.0, (64, 64)) == pytest.approx(0.8015, abs=1e-3)
    generator = np.random.default_rng(4)
    a, b = generator.standard_normal((5, 20_000)) + 2.0, generator.standard_normal((4, 20_000))
    found = (ttest_ind(a, b).pvalue < 0.05).mean()
    assert power(2.0, 1.0, (5, 4)) == pytest.approx(found, abs=0.01)
    assert power(0.0, 1.0, (5, 4)) == pytest.approx(0.05)
    assert power(1e6, 1.0, (5, 4)) == pytest.approx(1.0)


def test_the_smallest_effect_of_a_design() -> None:
    found = smallest_detectable(2.0, (5, 5))
    assert power(found, 2.0, (5, 5)) == pytest.approx(0.8, abs=1e-6)
    assert found == pytest.approx(2.0 * smallest_detectable(1.0, (5, 5)))
    assert smallest_detectable(1.0, (5, 5), comparisons=6) > smallest_detectable(1.0, (5, 5))
    assert smallest_detectable(1.0, (10, 10)) < smallest_detectable(1.0, (5, 10)) < smallest_detectable(1.0, (5, 5))
    assert smallest_detectable(1.0, (2,)) > 5


def test_replicates_needed_is_the_least_number() -> None:
    for difference, comparisons in [(3.0, 1), (1.0, 1), (1.0, 10), (0.2, 1)]:
        n = replicates_needed(difference, 1.0, comparisons=comparisons)
        assert power(difference, 1.0, (n, n), comparisons=comparisons) >= 0.8
        assert power(difference, 1.0, (n - 1, n - 1), comparisons=comparisons) < 0.8
    assert replicates_needed(-1.0, 1.0) == replicates_needed(1.0, 1.0) == 17
    assert replicates_needed(1e9, 1.0) == 2
    assert replicates_needed(0.0, 1.0) is None
    assert replicates_needed(0.5, 1.0, most=63) is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="of one length"):
        compare_groups([1.0], [1.0, 2.0], paired=True)
    with pytest.raises(OptionError, match="a list of replicates"):
        compare_groups([[1.0]], [1.0])
    with pytest.raises(OptionError, match="at least one in each"):
        compare_groups([np.nan], [1.0])
    with pytest.raises(OptionError, match="infinite"):
        compare_groups([np.inf], [1.0])
    with pytest.raises(OptionError, match="from 0 to 1"):
        holm([1.1])
    with pytest.raises(OptionError, match="sd is 0"):
        power(1.0, 0.0, (3, 3))
    with pytest.raises(OptionError, match="each 2 or more"):
        power(1.0, 1.0, (3, 1))
    with pytest.raises(OptionError, match=r"power is 0\.01"):
        smallest_detectable(1.0, (3, 3), power=0.01)
    with pytest.raises(OptionError, match="comparisons is 0"):
        replicates_needed(1.0, 1.0, comparisons=0)
    with pytest.raises(OptionError, match="alpha is 0"):
        power(1.0, 1.0, (3, 3), alpha=0.0)
