"""Names, folders, hub listings and indexes that nobody wrote: each is taken, left out, or an error of the tree.

GATED_LPI_FUZZ_SEED gives another first seed, GATED_LPI_FUZZ_INPUTS another number of inputs of each kind.
"""

from collections import Counter

import pytest

import fuzz_checkpoints as targets
from fuzzing import COUNT, FIRST, ODD_TEXTS
from gated_lpi.checkpoints import parse_name

pytestmark = pytest.mark.slow

LEAST = {  # one input in so many is taken, at least
    targets.names: 100,
    targets.counts: 1000,
    targets.local_listings: 10,
    targets.hub_branches: 10,
    targets.hub_inventories: 10,
    targets.kept_records: 100,
    targets.weight_indexes: 100,
    targets.weight_files_of_bytes: 1000,
    targets.weight_headers: 100,
}


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.__name__)
def test_inputs_are_taken_or_refused(target, tmp_path):
    outcomes = Counter(target(tmp_path, FIRST, COUNT))
    assert outcomes.total() == COUNT
    assert outcomes["taken"] > COUNT / LEAST[target]
    assert outcomes["refused"] > COUNT / 1000


def test_the_odd_texts_are_among_the_names():
    assert [parse_name(text) for text in ODD_TEXTS] == [None] * len(ODD_TEXTS)
