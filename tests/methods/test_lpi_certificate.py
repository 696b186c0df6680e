"""The lemmas of docs/certificate.md, and that an interval holds for any split of the vocabulary."""

from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gated_lpi.methods.lpi.certified.certificate import SAFETY, TILE_BYTES, Moments, Pairs, Region, certify, phi, psi

TOLERANCE = 1e-3
EXACT = [
    -1e12,
    -1e9,
    -3e6,
    -1e6,
    -1000.0,
    -37.5,
    -5.0,
    -2.01,
    -1.99,
    -0.51,
    -0.49,
    -0.31,
    -0.29,
    -0.011,
    -0.009,
    -1e-5,
    0.0,
]
EXACT += [1e-9, 0.009, 0.011, 0.29, 0.31, 0.49, 0.51, 1.0, 1.99, 2.01, 5.0, 29.0]


@pytest.mark.parametrize(("dtype", "wrong"), [(torch.float64, 3e-10), (torch.float32, 2e-6)])
@pytest.mark.parametrize(("function", "order"), [(phi, 2), (psi, 4)])
def test_phi_and_psi_to_the_last_digits(function, order, dtype, wrong):
    given_to_it = torch.tensor(EXACT, dtype=dtype)
    values = function(given_to_it).tolist()
    with mpmath.workdps(60):
        for y, found in zip(given_to_it.tolist(), values, strict=True):
            terms = [mpmath.mpf(y) ** k / mpmath.factorial(k) for k in range(order)]
            true = (mpmath.exp(y) - sum(terms)) / mpmath.mpf(y) ** order if y else 1 / mpmath.factorial(order)
            assert found == pytest.approx(float(true), rel=wrong)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(st.lists(st.floats(-60, 29) | st.floats(-1e15, -60), min_size=2, max_size=30))
def test_phi_and_psi_increase(dtype, points):
    y = torch.tensor(sorted(points), dtype=dtype)
    for function in (phi, psi):
        values = function(y)
        assert (values > 0).all()
        assert (values.diff() >= -SAFETY[dtype] / 10 * values[1:]).all()


def ingredients(seed, spread, concentration):
    """p [1, 60] in descending order, u [4, 60], c [1, 4] and a target."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    p = (concentration * normal(1, 60)).softmax(dim=-1).sort(descending=True).values
    u, c = normal(4, 60), spread * normal(1, 4)
    return p, u, c, int(torch.randint(60, (1,), generator=generator))


def weights_of(seed, p, fitted):
    """Weights of an envelope, [60]: 1, or p times something that is not the same for all tokens."""
    if not fitted:
        return torch.ones(60, dtype=torch.float64)
    factor = torch.rand(60, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return (p.squeeze(0) * (0.5 + factor)).clamp_min(1e-30)


def split(seed, inside, spread, concentration, four, shift, fitted=False, reach=False, above=False, noise=0.1):
    """One prompt and four units over 60 tokens, `inside` of which are looked at: the truth, the certificate's input."""
    p, u, c, target = ingredients(seed, spread, concentration)
    mean = p @ u.T
    a = mean + shift * 1e-3 / c.abs().clamp_min(1e-6)
    true = c * u[:, target] - torch.log((p.unsqueeze(1) * torch.exp(c.unsqueeze(-1) * u)).sum(-1))
    seen, u_seen = p[:, :inside], u[:, :inside]
    sums = [seen @ (u_seen**k).T for k in (1, 2, 3, 4)]
    least = u_seen.amin(dim=1) if inside else torch.zeros(4, dtype=torch.float64)
    largest = u_seen.amax(dim=1) if inside else torch.zeros(4, dtype=torch.float64)
    q = weights_of(seed, p, fitted)
    moments = Moments(sums[0], sums[1], u_seen.square() @ q[:inside], least, largest, *(sums[2:] if four else ()))
    if reach and inside < 60:
        beyond, generator = u[:, inside:], torch.Generator().manual_seed(seed + 2)
        rough = beyond * (1 + noise * torch.randn(beyond.shape, generator=generator, dtype=torch.float64))
        y = c.unsqueeze(-1) * (rough - a.unsqueeze(-1))
        moments = moments._replace(
            outside_least=torch.minimum(beyond, rough).amin(dim=1),
            outside_largest=torch.maximum(beyond, rough).amax(dim=1),
            outside_second=p[:, inside:] @ rough.square().T,
            outside_above=(p[:, None, inside:] * (torch.expm1(y) - y)).sum(dim=-1) if above else None,
            outside_wrong=(rough - beyond).square().sum(dim=1).sqrt() * (1 + 1e-6),
        )
    length = u.abs().amax(dim=1)  # as if rows had length 1
    pairs = Pairs(
        c=c,
        shift=a,
        gain=c * (u[:, target] - a),
        length=length * (1 + 1e-6),
        shift_error=((mean - a).abs() / length).amax(dim=1, keepdim=True) * (1 + 1e-9),
        gain_error=torch.zeros(1, 1, dtype=torch.float64),
        squares=u.square() @ q,
    )
    nothing = torch.zeros(1, 1, dtype=torch.float64)
    region = Region(
        inside=seen.sum(dim=1, keepdim=True),
        outside=p[:, inside:].sum(dim=1, keepdim=True),
        tail_scale=(p / q)[:, inside:].amax(dim=1, keepdim=True) if inside < 60 else nothing,
        tail_max=p[:, inside:].amax(dim=1, keepdim=True) if inside < 60 else nothing,
        tail_weight=q[inside:].sum(),
        tail_norm=torch.tensor(1.0, dtype=torch.float64),
        inside_norm=1.0,
        inside_tokens=inside,
        tail_tokens=60 - inside,
        outside_head=nothing,
        outside_error=nothing,
        error=nothing,
        head_error=nothing,
        storage=nothing,
        unit_rounding=0.0,
        sum_rounding=0.0,
        storing=0.0,
    )
    return true, pairs, moments, region


BEYOND: list[dict[str, Any]] = [  # what is known of the tokens that are not looked at
    {},
    {"reach": True},
    *({"reach": True, "above": True, "noise": noise} for noise in (0.1, 1e-4)),
]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    inside=st.sampled_from([0, 1, 10, 59, 60]),
    spread=st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 5.0]),
    concentration=st.sampled_from([0.0, 1.0, 10.0]),
    four=st.booleans(),
    shift=st.sampled_from([0.0, 1.0]),
    fitted=st.booleans(),
    beyond=st.sampled_from(BEYOND),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_the_interval_holds_for_any_split(seed, inside, spread, concentration, four, shift, fitted, beyond, dtype):
    true, pairs, moments, region = split(seed, inside, spread, concentration, four, shift, fitted, **beyond)
    found = certify(in_dtype(pairs, dtype), moments, region, TOLERANCE)
    assert ((found.score - true).abs() <= found.bound + 1e-14).all()  # the truth itself is rounded


def term_by_term(seed, inside, spread, concentration, dtype):
    """As `split`, with Σ p·g(y) over the tokens that are looked at, computed in the certificate's dtype."""
    true, pairs, moments, region = split(seed, inside, spread, concentration, four=False, shift=1.0)
    p, u, *_ = ingredients(seed, spread, concentration)
    pairs = in_dtype(pairs, dtype)
    y = pairs.c.T * (u[:, :inside].to(dtype) - pairs.shift.T)
    above = (torch.expm1(y) - y) @ p[:, :inside].T.to(dtype)
    return true, pairs, moments._replace(above=above.T.double()), region


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    inside=st.sampled_from([1, 10, 59, 60]),
    spread=st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 5.0]),
    concentration=st.sampled_from([0.0, 1.0, 10.0]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_the_interval_holds_where_tokens_were_summed_term_by_term(seed, inside, spread, concentration, dtype):
    true, *given = term_by_term(seed, inside, spread, concentration, dtype)
    found = certify(*given, TOLERANCE)
    assert ((found.score - true).abs() <= found.bound + 1e-14).all()


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-7), (torch.float32, 1e-3)])
def test_summed_term_by_term_nothing_but_rounding_is_open(dtype, rounding):
    """Where two moments, or four, would say little: contributions that move logits by several nats."""
    _, *given = term_by_term(7, 60, 3.0, 1.0, dtype)
    _, pairs, moments, region = split(7, 60, 3.0, 1.0, four=True, shift=1.0)
    by_moments = certify(pairs, moments, region, TOLERANCE).bound
    bound = certify(*given, TOLERANCE).bound
    reached = bound.isfinite()
    assert reached.sum() >= 3
    # E_p[y], which the split is off by on purpose, is no matter of the tokens.
    assert (bound[reached] < 0.1 * by_moments[reached]).any()
    less = given[0]._replace(shift_error=torch.zeros_like(given[0].shift_error))
    assert (certify(less, *given[1:], TOLERANCE).bound[reached] < rounding).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_so_is_it_beyond_them_where_the_rough_logits_are_nearly_right(dtype):
    _, *given = split(7, 10, 3.0, 1.0, False, 0.0, reach=True, above=True, noise=1e-7)
    _, *less = split(7, 10, 3.0, 1.0, False, 0.0, reach=True, noise=1e-7)
    less[0], given[0] = in_dtype(less[0], dtype), in_dtype(given[0], dtype)
    bound, without = certify(*given, TOLERANCE).bound, certify(*less, TOLERANCE).bound
    inside = certify(*term_by_term(7, 60, 3.0, 1.0, dtype)[1:], TOLERANCE).bound
    assert (bound <= without).all()
    assert (bound < without).any()
    assert inside.isfinite().sum() >= 3


def in_dtype(pairs, dtype):
    """What is stored of pairs in the certificate's dtype."""
    c, shift, gain = (part.to(dtype) for part in (pairs.c, pairs.shift, pairs.gain))
    return pairs._replace(c=c, shift=shift, gain=gain, length=pairs.length.to(dtype))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    inside=st.sampled_from([0, 10, 59, 60]),
    spread=st.sampled_from([1e-20, 1e-6, 0.01, 0.5, 3.0, 1e12]),
    four=st.booleans(),
)
def test_float32_costs_little(seed, inside, spread, four):
    _, pairs, moments, region = split(seed, inside, spread, 1.0, four, 0.0)
    wide, narrow = (certify(in_dtype(pairs, dtype), moments, region, 1e-9) for dtype in SAFETY)
    usable = wide.bound < 1
    assert (narrow.bound <= 1.01 * wide.bound + 1e-4)[usable].all()


def test_four_moments_and_more_tokens_narrow_the_interval():
    widths = {}
    for inside, four in ((0, False), (30, False), (60, False), (60, True)):
        _, pairs, moments, region = split(7, inside, 0.3, 1.0, four, 0.0)
        widths[inside, four] = float(certify(pairs, moments, region, TOLERANCE).bound.max())
    assert widths[0, False] > widths[30, False] > widths[60, False] > 10 * widths[60, True] > 0


def test_a_better_envelope_and_a_rough_u_narrow_the_interval():
    widths = []
    for fitted, reach in ((False, False), (True, False), (True, True)):
        _, pairs, moments, region = split(7, 10, 0.3, 1.0, False, 0.0, fitted, reach)
        widths.append(float(certify(pairs, moments, region, TOLERANCE).bound.max()))
    assert widths[0] > widths[1] > widths[2] > 0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([1e-4, 1e-3, 1e-2]), spread=st.sampled_from([0.01, 0.3]))
def test_errors_of_log_p_are_covered(seed, size, spread):
    _, pairs, moments, region = split(seed, 60, spread, 1.0, True, 0.0)
    found = certify(
        pairs, moments, region._replace(error=region.error + size, head_error=region.head_error + size), TOLERANCE
    )
    # The certificate was made from p; the truth is another p, whose logarithm differs by up to `size`.
    p, u, c, target = ingredients(seed, spread, 1.0)
    generator = torch.Generator().manual_seed(seed)
    wrong = size * (2 * torch.rand(1, 60, generator=generator, dtype=torch.float64) - 1)
    other = (p.log() + wrong).softmax(dim=-1)
    true = c * u[:, target] - torch.log((other.unsqueeze(1) * torch.exp(c.unsqueeze(-1) * u)).sum(-1))
    assert ((found.score - true).abs() <= found.bound + 1e-12).all()


def test_a_large_matrix_of_pairs_is_worked_through_in_tiles():
    _, pairs, moments, region = split(3, 30, 0.1, 1.0, True, 0.0)
    n = TILE_BYTES // 16
    many = pairs.units(torch.arange(4).repeat(n))
    sums = moments.units(torch.arange(4).repeat(n))
    few, all_of_them = certify(pairs, moments, region, TOLERANCE), certify(many, sums, region, TOLERANCE)
    assert torch.equal(all_of_them.bound, few.bound.repeat(1, n))
    assert torch.equal(all_of_them.score, few.score.repeat(1, n))
