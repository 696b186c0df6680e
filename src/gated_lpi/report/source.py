"""What the report needs of a run: a protocol, so that reading results takes no model library.

`gated_lpi.runs.Run` satisfies it, and so does anything else with these attributes. What only some runs can tell is a
protocol of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import xarray as xr

    from gated_lpi.folders import Folder
    from gated_lpi.runs.records import ArmRecord


class MetricsOptions(Protocol):
    """Options of `gated_lpi.metrics.summarise`."""

    @property
    def fraction(self) -> float:
        """Share of the units in a top set."""

    @property
    def windows(self) -> Mapping[str, tuple[int, int]] | None:
        """Name → (first step, last step)."""

    @property
    def draws(self) -> int:
        """Bootstrap draws."""

    @property
    def seed(self) -> int:
        """Of the draws."""


class ExperimentSource(Protocol):
    """What was run."""

    @property
    def name(self) -> str:
        """The experiment's name."""

    @property
    def metrics(self) -> MetricsOptions:
        """Options of the summary."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """All options as plain data (`mode="json"`)."""


class RunSource(Protocol):
    """A run whose results can be read."""

    @property
    def path(self) -> Folder:
        """The run's folder."""

    @property
    def experiment(self) -> ExperimentSource:
        """What was run."""

    @property
    def info(self) -> Mapping[str, Any]:
        """Facts digest, versions and what else the run noted of itself."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms."""

    def scores(self, arm: str) -> xr.Dataset:
        """An arm's scores over its checkpoints; raises `RunError` if there are none yet."""

    def record(self, arm: str) -> ArmRecord | None:
        """Ablations and top units of an arm's last checkpoint, if it has come to them."""


@runtime_checkable
class QuarantineSource(Protocol):
    """A run that also knows what could not be used of an arm that has no scores, and so none to say it with."""

    def quarantined(self, arm: str) -> Sequence[Mapping[str, Any]]:
        """Records of an arm's quarantined checkpoints; raises `RunError` if they cannot be read."""
