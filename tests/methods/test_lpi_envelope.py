"""Envelopes lie above p, their quadratic forms above what they bound, and 8-bit bounds around u."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gated_lpi.methods.lens import base_logits
from gated_lpi.methods.lpi.certified import eight_bit
from gated_lpi.methods.lpi.certified.distribution import distribution
from gated_lpi.methods.lpi.certified.envelope import fitted, fitting_cost, uniform, with_excess
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.models import Readout

vnni = pytest.mark.skipif(not eight_bit.supported("cpu"), reason="no exact and fast 8-bit products on this processor")


def a_block(vocabulary=6000, width=48, n_prompts=7, sharpness=1.0, seed=0):
    """An unembedding, its table, and p of some prompts that agree in part."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    readout = Readout(normal(vocabulary, width), None, torch.ones(width), None, centred=False, eps=1e-6)
    base = sharpness * (normal(1, width) + 0.5 * normal(n_prompts, width)) / 5
    logits = base_logits(readout, base, torch.ones(n_prompts), torch.zeros(n_prompts, dtype=torch.long))
    table = Unembedding(readout)
    return readout, table, distribution(readout, table, base, logits), normal(11, width)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.sampled_from([1025, 3000, 9000]),
    sharpness=st.sampled_from([0.0, 1.0, 10.0]),
    kind=st.sampled_from([uniform, fitted]),
)
def test_the_tail_is_bounded_under_every_envelope(seed, vocabulary, sharpness, kind):
    _, table, p, values = a_block(vocabulary, sharpness=sharpness, seed=seed)
    envelope = kind(table, p)
    u = table.rows(p.order).double() @ values.double().T
    by_rank = p.log_p[:, p.order].double().exp()
    squares = envelope.squares(values)
    for level, tokens in enumerate(p.levels[:-1]):
        seen = envelope.weights[:tokens].double() @ u[:tokens].square()
        bound = envelope.scale[level].unsqueeze(-1) * (1 + 1e-6) * (squares - seen)
        assert (by_rank[:, tokens:] @ u[tokens:].square() <= bound + 1e-12).all()
    assert (envelope.scale[-1] == 0).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.sampled_from([60, 1025, 3000, 9000]),
    sharpness=st.sampled_from([0.0, 1.0, 10.0, 100.0]),
    kind=st.sampled_from([uniform, fitted]),
)
def test_the_tail_is_bounded_where_p_is_cut(seed, vocabulary, sharpness, kind):
    _, table, p, values = a_block(vocabulary, sharpness=sharpness, seed=seed)
    envelope = with_excess(kind(table, p), p)
    outside = p.order[p.levels[-2] :]
    probability, u = p.log_p[:, outside].double().exp(), table.rows(outside).double() @ values.double().T
    weights = torch.full_like(u[:, 0], envelope.beyond)
    listed = envelope.weights[p.levels[-2] :].double()
    weights[: len(listed)] = listed
    for cut, excess in zip(envelope.cuts, envelope.excess, strict=True):
        assert (excess >= (probability - cut.unsqueeze(-1) * weights).clamp_min(0).sum(dim=1)).all()
        bound = cut.unsqueeze(-1) * (weights @ u.square()) + excess.unsqueeze(-1) * u.abs().amax(dim=0).square()
        assert (probability @ u.square() <= bound * (1 + 1e-6)).all()


def test_a_cut_bounds_a_peaked_tail_better_than_its_largest_probability():
    _, table, p, values = a_block(9000, sharpness=3.0)
    envelope = with_excess(uniform(table, p), p)
    u = table.rows(p.order[p.levels[-2] :]).double() @ values.double().T
    whole = envelope.scale[-2].unsqueeze(-1) * u.square().sum(dim=0)
    cut = envelope.cuts.unsqueeze(-1) * u.square().sum(dim=0)
    cut += envelope.excess.unsqueeze(-1) * u.abs().amax(dim=0).square()
    assert float((cut.amin(dim=0) / whole).median()) < 0.6


def test_a_fitted_envelope_is_much_the_tighter_where_prompts_agree():
    _, table, p, values = a_block(9000, sharpness=3.0)
    flat, close = uniform(table, p), fitted(table, p)
    bounds = [envelope.scale[0].unsqueeze(-1) * envelope.squares(values) for envelope in (flat, close)]
    assert (bounds[1] < bounds[0] / 10).all()
    assert fitting_cost(p, 48) > 0


def test_the_mass_of_an_envelope_is_that_of_its_tokens():
    _, table, p, _ = a_block(9000)
    envelope = fitted(table, p)
    largest = p.log_p.amax(dim=0)[p.order].double().exp()
    assert float(envelope.mass[1]) >= float(largest[p.levels[1] :].sum()) * (1 - 1e-5)
    assert float(envelope.mass[0] - envelope.mass[1]) == pytest.approx(float(largest[: p.levels[1]].sum()), rel=1e-4)


@vnni
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), outliers=st.sampled_from([0.0, 1.0, 100.0]), zero=st.booleans())
def test_bounds_from_8_bits_hold(seed, outliers, zero):
    readout, _, p, values = a_block(3000, seed=seed)
    readout.weight[::7, 3] += outliers
    values[:, 5] *= 1 + outliers
    values[2] *= 0 if zero else 1
    table = Unembedding(readout)
    skipped = p.order[: p.levels[-2]]
    (found,) = eight_bit.EightBit(table)([values], skipped)
    u = (readout.weight.double() - table.mean.double()) @ values.double().T
    u[skipped] = 0.0
    assert (found.least <= u.amin(dim=0)).all()
    assert (found.largest >= u.amax(dim=0)).all()


@vnni
def test_bounds_from_8_bits_are_far_tighter_than_norms():
    _, table, p, values = a_block(6000, width=512)
    (found,) = eight_bit.EightBit(table)([values], p.order[:1])
    assert (found.largest < 0.4 * table.longest * torch.linalg.vector_norm(values, dim=-1)).all()


@vnni
def test_bounds_of_parts_are_those_of_their_units():
    _, table, p, values = a_block(6000)
    find = eight_bit.EightBit(table)
    (together,) = find([values], p.order[:1])
    one, other = find([values[:4], values[4:]], p.order[:1])
    assert torch.equal(torch.cat([one.least, other.least]), together.least)
    assert torch.equal(torch.cat([one.largest, other.largest]), together.largest)
