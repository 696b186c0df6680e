"""Series of checkpoints: names, steps and tokens, and whether their weights can be trusted."""

from gated_lpi.checkpoints.local import check_weights, list_local, scan_local
from gated_lpi.checkpoints.types import Checkpoint, LocalListing, WeightFile, WeightsReport

__all__ = [
    "Checkpoint",
    "LocalListing",
    "WeightFile",
    "WeightsReport",
    "check_weights",
    "list_local",
    "scan_local",
]
