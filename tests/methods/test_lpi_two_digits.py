"""u from two digits of 8 bits: that no error exceeds its bounds, and that it is small."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gated_lpi.methods.lpi.certified import two_digits
from gated_lpi.methods.lpi.certified.eight_bit import EightBit, packs
from gated_lpi.methods.lpi.certified.two_digits import Lost, TwoDigits
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.models import Readout

supported = two_digits.supported("cpu", two_digits.LEAST_WIDTH, torch.float32)
digits = pytest.mark.skipif(not supported, reason="no fast fused products of 8 bits here")
VOCABULARY = 1300  # no multiple of a pack


def rows_and_vectors(width=96, seed=0, outliers=0.0, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(VOCABULARY, width, generator=generator) + torch.randn(width, generator=generator)
    weight[::7, 3] += outliers
    weight[5::7] *= 1e-12
    weight[11] = 0.0
    vectors = size * torch.randn(9, width, generator=generator)
    vectors[:, 5] *= 1 + outliers
    vectors[2] = 0.0
    return Readout(weight, None, torch.ones(width), None, False, 1e-6), vectors


def found_of(readout, vectors):
    """The digits, û, and u in float64."""
    table = Unembedding(readout)
    rows = TwoDigits(table, EightBit(table))
    encoded = rows.encode(vectors)
    rough = [rows.product(number, encoded, slice(None)) for number, _ in enumerate(packs(VOCABULARY))]
    u = vectors.double() @ (readout.weight.double() - table.mean.double()).T
    return rows, encoded, torch.cat(rough, dim=1).double(), u


@digits
@settings(max_examples=40)
@given(
    width=st.sampled_from([8, 48, 300]),
    seed=st.integers(0, 2**31),
    outliers=st.sampled_from([0.0, 1.0, 1000.0]),
    size=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_no_error_exceeds_its_bounds(width, seed, outliers, size):
    readout, vectors = rows_and_vectors(width, seed, outliers, size)
    rows, encoded, rough, u = found_of(readout, vectors)
    wrong = rows.wrong(torch.linalg.vector_norm(vectors.double(), dim=-1), encoded.lost)
    assert ((rough - u).abs().amax(dim=-1) <= wrong.single).all()
    assert ((rough - u).square().sum(dim=-1).sqrt() <= wrong.together).all()


@digits
@given(seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_nor_does_that_of_a_weighted_sum(seed):
    readout, vectors = rows_and_vectors(seed=seed)
    rows, encoded, rough, u = found_of(readout, vectors)
    weights = torch.randn(4, len(vectors), generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    lost = Lost(*(weights.abs() @ part for part in encoded.lost))
    wrong = rows.wrong(torch.linalg.vector_norm(weights @ vectors.double(), dim=-1), lost)
    error = weights @ (rough - u)
    assert (error.abs().amax(dim=-1) <= wrong.single).all()
    assert (error.square().sum(dim=-1).sqrt() <= wrong.together).all()


@digits
def test_errors_are_some_ten_thousandths_and_bounds_not_far_above_them():
    readout, vectors = rows_and_vectors(width=512)
    rows, encoded, rough, u = found_of(readout, vectors)
    size = u.square().sum(dim=-1).sqrt()
    error = (rough - u).square().sum(dim=-1).sqrt()
    assert (error <= 2e-4 * size).all()
    wrong = rows.wrong(torch.linalg.vector_norm(vectors.double(), dim=-1), encoded.lost)
    assert (wrong.together <= 5e-3 * size + 1e-12).all()


@pytest.mark.parametrize(
    ("device", "width", "dtype"),
    [("cuda", 1024, torch.float32), ("cpu", 64, torch.float32), ("cpu", 1024, torch.float64)],
)
def test_they_are_not_used_where_they_would_not_pay(device, width, dtype):
    assert not two_digits.supported(device, width, dtype)
