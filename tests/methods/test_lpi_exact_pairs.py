"""Pairs that are summed exactly: within their bounds, and in float64 no more than needed."""

import dataclasses

import pytest
import torch

from gated_lpi.methods.lpi.certified import exact_pairs
from gated_lpi.methods.lpi.certified.distribution import distribution
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.problem import BlockProblem
from gated_lpi.models import Readout

TOLERANCE = 1e-3


@pytest.mark.parametrize("good", [True, False], ids=["p as found", "p found again"])
def test_products_are_in_float64_where_those_of_the_weights_would_not_do(good, monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    n_prompts, n_units, width, vocabulary = 5, 40, 320, 2000
    readout = Readout(normal(vocabulary, width), None, torch.ones(width), None, centred=False, eps=1e-6)
    values = normal(n_units, width) / width**0.5
    targets = torch.randint(vocabulary, (n_prompts,), generator=generator)
    problem = BlockProblem(readout, normal(n_prompts, width) / 10, torch.ones(n_prompts), targets, (), n_units)
    p = distribution(readout, Unembedding(readout), problem.base, problem.base_logits)
    prompts, units = (index.flatten() for index in torch.meshgrid(torch.arange(5), torch.arange(40), indexing="ij"))
    strength = torch.where(units < 30, 0.3, 6.0)
    c = strength.double() * normal(len(units)).double()

    calls, sum_up = [], exact_pairs._sum_up
    monkeypatch.setattr(exact_pairs, "_sum_up", lambda *given: calls.append(len(given[3].c)) or sum_up(*given))
    if not good:  # so bad that nothing is tried with it
        p = dataclasses.replace(p, error_per_norm=p.error_per_norm + 1.0)
    wide, real = [], exact_pairs.wide_products
    monkeypatch.setattr(exact_pairs, "wide_products", lambda *given: wide.append(len(given[0])) or real(*given))
    sizes = {"tolerance": TOLERANCE, "numbers": 2**15}
    scores, bound = exact_pairs.exact_pairs(problem, p, values, c, prompts, units, **sizes)

    log_p = (problem.base.double() @ readout.weight.double().T).log_softmax(dim=-1)
    u = values.double() @ readout.weight.double().T
    moved = log_p[prompts] + c.unsqueeze(-1) * u[units]
    true = (moved - moved.logsumexp(dim=-1, keepdim=True) - log_p[prompts]).gather(1, targets[prompts].unsqueeze(-1))
    assert ((scores - true.squeeze(-1)).abs() <= bound).all()
    assert (bound <= TOLERANCE).all()
    assert len(c) <= sum(calls) < 1.05 * len(c)
    assert 10 <= sum(wide) - (0 if good else n_prompts) < 40
    assert (bound[units < 30] > bound[units >= 30].min()).any()
