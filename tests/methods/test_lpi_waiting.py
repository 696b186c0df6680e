"""Loops over tokens never read a number back to the host: on a GPU that would wait for all work before it."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gated_lpi.methods.lens import base_logits
from gated_lpi.methods.lpi.certified.distribution import distribution
from gated_lpi.methods.lpi.certified.eight_bit import EightBit
from gated_lpi.methods.lpi.certified.envelope import fitted, uniform
from gated_lpi.methods.lpi.certified.moments import FoldedUnits, MomentSums, everything, outside_by_eight_bit
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.models import Readout
from other_device import READS


class Operations(TorchDispatchMode):
    """Counts all operations, as `count`, and those that the host has to wait for, as `reads`."""

    def __init__(self):
        super().__init__()
        self.count = self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        self.reads += func._schema.name in READS
        return func(*args, **(kwargs or {}))


def work(vocabulary):
    """Operations and reads of what one block does over so many tokens."""
    generator = torch.Generator().manual_seed(0)
    weight, base, values = (torch.randn(n, 16, generator=generator) for n in (vocabulary, 5, 7))
    readout = Readout(weight, None, torch.ones(16), None, centred=False, eps=1e-6)
    eight_bit = EightBit(Unembedding(readout))
    with Operations() as found:
        table = Unembedding(readout)
        logits = base_logits(readout, base, torch.ones(5), torch.zeros(5, dtype=torch.long))
        p = distribution(readout, table, base, logits)
        for envelope in (uniform(table, p), fitted(table, p)):
            MomentSums(table, p, envelope, [FoldedUnits(values, None)]).extend(len(p.levels) - 2)
        everything(table, p, [FoldedUnits(values, None)], 4)
        outside_by_eight_bit(eight_bit, p, [FoldedUnits(values, None)], 1)
    return found.count, found.reads


def test_more_tokens_are_more_operations_but_no_more_reads():
    (few, few_reads), (many, many_reads) = work(20_000), work(60_000)
    assert many > 1.5 * few
    assert many_reads == few_reads
