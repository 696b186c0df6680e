"""Every product whose rounding a certificate counts on, against float64."""

import pytest
import torch

from gated_lpi.methods.rounding import (
    GRAM_ROWS,
    BlockedProduct,
    frobenius,
    gram,
    gram_gamma,
    product_gamma,
    quadratic_form,
    quadratic_gamma,
    sum_in_runs,
    wide_products,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 255, 256, 257, 1000])
def test_a_product_in_pieces_is_within_its_bound(length):
    left, right = normal(30, length), normal(length, 20, seed=1)
    multiply = BlockedProduct(40, 20, left)
    found = multiply(left, right)
    error = (found.double() - left.double() @ right.double()).abs()
    assert (error <= product_gamma(length, torch.float32) * (left.abs().double() @ right.abs().double())).all()


def test_a_shorter_product_uses_the_same_room():
    left, right = normal(30, 300), normal(300, 20, seed=1)
    multiply = BlockedProduct(30, 20, left)
    multiply(left, right)
    assert torch.allclose(multiply(left[:7], right[:, :5]), left[:7] @ right[:, :5], atol=1e-4)


@pytest.mark.parametrize("width", [3, 512, 700])
def test_a_gram_is_that_of_all_rows(width):
    rows = normal(2 * GRAM_ROWS + 11, width)
    before = torch.eye(width, dtype=torch.float64)
    found = gram(rows.split(GRAM_ROWS), before.clone()) - before
    true = rows.double().T @ rows.double()
    size = rows.abs().double().T @ rows.abs().double()
    lower = torch.ones_like(true).tril().bool()
    assert ((found - true).abs() <= gram_gamma(torch.float32) * size + 1e-12)[lower].all()
    assert float(true.norm()) <= frobenius(found)


def test_a_gram_of_more_rows_at_a_time_than_are_bounded_is_refused():
    with pytest.raises(ValueError, match=str(GRAM_ROWS)):
        gram([normal(GRAM_ROWS + 1, 4)], torch.zeros(4, 4, dtype=torch.float64))


@pytest.mark.parametrize("width", [3, 512, 700, 1300])
def test_a_quadratic_form_by_half_of_the_matrix(width):
    rows, values = normal(width, width, seed=2), normal(9, width)
    matrix = rows @ rows.T
    matrix = (matrix + matrix.T) / 2
    true = ((values.double() @ matrix.double()) * values.double()).sum(dim=-1)
    size = ((values.abs().double() @ matrix.abs().double()) * values.abs().double()).sum(dim=-1)
    assert ((quadratic_form(values, matrix) - true).abs() <= quadratic_gamma(torch.float32) * size).all()


@pytest.mark.parametrize("length", [1, 127, 128, 1000])
def test_a_sum_in_runs(length):
    terms = normal(4, length)
    assert torch.allclose(sum_in_runs(terms), terms.double().sum(dim=-1), atol=1e-4)
    assert sum_in_runs(terms).dtype == torch.float64


@pytest.mark.parametrize("rows", [1, 512, 1300])
def test_products_with_rows_converted_a_few_at_a_time(rows):
    left, right = normal(5, 8).double(), normal(rows, 8, seed=1)
    assert torch.allclose(wide_products(left, right), left @ right.double().T, rtol=1e-13)
