"""The series is right to the dtype's last digits wherever it says so, and does not hide what it leaves out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from gated_lpi.methods.lpi.chebyshev import MAX_ORDER, MAX_Y, _bessel, _tail, log_mean_exp


def weights(kind, generator, prompts, vocabulary):
    if kind == "flat":
        return torch.full((prompts, vocabulary), 1 / vocabulary, dtype=torch.float64)
    if kind == "one-hot":
        return torch.eye(vocabulary, dtype=torch.float64)[torch.randint(vocabulary, (prompts,), generator=generator)]
    return torch.softmax(4 * torch.randn(prompts, vocabulary, generator=generator, dtype=torch.float64), dim=-1)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.sampled_from([1, 2, 50, 900]),
    kind=st.sampled_from(["flat", "one-hot", "peaked"]),
    magnitude=st.floats(-8, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_what_is_done_is_right(seed, vocabulary, kind, magnitude, dtype):
    generator = torch.Generator().manual_seed(seed)
    c = torch.randn(4, 6, generator=generator, dtype=torch.float64) * 10**magnitude
    u = torch.randn(6, vocabulary, generator=generator, dtype=torch.float64)
    p = weights(kind, generator, 4, vocabulary)
    found = log_mean_exp(c.to(dtype), u.to(dtype), p.to(dtype))
    true = torch.logsumexp(p.log().unsqueeze(1) + c.unsqueeze(-1) * u, dim=-1)
    # Rounding: of p and u in the dtype, times the size of the exponent, times e^{2|y|} for the sum.
    size = 1 + (c.abs() * u.abs().amax(-1))
    error = (found.log_mean.double() - true).abs() / size
    assert bool((error[found.done] <= 150 * torch.finfo(dtype).eps).all())
    y = c.abs() * (u.amax(-1) - u.amin(-1)) / 2
    assert not bool(found.done[y > MAX_Y * 1.001].any())
    assert bool(found.done[y < 1e-3].all())


def test_coefficients_are_bessel_functions():
    y = torch.linspace(-MAX_Y, MAX_Y, 41, dtype=torch.float64)
    for order in range(MAX_ORDER + 1):
        expected = torch.from_numpy(special.iv(order, y.numpy()))
        assert torch.allclose(_bessel(order, y), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("order", range(1, MAX_ORDER + 1))
def test_the_tail_bounds_what_is_cut_off(order):
    y = torch.linspace(1e-3, MAX_Y, 50, dtype=torch.float64)
    cut_off = sum(2 * torch.from_numpy(special.iv(k, y.numpy())) for k in range(order + 1, order + 60))
    bound = _tail(order, y)
    assert bool((cut_off * y.exp() <= bound * (1 + 1e-12)).all())
    assert bool((bound <= 20 * cut_off * y.exp()).all())  # and not by an idle margin


def test_a_unit_that_moves_all_logits_alike_scores_nothing():
    u = torch.full((1, 7), 3.0)
    found = log_mean_exp(torch.tensor([[0.5]]), u, torch.full((1, 7), 1 / 7))
    assert bool(found.done.all())
    assert found.log_mean.item() == pytest.approx(1.5)
