"""Series of checkpoints: where they are, their steps and tokens, and whether their weights can be trusted."""

from gated_lpi._common.weight_files import WeightFiles, weight_files
from gated_lpi.checkpoints.continuity import Break, Continuity, Signature, check_continuity, signature
from gated_lpi.checkpoints.download import Fetched, evict, fetch, fetch_tokenizer, sweep
from gated_lpi.checkpoints.hub import Hub
from gated_lpi.checkpoints.integrity import Gap, Integrity, Shared, find_gaps, inspect_series
from gated_lpi.checkpoints.local import list_local, scan_local
from gated_lpi.checkpoints.names import parse_count, parse_counts, parse_name, reason_against
from gated_lpi.checkpoints.selection import Alignment, Match, Pair, Selection, align, select
from gated_lpi.checkpoints.series import Series, list_series
from gated_lpi.checkpoints.suites import Suite, suites
from gated_lpi.checkpoints.types import Checkpoint, Excluded, LocalListing, WeightFile, WeightsReport
from gated_lpi.checkpoints.weights import check_weights

__all__ = [
    "Alignment",
    "Break",
    "Checkpoint",
    "Continuity",
    "Excluded",
    "Fetched",
    "Gap",
    "Hub",
    "Integrity",
    "LocalListing",
    "Match",
    "Pair",
    "Selection",
    "Series",
    "Shared",
    "Signature",
    "Suite",
    "WeightFile",
    "WeightFiles",
    "WeightsReport",
    "align",
    "check_continuity",
    "check_weights",
    "evict",
    "fetch",
    "fetch_tokenizer",
    "find_gaps",
    "inspect_series",
    "list_local",
    "list_series",
    "parse_count",
    "parse_counts",
    "parse_name",
    "reason_against",
    "scan_local",
    "select",
    "signature",
    "suites",
    "sweep",
    "weight_files",
]
