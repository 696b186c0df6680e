"""Whether a training goes wrong: `gated_lpi.diagnosis` over the last observations of a live run.

The diagnosis judges an arm by the later half of its checkpoints. Live there is no later half yet: it is given the last
`WINDOW` observations, so that an alarm speaks of now and costs no more at the end of a long training than early on.
"""

from __future__ import annotations

import xarray as xr

from gated_lpi.diagnosis import Finding, examine
from gated_lpi.metrics import summarise

WINDOW = 8


class _Recent:
    """The last observations as a run of one arm."""

    def __init__(self, arm: str, scores: xr.Dataset, method: str, fraction: float) -> None:
        self.arms = (arm,)
        self._scores, self._method, self._fraction = scores, method, fraction

    def scores(self, _arm: str) -> xr.Dataset:
        """The arm's scores."""
        return self._scores

    def summary(self, _arm: str) -> xr.Dataset:
        """The arm's summary metrics, without intervals, which no finding rests on."""
        plain = self._scores.drop_vars(self._method, errors="ignore")
        return summarise(plain, fraction=self._fraction, draws=1, method=self._method)


def alarms(arm: str, scores: xr.Dataset, method: str, fraction: float) -> tuple[Finding, ...]:
    """What is wrong at the last observations of an arm.

    Args:
        arm: its name.
        scores: of its checkpoints up to now, in training order.
        method: whose scores are judged.
        fraction: share of the units in a top set.
    """
    recent = scores.isel(checkpoint=slice(-WINDOW, None))
    return examine(_Recent(arm, recent, method, fraction)).findings
