"""Earlier checkpoints in a run: which arm, which steps, and what is refused."""

import numpy as np
import pytest

from gated_lpi.errors import OptionError
from gated_lpi.pruning import expert_stability, past_scores
from synthetic_run import DENSE, MOE, SyntheticRun


@pytest.fixture
def run(tmp_path):
    return SyntheticRun(tmp_path, {"dense": DENSE, "moe": MOE, "unfinished": None})


def test_the_last_checkpoints_before_a_step_of_the_only_arm_with_experts(run):
    past = past_scores(run, before=50, pairs=2)
    assert [int(one["step"]) for one in past] == [10, 20]
    whole = run.scores("moe")["lpi_mean"]
    np.testing.assert_array_equal(past[1]["lpi_mean"], whole[5])
    assert [int(one["step"]) for one in past_scores(run, "moe")] == [50, 100, 200]
    assert expert_stability(past).shape == (MOE.layers, MOE.experts)


def test_what_is_not_there_or_not_clear_is_refused(run, tmp_path):
    with pytest.raises(OptionError, match="checkpoints before step 0 were asked for; arm 'moe'"):
        past_scores(run, before=0)
    with pytest.raises(OptionError, match=r"has 2 arms with results and routed experts \(a, b\); name the one"):
        past_scores(SyntheticRun(tmp_path, {"a": MOE, "b": MOE}))
    with pytest.raises(OptionError, match="has 0 arms with results and routed experts"):
        past_scores(SyntheticRun(tmp_path, {"dense": DENSE}))
