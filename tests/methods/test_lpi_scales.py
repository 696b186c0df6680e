"""Bounds where numbers are so small or large that their squares leave the range of float32."""

import pytest
import torch
from benchmarks.scorer import Scorer

from flat import certified
from gated_lpi.methods import BlockProblem
from gated_lpi.methods.lpi.certified import contributions, eight_bit, estimator
from gated_lpi.methods.lpi.certified.envelope import uniform
from gated_lpi.methods.lpi.groups import Summed
from gated_lpi.methods.rounding import into_range, lengths
from gated_lpi.models import Readout
from gated_lpi.trace import Slab

TOLERANCE = 1e-3
PROMPTS, UNITS, VOCABULARY, WIDTH = 5, 40, 6000, 16

# By how much value vectors, rows of the unembedding, and the residual stream are multiplied; what they give stays.
SCALES = {
    "as it is": (1.0, 1.0, 1.0),
    "small value vectors": (1e-25, 1.0, 1.0),
    "smallest value vectors": (1e-37, 1.0, 1.0),
    "small enough for fourth powers": (1e-11, 1.0, 1.0),
    "large value vectors": (1e20, 1.0, 1.0),
    "small unembedding": (1.0, 1e-25, 1.0),
    "large unembedding": (1.0, 1e15, 1.0),
    "small residual stream": (1.0, 1.0, 1e-25),
    "all of them": (1e-25, 1e-22, 1e-20),
}


def problem(scales, strength):
    """Units that move the logits by about `strength`, whatever the scales."""
    of_values, of_rows, of_stream = scales
    generator = torch.Generator().manual_seed(3)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    weight, base, values = normal(VOCABULARY, WIDTH), normal(PROMPTS, WIDTH), normal(UNITS, WIDTH)
    coefficients = strength * normal(PROMPTS, UNITS).double() * torch.logspace(-3, 0, UNITS, dtype=torch.float64)
    gamma = torch.full((WIDTH,), 1 / of_rows)
    readout = Readout(weight * of_rows, None, gamma, None, centred=False, eps=0.0)
    slab = Slab(0, values * of_values, coefficients * of_stream / of_values, None)
    scale = torch.full((PROMPTS,), 0.5 / of_stream)
    targets = torch.arange(PROMPTS) * 7
    return BlockProblem(readout, base * of_stream, scale, targets, (slab,), UNITS)


def scores_of(given, vectors):
    """Scores of `vectors` [P, n, d] from the equation in float64, [P, n]."""
    readout, scale = given.readout.to(dtype=torch.float64), given.inverse_scale.double()
    rows = torch.arange(PROMPTS)
    before = readout.logits(given.base.double(), scale).log_softmax(-1)[rows, given.targets]
    changed = given.base.double().unsqueeze(1) + vectors
    after = readout.logits(changed, scale.unsqueeze(-1)).log_softmax(-1)[rows, :, given.targets]
    return after - before.unsqueeze(-1)


@pytest.mark.parametrize("strength", [0.05, 1.0, 8.0])
@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_bounds_of_units_hold_at_any_scale(scales, strength):
    given = problem(scales, strength)
    (slab,) = given.slabs
    found = certified(given, TOLERANCE)
    true = scores_of(given, slab.coefficients.unsqueeze(-1) * slab.values.double())
    assert true.abs().max() > strength / 10
    assert ((found.scores - true).abs() <= found.error_bound.unsqueeze(-1)).all()
    assert (found.error_bound <= TOLERANCE).all()
    assert (found.error_bound > 0).all()


@pytest.mark.parametrize("strength", [0.05, 1.0, 8.0])
@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_bounds_of_groups_hold_at_any_scale(scales, strength):
    given = problem(scales, strength)
    (slab,) = given.slabs
    each = slab.coefficients.unsqueeze(-1) * slab.values.double()
    heads = each.unflatten(1, (4, -1)).sum(dim=2)
    group, prompt = torch.arange(4).repeat_interleave(PROMPTS), torch.arange(PROMPTS).repeat(4)
    vectors = heads[prompt, group]
    prepared = Scorer(given.readout, TOLERANCE).prepared
    laid = estimator._laid_out(prepared, given)
    summed = Summed(vectors, 1e-15 * vectors.norm(dim=-1), prompt, group)
    found = contributions.Vectors(prepared, given, laid, summed, TOLERANCE).score()
    assert ((found.scores - scores_of(given, heads)[prompt, group]).abs() <= found.bound).all()
    assert (found.bound <= TOLERANCE).all()


@pytest.mark.parametrize("size", [1e-40, 1e-25, 1e-12, 1e20])
def test_what_bounds_the_tokens_that_are_not_looked_at_holds_at_any_scale(size):
    given = problem(SCALES["as it is"], 1.0)
    prepared = Scorer(given.readout, TOLERANCE).prepared
    p, table = estimator._laid_out(prepared, given).p, prepared.table
    vectors = given.slabs[0].values * size
    u = (given.readout.weight.double() - table.mean.double()) @ vectors.double().T
    assert (uniform(table, p).squares(vectors) >= u.square().sum(dim=0)).all()
    if not eight_bit.supported("cpu"):
        return
    second = torch.zeros(UNITS, PROMPTS, dtype=torch.float64)

    def take(here, square, weight):
        second[here] += square.double() @ weight.T.double()

    ends = prepared.eight_bit(vectors, p, 1, take)
    outside = p.order[p.levels[1] :]
    assert (ends.least <= u[outside].amin(dim=0)).all()
    assert (ends.largest >= u[outside].amax(dim=0)).all()
    true = (p.log_p[:, outside].double().exp() @ u[outside].square()).sqrt()
    rough = (second * ends.scale.square().unsqueeze(-1)).sqrt().T
    off = p.tail_max[1].sqrt().unsqueeze(-1) * ends.wrong
    assert ((true - rough).abs() <= off * 1.001).all()
    assert (off > 0).all()


def test_lengths_of_small_and_large_vectors_are_not_lost():
    rows = torch.ones(4, 9) * torch.tensor([[1e-40], [1e-25], [1.0], [1e30]])
    true = torch.linalg.vector_norm(rows.double(), dim=-1)
    found = lengths(rows)
    assert (found >= true).all()
    assert (found <= true * (1 + 1e-12)).all()


def test_sizes_out_of_range_are_brought_near_one_exactly():
    assert into_range(torch.tensor([0.0, 1e-3, 5.0])) is None
    sizes = torch.tensor([0.0, 1e-25, 2.0, 3e30], dtype=torch.float64)
    scale = into_range(sizes)
    assert scale is not None
    assert scale[[0, 2]].tolist() == [1.0, 1.0]
    near = (sizes * scale)[[1, 3]]
    assert ((near >= 0.5) & (near < 1)).all()
    assert (torch.frexp(scale).mantissa == 0.5).all()
