"""What an error in scoring means for a checkpoint, as engines tell it, and the record that is kept of it."""

import pickle

import pytest

from gated_lpi.checkpoints import Checkpoint
from gated_lpi.errors import FactsError, FetchError, ModelError, OptionError, UnknownFamilyError, WeightsError
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.runs.access import hub_of
from gated_lpi.runs.failures import failed
from gated_lpi.runs.job import Failure, Job

JOB = Job("arm", Checkpoint(None, "step-1", 1, 20, "train"), None, None)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (FetchError("gone"), Failure.FETCH),
        (WeightsError("cut short"), Failure.CHECKPOINT),
        (ModelError("odd"), Failure.CHECKPOINT),
        (UnknownFamilyError("new"), Failure.CHECKPOINT),
        (FactsError("no token"), Failure.FACTS),
    ],
)
def test_an_error_of_the_checkpoints_own_is_an_outcome_of_its_kind(error, failure):
    outcome = pickle.loads(pickle.dumps(failed(JOB, error)))
    assert (outcome.arm, outcome.key, outcome.scores, outcome.failure) == ("arm", "step-1", None, failure)
    assert outcome.record == {
        "key": "step-1",
        "step": 1,
        "tokens": 20,
        "step_unit": "steps",
        "stage": "train",
        "commit": JOB.checkpoint.commit,
        "quarantined": str(error),
        "error": type(error).__name__,
    }


def test_only_facts_and_the_unforeseen_may_have_a_cause_that_is_common_to_all():
    assert {failure for failure in Failure if failure.may_be_common} == {Failure.FACTS, Failure.UNFORESEEN}


def test_an_unforeseen_error_is_told_with_its_place():
    with pytest.raises(ZeroDivisionError) as raised:
        _ = 1 / 0
    outcome = failed(JOB, raised.value)
    assert outcome.failure is Failure.UNFORESEEN
    assert outcome.record["error"] == "ZeroDivisionError"
    assert outcome.record["quarantined"].startswith("ZeroDivisionError: division by zero (test_runs_failures.py, line ")


def test_an_error_that_says_nothing_of_the_checkpoint_is_raised_as_it_is():
    error = OptionError("no such option")
    with pytest.raises(OptionError) as raised:
        failed(JOB, error)
    assert raised.value is error


def test_a_cache_is_where_the_environment_of_this_machine_says(monkeypatch, tmp_path):
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    hub = hub_of(StorageSpec(cache_dir="$NODE_DISK/cache", endpoint="http://hub.test", offline=True))
    assert (hub.cache, hub.address, hub.is_offline) == (tmp_path / "cache", "http://hub.test", True)
