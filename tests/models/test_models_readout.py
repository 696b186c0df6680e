import math

import pytest
import torch

from gated_lpi.models import Readout


def readout(**changes):
    parts = {
        "weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        "bias": None,
        "gamma": torch.tensor([1.0, 3.0]),
        "beta": None,
        "centred": False,
        "eps": 0.0,
    }
    return Readout(**(parts | changes))


def test_rms_logits_by_hand():
    # h = (3, 4): mean of squares 12.5, σ = √12.5; normalised and scaled by γ: (3, 12)/σ; times W: (3, 24)/σ
    logits = readout().logits(torch.tensor([3.0, 4.0]))
    assert torch.allclose(logits, torch.tensor([3.0, 24.0]) / math.sqrt(12.5))


def test_layer_norm_centres_and_adds_its_bias():
    # h = (1, 5): centred (−2, 2), σ = 2, normalised (−1, 1), times γ (−1, 3), plus β (10, 20): (9, 23); W: (9, 46)
    logits = readout(centred=True, beta=torch.tensor([10.0, 20.0])).logits(torch.tensor([1.0, 5.0]))
    assert torch.allclose(logits, torch.tensor([9.0, 46.0]))


def test_head_bias_divisor_and_softcap():
    # h = (3, 4) as above gives (3, 24)/σ; plus bias (1, 1), divided by 2, capped by 5·tanh(x/5)
    plain = (torch.tensor([3.0, 24.0]) / math.sqrt(12.5) + 1.0) / 2.0
    capped = readout(bias=torch.ones(2), divisor=2.0, softcap=5.0)
    assert torch.allclose(capped.logits(torch.tensor([3.0, 4.0])), 5 * torch.tanh(plain / 5))
    assert not capped.affine


def test_frozen_scale_makes_logits_affine():
    r = readout(beta=torch.tensor([1.0, 2.0]), centred=True)
    a, b = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    held = torch.tensor(0.7)
    difference = r.logits(a + b, held) - r.logits(a, held)
    assert torch.allclose(difference, r.directions(b) * held, atol=1e-6)


def test_log_probability_picks_the_target_of_each_row():
    r = readout()
    h = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    expected = torch.log_softmax(r.logits(h), dim=-1)
    found = r.log_probability(h, torch.tensor([1, 0]))
    assert found.tolist() == pytest.approx([expected[0, 1].item(), expected[1, 0].item()])
