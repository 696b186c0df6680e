"""The share of a change that routing explains, by hand."""

import numpy as np
import pytest

from gated_lpi.errors import OptionError
from gated_lpi.metrics import routing_share


def test_by_hand():
    # Means over prompts, with weights 3 and 1: routing (1, -0.5), neurons (0.75, 2.25); 1.5 of 1.5 + 3.
    routing, neurons = [[1.0, -1.0], [1.0, 1.0]], [[1.0, 3.0], [0.0, 0.0]]
    found = routing_share(routing, neurons, [3, 1], draws=50)
    assert found.estimate == pytest.approx(1.5 / 4.5)
    # Draws are of one relation alone, of the other, or of both as they are: 2/6, 2/2, and the estimate.
    assert found.low == pytest.approx(2 / 6)
    assert found.high == pytest.approx(1.0)


def test_parts_of_opposite_sign_do_not_cancel():
    found = routing_share([[1.0, -2.0]], [[-1.0, 2.0]], [4], draws=3)
    assert found.estimate == found.low == found.high == pytest.approx(0.5)


@pytest.mark.parametrize(("routing", "neurons", "share"), [(1.0, 0.0, 1.0), (0.0, 2.0, 0.0), (0.0, 0.0, np.nan)])
def test_the_ends(routing, neurons, share):
    found = routing_share(np.full((2, 3), routing), np.full((2, 3), neurons), [1, 1], draws=3)
    np.testing.assert_equal(float(found.estimate), share)


def test_draws_do_not_depend_on_anything_but_the_seed():
    random = np.random.default_rng(0)
    parts = random.standard_normal((2, 6, 20))
    first, again, other = (routing_share(*parts, np.arange(1, 7), seed=seed, draws=40) for seed in (1, 1, 2))
    assert first == again
    assert first.low < first.estimate < first.high
    assert other.estimate == first.estimate
    assert other.low != first.low


@pytest.mark.parametrize(
    ("routing", "neurons", "told"),
    [
        ([[1.0, 2.0]], [[1.0]], "expected .R, N. of both"),
        ([1.0], [1.0], "expected 2 axes"),
        ([[np.nan]], [[1.0]], "NaN"),
    ],
)
def test_what_is_no_split_is_refused(routing, neurons, told):
    with pytest.raises(OptionError, match=told):
        routing_share(routing, neurons, [1])
