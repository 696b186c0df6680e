"""Tiles fit a processor's cache on a CPU; elsewhere they are large, since a GPU takes long to begin an operation."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from benchmarks.scorer import Scorer

from benchmarks import layers, synthetic
from gated_lpi.methods import memory
from gated_lpi.methods.lpi.certified import eight_bit
from gated_lpi.methods.tiles import BUSY, at_once
from other_device import EMULATED, OtherDevice
from tiny_models import tiny_model

LAYER = synthetic.Layer("small", d=64, ffn=96, attention=64, vocabulary=16_384, heads=4)


def test_only_a_cpu_has_small_ones():
    assert at_once(100, torch.device("cpu")) == 100
    assert at_once(100, torch.device(EMULATED)) == BUSY
    assert at_once(100, torch.device(EMULATED), 7) == 100


class Counting(OtherDevice):
    """Counts what is done there."""

    operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += not func.is_view
        return super().__torch_dispatch__(func, types, args, kwargs)


def scored(blocks, device):
    """Scores of a layer's heads, and their bounds."""
    attention = synthetic.moved(blocks, device)["attention"]
    found = Scorer(attention.readout, layers.TOLERANCE).groups(attention)
    assert found.heads is not None
    return found.heads.cpu(), found.error_bound.cpu()


def test_elsewhere_there_are_fewer_operations_for_the_same_scores(monkeypatch):
    monkeypatch.setattr(eight_bit, "supported", Mock(return_value=False))  # as there
    blocks, found, counts = synthetic.problems(LAYER, "middle", 66), {}, {}
    for device in ("cpu", EMULATED):
        with torch.no_grad(), Counting() as there:
            found[device] = scored(blocks, device)
            counts[device] = there.operations
    assert counts[EMULATED] < 0.6 * counts["cpu"]
    (here, bound), (elsewhere, other) = found.values()
    assert ((here - elsewhere).abs() <= (bound + other).unsqueeze(-1)).all()
    assert here.abs().max() > 20 * (bound + other).max() > 0


@pytest.mark.parametrize(
    ("free", "prompts", "pairs"), [(2**30, 192, 2**20), (2**36, 2048, 2**22)], ids=["little", "much"]
)
def test_what_is_free_of_a_gpu_says_how_much_is_worked_on(monkeypatch, free, prompts, pairs):
    model = tiny_model("Llama")
    each = memory.prompt_bytes(model)
    monkeypatch.setattr(memory, "_free", Mock(return_value=free))
    monkeypatch.setattr(memory, "usual_batch", Mock(return_value=192))
    monkeypatch.setattr(memory, "prompt_bytes", Mock(return_value=max(each, 2**21)))
    sizes = memory.sizes_for(model, None, None, longest=8)
    assert sizes.prompts == prompts
    assert sizes.room.pairs * sizes.room.blocks == pytest.approx(pairs, abs=sizes.room.blocks)
    assert memory.sizes_for(model, 5, None, longest=8).prompts == 5
    assert np.isfinite(sizes.room.numbers)
