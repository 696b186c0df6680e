"""Files of a run that nobody wrote so: experiments and records are read as they are meant, or refused by the tree.

GATED_LPI_FUZZ_SEED gives another first seed, GATED_LPI_FUZZ_INPUTS another number of inputs for each kind of file.
"""

from collections import Counter

import pytest

import fuzz_runs as targets
from fuzzing import COUNT, FIRST
from gated_lpi.experiments import presets

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.__name__)
def test_files_are_read_or_refused(target, tmp_path):
    outcomes = Counter(target(tmp_path, FIRST, COUNT))
    assert outcomes.total() == COUNT
    least = 0 if target is targets.records_of_training else COUNT // 50  # of those, all but spaces is refused
    assert outcomes["taken"] > least
    assert outcomes["refused"] > COUNT // 50


def test_every_preset_is_among_the_samples():
    assert len(list(targets.PRESETS.glob("*.toml"))) == len(presets())
