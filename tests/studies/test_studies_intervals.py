"""Intervals over replicates are Student's and Welch's, as scipy has them."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from gated_lpi.studies._intervals import difference, over_replicates


@pytest.fixture(params=[1e-6, 1.0, 1e6])
def groups(request):
    generator = np.random.default_rng(0)
    return request.param * generator.normal(3, 1, 5), request.param * generator.normal(2, 4, 3)


def by_seed(values, first=0):
    return dict(enumerate(values, start=first))


def test_a_mean_has_students_interval_whatever_is_undefined(groups):
    values, _ = groups
    found = over_replicates([*values, math.nan, math.inf])
    expected = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found[:4] == pytest.approx((values.mean(), expected.low, expected.high, 5), rel=1e-12)


def test_a_difference_has_welchs_interval(groups):
    first, second = groups
    found = difference(by_seed([math.nan, *first]), by_seed(second, 100))
    expected = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert found[:4] == pytest.approx((first.mean() - second.mean(), expected.low, expected.high, 3), rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_what_is_counted_in_grains_is_as_uncertain_as_if_one_replicate_were_off_by_one(n):
    grain = 100 / 60
    off = ttest_1samp([-grain] * (n - 1) + [0.0], 0.0).confidence_interval(0.95)
    found = over_replicates([-grain] * n).grained(grain)
    assert found.value == pytest.approx(-grain)
    assert (found.high - found.low, found.high + found.low) == pytest.approx((off.high - off.low, -2 * grain))
    spread = over_replicates([0.0, 10.0, 30.0])
    assert spread.grained(grain) == spread
    alone = over_replicates([3.0], (1.0, 5.0), over="prompts")
    assert alone.grained(grain) == alone


def test_replicates_that_do_not_differ_have_an_interval_without_width():
    assert over_replicates([2.0, 2.0]) == (2.0, 2.0, 2.0, 2, "replicates")
    assert difference(by_seed([2.0, 2.0]), by_seed([0.5] * 3, 100)) == (1.5, 1.5, 1.5, 2, "replicates")


@pytest.mark.parametrize("found", [over_replicates([3.0]), difference({0: 4.0}, {1: 1.0, 2: 1.0})])
def test_one_replicate_has_no_interval(found):
    assert (found.value, found.n) == (3.0, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize("found", [over_replicates([math.nan]), difference({}, {0: 1.0})])
def test_no_replicate_has_nothing(found):
    assert found.n == 0
    assert math.isnan(found.value)


def test_an_interval_ends_where_values_do():
    wide = over_replicates([0.9, 1.0, 0.7])
    assert wide.high > 1
    assert wide.within(-1, 1) == wide._replace(high=1)
    assert math.isnan(over_replicates([0.5]).within(-1, 1).low)
