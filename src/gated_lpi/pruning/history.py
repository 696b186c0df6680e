"""Earlier checkpoints of a model in a run, for rankings that ask what has held still."""

from __future__ import annotations

import xarray as xr

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError, RunError
from gated_lpi.pruning.scores import PAIRS
from gated_lpi.results import Run


def past_scores(run: Run, arm: str | None = None, *, before: int | None = None, pairs: int = PAIRS) -> list[xr.Dataset]:
    """The last checkpoints of an arm of a run, oldest first: their mean LPI of units, in memory.

    Args:
        run: from `open_run`.
        arm: its name; None: the only one with routed experts.
        before: leave out checkpoints from this step on; None: none.
        pairs: how many are wanted at most; with the present one they make as many pairs.

    Raises:
        OptionError: no arm of this name, none with experts or several, or no checkpoint before that step.
        DamagedError: what is there is not what was written.
        RunError: none of the arm's checkpoints is complete.
    """
    name = _only_arm(run) if arm is None else arm
    scores = run.scores(name)
    steps = scores["step"].to_numpy()
    rows = [row for row, step in enumerate(steps.tolist()) if before is None or step < before][-pairs:]
    if not rows:
        raise OptionError(
            f"checkpoints before step {before} were asked for; arm {name!r} of {run.path} has steps {steps.tolist()}: "
            "give a later step, or another run"
        )
    mean = schema.mean_of(schema.LPI)
    if mean not in scores:
        raise OptionError(f"arm {name!r} of {run.path} has no {mean}, which stability is about; give a run with LPI")
    return [scores[[mean]].isel(checkpoint=row).load() for row in rows]


def _only_arm(run: Run) -> str:
    routed = []
    for arm in run.arms:
        try:
            scores = run.scores(arm)
        except RunError:  # an arm without results cannot be meant
            continue
        if (scores["expert"].to_numpy() >= 0).any():
            routed.append(arm)
    if len(routed) != 1:
        raise OptionError(
            f"{run.path} has {len(routed)} arms with results and routed experts ({', '.join(routed) or 'none'}); name "
            "the one whose checkpoints come before this one (--arm)"
        )
    return routed[0]
