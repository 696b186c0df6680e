from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.errors import OptionError
from gated_lpi.training.schedule import checkpoint_steps, learning_rate_factor


@given(st.data())
def test_as_many_as_asked_from_zero_to_the_last(data):
    steps = data.draw(st.integers(1, 5000))
    count = data.draw(st.integers(2, min(steps + 1, 200)))
    chosen = checkpoint_steps(steps, count, data.draw(st.sampled_from(["log", "linear", "mixed"])))
    assert len(chosen) == count
    assert chosen[0] == 0
    assert chosen[-1] == steps
    assert all(later > earlier for earlier, later in pairwise(chosen))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("spacing", ["log", "linear", "mixed"])
def test_every_step_can_be_kept(steps, spacing):
    assert checkpoint_steps(steps, steps + 1, spacing) == tuple(range(steps + 1))


def test_linear_and_mixed_spacing():
    assert checkpoint_steps(1000, 5, "linear") == (0, 250, 500, 750, 1000)
    assert checkpoint_steps(10, 4, "linear") == (0, 3, 7, 10)
    assert checkpoint_steps(1000, 7, "mixed") == (0, 1, 10, 100, 400, 700, 1000)
    assert checkpoint_steps(1000, 2, "mixed") == (0, 1000)
    assert checkpoint_steps(1000, 3, "mixed") == (0, 100, 1000)
    assert checkpoint_steps(20, 9, "mixed") == (0, 1, 2, 5, 8, 11, 14, 17, 20)


def test_log_spaced():
    assert checkpoint_steps(1000, 5) == (0, 1, 10, 100, 1000)
    assert checkpoint_steps(200, 14) == (0, 1, 2, 3, 4, 6, 9, 14, 22, 34, 53, 83, 129, 200)


@pytest.mark.parametrize(("steps", "count"), [(10, 1), (10, 0), (10, 12), (0, 2)])
def test_too_few_or_too_many(steps, count):
    with pytest.raises(OptionError, match=f"{count} checkpoints asked of {steps} training steps"):
        checkpoint_steps(steps, count)


@given(st.integers(1, 300), st.integers(0, 40), st.sampled_from(["linear", "cosine", "constant"]))
def test_learning_rate_is_positive_at_every_step(steps, warmup, decay):
    factors = [learning_rate_factor(done, steps, warmup, decay) for done in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert learning_rate_factor(steps, steps, warmup, decay) == 0
    rising, falling = factors[:warmup], factors[warmup:]
    assert all(later > earlier for earlier, later in pairwise(rising))
    assert all(later <= earlier for earlier, later in pairwise(falling))


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.853553, 0.5, 0.146447]),
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
    ],
)
def test_learning_rate_by_hand(decay, expected):
    assert [learning_rate_factor(done, 6, 2, decay) for done in range(6)] == pytest.approx(expected, abs=1e-6)
