"""Facts that nobody wrote: they load, in whole or in part, or they are a FactsError.

GATED_LPI_FUZZ_SEED gives another first seed, GATED_LPI_FUZZ_INPUTS another number of inputs of each kind.
"""

from collections import Counter

import pytest

import fuzz_facts as targets
from fuzzing import COUNT, FIRST

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.__name__)
def test_inputs_are_taken_skipped_or_refused(target, tmp_path):
    outcomes = Counter(target(tmp_path, FIRST, COUNT))
    assert outcomes.total() == COUNT
    assert all(outcomes[kind] > COUNT // 100 for kind in ("taken", "skipped", "refused")), outcomes
