"""Whether two runs came out the same: all that is read of them but times and the places where they lie."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from gated_lpi.checkpoints import check_weights, list_local
from gated_lpi.errors import RunError
from gated_lpi.results import Run

TIMES = {"created", "seconds", "duration", "elapsed"}
PLACES = {"source"}  # of a checkpoint that the run trained: it lies in the run's folder

OF_THE_FIRST = {"commit", "reconstruction_error"}  # attributes of the checkpoint that came first; records have each


def timeless(value: Any) -> Any:
    """Plain values without what differs from one time, or one place, to the next."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES | PLACES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def same_scores(found: Any, wanted: Any) -> None:
    """Assert that two datasets hold the same arrays, bit for bit, and the same provenance.

    Raises:
        AssertionError: names what differs.
    """
    assert set(found.variables) == set(wanted.variables)
    for name in wanted.variables:
        assert found[name].dtype == wanted[name].dtype, name
        assert found[name].dims == wanted[name].dims, name
        assert np.array_equal(found[name], wanted[name], equal_nan=found[name].dtype.kind == "f"), f"{name} differs"
        assert found[name].attrs == wanted[name].attrs, name
    differing = [*_differing(*(_provenance(scores) for scores in (found, wanted)))]
    assert not differing, f"provenance differs in {differing[:9]}"


def _provenance(scores: Any) -> dict[str, Any]:
    kept: dict[str, Any] = timeless({key: value for key, value in scores.attrs.items() if key not in OF_THE_FIRST})
    return kept


def _differing(found: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """Where plain values differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in found.keys() | wanted.keys():
            yield from _differing(found.get(key), wanted.get(key), f"{place}.{key}")
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, pair in enumerate(zip(found, wanted, strict=True)):
            yield from _differing(*pair, f"{place}[{number}]")
    elif found != wanted:
        yield f"{place}: {found!r:.80} and {wanted!r:.80}"


def same_run(found: Run, wanted: Run, *, report: bool = False, trained: bool = True) -> None:
    """Assert that all that the tool reads of two runs is the same: arrays, records, quarantine, trained weights.

    Args:
        report: compare the numbers of their reports too.
        trained: compare the weights that they trained.

    Raises:
        AssertionError: says what differs.
    """
    assert found.arms == wanted.arms
    assert found.experiment == wanted.experiment
    assert found.info == wanted.info
    for arm in wanted.arms:
        assert found.record(arm) == wanted.record(arm), f"record of {arm}"
        quarantined = [[(one["key"], one["error"]) for one in run.quarantined(arm)] for run in (found, wanted)]
        assert quarantined[0] == quarantined[1], f"quarantine of {arm}"
        same_scores(_scores(found, arm), _scores(wanted, arm))
        assert not trained or _trained(found, arm) == _trained(wanted, arm), f"trained checkpoints of {arm}"
    if report:
        assert _summary(found) == _summary(wanted), "the report's numbers"


def _scores(run: Run, arm: str) -> Any:
    return run.scores(arm).load()


def _trained(run: Run, arm: str) -> dict[str, str]:
    folder = run.training_folder(arm)
    return {c.key: check_weights(c.path).sha256 for c in list_local(folder)} if folder.is_dir() else {}


def _summary(run: Run) -> Any:
    """The metrics of each arm, and the tables that hold no times."""
    text = (run.path / "summary.json").read_text()
    content = json.loads(text)
    kept = {name: table for name, table in content["tables"].items() if not name.startswith(("checkpoints", "options"))}
    return content["arms"], kept


def complete(run: Run, arm: str) -> Any | None:
    """An arm's scores, None as long as no checkpoint is complete.

    Raises:
        RunError: for any other reason.
    """
    try:
        return run.scores(arm).load()
    except RunError as error:
        if "holds no complete checkpoint yet" in str(error):
            return None
        raise
