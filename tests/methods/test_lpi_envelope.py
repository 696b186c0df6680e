"""Envelopes lie above p, their quadratic forms above what they bound, and 8-bit bounds around u."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gated_lpi.methods.lens import base_logits
from gated_lpi.methods.lpi.certified import blocks, eight_bit
from gated_lpi.methods.lpi.certified.distribution import distribution
from gated_lpi.methods.lpi.certified.envelope import fitted, fitting_cost, uniform
from gated_lpi.methods.lpi.certified.moments import FoldedUnits, outside_by_eight_bit
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.problem import BlockProblem
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
@given(
    seed=st.integers(0, 2**31),
    outliers=st.sampled_from([0.0, 1.0, 100.0]),
    zero=st.booleans(),
    sharpness=st.sampled_from([0.0, 1.0, 10.0]),
    size=st.sampled_from([1e-12, 1.0, 1e8]),
)
def test_bounds_from_8_bits_hold(seed, outliers, zero, sharpness, size):
    readout, _, p, values = a_block(3000, seed=seed, sharpness=sharpness)
    readout.weight[::7, 3] += outliers
    readout.weight[5::7] *= 1e-12
    values[:, 5] *= 1 + outliers
    values[2] *= 0 if zero else 1
    values *= size
    table = Unembedding(readout)
    (found,) = outside_by_eight_bit(eight_bit.EightBit(table), p, [FoldedUnits(values, None)], 1)
    u = (readout.weight.double() - table.mean.double()) @ values.double().T
    probability = p.log_p.double().exp()
    u[p.order[:1024]], probability[:, p.order[:1024]] = 0.0, 0.0
    assert (found.least <= u.amin(dim=0)).all()
    assert (found.largest >= u.amax(dim=0)).all()
    true, rough = (probability @ u.square()).sqrt(), found.second.sqrt()
    allowed = p.tail_max[1].sqrt().unsqueeze(-1) * found.wrong
    assert ((true - rough).abs() <= allowed + found.rounding * rough).all()


def test_log_z_is_made_exact_for_as_many_tokens_as_it_takes(monkeypatch):
    readout, table, _, _ = a_block(9000, width=512)
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(6, 512, generator=generator) * torch.tensor([0.02, 0.05, 0.1, 0.1, 0.15, 0.2]).unsqueeze(-1)
    targets = torch.randint(9000, (6,), generator=generator)
    problem = BlockProblem(readout, base, torch.ones(6), targets, (), 0)
    p = distribution(readout, table, base, problem.base_logits)
    logits = base.double() @ readout.weight.double().T
    true = logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    asked = []
    found = blocks.float64_logits
    monkeypatch.setattr(blocks, "float64_logits", lambda *given: asked.append(given[1:]) or found(*given))
    first = blocks.target_log_p(problem, p, torch.inf, 2**24)
    assert not asked
    more = blocks.target_log_p(problem, p, 0.6 * float(first.error.max()), 2**24)
    assert len(asked) == 1
    assert float(more.error.max()) < 0.6 * float(first.error.max())
    every = blocks.target_log_p(problem, p, 1e-9, 2**24)
    assert [len(given) for given in asked[1:]] == [2, 1]
    for known in (first, more, every):
        assert ((known.log_p - true).abs() <= known.error).all()
    assert float((every.log_p - true).abs().max()) < 1e-10


CODES = """
import sys, torch
from gated_lpi.methods.lpi.certified import blocks, eight_bit
largest = eight_bit.largest_code("cpu")
generator = torch.Generator().manual_seed(0)
for shape in ((300, 200), (5, 1), (1, 70)):
    drawn = [torch.randint(-largest, largest + 1, (n, 576), generator=generator) for n in shape]
    left, right = (codes.to(torch.int8) for codes in drawn)
    left[:, :64], right[:, :64] = largest, -largest
    true = left.double() @ right.T.double()
    assert torch.equal(torch._int_mm(left, right.T).double(), true)
    assert not eight_bit.fused("cpu") or torch.equal(eight_bit._multiply_fused(left, right).double(), true)
assert largest == eight_bit.WITH_VNNI or not eight_bit.fused("cpu")
print(largest)
"""


@vnni
@pytest.mark.parametrize("isa", ["AVX2", *(pytest.param(isa, marks=pytest.mark.slow) for isa in ("AVX512_CORE", None))])
@pytest.mark.slow
def test_codes_are_as_large_as_this_processes_products_are_exact_for(isa):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | ({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})
    done = subprocess.run([sys.executable, "-c", CODES], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == (eight_bit.WITHOUT if isa else eight_bit.largest_code("cpu"))


def ways():
    """Codes and whether products are fused, and their squares summed in bfloat16, on this processor."""
    own = eight_bit.largest_code("cpu")
    plain = [(largest, False, False) for largest in (eight_bit.WITHOUT, eight_bit.WITH_VNNI) if largest <= own]
    narrow = [True] if eight_bit.bfloat16_pays("cpu") else []
    return plain + [(own, True, pays) for pays in [False, *narrow] if eight_bit.fused("cpu")]


@vnni
@pytest.mark.parametrize("vocabulary", [6000, 1030])  # the last tile of tokens is a short one
def test_every_way_to_multiply_codes_bounds_the_tail(vocabulary, monkeypatch):
    readout, table, p, values = a_block(vocabulary, width=512, sharpness=0.2)
    outside = p.order[p.levels[1] :]
    u, probability = (readout.weight - table.mean).double() @ values.double().T, p.log_p.double().exp()
    u, probability = u[outside], probability[:, outside]
    found, every = {}, ways()
    for way in every:
        largest, fused, narrow = way
        monkeypatch.setattr(eight_bit, "largest_code", lambda _, largest=largest: largest)
        monkeypatch.setattr(eight_bit, "fused", lambda _, fused=fused: fused)
        monkeypatch.setattr(eight_bit, "bfloat16_pays", lambda _, narrow=narrow: narrow)
        (found[way],) = outside_by_eight_bit(eight_bit.EightBit(table), p, [FoldedUnits(values, None)], 1)
        assert (found[way].largest >= u.amax(dim=0)).all()
        assert (found[way].least <= u.amin(dim=0)).all()
        allowed, rough = p.tail_max[1].sqrt().unsqueeze(-1) * found[way].wrong, found[way].second.sqrt()
        assert ((probability @ u.square()).sqrt() - rough <= allowed + found[way].rounding * rough).all()
    for way, tail in found.items():
        ratio = tail.wrong / found[every[0]].wrong
        assert (ratio == 1).all() if way[0] == eight_bit.WITHOUT else ((ratio > 1 / 1.9) & (ratio < 1 / 1.3)).all()
        if way[1]:
            assert torch.allclose(tail.second, found[way[0], False, False].second, rtol=tail.rounding)
            assert torch.allclose(tail.largest, found[way[0], False, False].largest, rtol=1e-5)


@vnni
def test_bounds_from_8_bits_are_far_tighter_than_norms():
    _, table, p, values = a_block(6000, width=512, sharpness=0.2)
    (found,) = outside_by_eight_bit(eight_bit.EightBit(table), p, [FoldedUnits(values, None)], 1)
    assert (found.largest < 0.4 * table.longest * torch.linalg.vector_norm(values, dim=-1)).all()
    allowed = p.tail_max[1].sqrt().unsqueeze(-1) * found.wrong
    assert (allowed < 0.1 * found.second.sqrt()).all()


@vnni
def test_bounds_of_parts_are_those_of_their_units():
    _, table, p, values = a_block(6000)
    find, some = eight_bit.EightBit(table), torch.tensor([1, 4])
    (together,) = outside_by_eight_bit(find, p, [FoldedUnits(values, None)], 2)
    one, other = outside_by_eight_bit(find, p, [FoldedUnits(values[:4], None), FoldedUnits(values[4:], some)], 2)
    for name in ("least", "largest"):
        parts = torch.cat([getattr(one, name), getattr(other, name)])
        assert torch.equal(parts, getattr(together, name))
    assert torch.allclose(torch.cat([one.wrong, other.wrong]), together.wrong)
    assert torch.allclose(one.second, together.second[:, :4], rtol=one.rounding)
    assert torch.allclose(other.second, together.second[some, 4:], rtol=one.rounding)
