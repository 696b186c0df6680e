"""The step from which a series stays above a threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.errors import OptionError
from gated_lpi.metrics import consolidation_step

STEPS = [10, 20, 40, 80]
NAN = float("nan")


@pytest.mark.parametrize(
    ("series", "step"),
    [
        ([0.1, 0.2, 0.6, 0.9], 40),
        ([0.9, 0.2, 0.6, 0.9], 40),  # an early rise that does not last does not count
        ([0.5, 0.5, 0.5, 0.5], 10),  # at the threshold counts as above
        ([0.1, 0.2, 0.3, 0.5], 80),
        ([0.9, 0.9, 0.9, 0.4], None),  # it must stay there to the end
        ([0.9, NAN, 0.6, 0.9], 40),  # NaN is below
        ([0.9, 0.9, 0.9, NAN], None),
    ],
)
def test_the_first_step_that_holds(series: list[float], step: int | None) -> None:
    assert consolidation_step(series, STEPS, 0.5) == step


def test_no_entries_never_settle() -> None:
    assert consolidation_step([], [], 0.5) is None


def test_mismatched_steps_are_refused() -> None:
    with pytest.raises(OptionError, match=r"series has shape \(3,\) and steps \(4,\)"):
        consolidation_step([0.1, 0.2, 0.3], STEPS, 0.5)
    with pytest.raises(OptionError, match="threshold is NaN"):
        consolidation_step([0.1, 0.2, 0.3, 0.4], STEPS, NAN)


@given(st.lists(st.floats(0, 1) | st.just(NAN), min_size=1, max_size=20), st.floats(0, 1))
def test_everything_from_the_step_on_holds_and_the_entry_before_does_not(series: list[float], threshold: float) -> None:
    step = consolidation_step(series, range(len(series)), threshold)
    values = np.array(series)
    first = len(series) if step is None else step
    assert (values[first:] >= threshold).all()
    assert first == 0 or not values[first - 1] >= threshold
